//! One socket to the daemon or to another process: bytes out, frames in.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use shoal_core::ids::ProcessId;

use crate::frame::{FrameError, HEADER_BYTES, Header};

/// How much is read at once.
const READ_BYTES: usize = 256 * 1024;
/// A descriptor-carrying frame brings at most this many.
const DESCRIPTORS_MAX: usize = 8;

/// The sending half: what was encoded and not yet written.
pub(super) struct Outgoing {
    socket: Arc<OwnedFd>,
    pub(super) buffer: Vec<u8>,
    written: usize,
    /// The socket was full; the poller waits for room.
    pub(super) full: bool,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Flushed {
    All,
    Full,
    Closed,
}

impl Outgoing {
    pub(super) fn new(socket: Arc<OwnedFd>) -> Outgoing {
        Outgoing { socket, buffer: Vec::new(), written: 0, full: false }
    }

    pub(super) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    pub(super) fn pending(&self) -> usize {
        self.buffer.len() - self.written
    }

    /// Write as much as the socket takes, without waiting.
    pub(super) fn flush(&mut self) -> Flushed {
        while self.pending() > 0 {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match net::send(&self.socket, &self.buffer[self.written..], flags) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.full = true;
                    return Flushed::Full;
                }
                Err(_) => return Flushed::Closed,
            }
        }
        self.full = false;
        self.written = 0;
        self.buffer.clear();
        if self.buffer.capacity() > 4 * READ_BYTES {
            self.buffer = Vec::new();
        }
        Flushed::All
    }
}

/// The receiving half: bytes read and not yet taken as frames.
pub(super) struct Incoming {
    socket: Arc<OwnedFd>,
    pub(super) peer: ProcessId,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    descriptors: Option<VecDeque<OwnedFd>>,
}

/// What a read found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ReadState {
    /// Bytes, and the socket may have more.
    More,
    /// Bytes, or none: the socket is empty.
    Drained,
    /// The other end is closed, and everything was read.
    Closed,
}

impl Incoming {
    /// The half for `socket`; only the daemon's link carries descriptors.
    pub(super) fn new(socket: Arc<OwnedFd>, peer: ProcessId, descriptors: bool) -> Incoming {
        Incoming {
            socket,
            peer,
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            descriptors: descriptors.then(VecDeque::new),
        }
    }

    pub(super) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Read once, without waiting.
    pub(super) fn read(&mut self) -> ReadState {
        self.make_room();
        let room = self.buffer.len() - self.end;
        let result = match self.descriptors {
            Some(_) => self.receive_with_descriptors(),
            None => net::recv(&self.socket, &mut self.buffer[self.end..], RecvFlags::DONTWAIT)
                .map(|(count, _)| count),
        };
        match result {
            Ok(0) => ReadState::Closed,
            Ok(count) => {
                self.end += count;
                if count == room { ReadState::More } else { ReadState::Drained }
            }
            Err(Errno::AGAIN | Errno::INTR) => ReadState::Drained,
            Err(_) => ReadState::Closed,
        }
    }

    fn receive_with_descriptors(&mut self) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut self.buffer[self.end..])];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = net::recvmsg(self.socket.as_fd(), &mut slices, &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message
                && let Some(queue) = &mut self.descriptors
            {
                queue.extend(descriptors);
            }
        }
        Ok(received.bytes)
    }

    /// The next descriptor that came with a control frame.
    pub(super) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.as_mut()?.pop_front()
    }

    /// The next whole frame. The range lies in [`Incoming::bytes`].
    pub(super) fn next_frame(&mut self) -> Result<Option<(Header, std::ops::Range<usize>)>, FrameError> {
        let Some(header) = Header::parse(&self.buffer[self.start..self.end])? else { return Ok(None) };
        let body = self.start + HEADER_BYTES;
        if self.end - body < header.length {
            return Ok(None);
        }
        self.start = body + header.length;
        Ok(Some((header, body..self.start)))
    }

    pub(super) fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Move what is left to the front and see that the next frame fits.
    fn make_room(&mut self) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > 8 * READ_BYTES {
                self.buffer = vec![0; READ_BYTES];
            }
            return;
        }
        let wanted = match Header::parse(&self.buffer[self.start..self.end]) {
            Ok(Some(header)) => header.length + HEADER_BYTES,
            _ => HEADER_BYTES,
        };
        if self.start > 0 && (self.buffer.len() - self.start < wanted || self.end == self.buffer.len()) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }
}
