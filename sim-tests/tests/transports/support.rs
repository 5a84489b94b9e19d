//! Nodes of a cluster, with what they offer each other.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use shoal_core::session::{Acknowledging, Config};
use shoal_identity::{ClusterAuthority, Credentials, Role, Validity};
use shoal_runtime::transport::{
    BulkRefusal, BulkRequest, BulkSource, Connection, ControlReader, ControlWriter, Ended, LocalNode, Peer,
    PeerSession, Priority, Transport,
};
use shoal_transport_grpc::Grpc;
use shoal_transport_quic::Quic;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Far more than anything here takes, and less than a test may hang.
pub(crate) const BOUND: Duration = Duration::from_secs(60);
pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Quic,
    Grpc,
}

/// Objects by name.
#[derive(Default)]
pub(crate) struct Objects(Mutex<HashMap<Bytes, Bytes>>);

impl Objects {
    pub(crate) fn put(&self, name: &'static str, bytes: impl Into<Bytes>) {
        self.0.lock().insert(Bytes::from(name), bytes.into());
    }

    /// Put bytes, and learn when nobody needs them any more: they were replaced, and nobody sends them.
    pub(crate) fn put_watched(&self, name: &'static str, bytes: Vec<u8>) -> Released {
        let released = Arc::new(AtomicBool::new(false));
        self.put(name, Bytes::from_owner(Watched(bytes, released.clone())));
        Released(released)
    }
}

struct Watched(Vec<u8>, Arc<AtomicBool>);

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

/// Whether bytes were released.
pub(crate) struct Released(Arc<AtomicBool>);

impl Released {
    pub(crate) async fn wait(&self) {
        until(|| self.0.load(Ordering::Relaxed)).await;
    }
}

impl BulkSource for Objects {
    fn open(&self, _: &Peer, request: &BulkRequest) -> Result<Bytes, BulkRefusal> {
        let bytes = self.0.lock().get(&request.object).cloned().ok_or(BulkRefusal::NotOffered)?;
        let (start, end) = (request.offset as usize, (request.offset + request.length) as usize);
        if end > bytes.len() { Err(BulkRefusal::OutOfRange) } else { Ok(bytes.slice(start..end)) }
    }
}

pub(crate) fn request(name: &'static str, length: usize) -> BulkRequest {
    let (object, length) = (Bytes::from(name), length as u64);
    BulkRequest { object, offset: 0, length, priority: Priority::default() }
}

/// Bytes of which no two pages are equal.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn silent(_: fmt::Arguments<'_>) {}

pub(crate) struct Cluster {
    pub(crate) authority: Arc<ClusterAuthority>,
}

pub(crate) struct Node {
    pub(crate) objects: Arc<Objects>,
    pub(crate) transport: Arc<dyn Transport>,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        Cluster { authority: Arc::new(ClusterAuthority::generate().unwrap()) }
    }

    pub(crate) fn credentials(&self, role: Role, validity: Validity) -> Credentials {
        self.authority.credentials(role, &"node".parse().unwrap(), validity).unwrap()
    }

    pub(crate) fn local(&self, objects: &Arc<Objects>) -> LocalNode {
        let validity = Validity::starting_now(Duration::from_secs(3600));
        LocalNode {
            credentials: self.credentials(Role::Node, validity),
            authority: None,
            source: objects.clone(),
            log: silent,
        }
    }

    pub(crate) async fn node(&self, kind: Kind) -> Node {
        let objects = Arc::new(Objects::default());
        let transport = bind(kind, self.local(&objects), LOOPBACK).await;
        Node { objects, transport }
    }

    /// Two nodes, and the two ends of a connection between them.
    pub(crate) async fn pair(&self, kind: Kind) -> (Node, Connection, Node, Connection) {
        let (here, there) = (self.node(kind).await, self.node(kind).await);
        let (one, two) = connect(&here, &there).await;
        (here, one, there, two)
    }
}

pub(crate) async fn bind(kind: Kind, node: LocalNode, address: SocketAddr) -> Arc<dyn Transport> {
    match kind {
        Kind::Quic => Arc::new(Quic::bind(node, address).unwrap()),
        Kind::Grpc => Arc::new(Grpc::bind(node, address).await.unwrap()),
    }
}

pub(crate) async fn connect(here: &Node, there: &Node) -> (Connection, Connection) {
    let address = there.transport.local_address();
    let (one, two) =
        bounded(async { tokio::join!(here.transport.connect(address), there.transport.accept()) }).await;
    (one.unwrap(), two.unwrap())
}

pub(crate) async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("it takes too long")
}

/// Wait until something is so.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    bounded(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// One end of a session, whose frames are numbers.
pub(crate) struct End {
    pub(crate) session: PeerSession,
    deliver: mpsc::Sender<Vec<Bytes>>,
    received: mpsc::Receiver<Vec<Bytes>>,
}

impl End {
    pub(crate) fn new(config: Config) -> End {
        let (deliver, received) = mpsc::channel(16);
        End { session: PeerSession::new(config, Acknowledging::OnReceipt), deliver, received }
    }

    pub(crate) fn drive(&self, mut reader: ControlReader, mut writer: ControlWriter) -> JoinHandle<Ended> {
        let (session, deliver) = (self.session.clone(), self.deliver.clone());
        tokio::spawn(async move { session.drive(&mut reader, &mut writer, &deliver).await })
    }

    /// Send numbers as frames of some bytes.
    pub(crate) fn send(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let mut frame = vec![0; 8 + (number % 500) as usize];
            frame[..8].copy_from_slice(&number.to_le_bytes());
            self.session.send(frame.into());
        }
    }

    pub(crate) async fn expect(&mut self, numbers: std::ops::Range<u64>) {
        let mut next = numbers.start;
        while next < numbers.end {
            for frame in bounded(self.received.recv()).await.expect("the test holds the sender") {
                let number = u64::from_le_bytes(frame[..8].try_into().unwrap());
                assert_eq!(number, next);
                assert_eq!(frame.len(), 8 + (number % 500) as usize);
                next += 1;
            }
        }
    }
}
