//! The one place that turns messages into bytes and back.

mod slices;

use alloc::vec::Vec;
use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::slices::Whole;

/// A frame larger than this is refused before it is decoded.
pub const FRAME_BYTES_MAX: usize = 1 << 30;

const CONFIG: Configuration<LittleEndian, Varint, Limit<FRAME_BYTES_MAX>> =
    config::standard().with_limit::<FRAME_BYTES_MAX>();

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The bytes do not follow the format.
    #[error("malformed message: {0}")]
    Malformed(#[from] bincode::error::DecodeError),
    /// The value cannot be written.
    #[error("message cannot be encoded: {0}")]
    Unencodable(#[from] bincode::error::EncodeError),
    /// Something follows the message.
    #[error("{0} bytes follow the message")]
    TrailingBytes(usize),
}

/// Append the encoding of `value` to `buffer`.
pub fn encode_into<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> Result<(), WireError> {
    bincode::serde::encode_into_writer(value, VecWriter(buffer), CONFIG)?;
    Ok(())
}

/// The encoding of `value`.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, WireError> {
    let mut buffer = Vec::new();
    encode_into(value, &mut buffer)?;
    Ok(buffer)
}

/// Decode one value that fills `bytes`. Memory is taken for what has come, not for what is announced.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let (Whole(value), read) = bincode::serde::borrow_decode_from_slice(bytes, CONFIG)?;
    if read == bytes.len() { Ok(value) } else { Err(WireError::TrailingBytes(bytes.len() - read)) }
}

struct VecWriter<'a>(&'a mut Vec<u8>);

impl bincode::enc::write::Writer for VecWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}
