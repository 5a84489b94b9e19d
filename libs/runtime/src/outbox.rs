//! Frames that wait to be written to a link.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

use serde::Serialize;
use shoal_core::ids::ProcessId;

use crate::control::Control;
use crate::frame::{self, FrameError, HEADER_BYTES, Header, Kind};
use crate::socket;

/// Frames are gathered in chunks of about this size, so that sent ones give their memory back.
const CHUNK_BYTES: usize = 256 * 1024;

/// As many chunks go out with one system call.
const SLICES_MAX: usize = 16;

/// A queue of encoded frames. Nothing here waits.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are written already.
    written: usize,
    /// Bytes of all chunks.
    total: usize,
    /// A spent buffer, for the next chunk.
    spare: Vec<u8>,
}

#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// They go with the first byte, and are closed here once they are gone.
    descriptors: Vec<OwnedFd>,
}

impl Outbox {
    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.total - self.written
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Queue a frame.
    pub fn push<T: Serialize>(
        &mut self,
        kind: Kind,
        to: ProcessId,
        from: ProcessId,
        body: &T,
    ) -> Result<(), FrameError> {
        let bytes = &mut self.open_chunk().bytes;
        let before = bytes.len();
        let result = frame::append(bytes, kind, to, from, body);
        let added = bytes.len() - before;
        self.total += added;
        self.drop_empty_chunk();
        result
    }

    /// Queue a control frame that brings descriptors; they are closed here when they have been sent.
    pub fn push_control(
        &mut self,
        to: ProcessId,
        from: ProcessId,
        control: &Control,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), FrameError> {
        if descriptors.is_empty() {
            return self.push(Kind::Control, to, from, control);
        }
        let mut chunk = Chunk { bytes: Vec::new(), descriptors };
        frame::append(&mut chunk.bytes, Kind::Control, to, from, control)?;
        self.total += chunk.bytes.len();
        self.chunks.push_back(chunk);
        Ok(())
    }

    /// Queue a frame whose body is encoded already.
    pub fn forward(&mut self, header: Header, body: &[u8]) {
        debug_assert_eq!(header.length, body.len());
        let bytes = &mut self.open_chunk().bytes;
        bytes.extend_from_slice(&header.to_bytes());
        bytes.extend_from_slice(body);
        self.total += HEADER_BYTES + body.len();
    }

    /// Write what the socket takes without waiting. `true`: everything is gone.
    pub fn flush(&mut self, socket: impl AsFd) -> io::Result<bool> {
        while let Some(first) = self.chunks.front() {
            let alone = self.written == 0 && !first.descriptors.is_empty();
            let result = if alone {
                let descriptors: Vec<_> = first.descriptors.iter().map(AsFd::as_fd).collect();
                socket::send(&socket, &[IoSlice::new(&first.bytes)], &descriptors)
            } else {
                // The first chunk may have got rid of its descriptors; the next ones must not have any.
                let rest = self.chunks.iter().skip(1).take_while(|chunk| chunk.descriptors.is_empty());
                let mut slices = vec![IoSlice::new(&first.bytes[self.written..])];
                slices.extend(rest.take(SLICES_MAX - 1).map(|chunk| IoSlice::new(&chunk.bytes)));
                socket::send(&socket, &slices, &[])
            };
            match result {
                Ok(count) => self.wrote(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn wrote(&mut self, mut count: usize) {
        while count > 0 {
            let Some(first) = self.chunks.front_mut() else {
                return;
            };
            first.descriptors.clear();
            let left = first.bytes.len() - self.written;
            if count < left {
                self.written += count;
                return;
            }
            count -= left;
            self.total -= first.bytes.len();
            self.written = 0;
            if let Some(mut chunk) = self.chunks.pop_front()
                && chunk.bytes.capacity() <= 2 * CHUNK_BYTES
            {
                chunk.bytes.clear();
                self.spare = chunk.bytes;
            }
        }
    }

    /// The chunk that the next frame goes into.
    fn open_chunk(&mut self) -> &mut Chunk {
        let usable = self
            .chunks
            .back()
            .is_some_and(|chunk| chunk.bytes.len() < CHUNK_BYTES && chunk.descriptors.is_empty());
        if !usable {
            let bytes = std::mem::take(&mut self.spare);
            self.chunks.push_back(Chunk { bytes, descriptors: Vec::new() });
        }
        let last = self.chunks.len() - 1;
        &mut self.chunks[last]
    }

    fn drop_empty_chunk(&mut self) {
        if self.chunks.back().is_some_and(|chunk| chunk.bytes.is_empty()) {
            self.chunks.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::Inbox;
    use std::collections::VecDeque;

    const HERE: ProcessId = ProcessId(1);
    const THERE: ProcessId = ProcessId(2);

    /// More than the socket holds goes out in pieces, in order and complete, descriptors included.
    #[test]
    fn everything_arrives_in_order() {
        let (one, other) = socket::pair().expect("socketpair");
        let mut outbox = Outbox::default();
        let bodies: Vec<String> = (0..400).map(|i| format!("{i} ").repeat(3000)).collect();
        for (index, body) in bodies.iter().enumerate() {
            if index % 100 == 50 {
                let (_reader, writer) = std::io::pipe().expect("pipe");
                outbox
                    .push_control(THERE, HERE, &Control::Link { peer: HERE }, vec![writer.into()])
                    .expect("encodable");
            }
            outbox.push(Kind::Message, THERE, HERE, body).expect("encodable");
        }
        assert!(outbox.waiting() > 4 << 20, "more than any socket buffer holds");
        let (mut inbox, mut descriptors) = (Inbox::default(), VecDeque::new());
        let (mut received, mut links, mut stalls) = (Vec::new(), 0, 0);
        let mut buffer = vec![0; 1 << 16];
        while received.len() < bodies.len() {
            if !outbox.flush(&one).expect("flush") {
                stalls += 1;
            }
            let count = socket::receive(&other, &mut buffer, &mut descriptors, true).expect("receive");
            inbox.extend(&buffer[..count]);
            while let Some((header, body)) = inbox.next_frame().expect("well formed") {
                match header.kind {
                    Kind::Message => {
                        received.push(shoal_core::wire::decode::<String>(body).expect("a string"));
                    }
                    Kind::Control => {
                        links += 1;
                        descriptors.pop_front().expect("its descriptor came with it");
                    }
                }
            }
        }
        assert_eq!(received, bodies);
        assert_eq!((links, descriptors.len()), (4, 0));
        assert!(stalls > 0, "the socket was never full");
        assert!(outbox.is_empty() && outbox.waiting() == 0);
    }
}
