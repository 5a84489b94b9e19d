//! Control frames as bytes: a length, a kind, and what the kind says.
//!
//! ```text
//! length: u32   bytes that follow it
//! kind: u8      0 greeting, 1 resume, 2 frame, 3 acknowledge
//! 0: bytes      1: received u64, acknowledged u64      2: number u64, bytes      3: up to u64
//! ```
//!
//! Numbers are little-endian. Greetings come before a session: they say who talks and which session is
//! meant, in words of the daemon's own.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use shoal_core::session::Packet;
use shoal_core::wire::FRAME_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{BoxRead, BoxWrite, TransportError};

/// A greeting may be so long, and nothing longer is taken before there is a session.
pub const GREETING_BYTES_MAX: usize = 1 << 20;
/// A control frame within a session may be so long: a message of machines with its header.
pub const CONTROL_BYTES_MAX: usize = FRAME_BYTES_MAX + (1 << 10);

/// So much is read at once if there is so much.
const READ_BYTES: usize = 64 << 10;
/// So much is written at once if there is so much.
const WRITE_BYTES: usize = 256 << 10;
/// A buffer that one long frame has made grow is not kept.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

const LENGTH_BYTES: usize = 4;
const GREETING: u8 = 0;
const RESUME: u8 = 1;
const FRAME: u8 = 2;
const ACKNOWLEDGE: u8 = 3;

/// What goes over the control stream of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Control {
    /// What the daemons say before there is a session.
    Greeting(Bytes),
    /// A packet of the session.
    Packet(Packet<Bytes>),
}

/// Append a control frame to a buffer.
///
/// # Errors
///
/// [`TransportError::TooLong`]; the buffer is as it was.
pub fn encode(control: &Control, buffer: &mut BytesMut) -> Result<(), TransportError> {
    let (payload, numbers): (&[u8], usize) = match control {
        Control::Greeting(bytes) => (bytes, 0),
        Control::Packet(Packet::Resume { .. }) => (&[], 2),
        Control::Packet(Packet::Frame { frame, .. }) => (frame, 1),
        Control::Packet(Packet::Acknowledge { .. }) => (&[], 1),
    };
    let limit = match control {
        Control::Greeting(_) => GREETING_BYTES_MAX,
        Control::Packet(_) => CONTROL_BYTES_MAX,
    };
    let length = 1 + 8 * numbers + payload.len();
    if length > limit {
        return Err(TransportError::TooLong { bytes: length, limit });
    }
    buffer.reserve(LENGTH_BYTES + length);
    buffer.put_u32_le(length as u32);
    match control {
        Control::Greeting(_) => buffer.put_u8(GREETING),
        Control::Packet(Packet::Resume { received, acknowledged }) => {
            buffer.put_u8(RESUME);
            buffer.put_u64_le(*received);
            buffer.put_u64_le(*acknowledged);
        }
        Control::Packet(Packet::Frame { number, .. }) => {
            buffer.put_u8(FRAME);
            buffer.put_u64_le(*number);
        }
        Control::Packet(Packet::Acknowledge { up_to }) => {
            buffer.put_u8(ACKNOWLEDGE);
            buffer.put_u64_le(*up_to);
        }
    }
    buffer.put_slice(payload);
    Ok(())
}

/// Take a control frame off the front of a buffer; none while it is not there in full.
///
/// # Errors
///
/// When it is longer than `limit`, as soon as its length is known, and when it is no control frame.
pub fn decode(buffer: &mut BytesMut, limit: usize) -> Result<Option<Control>, TransportError> {
    let Some(length) = announced(buffer) else { return Ok(None) };
    if length > limit {
        return Err(TransportError::TooLong { bytes: length, limit });
    }
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    let mut body = buffer.split_to(length).freeze();
    let kind = body.try_get_u8().map_err(|_| TOO_SHORT)?;
    let control = match kind {
        GREETING => return Ok(Some(Control::Greeting(body))),
        RESUME => Packet::Resume { received: number(&mut body)?, acknowledged: number(&mut body)? },
        FRAME => Packet::Frame { number: number(&mut body)?, frame: std::mem::take(&mut body) },
        ACKNOWLEDGE => Packet::Acknowledge { up_to: number(&mut body)? },
        _ => return Err(TransportError::Malformed("a control frame of an unknown kind")),
    };
    if body.is_empty() {
        Ok(Some(Control::Packet(control)))
    } else {
        Err(TransportError::Malformed("a control frame with something behind it"))
    }
}

const TOO_SHORT: TransportError = TransportError::Malformed("a control frame that is too short");

fn announced(buffer: &[u8]) -> Option<usize> {
    buffer.first_chunk::<LENGTH_BYTES>().map(|length| u32::from_le_bytes(*length) as usize)
}

fn number(body: &mut Bytes) -> Result<u64, TransportError> {
    body.try_get_u64_le().map_err(|_| TOO_SHORT)
}

/// Reads control frames from a connection.
pub struct ControlReader {
    stream: BoxRead,
    buffer: BytesMut,
    limit: usize,
}

impl ControlReader {
    /// Read from `stream`; nothing longer than a greeting is taken yet.
    pub fn new(stream: BoxRead) -> Self {
        ControlReader { stream, buffer: BytesMut::new(), limit: GREETING_BYTES_MAX }
    }

    /// From now on frames of a session are taken.
    pub fn allow_session(&mut self) {
        self.limit = CONTROL_BYTES_MAX;
    }

    /// The next frame; none at the end of the stream. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Control>, TransportError> {
        loop {
            if let Some(control) = self.buffered()? {
                return Ok(Some(control));
            }
            // What a length announces is believed only as it comes.
            let missing =
                announced(&self.buffer).map_or(0, |length| length + LENGTH_BYTES - self.buffer.len());
            self.buffer.reserve(missing.clamp(READ_BYTES, 1 << 20));
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(TransportError::Lost("it ended within a frame".into()))
                };
            }
        }
    }

    /// The next frame, if it has been read already.
    pub fn buffered(&mut self) -> Result<Option<Control>, TransportError> {
        decode(&mut self.buffer, self.limit)
    }

    /// The next greeting, for a peer that has to say one now.
    pub async fn greeting(&mut self) -> Result<Bytes, TransportError> {
        match self.next().await? {
            Some(Control::Greeting(bytes)) => Ok(bytes),
            Some(Control::Packet(_)) => Err(TransportError::Malformed("a packet before any greeting")),
            None => Err(TransportError::Closed("it ended without a greeting".into())),
        }
    }
}

/// Writes control frames to a connection.
pub struct ControlWriter {
    stream: BoxWrite,
    buffer: BytesMut,
}

impl ControlWriter {
    /// Write to `stream`.
    pub fn new(stream: BoxWrite) -> Self {
        ControlWriter { stream, buffer: BytesMut::new() }
    }

    /// Add a frame to what is written next.
    pub fn push(&mut self, control: &Control) -> Result<(), TransportError> {
        encode(control, &mut self.buffer)
    }

    /// Whether enough has gathered to be written.
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= WRITE_BYTES
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Write everything that was added. Returns when the connection has taken it; if the future is dropped
    /// before, the next call goes on where it was.
    pub async fn flush(&mut self) -> Result<(), TransportError> {
        while !self.buffer.is_empty() {
            if self.stream.write_buf(&mut self.buffer).await? == 0 {
                return Err(TransportError::Lost("it takes nothing more".into()));
            }
        }
        self.stream.flush().await?;
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = BytesMut::new();
        }
        Ok(())
    }

    /// Write a greeting.
    pub async fn greet(&mut self, greeting: Bytes) -> Result<(), TransportError> {
        self.push(&Control::Greeting(greeting))?;
        self.flush().await
    }

    /// Say that nothing more comes.
    pub async fn finish(&mut self) -> Result<(), TransportError> {
        self.flush().await?;
        Ok(self.stream.shutdown().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Control> {
        vec![
            Control::Greeting(Bytes::from_static(b"hello")),
            Control::Greeting(Bytes::new()),
            Control::Packet(Packet::Resume { received: 7, acknowledged: u64::MAX }),
            Control::Packet(Packet::Frame { number: 8, frame: Bytes::from_static(&[0; 300]) }),
            Control::Packet(Packet::Frame { number: 9, frame: Bytes::new() }),
            Control::Packet(Packet::Acknowledge { up_to: 3 }),
        ]
    }

    #[test]
    fn frames_are_read_as_they_were_written_however_they_are_cut() {
        let mut bytes = BytesMut::new();
        all().iter().for_each(|control| encode(control, &mut bytes).unwrap());
        for step in [1, 2, 3, 7, 64, bytes.len()] {
            let mut buffer = BytesMut::new();
            let mut decoded = Vec::new();
            for piece in bytes.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(control) = decode(&mut buffer, GREETING_BYTES_MAX).unwrap() {
                    decoded.push(control);
                }
            }
            assert_eq!(decoded, all(), "pieces of {step}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_by_its_length_alone() {
        let mut bytes = BytesMut::from(&(GREETING_BYTES_MAX as u32 + 1).to_le_bytes()[..]);
        let refused = decode(&mut bytes, GREETING_BYTES_MAX);
        assert!(matches!(refused, Err(TransportError::TooLong { .. })), "{refused:?}");
        let long = Control::Greeting(Bytes::from(vec![0; GREETING_BYTES_MAX]));
        assert!(encode(&long, &mut bytes).is_err());
        assert_eq!(bytes.len(), 4, "nothing was added");
    }

    #[test]
    fn what_is_no_control_frame_is_refused() {
        let table: [&[u8]; 6] = [
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 4],
            &[1, 0, 0, 0, 2],
            &[5, 0, 0, 0, 1, 0, 0, 0, 0],
            &[10, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[8, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0],
        ];
        for bytes in table {
            let refused = decode(&mut BytesMut::from(bytes), GREETING_BYTES_MAX);
            assert!(matches!(refused, Err(TransportError::Malformed(_))), "{bytes:?}: {refused:?}");
        }
    }

    #[test]
    fn nothing_of_a_session_is_taken_before_it_is_allowed() {
        let mut bytes = BytesMut::new();
        let long = Packet::Frame { number: 1, frame: Bytes::from(vec![1; GREETING_BYTES_MAX]) };
        encode(&Control::Packet(long), &mut bytes).unwrap();
        assert!(decode(&mut bytes.clone(), GREETING_BYTES_MAX).is_err());
        assert!(decode(&mut bytes, CONTROL_BYTES_MAX).unwrap().is_some());
    }
}
