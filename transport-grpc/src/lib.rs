//! Connections between nodes over gRPC.
//!
//! One TCP port, at which this node listens, and one connection for each pair of nodes: TLS 1.3, HTTP/2,
//! a call for control frames and one for each request of bulk bytes. A gRPC server cannot call its client,
//! so what it wants from there is told over a call that stands open (`Wants`) and given back by a call
//! (`Deliver`): above this both ends are equal.
//!
//! Nodes join at the same port (`shoal_identity::join`).
//!
//! | file | holds |
//! |---|---|
//! | `network` | where byte streams come from: TCP, or a simulated network |
//! | `secure` | TLS, and who is at the other end |
//! | `line` | one secured byte stream, from its start to its end |
//! | `control` | control frames as a stream of messages |
//! | `client` `server` | the two ends of the gRPC service |
//! | `bulk` | chunks, and which go first |
//! | `direct` | bytes of objects over streams of their own |
//! | `record` | how those are sealed |

mod bulk;
mod client;
mod control;
mod direct;
mod line;
pub mod network;
mod record;
mod secure;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;

use shoal_runtime::transport::{
    BoxFuture, BulkError, BulkRequest, CONNECT_WITHIN, Connection, LocalNode, Transport, TransportError,
};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

#[cfg(feature = "fuzz")]
pub use direct::fuzz;
use direct::{Giving, Taking};
use line::Lines;
use network::{Network, Tcp};

/// What `proto/node.proto` says.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "it is generated")]
mod proto {
    tonic::include_proto!("shoal.v1");
}

/// Connections that nobody has accepted yet.
const BACKLOG: usize = 64;
const NAME: &str = "gRPC";

/// The gRPC transport of one node.
pub struct Grpc {
    node: LocalNode,
    network: Arc<dyn Network>,
    taking: Taking,
    address: SocketAddr,
    accepted: Mutex<mpsc::Receiver<Connection>>,
    lines: Lines,
    /// Listen and serve; they end with this.
    tasks: Mutex<JoinSet<()>>,
}

impl Grpc {
    /// Listen at a TCP address.
    ///
    /// # Errors
    ///
    /// [`TransportError::Listen`] if the address is taken or not of this machine.
    pub async fn bind(node: LocalNode, address: SocketAddr) -> Result<Grpc, TransportError> {
        Grpc::over(node, Arc::new(Tcp), address).await
    }

    /// The same over a network of the caller's, a simulated one, say.
    pub async fn over(
        node: LocalNode,
        network: Arc<dyn Network>,
        address: SocketAddr,
    ) -> Result<Grpc, TransportError> {
        let listener =
            network.listen(address).await.map_err(|error| TransportError::Listen(error.to_string()))?;
        let address = listener.local_address();
        let (accept, accepted) = mpsc::channel(BACKLOG);
        let (incoming, secured) = mpsc::channel(BACKLOG);
        let lines = Lines::default();
        let mut tasks = JoinSet::new();
        let giving = Arc::new(Giving::new(node.source.clone()));
        let door = secure::Door { node: node.clone(), lines: lines.clone(), secured: incoming, giving };
        tasks.spawn(secure::listen(listener, door));
        tasks.spawn(server::serve(secured, node.clone(), accept));
        let taking = Taking::new(network.clone(), node.clone());
        Ok(Grpc {
            node,
            network,
            taking,
            address,
            accepted: Mutex::new(accepted),
            lines,
            tasks: Mutex::new(tasks),
        })
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<Connection, TransportError> {
        let connected = async {
            let stream = self.network.connect(address).await?;
            let io = secure::initiate(stream, address, &self.node, &self.lines).await?;
            client::open(io, &self.node).await
        };
        timeout(CONNECT_WITHIN, connected).await.unwrap_or(Err(TransportError::TimedOut))
    }
}

impl Transport for Grpc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, Result<Connection, TransportError>> {
        Box::pin(self.connect_to(address))
    }

    fn accept(&self) -> BoxFuture<'_, Option<Connection>> {
        Box::pin(async { self.accepted.lock().await.recv().await })
    }

    fn fetch<'a>(
        &'a self,
        address: SocketAddr,
        request: BulkRequest,
        into: &'a mut [u8],
    ) -> Option<BoxFuture<'a, Result<(), BulkError>>> {
        Some(Box::pin(self.taking.fetch(address, request, into)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.lines.close_all("the node stops");
            self.tasks.lock().await.shutdown().await;
        })
    }
}
