//! The UDP socket of an endpoint, watched for no more than is of use.
//!
//! A call of an actor on another node is a packet each way, and system calls are most of what a packet costs.
//! A socket that is watched for room wakes the event loop for each packet that has left it; one that is read
//! until it says that it is empty is read twice for each packet that comes. This one is watched for room only
//! by who has found it full, and knows by how much came that nothing is left.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) struct Socket {
    watched: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    address: SocketAddr,
    /// It has taken nothing more, and nobody has waited for room since.
    full: AtomicBool,
}

impl Socket {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Socket> {
        let state = UdpSocketState::new((&socket).into())?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        // SAFETY: the result owns the socket, which stays the same and open while it is watched.
        let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Socket { watched, state, address, full: AtomicBool::new(false) })
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Socket").field(&self.address).finish()
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { socket: self, watched: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send(self.watched.get_ref().into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.full.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.watched.poll_read_ready(context))?;
            match self.state.recv(self.watched.get_ref().into(), buffers, meta) {
                Ok(count) => {
                    // All that there was has come. What comes from now on makes it ready again.
                    if count < buffers.len() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

/// Waits for one connection until a full socket has room.
#[derive(Debug)]
struct Room {
    socket: Arc<Socket>,
    /// Of its own, because the event loop watches a descriptor for the same all the time.
    watched: Option<AsyncFd<OwnedFd>>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.socket.full.load(Ordering::Relaxed) {
            if self.watched.is_none() {
                let descriptor = self.socket.watched.get_ref().as_fd().try_clone_to_owned()?;
                // SAFETY: as above.
                let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::WRITABLE) }?;
                self.watched = Some(watched);
            }
            if let Some(watched) = &self.watched {
                let _room = ready!(watched.poll_write_ready(context))?;
                self.socket.full.store(false, Ordering::Relaxed);
            }
        }
        self.watched = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn packet(destination: SocketAddr, contents: &[u8]) -> Transmit<'_> {
        Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None }
    }

    async fn receive(socket: &Socket) -> Vec<Vec<u8>> {
        let mut bytes = [[0; 2000]; 4];
        let mut meta = [RecvMeta::default(); 4];
        let count = poll_fn(|context| {
            let mut buffers: Vec<_> = bytes.iter_mut().map(|bytes| IoSliceMut::new(bytes)).collect();
            socket.poll_recv(context, &mut buffers, &mut meta)
        });
        let count = count.await.unwrap();
        (0..count).map(|index| bytes[index][..meta[index].len].to_vec()).collect()
    }

    /// However many come together, and whenever: each is read, though nobody looks until there is nothing.
    #[tokio::test]
    async fn everything_that_comes_is_read() {
        let local = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (one, other) = (Socket::new(local()).unwrap(), Socket::new(local()).unwrap());
        let mut sent: u8 = 0;
        for together in [1, 1, 3, 4, 1, 9, 2] {
            let mut read = Vec::new();
            for _ in 0..together {
                sent += 1;
                one.try_send(&packet(other.address, &[sent; 100])).unwrap();
            }
            while read.len() < together {
                let some = timeout(Duration::from_secs(10), receive(&other)).await;
                read.extend(some.expect("what was sent comes"));
            }
            let first = sent as usize - together + 1;
            let expected: Vec<_> = (first..=sent as usize).map(|number| vec![number as u8; 100]).collect();
            assert_eq!(read, expected);
        }
    }

    #[tokio::test]
    async fn who_finds_it_full_waits_for_room() {
        let socket = Arc::new(Socket::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap());
        let mut room = Arc::clone(&socket).create_io_poller();
        poll_fn(|context| room.as_mut().poll_writable(context)).await.unwrap();
        socket.full.store(true, Ordering::Relaxed);
        let waited =
            timeout(Duration::from_secs(10), poll_fn(|context| room.as_mut().poll_writable(context)));
        waited.await.expect("it has room").unwrap();
        assert!(!socket.full.load(Ordering::Relaxed));
    }
}
