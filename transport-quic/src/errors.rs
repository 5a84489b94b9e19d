//! What errors of QUIC mean.

use quinn::{ConnectionError, ReadError, ReadExactError, VarInt, WriteError};
use shoal_identity::Refusal;
use shoal_runtime::transport::TransportError;

/// Codes of QUIC that carry an alert of TLS (RFC 9001, 4.8).
const CRYPTO: std::ops::Range<u64> = 0x100..0x200;

/// Codes with which an end closes a connection: because it is done with it, or does not want it.
pub(crate) const DONE: VarInt = VarInt::from_u32(0);
pub(crate) const REFUSED: VarInt = VarInt::from_u32(1);
/// The other end is not there to read this.
pub(crate) const GONE: VarInt = VarInt::from_u32(2);

pub(crate) fn from_connection(error: ConnectionError) -> TransportError {
    match &error {
        ConnectionError::TimedOut => TransportError::TimedOut,
        ConnectionError::VersionMismatch => Refusal::Protocol.into(),
        ConnectionError::TransportError(own) => from_code(u64::from(own.code), own.to_string()),
        ConnectionError::ConnectionClosed(theirs) => {
            from_code(u64::from(theirs.error_code), theirs.to_string())
        }
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            match close.error_code {
                REFUSED => Refusal::Handshake(reason).into(),
                _ => TransportError::Closed(reason),
            }
        }
        ConnectionError::LocallyClosed => TransportError::Closed("this node has closed it".into()),
        ConnectionError::Reset | ConnectionError::CidsExhausted => TransportError::Lost(error.to_string()),
    }
}

fn from_code(code: u64, text: String) -> TransportError {
    if !CRYPTO.contains(&code) {
        return TransportError::Lost(text);
    }
    match Refusal::from_alert((code & 0xff) as u8) {
        // What QUIC says of it is more than the alert's name.
        Refusal::Handshake(_) => Refusal::Handshake(text).into(),
        refusal => refusal.into(),
    }
}

pub(crate) fn from_read(error: ReadError) -> TransportError {
    match error {
        ReadError::ConnectionLost(error) => from_connection(error),
        other => TransportError::Lost(other.to_string()),
    }
}

pub(crate) fn from_read_exact(error: ReadExactError) -> TransportError {
    match error {
        ReadExactError::ReadError(error) => from_read(error),
        ReadExactError::FinishedEarly(_) => TransportError::Lost("a stream ended too early".into()),
    }
}

pub(crate) fn from_write(error: WriteError) -> TransportError {
    match error {
        WriteError::ConnectionLost(error) => from_connection(error),
        other => TransportError::Lost(other.to_string()),
    }
}
