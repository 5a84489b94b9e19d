//! TLS, and who is at the other end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_identity::join::{self, JoinError};
use shoal_identity::{JOIN_PROTOCOL, Member, NODE_PROTOCOL, Refusal};
use shoal_runtime::transport::{CONNECT_WITHIN, LocalNode, Peer, STRANGERS_MAX, TransportError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::NAME;
use crate::line::{Line, LineStream, Lines};
use crate::network::{ByteStream, Listener};

/// What a node says over a new connection when it has verified the other's certificate: until then,
/// the other does not know whether its certificate was good enough.
const WELCOME: &[u8; 8] = b"shoal/1\n";
/// Without descriptors to accept with, listening goes on after a moment.
const BREATHER: Duration = Duration::from_millis(100);

/// The end of a connection that connected.
pub(crate) async fn initiate(
    stream: Box<dyn ByteStream>,
    address: SocketAddr,
    node: &LocalNode,
    lines: &Lines,
) -> Result<LineStream, TransportError> {
    let connector = TlsConnector::from(Arc::new(node.credentials.client_config(NODE_PROTOCOL)));
    let mut stream = connector.connect(node.credentials.server_name(), stream).await.map_err(from_tls)?;
    let session = stream.get_ref().1;
    let member = node.credentials.admit(session.alpn_protocol(), session.peer_certificates())?;
    let member = member.ok_or(Refusal::NoCertificate)?;
    let mut welcome = [0; WELCOME.len()];
    stream.read_exact(&mut welcome).await.map_err(from_tls)?;
    if welcome != *WELCOME {
        return Err(Refusal::Protocol.into());
    }
    let line = Line::new(Peer { member, address, transport: NAME });
    lines.add(&line);
    Ok(LineStream::new(stream.into(), line))
}

/// Take connections and find out whose they are. Those of nodes go to `secured`.
pub(crate) async fn listen(
    listener: Box<dyn Listener>,
    node: LocalNode,
    lines: Lines,
    secured: mpsc::Sender<LineStream>,
) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let config = node.credentials.server_config(true);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            sleep(BREATHER).await;
            continue;
        };
        // One too many is turned away by dropping its stream.
        let Ok(place) = strangers.clone().try_acquire_owned() else { continue };
        let (acceptor, node, lines) = (acceptor.clone(), node.clone(), lines.clone());
        let secured = secured.clone();
        tokio::spawn(async move {
            let let_in = let_in(stream, address, acceptor, &node, &lines, secured, place);
            if let Err(error) = let_in.await {
                (node.log)(format_args!("a connection from {address} by gRPC was refused: {error}"));
            }
        });
    }
}

async fn let_in(
    stream: Box<dyn ByteStream>,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    node: &LocalNode,
    lines: &Lines,
    secured: mpsc::Sender<LineStream>,
    place: OwnedSemaphorePermit,
) -> Result<(), TransportError> {
    let introduced = async {
        let mut stream = acceptor.accept(stream).await.map_err(from_tls)?;
        let session = stream.get_ref().1;
        let member = node.credentials.admit(session.alpn_protocol(), session.peer_certificates())?;
        if session.alpn_protocol() == Some(JOIN_PROTOCOL) {
            return let_join(&mut stream, address, node, member.as_ref()).await.map(|()| None);
        }
        let member = member.ok_or(Refusal::NoCertificate)?;
        stream.write_all(WELCOME).await?;
        stream.flush().await?;
        let line = Line::new(Peer { member, address, transport: NAME });
        lines.add(&line);
        Ok(Some(LineStream::new(stream.into(), line)))
    };
    let introduced = timeout(CONNECT_WITHIN, introduced).await.map_err(|_| TransportError::TimedOut)??;
    drop(place);
    if let Some(stream) = introduced {
        // Nobody takes it any more when the node stops: dropping it closes it.
        let _ = secured.send(stream).await;
    }
    Ok(())
}

async fn let_join(
    stream: &mut TlsStream<Box<dyn ByteStream>>,
    address: SocketAddr,
    node: &LocalNode,
    shown: Option<&Member>,
) -> Result<(), TransportError> {
    let joined = match &node.authority {
        Some(authority) => join::answer(stream, authority, shown).await.map(Some),
        None => join::refuse(stream).await.map(|()| None),
    };
    match joined {
        Ok(Some(member)) => {
            let verb = if shown.is_some() { "has a new certificate" } else { "has joined" };
            (node.log)(format_args!("{} at {address} {verb}", member.name));
            Ok(())
        }
        Ok(None) => Err(Refusal::NoAuthority.into()),
        Err(JoinError::Refused(refusal)) => Err(refusal.into()),
        Err(JoinError::TimedOut) => Err(TransportError::TimedOut),
        Err(other) => Err(TransportError::Lost(other.to_string())),
    }
}

fn from_tls(error: io::Error) -> TransportError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<tokio_rustls::rustls::Error>()) {
        Some(tls) => Refusal::from_tls(tls).into(),
        None => error.into(),
    }
}
