//! Frames out of a stream of bytes.

use std::io;
use std::os::fd::AsFd;

use rustix::net::RecvFlags;

use crate::frame::{FrameError, HEADER_BYTES, Header};

/// What one read asks for at least: after one that gives less there is nothing left.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// What one read asks for at most, however large the frame that it belongs to claims to be.
const READ_BYTES_MAX: usize = 1 << 20;

/// The bytes of a link that have been read and not yet been taken as frames.
///
/// Memory grows with the bytes that really came, not with what a header promises.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
}

impl Inbox {
    /// Read once, without waiting. `Ok(0)` is the end of the stream. Descriptors that come along are
    /// closed by the kernel, because nobody asks for them.
    pub fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.make_room();
        let spare = rustix::buffer::spare_capacity(&mut self.bytes);
        let (count, _) = rustix::net::recv(socket, spare, RecvFlags::DONTWAIT)?;
        Ok(count)
    }

    /// Append bytes that were read elsewhere.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.compact();
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<(Header, &[u8])>, FrameError> {
        let rest = &self.bytes[self.start..];
        let Some(header) = Header::parse(rest)? else {
            return Ok(None);
        };
        let end = HEADER_BYTES + header.length;
        if rest.len() < end {
            return Ok(None);
        }
        let body = self.start + HEADER_BYTES;
        self.start += end;
        Ok(Some((header, &self.bytes[body..self.start])))
    }

    /// The body bytes that the header of the first, incomplete frame announces.
    pub fn announced(&self) -> Option<usize> {
        let header = Header::parse(&self.bytes[self.start..]).ok()??;
        Some(header.length)
    }

    fn make_room(&mut self) {
        self.compact();
        let missing = match self.announced() {
            Some(length) => (HEADER_BYTES + length).saturating_sub(self.bytes.len()),
            None => 0,
        };
        self.bytes.reserve(missing.clamp(READ_BYTES, READ_BYTES_MAX));
    }

    /// Move what is left to the front, and give back the room of an unusually large frame.
    fn compact(&mut self) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            if self.bytes.capacity() > READ_BYTES_MAX {
                self.bytes = Vec::new();
            }
        } else if self.start > 0 {
            self.bytes.drain(..self.start);
        }
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{self, Kind};
    use shoal_core::ids::ProcessId;

    fn stream(bodies: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for body in bodies {
            frame::append(&mut bytes, Kind::Control, ProcessId(7), ProcessId(8), body)
                .expect("a string can be encoded");
        }
        bytes
    }

    /// However a stream is cut into reads, the same frames come out.
    #[test]
    fn frames_survive_any_cut() {
        let bytes = stream(&["", "a", "some text", &"x".repeat(300)]);
        for cut in 1..bytes.len() {
            let (mut inbox, mut bodies) = (Inbox::default(), Vec::new());
            for part in bytes.chunks(cut) {
                inbox.extend(part);
                while let Some((header, body)) = inbox.next_frame().expect("well formed") {
                    assert_eq!((header.to, header.from), (ProcessId(7), ProcessId(8)));
                    bodies.push(shoal_core::wire::decode::<String>(body).expect("a string"));
                }
            }
            assert_eq!(bodies, ["", "a", "some text", &"x".repeat(300)], "cut at {cut}");
        }
    }

    #[test]
    fn a_promise_of_a_large_frame_costs_nothing() {
        let (one, other) = crate::socket::pair().expect("socketpair");
        let header = Header {
            length: shoal_core::wire::FRAME_BYTES_MAX,
            kind: Kind::Message,
            to: ProcessId(1),
            from: ProcessId(2),
        };
        rustix::io::write(&one, &header.to_bytes()).expect("write");
        let mut inbox = Inbox::default();
        for _ in 0..3 {
            rustix::io::write(&one, b"little").expect("write");
            inbox.fill(&other).expect("read");
            assert!(inbox.next_frame().expect("within the limit").is_none());
        }
        assert!(inbox.bytes.capacity() <= 4 * READ_BYTES_MAX);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut inbox = Inbox::default();
        inbox.extend(&[0xff; HEADER_BYTES]);
        assert!(matches!(inbox.next_frame(), Err(FrameError::TooLong(_))));
        let mut inbox = Inbox::default();
        inbox.extend(&{
            let mut bytes = [0; HEADER_BYTES];
            bytes[4] = 9;
            bytes
        });
        assert!(matches!(inbox.next_frame(), Err(FrameError::UnknownKind(9))));
    }
}
