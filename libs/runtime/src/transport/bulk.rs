//! Bytes of objects: a node asks for a range and reads it into memory of its own.
//!
//! They come in chunks with checksums. Encryption keeps them from being changed on the way; the checksum
//! is for what happens before and behind it, in the memory of either node.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{BoxFuture, Peer, TransportError};

/// So many bytes have one checksum and travel together.
pub const CHUNK_BYTES: usize = 256 << 10;
/// What names an object is no longer.
pub const OBJECT_BYTES_MAX: usize = 64;
/// Requests of one peer that are served at the same time; further ones wait.
pub const REQUESTS_MAX: usize = 64;

/// What is more urgent goes first: of two requests that one connection serves, the higher is served
/// while it can be. Control frames go before all of them.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Priority(pub u8);

/// Asks a node for bytes of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BulkRequest {
    /// What the two daemons call it; up to [`OBJECT_BYTES_MAX`] bytes.
    pub object: Bytes,
    /// Where the range starts.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
    /// How urgent it is.
    pub priority: Priority,
}

/// Why a node does not give what it was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BulkRefusal {
    /// It does not have the object, or does not offer it to this peer (any more).
    #[error("the object is not offered")]
    NotOffered,
    /// The object has no such range.
    #[error("the object has no such range")]
    OutOfRange,
}

/// Why bytes did not come.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BulkError {
    /// The peer does not give them.
    #[error(transparent)]
    Refused(#[from] BulkRefusal),
    /// A chunk is not what was sent.
    #[error("the bytes at {offset} have another checksum than the ones that were sent")]
    Corrupt {
        /// Where in the range the chunk starts.
        offset: u64,
    },
    /// There is no connection (any more), or the peer does not keep to the protocol.
    #[error(transparent)]
    Connection(#[from] TransportError),
}

/// What has the bytes that peers ask for.
pub trait BulkSource: Send + Sync {
    /// The bytes that are asked for. They must not change before the last clone of what is returned has
    /// been dropped, which may be later than the peer has them, or has given up on them:
    /// [`Bytes::from_owner`] tells its owner.
    fn open(&self, peer: &Peer, request: &BulkRequest) -> Result<Bytes, BulkRefusal>;
}

/// The bulk side of one connection.
pub trait Bulk: Send + Sync {
    /// Read a range of an object of the peer into `into`, which is as long as it. Dropping the future
    /// cancels: the peer stops sending. After an error `into` may hold anything.
    fn fetch<'a>(&'a self, request: BulkRequest, into: &'a mut [u8]) -> BoxFuture<'a, Result<(), BulkError>>;

    /// Close the connection; the peer is told why.
    fn close(&self, reason: &str);

    /// When and why the connection has ended.
    fn closed(&self) -> BoxFuture<'_, TransportError>;
}

impl BulkRequest {
    /// Append it to a buffer.
    pub fn encode(&self, buffer: &mut BytesMut) {
        buffer.put_u8(self.priority.0);
        buffer.put_u64_le(self.offset);
        buffer.put_u64_le(self.length);
        buffer.put_slice(&self.object);
    }

    /// Read it from bytes that hold nothing else.
    pub fn decode(mut bytes: Bytes) -> Result<BulkRequest, TransportError> {
        const MALFORMED: TransportError = TransportError::Malformed("a request for bytes of an object");
        let priority = Priority(bytes.try_get_u8().map_err(|_| MALFORMED)?);
        let offset = bytes.try_get_u64_le().map_err(|_| MALFORMED)?;
        let length = bytes.try_get_u64_le().map_err(|_| MALFORMED)?;
        let request = BulkRequest { object: bytes, offset, length, priority };
        if request.is_valid() { Ok(request) } else { Err(MALFORMED) }
    }

    /// Whether it stays within what every peer takes.
    pub fn is_valid(&self) -> bool {
        self.object.len() <= OBJECT_BYTES_MAX && self.offset.checked_add(self.length).is_some()
    }
}

/// The bytes of a request that is served, or why it is not. A source that gives another length than was
/// asked for does not have that range.
pub fn open(source: &dyn BulkSource, peer: &Peer, request: &BulkRequest) -> Result<Bytes, BulkRefusal> {
    let bytes = source.open(peer, request)?;
    if bytes.len() as u64 == request.length { Ok(bytes) } else { Err(BulkRefusal::OutOfRange) }
}

/// Cut bytes into chunks; none has no bytes.
pub fn chunks(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || (!bytes.is_empty()).then(|| bytes.split_to(bytes.len().min(CHUNK_BYTES))))
}

/// The checksum that goes with a chunk.
pub fn checksum(chunk: &[u8]) -> u32 {
    crc32fast::hash(chunk)
}

/// The memory that chunks are written to, in order.
pub struct Filling<'a> {
    into: &'a mut [u8],
    filled: usize,
}

impl<'a> Filling<'a> {
    /// Nothing is written yet.
    pub fn new(into: &'a mut [u8]) -> Self {
        Filling { into, filled: 0 }
    }

    /// Whether all of it has been written.
    pub fn is_done(&self) -> bool {
        self.filled == self.into.len()
    }

    /// Room for the next chunk, whose length the peer has announced.
    pub fn room(&mut self, length: usize) -> Result<&mut [u8], TransportError> {
        self.room_and_beyond(length).map(|rest| &mut rest[..length])
    }

    /// The same with all that is behind it, which holds nothing yet.
    pub fn room_and_beyond(&mut self, length: usize) -> Result<&mut [u8], TransportError> {
        let rest = &mut self.into[self.filled..];
        if length == 0 || length > CHUNK_BYTES || length > rest.len() {
            return Err(TransportError::Malformed("a chunk of a length that was not asked for"));
        }
        Ok(rest)
    }

    /// The next `length` bytes have been written; they should have this checksum.
    pub fn advance(&mut self, length: usize, sent: u32) -> Result<(), BulkError> {
        let offset = self.filled;
        if checksum(&self.into[offset..offset + length]) != sent {
            return Err(BulkError::Corrupt { offset: offset as u64 });
        }
        self.filled += length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let object = Bytes::from_static(b"object");
        let request = BulkRequest { object, offset: 1 << 40, length: 5, priority: Priority(3) };
        let mut buffer = BytesMut::new();
        request.encode(&mut buffer);
        assert_eq!(BulkRequest::decode(buffer.freeze()), Ok(request.clone()));
        let long = BulkRequest { object: vec![0; OBJECT_BYTES_MAX + 1].into(), ..request.clone() };
        let beyond = BulkRequest { offset: u64::MAX, ..request };
        for wrong in [long, beyond] {
            let mut buffer = BytesMut::new();
            wrong.encode(&mut buffer);
            assert!(BulkRequest::decode(buffer.freeze()).is_err());
        }
        assert!(BulkRequest::decode(Bytes::from_static(&[0; 16])).is_err());
    }

    #[test]
    fn chunks_fill_the_memory_and_a_changed_bit_is_found() {
        let bytes: Vec<u8> = (0..CHUNK_BYTES * 2 + 5).map(|index| index as u8).collect();
        let mut into = vec![0; bytes.len()];
        let mut filling = Filling::new(&mut into);
        for chunk in chunks(Bytes::from(bytes.clone())) {
            filling.room(chunk.len()).unwrap().copy_from_slice(&chunk);
            filling.advance(chunk.len(), checksum(&chunk)).unwrap();
        }
        assert!(filling.is_done());
        assert!(filling.room(1).is_err(), "nothing more was asked for");
        assert_eq!(into, bytes);

        let mut filling = Filling::new(&mut into);
        filling.room(4).unwrap()[0] ^= 1;
        assert_eq!(filling.advance(4, checksum(&bytes[..4])), Err(BulkError::Corrupt { offset: 0 }));
        assert!(filling.room(CHUNK_BYTES + 1).is_err());
        assert!(filling.room(0).is_err());
    }
}
