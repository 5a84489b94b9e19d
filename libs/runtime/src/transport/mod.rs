//! Between daemons: connections, what goes over them, and the sessions that outlive them.
//!
//! A [`Transport`] makes authenticated [`Connection`]s, one for each pair of nodes. A connection carries
//! control frames in both directions ([`control`]) and, on streams of their own, bytes of objects
//! ([`bulk`]). Nothing here decides anything: who connects to whom, what is fetched and what a lost
//! connection means is said by the machines.
//!
//! | file | holds |
//! |---|---|
//! | `control` | control frames as bytes: greetings, and the packets of a session |
//! | `session` | drives a [`Session`](shoal_core::session::Session) over one connection after another |
//! | `bulk` | requests for bytes of objects, and chunks with checksums |
//! | `fallback` | one transport where it passes, another where it does not |

pub mod bulk;
pub mod control;
mod fallback;
mod session;
mod strangers;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use shoal_identity::{ClusterAuthority, Credentials, Member, Refusal};
use tokio::io::{AsyncRead, AsyncWrite};

pub use bulk::{Bulk, BulkError, BulkRefusal, BulkRequest, BulkSource, Priority};
pub use control::{Control, ControlReader, ControlWriter};
pub use fallback::Fallback;
pub use session::{Ended, PeerSession};
pub use strangers::{Place, STRANGERS_MAX, Strangers};

/// What an object-safe asynchronous method gives.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One way of connecting daemons. It is bound to one port, where it listens and from where it serves.
pub trait Transport: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Where it listens.
    fn local_address(&self) -> SocketAddr;

    /// Connect to a node that listens at `address`. Both ends have verified each other's certificates when
    /// this returns.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, Result<Connection, TransportError>>;

    /// The next connection that a node has made to this one; none after [`Transport::close`]. Dropping the
    /// future loses nothing.
    fn accept(&self) -> BoxFuture<'_, Option<Connection>>;

    /// Read a range of an object of the node at an address into `into`, which is as long as it, over a stream
    /// that carries nothing else. Dropping the future cancels. None: this transport has no such streams, and
    /// the range is to be fetched over the connection with that node ([`Bulk::fetch`]).
    fn fetch<'a>(
        &'a self,
        _address: SocketAddr,
        _request: BulkRequest,
        _into: &'a mut [u8],
    ) -> Option<BoxFuture<'a, Result<(), BulkError>>> {
        None
    }

    /// Close all connections and stop listening.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// What a transport needs of the node that it connects.
#[derive(Clone)]
pub struct LocalNode {
    /// The key and certificate that it shows.
    pub credentials: Credentials,
    /// Lets other nodes join, if this node holds the authority of its cluster.
    pub authority: Option<Arc<ClusterAuthority>>,
    /// Has what peers fetch.
    pub source: Arc<dyn BulkSource>,
    /// Takes a line for people: who was turned away, and why.
    pub log: Log,
}

/// Takes a line for people.
pub type Log = fn(fmt::Arguments<'_>);

/// How long a connection may take until both ends know each other.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How often an end that has nothing to say shows that it is there.
pub const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// A connection over which nothing comes for so long is lost. Its session is not: that is for the head to
/// say.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);

/// An authenticated connection to one node. It ends when all of its parts have been dropped.
pub struct Connection {
    /// Who is at the other end.
    pub peer: Peer,
    /// Control frames that come.
    pub reader: ControlReader,
    /// Control frames that go.
    pub writer: ControlWriter,
    /// Bytes of objects, in both directions.
    pub bulk: Arc<dyn Bulk>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.peer).finish()
    }
}

/// The other end of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Whom its certificate speaks for.
    pub member: Member,
    /// Where it is; its port is the one it listens at only if it was connected to.
    pub address: SocketAddr,
    /// The transport that carries the connection.
    pub transport: &'static str,
}

/// What a transport's byte stream must be, in each direction.
pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
/// See [`BoxRead`].
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// Why there is no connection, or no more.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TransportError {
    /// The two ends do not trust or do not understand each other. Trying again does not help.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The other end did not answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The other end, or the way to it, is not there; or it was lost.
    #[error("the connection failed: {0}")]
    Lost(String),
    /// The other end said that it ends the connection.
    #[error("the connection was closed: {0}")]
    Closed(String),
    /// A control frame is longer than this end takes.
    #[error("a frame of {bytes} bytes is over the limit of {limit}")]
    TooLong {
        /// What was announced.
        bytes: usize,
        /// What is taken.
        limit: usize,
    },
    /// The other end does not keep to the protocol.
    #[error("what came cannot be understood: {0}")]
    Malformed(&'static str),
    /// This end cannot listen, or has stopped.
    #[error("cannot listen: {0}")]
    Listen(String),
}

impl From<io::Error> for TransportError {
    /// Errors of streams hold the errors of TLS and of transports below them.
    fn from(error: io::Error) -> Self {
        if let Some(inner) = error.get_ref() {
            if let Some(inner) = inner.downcast_ref::<TransportError>() {
                return inner.clone();
            }
            if let Some(refusal) = inner.downcast_ref::<Refusal>() {
                return TransportError::Refused(refusal.clone());
            }
        }
        match error.kind() {
            io::ErrorKind::TimedOut => TransportError::TimedOut,
            _ => TransportError::Lost(error.to_string()),
        }
    }
}

impl From<TransportError> for io::Error {
    fn from(error: TransportError) -> Self {
        let kind = match error {
            TransportError::TimedOut => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::ConnectionAborted,
        };
        io::Error::new(kind, error)
    }
}
