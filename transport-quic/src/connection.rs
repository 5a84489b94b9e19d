//! One connection, from its handshake to its end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::crypto::rustls::HandshakeData;
use quinn::{RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use shoal_identity::Refusal;
use shoal_runtime::transport::{
    BoxFuture, Bulk, BulkError, BulkRequest, Connection, ControlReader, ControlWriter, LocalNode, Peer,
    TransportError,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::bulk;
use crate::errors::{self, DONE};

pub(crate) const NAME: &str = "QUIC";

/// Said by both ends when they have verified each other: until the other end has spoken, a node does not
/// know whether its own certificate was good enough.
const WELCOME: &[u8; 8] = b"shoal/1\n";
const CONTROL_PRIORITY: i32 = i32::MAX;

/// The end of a connection that connected.
pub(crate) async fn initiate(
    connection: quinn::Connection,
    node: &LocalNode,
) -> Result<Connection, TransportError> {
    let peer = identify(&connection, node)?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(errors::from_connection)?;
    send.write_all(WELCOME).await.map_err(errors::from_write)?;
    expect_welcome(&mut receive).await?;
    Ok(assemble(connection, peer, send, receive, node))
}

/// The end that was connected to. Whoever calls this closes the connection if it fails.
pub(crate) async fn respond(
    connection: quinn::Connection,
    node: &LocalNode,
) -> Result<Connection, TransportError> {
    let peer = identify(&connection, node)?;
    let (mut send, mut receive) = connection.accept_bi().await.map_err(errors::from_connection)?;
    expect_welcome(&mut receive).await?;
    send.write_all(WELCOME).await.map_err(errors::from_write)?;
    Ok(assemble(connection, peer, send, receive, node))
}

fn identify(connection: &quinn::Connection, node: &LocalNode) -> Result<Peer, TransportError> {
    let handshake = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let protocol = handshake.and_then(|data| data.protocol);
    let certificates =
        connection.peer_identity().and_then(|data| data.downcast::<Vec<CertificateDer<'static>>>().ok());
    let admitted = node.credentials.admit(protocol.as_deref(), certificates.as_deref().map(Vec::as_slice))?;
    let member = admitted.ok_or(Refusal::NoCertificate)?;
    Ok(Peer { member, address: connection.remote_address(), transport: NAME })
}

async fn expect_welcome(receive: &mut RecvStream) -> Result<(), TransportError> {
    let mut welcome = [0; WELCOME.len()];
    receive.read_exact(&mut welcome).await.map_err(errors::from_read_exact)?;
    if welcome == *WELCOME { Ok(()) } else { Err(Refusal::Protocol.into()) }
}

fn assemble(
    connection: quinn::Connection,
    peer: Peer,
    send: SendStream,
    receive: RecvStream,
    node: &LocalNode,
) -> Connection {
    // It fails for a stream that is closed, which its user will see.
    let _ = send.set_priority(CONTROL_PRIORITY);
    tokio::spawn(bulk::serve(connection.clone(), peer.clone(), node.source.clone()));
    let shared = Arc::new(Shared { connection });
    Connection {
        peer,
        reader: ControlReader::new(Box::new(Reading { stream: receive, _shared: shared.clone() })),
        writer: ControlWriter::new(Box::new(Writing { stream: send, _shared: shared.clone() })),
        bulk: shared,
    }
}

/// What the parts of a connection hold: it ends with the last of them.
struct Shared {
    connection: quinn::Connection,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.connection.close(DONE, b"the node needs it no more");
    }
}

impl Bulk for Shared {
    fn fetch<'a>(&'a self, request: BulkRequest, into: &'a mut [u8]) -> BoxFuture<'a, Result<(), BulkError>> {
        Box::pin(bulk::fetch(&self.connection, request, into))
    }

    fn close(&self, reason: &str) {
        self.connection.close(DONE, reason.as_bytes());
    }

    fn closed(&self) -> BoxFuture<'_, TransportError> {
        Box::pin(async { errors::from_connection(self.connection.closed().await) })
    }
}

/// The control stream's inwards half, with errors that say what they mean.
struct Reading {
    stream: RecvStream,
    _shared: Arc<Shared>,
}

impl AsyncRead for Reading {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(self.stream.poll_read_buf(context, buffer));
        Poll::Ready(read.map(drop).map_err(|error| errors::from_read(error).into()))
    }
}

struct Writing {
    stream: SendStream,
    _shared: Arc<Shared>,
}

impl AsyncWrite for Writing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        Poll::Ready(written.map_err(|error| errors::from_write(error).into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
