//! Stream sockets between processes: pairs of them, and bytes that carry file descriptors.
//!
//! Descriptors travel with the first byte of the write that names them. A read never returns the
//! descriptors of two writes, so a reader that keeps them in a queue has them in the order of the
//! frames that announce them.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};

/// A frame brings at most this many descriptors.
pub const DESCRIPTORS_MAX: usize = 4;

/// What a link's kernel buffers should hold in each direction.
const BUFFER_BYTES: usize = 1 << 20;

/// Two connected sockets, closed on exec, with large buffers where the system permits them.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    enlarge_buffers(&one);
    enlarge_buffers(&other);
    Ok((one, other))
}

/// Ask for large kernel buffers. The system may grant less, which costs speed and nothing else.
pub fn enlarge_buffers(socket: &OwnedFd) {
    // Only a privileged process may go over the system's limit.
    if sockopt::set_socket_send_buffer_size_force(socket, BUFFER_BYTES).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, BUFFER_BYTES);
    }
    if sockopt::set_socket_recv_buffer_size_force(socket, BUFFER_BYTES).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, BUFFER_BYTES);
    }
}

/// Write what fits without waiting; `descriptors` go with the first byte.
pub fn send(socket: impl AsFd, slices: &[IoSlice<'_>], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(rustix::net::sendmsg(socket, slices, &mut ancillary, flags)?)
}

/// Read into `buffer`, and append the descriptors that came along to `descriptors`.
pub fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
    wait: bool,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    if !wait {
        flags |= RecvFlags::DONTWAIT;
    }
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// The queue of a reader holds the descriptors in the order in which they were sent, however the
    /// bytes around them are cut.
    #[test]
    fn descriptors_keep_their_order() {
        let (one, other) = pair().expect("socketpair");
        let mut readers = Vec::new();
        for _ in 0..3 {
            let (reader, writer) = std::io::pipe().expect("pipe");
            let sent = send(&one, &[IoSlice::new(b"before")], &[]).expect("plain bytes");
            assert_eq!(sent, 6);
            send(&one, &[IoSlice::new(b"with")], &[writer.as_fd()]).expect("descriptor");
            readers.push(reader);
        }
        let (mut bytes, mut descriptors) = (Vec::new(), VecDeque::new());
        while bytes.len() < 30 {
            let mut buffer = [0; 7];
            let count = receive(&other, &mut buffer, &mut descriptors, true).expect("receive");
            bytes.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(bytes, b"beforewith".repeat(3));
        assert_eq!(descriptors.len(), 3);
        for (number, descriptor) in descriptors.into_iter().enumerate() {
            let mut writer = std::io::PipeWriter::from(descriptor);
            write!(writer, "{number}").expect("the pipe works");
        }
        for (number, mut reader) in readers.into_iter().enumerate() {
            let mut text = String::new();
            reader.read_to_string(&mut text).expect("the pipe was closed after its text");
            assert_eq!(text, number.to_string());
        }
    }

    #[test]
    fn a_full_socket_does_not_block() {
        let (one, _other) = pair().expect("socketpair");
        let chunk = vec![0_u8; 1 << 16];
        let full = loop {
            if let Err(error) = send(&one, &[IoSlice::new(&chunk)], &[]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
