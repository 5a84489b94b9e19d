//! The gRPC transport, its streams of bytes going over the simulated network.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use shoal_runtime::transport::{BoxFuture, LocalNode};
use shoal_transport_grpc::Grpc;
use shoal_transport_grpc::network::{ByteStream, Listener, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use turmoil::net::{TcpListener, TcpStream};

use crate::simulated::{ANYWHERE, Trace};

/// A stream takes so many bytes, and more only after [`PAUSE`]: what is large takes a while.
const BURST_BYTES: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) async fn grpc(node: LocalNode, trace: Trace) -> Grpc {
    Grpc::over(node, Arc::new(Simulated(trace)), ANYWHERE).await.unwrap()
}

struct Simulated(Trace);

impl Network for Simulated {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(Traced::new(stream, &self.0)) as Box<dyn ByteStream>)
        })
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            Ok(Box::new(Listening { listener, trace: self.0.clone() }) as Box<dyn Listener>)
        })
    }
}

struct Listening {
    listener: TcpListener,
    trace: Trace,
}

impl Listener for Listening {
    fn local_address(&self) -> SocketAddr {
        ANYWHERE
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn ByteStream>, SocketAddr)>> {
        Box::pin(async {
            let (stream, address) = self.listener.accept().await?;
            Ok((Box::new(Traced::new(stream, &self.trace)) as Box<dyn ByteStream>, address))
        })
    }
}

/// What is written is noted: when, and how much. What it says is different each time, for it is encrypted.
struct Traced {
    stream: TcpStream,
    trace: Trace,
    /// Bytes that it takes before the next pause.
    burst: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Traced {
    fn new(stream: TcpStream, trace: &Trace) -> Traced {
        Traced { stream, trace: trace.clone(), burst: BURST_BYTES, pause: None }
    }
}

impl AsyncRead for Traced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Traced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            (self.pause, self.burst) = (None, BURST_BYTES);
        }
        let bytes = &bytes[..bytes.len().min(self.burst)];
        let count = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.trace.note((self.stream.peer_addr().ok(), count));
        self.burst -= count;
        if self.burst == 0 {
            self.pause = Some(Box::pin(sleep(PAUSE)));
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
