//! How messages lie on a socket: a fixed header, then the encoded body.
//!
//! A frame is forwarded by its header alone. Control frames belong to the transport (they greet,
//! open links, pass file descriptors) and never reach a machine.

use serde::Serialize;
use shoal_core::ids::ProcessId;
use shoal_core::wire::{self, FRAME_BYTES_MAX, WireError};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 24;

/// What a frame carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A [`shoal_core::message::Message`].
    Message,
    /// A [`crate::control::Control`].
    Control,
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Bytes of the body.
    pub length: usize,
    /// What the body is.
    pub kind: Kind,
    /// Where it goes.
    pub to: ProcessId,
    /// Where it comes from. A daemon overwrites it with the process that the link belongs to.
    pub from: ProcessId,
}

/// Why bytes are not a frame. The link they came from is closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Too long.
    #[error("a frame of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// No such kind.
    #[error("unknown frame kind {0}")]
    UnknownKind(u32),
    /// The body is not what the header says.
    #[error(transparent)]
    Body(#[from] WireError),
}

impl Header {
    /// The header as bytes.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&(self.length as u32).to_le_bytes());
        let kind: u32 = match self.kind {
            Kind::Message => 0,
            Kind::Control => 1,
        };
        bytes[4..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.to.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.from.0.to_le_bytes());
        bytes
    }

    /// Read a header; `None` while fewer than [`HEADER_BYTES`] are there.
    pub fn parse(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let double = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let length = word(0) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        let kind = match word(4) {
            0 => Kind::Message,
            1 => Kind::Control,
            other => return Err(FrameError::UnknownKind(other)),
        };
        Ok(Some(Header { length, kind, to: ProcessId(double(8)), from: ProcessId(double(16)) }))
    }
}

/// Append a whole frame to `buffer`.
pub fn append<T: Serialize>(
    buffer: &mut Vec<u8>,
    kind: Kind,
    to: ProcessId,
    from: ProcessId,
    body: &T,
) -> Result<(), FrameError> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; HEADER_BYTES]);
    if let Err(error) = wire::encode_into(body, buffer) {
        buffer.truncate(start);
        return Err(error.into());
    }
    let length = buffer.len() - start - HEADER_BYTES;
    if length > FRAME_BYTES_MAX {
        buffer.truncate(start);
        return Err(FrameError::TooLong(length));
    }
    let header = Header { length, kind, to, from };
    buffer[start..start + HEADER_BYTES].copy_from_slice(&header.to_bytes());
    Ok(())
}
