//! Ring 1: the real gRPC transport (tonic, HTTP/2, TLS) over a simulated network.
//!
//! `cargo test -p shoal-sim-tests --test turmoil_grpc`; `SHOAL_SIM_SEED=7` runs one seed.

#![cfg(not(madsim))]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod simulated;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use shoal_runtime::transport::{BoxFuture, LocalNode, Transport};
use shoal_transport_grpc::Grpc;
use shoal_transport_grpc::network::{ByteStream, Listener, Network};
use simulated::{ANYWHERE, CRASHES, CUTS, Trace, check, seeds};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

#[test]
fn a_session_and_fetches_survive_cuts() {
    seeds().into_iter().for_each(|seed| assert!(check(seed, CUTS, bind) > 1000));
}

#[test]
fn what_a_crashed_server_had_not_handled_is_sent_again() {
    seeds().into_iter().for_each(|seed| assert!(check(seed, CRASHES, bind) > 1000));
}

fn bind(node: LocalNode, _: u64, trace: Trace) -> BoxFuture<'static, Arc<dyn Transport>> {
    Box::pin(async move {
        let network = Arc::new(Simulated(trace));
        Arc::new(Grpc::over(node, network, ANYWHERE).await.unwrap()) as Arc<dyn Transport>
    })
}

struct Simulated(Trace);

impl Network for Simulated {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(Traced { stream, trace: self.0.clone() }) as Box<dyn ByteStream>)
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
            Ok((Box::new(Traced { stream, trace: self.trace.clone() }) as Box<dyn ByteStream>, address))
        })
    }
}

/// What is written is noted: when, and how much. What it says is different each time, for it is encrypted.
struct Traced {
    stream: TcpStream,
    trace: Trace,
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
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.trace.note((self.stream.peer_addr().ok(), count));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
