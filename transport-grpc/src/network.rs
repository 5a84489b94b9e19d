//! Where byte streams come from: TCP, or a simulated network.

use std::io;
use std::net::SocketAddr;

use shoal_runtime::transport::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A stream of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// What connects and listens.
pub trait Network: Send + Sync {
    /// Connect to an address.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>>;
    /// Listen at an address.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
}

/// What takes connections.
pub trait Listener: Send + Sync {
    /// Where it listens.
    fn local_address(&self) -> SocketAddr;
    /// The next connection, and from where it comes.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn ByteStream>, SocketAddr)>>;
}

/// The system's TCP.
#[derive(Clone, Copy, Debug)]
pub struct Tcp;

struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Network for Tcp {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move { prompt(TcpStream::connect(address).await?) })
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Box::new(Listening { listener, address }) as Box<dyn Listener>)
        })
    }
}

impl Listener for Listening {
    fn local_address(&self) -> SocketAddr {
        self.address
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn ByteStream>, SocketAddr)>> {
        Box::pin(async {
            let (stream, address) = self.listener.accept().await?;
            Ok((prompt(stream)?, address))
        })
    }
}

/// What is written is gathered already; it should not wait for more.
fn prompt(stream: TcpStream) -> io::Result<Box<dyn ByteStream>> {
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}
