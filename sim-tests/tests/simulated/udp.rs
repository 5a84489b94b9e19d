//! The QUIC transport, its packets going over the simulated network, which also loses some.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, EndpointConfig, UdpPoller};
use shoal_runtime::transport::LocalNode;
use shoal_transport_quic::Quic;
use tokio::sync::mpsc;
use turmoil::net::UdpSocket;

use crate::simulated::{ANYWHERE, Trace};

/// One packet in so many is lost.
const LOSS: u64 = 50;

thread_local! {
    /// A simulation runs in one thread.
    static PASSES: Cell<bool> = const { Cell::new(true) };
}

/// Whether the network carries UDP from now on.
#[allow(dead_code, reason = "each test uses a part of this")]
pub(crate) fn pass(passes: bool) {
    PASSES.set(passes);
}

pub(crate) async fn quic(node: LocalNode, seed: u64, trace: Trace) -> Quic {
    quic_with(node, endpoint(seed), seed, trace).await
}

pub(crate) async fn quic_with(node: LocalNode, config: EndpointConfig, seed: u64, trace: Trace) -> Quic {
    Quic::over(node, config, Simulated::bind(seed, trace).await.unwrap()).unwrap()
}

/// Whatever quinn draws at random comes from the seed, but not what TLS draws, which has one length always.
fn endpoint(seed: u64) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(FixedKey(seed)));
    let mut random = [0; 32];
    random[..8].copy_from_slice(&seed.to_le_bytes());
    config.rng_seed(Some(random));
    config.cid_generator(move || Box::new(Numbers(seed << 32)));
    config
}

/// Mixes a counter into something that looks random (splitmix64).
fn mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

struct Numbers(u64);

impl ConnectionIdGenerator for Numbers {
    fn generate_cid(&mut self) -> ConnectionId {
        self.0 += 1;
        ConnectionId::new(&mix(self.0).to_le_bytes())
    }
    fn cid_len(&self) -> usize {
        8
    }
    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Signs resets of connections that are forgotten. Nobody here forges them.
struct FixedKey(u64);

impl HmacKey for FixedKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        for (index, part) in signature.chunks_mut(8).enumerate() {
            let mut hasher = DefaultHasher::new();
            (self.0, index, data).hash(&mut hasher);
            part.copy_from_slice(&hasher.finish().to_le_bytes()[..part.len()]);
        }
    }
    fn signature_len(&self) -> usize {
        32
    }
    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut expected = vec![0; 32];
        self.sign(data, &mut expected);
        if expected == signature { Ok(()) } else { Err(CryptoError) }
    }
}

struct Simulated {
    socket: Arc<UdpSocket>,
    inbox: Mutex<mpsc::UnboundedReceiver<(SocketAddr, Vec<u8>)>>,
    seed: u64,
    sent: AtomicU64,
    trace: Trace,
}

impl std::fmt::Debug for Simulated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Simulated")
    }
}

impl Simulated {
    async fn bind(seed: u64, trace: Trace) -> io::Result<Arc<Simulated>> {
        let socket = Arc::new(UdpSocket::bind(ANYWHERE).await?);
        let (inwards, inbox) = mpsc::unbounded_channel();
        // The simulated socket cannot be polled, so a task waits for it.
        let receiving = socket.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok((length, from)) = receiving.recv_from(&mut buffer).await {
                if inwards.send((from, buffer[..length].to_vec())).is_err() {
                    break;
                }
            }
        });
        Ok(Arc::new(Simulated { socket, inbox: Mutex::new(inbox), seed, sent: AtomicU64::new(0), trace }))
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Simulated {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        self.trace.note((self.seed, transmit.destination, transmit.contents.len()));
        if PASSES.get() && !mix(self.seed << 32 | number).is_multiple_of(LOSS) {
            // A packet that the network does not take is one that is lost.
            let _ = self.socket.try_send_to(transmit.contents, transmit.destination);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.inbox.lock().poll_recv(context));
        let (addr, datagram) = received.ok_or(io::ErrorKind::BrokenPipe)?;
        let len = datagram.len();
        buffers[0][..len].copy_from_slice(&datagram);
        meta[0] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}
