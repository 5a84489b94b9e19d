//! Connections between nodes over QUIC.
//!
//! One UDP port, from which this node connects and at which it listens. A connection has one stream for
//! control frames, which goes before all others, and one for each request of bulk bytes, so that loss on
//! one holds up none of the rest.
//!
//! | file | holds |
//! |---|---|
//! | `settings` | windows, time limits, and TLS as QUIC wants it |
//! | `connection` | one connection, from its handshake to its end |
//! | `bulk` | both sides of a request for bytes of an object |
//! | `socket` | the UDP socket, watched for no more than is of use |
//! | `presence` | whether anybody listens any more where a connection leads |
//! | `errors` | what errors of QUIC mean |

mod bulk;
mod connection;
mod errors;
mod presence;
mod settings;
mod socket;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Incoming, TokioRuntime};
use shoal_runtime::transport::{
    BoxFuture, CONNECT_WITHIN, Connection, LocalNode, Place, STRANGERS_MAX, Strangers, Transport,
    TransportError,
};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use settings::Settings;
use socket::Socket;

/// Connections that nobody has accepted yet.
const BACKLOG: usize = 64;
/// From so many strangers on, they must show that they are where they say, which costs a round trip.
const STRANGERS_BELIEVED: usize = STRANGERS_MAX / 4;
/// How long the last words to peers may take.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(1);

/// The QUIC transport of one node.
pub struct Quic {
    endpoint: Endpoint,
    address: SocketAddr,
    client: quinn::ClientConfig,
    server_name: String,
    node: LocalNode,
    /// Whether the system is asked about ends that are silent.
    watches: bool,
    accepted: Mutex<mpsc::Receiver<Connection>>,
}

impl Quic {
    /// Listen at a UDP address. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`TransportError::Listen`] if the address is taken or not of this machine.
    pub fn bind(node: LocalNode, address: SocketAddr) -> Result<Quic, TransportError> {
        let socket = UdpSocket::bind(address).map_err(listen)?;
        settings::enlarge_buffers(&socket);
        let settings = Settings::new(&node.credentials)?;
        let socket = Arc::new(Socket::new(socket).map_err(listen)?);
        let endpoint = Endpoint::new_with_abstract_socket(
            settings::endpoint(),
            Some(settings.server.clone()),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(listen)?;
        Quic::start(node, settings, endpoint, true)
    }

    /// The same over a socket of the caller's, a simulated one, say.
    pub fn over(
        node: LocalNode,
        config: EndpointConfig,
        socket: Arc<dyn AsyncUdpSocket>,
    ) -> Result<Quic, TransportError> {
        let settings = Settings::new(&node.credentials)?;
        let server = Some(settings.server.clone());
        let endpoint = Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
            .map_err(listen)?;
        Quic::start(node, settings, endpoint, false)
    }

    fn start(
        node: LocalNode,
        settings: Settings,
        endpoint: Endpoint,
        watches: bool,
    ) -> Result<Quic, TransportError> {
        let address = endpoint.local_addr().map_err(listen)?;
        let (accept, accepted) = mpsc::channel(BACKLOG);
        let door = Door { node: node.clone(), watches, accept };
        tokio::spawn(listen_for(endpoint.clone(), door));
        let server_name = node.credentials.server_name().to_str().into_owned();
        let accepted = Mutex::new(accepted);
        Ok(Quic { endpoint, address, client: settings.client, server_name, node, watches, accepted })
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<Connection, TransportError> {
        let connecting = self
            .endpoint
            .connect_with(self.client.clone(), address, &self.server_name)
            .map_err(|error| TransportError::Lost(error.to_string()))?;
        let connected = async {
            let connection = connecting.await.map_err(errors::from_connection)?;
            watched(connection.clone(), self.watches, &self.node);
            connection::initiate(connection, &self.node).await
        };
        timeout(CONNECT_WITHIN, connected).await.unwrap_or(Err(TransportError::TimedOut))
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.endpoint.close(errors::DONE, b"the node stops");
    }
}

impl Transport for Quic {
    fn name(&self) -> &'static str {
        connection::NAME
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

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.endpoint.close(errors::DONE, b"the node stops");
            let _ = timeout(FAREWELL, self.endpoint.wait_idle()).await;
        })
    }
}

fn listen(error: std::io::Error) -> TransportError {
    TransportError::Listen(error.to_string())
}

/// Where connections come in.
#[derive(Clone)]
struct Door {
    node: LocalNode,
    watches: bool,
    accept: mpsc::Sender<Connection>,
}

/// Notice when the other end's process has ended. Over a simulated network there is no system that says so.
fn watched(connection: quinn::Connection, watches: bool, node: &LocalNode) {
    if watches {
        tokio::spawn(presence::watch(connection, node.log));
    }
}

/// Take connections until the endpoint is closed.
async fn listen_for(endpoint: Endpoint, door: Door) {
    let strangers = Strangers::default();
    while let Some(incoming) = endpoint.accept().await {
        // So nobody who only writes another's address takes a place from others.
        if strangers.count() >= STRANGERS_BELIEVED && incoming.may_retry() {
            // It fails only for who may not retry.
            let _ = incoming.retry();
            continue;
        }
        let Some(place) = strangers.enter(incoming.remote_address().ip()) else {
            incoming.refuse();
            continue;
        };
        tokio::spawn(let_in(incoming, door.clone(), place));
    }
}

async fn let_in(incoming: Incoming, door: Door, mut place: Place) {
    let Door { node, watches, accept } = door;
    let address = incoming.remote_address();
    let secured = async { incoming.await.map_err(errors::from_connection) };
    // Who was displaced is not worth a line: they can come as fast as they like.
    let Some(secured) = place.introduce(secured).await else { return };
    // Its certificate is good: it is a stranger no more.
    drop(place);
    let introduced = async {
        let connection = secured?;
        watched(connection.clone(), watches, &node);
        let responded = timeout(CONNECT_WITHIN, connection::respond(connection.clone(), &node));
        responded.await.unwrap_or(Err(TransportError::TimedOut)).inspect_err(|error| {
            connection.close(errors::REFUSED, error.to_string().as_bytes());
        })
    };
    match introduced.await {
        // If nobody accepts any more, dropping it closes it.
        Ok(connection) => drop(accept.send(connection).await),
        Err(error) => (node.log)(format_args!("a connection from {address} by QUIC was refused: {error}")),
    }
}
