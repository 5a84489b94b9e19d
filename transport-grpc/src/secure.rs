//! TLS, and who is at the other end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_identity::join::{self, JoinError};
use shoal_identity::{BULK_PROTOCOL, JOIN_PROTOCOL, Member, NODE_PROTOCOL, Refusal};
use shoal_runtime::transport::{LocalNode, Peer, Place, Strangers, TransportError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_rustls::rustls::{self, ClientConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use crate::NAME;
use crate::direct::{self, Giving};
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
    let (stream, member) = introduce(stream, node.credentials.client_config(NODE_PROTOCOL), node).await?;
    let line = Line::new(Peer { member, address, transport: NAME });
    lines.add(&line);
    Ok(LineStream::new(stream.into(), line))
}

/// Secure a stream, and learn who is at its other end.
pub(crate) async fn introduce(
    stream: Box<dyn ByteStream>,
    config: ClientConfig,
    node: &LocalNode,
) -> Result<(client::TlsStream<Box<dyn ByteStream>>, Member), TransportError> {
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(node.credentials.server_name(), stream).await.map_err(from_tls)?;
    let session = stream.get_ref().1;
    let member = node.credentials.admit(session.alpn_protocol(), session.peer_certificates())?;
    let member = member.ok_or(Refusal::NoCertificate)?;
    let mut welcome = [0; WELCOME.len()];
    stream.read_exact(&mut welcome).await.map_err(from_tls)?;
    if welcome == *WELCOME { Ok((stream, member)) } else { Err(Refusal::Protocol.into()) }
}

/// What those who come in become.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) node: LocalNode,
    pub(crate) lines: Lines,
    /// Takes the streams of nodes that want to talk.
    pub(crate) secured: mpsc::Sender<LineStream>,
    /// Serves those that want bytes of objects.
    pub(crate) giving: Arc<Giving>,
}

/// Take connections and find out whose they are.
pub(crate) async fn listen(listener: Box<dyn Listener>, door: Door) {
    let strangers = Strangers::default();
    let mut config = door.node.credentials.server_config(true);
    // For streams of bulk bytes, whose records are made here.
    config.enable_secret_extraction = true;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            sleep(BREATHER).await;
            continue;
        };
        // One too many is turned away by dropping its stream.
        let Some(place) = strangers.enter(address.ip()) else { continue };
        let (acceptor, door) = (acceptor.clone(), door.clone());
        tokio::spawn(async move {
            if let Err(error) = door.let_in(stream, address, acceptor, place).await {
                (door.node.log)(format_args!("a connection from {address} by gRPC was refused: {error}"));
            }
        });
    }
}

/// A stream whose other end is known.
enum Guest {
    Talks(LineStream),
    Fetches(direct::Stream, Peer),
    Left,
}

impl Door {
    async fn let_in(
        &self,
        stream: Box<dyn ByteStream>,
        address: SocketAddr,
        acceptor: TlsAcceptor,
        mut place: Place,
    ) -> Result<(), TransportError> {
        // Who was displaced is not worth a line: they can come as fast as they like.
        let Some(introduced) = place.introduce(self.introduce(stream, address, acceptor)).await else {
            return Ok(());
        };
        drop(place);
        match introduced? {
            // Nobody takes it any more when the node stops: dropping it closes it.
            Guest::Talks(stream) => drop(self.secured.send(stream).await),
            Guest::Fetches(stream, peer) => self.giving.clone().serve(stream, peer).await,
            Guest::Left => {}
        }
        Ok(())
    }

    async fn introduce(
        &self,
        stream: Box<dyn ByteStream>,
        address: SocketAddr,
        acceptor: TlsAcceptor,
    ) -> Result<Guest, TransportError> {
        let mut stream = acceptor.accept(stream).await.map_err(from_tls)?;
        let session = stream.get_ref().1;
        let member = self.node.credentials.admit(session.alpn_protocol(), session.peer_certificates())?;
        if session.alpn_protocol() == Some(JOIN_PROTOCOL) {
            return let_join(&mut stream, address, &self.node, member.as_ref()).await.map(|()| Guest::Left);
        }
        let fetches = session.alpn_protocol() == Some(BULK_PROTOCOL);
        let member = member.ok_or(Refusal::NoCertificate)?;
        stream.write_all(WELCOME).await?;
        stream.flush().await?;
        let peer = Peer { member, address, transport: NAME };
        if fetches {
            // The peer says nothing before it is welcome, so nothing of it is in TLS's buffers.
            let (stream, session) = stream.into_inner();
            let secrets = session.dangerous_extract_secrets().map_err(refused)?;
            return Ok(Guest::Fetches(direct::Stream::new(stream, secrets)?, peer));
        }
        let line = Line::new(peer);
        self.lines.add(&line);
        Ok(Guest::Talks(LineStream::new(stream.into(), line)))
    }
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
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => refused(tls.clone()),
        None => error.into(),
    }
}

pub(crate) fn refused(error: rustls::Error) -> TransportError {
    Refusal::from_tls(&error).into()
}
