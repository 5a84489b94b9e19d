//! Who gets no connection.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint, TransportErrorCode};
use shoal_identity::join::{JoinError, join, renew};
use shoal_identity::{BULK_PROTOCOL, Credentials, JoinSecret, NODE_PROTOCOL, Refusal, Role, Validity};
use shoal_runtime::transport::{LocalNode, TransportError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{AlertDescription, ClientConfig, RootCertStore};

use crate::support::{Cluster, Kind, LOOPBACK, Node, Objects, bind, bounded, connect, silent, until};

const HOUR: Duration = Duration::from_secs(3600);

fn local(credentials: Credentials) -> LocalNode {
    LocalNode { credentials, authority: None, source: Arc::new(Objects::default()), log: silent }
}

async fn node_with(kind: Kind, credentials: Credentials) -> Node {
    let transport = bind(kind, local(credentials), LOOPBACK).await;
    Node { objects: Arc::default(), transport }
}

/// Why a node with these credentials cannot connect to one of the cluster, and the other way round.
async fn refusals(kind: Kind, cluster: &Cluster, credentials: Credentials) -> [TransportError; 2] {
    let stranger = node_with(kind, credentials).await;
    let member = cluster.node(kind).await;
    let inwards = bounded(stranger.transport.connect(member.transport.local_address())).await;
    let outwards = bounded(member.transport.connect(stranger.transport.local_address())).await;
    // Those who belong to the cluster are served as before.
    let other = cluster.node(kind).await;
    connect(&other, &member).await;
    [inwards.unwrap_err(), outwards.unwrap_err()]
}

async fn expired_certificates_are_refused(kind: Kind) {
    let cluster = Cluster::new();
    let now = SystemTime::now();
    let validity = Validity { not_before: now - 2 * HOUR, not_after: now - HOUR };
    let credentials = cluster.credentials(Role::Node, validity);
    let refused = TransportError::Refused(Refusal::Expired);
    assert_eq!(refusals(kind, &cluster, credentials).await, [refused.clone(), refused]);
}

async fn certificates_of_other_clusters_are_refused(kind: Kind) {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let credentials = other.credentials(Role::Head, Validity::starting_now(HOUR));
    let refused = TransportError::Refused(Refusal::OtherCluster);
    assert_eq!(refusals(kind, &cluster, credentials).await, [refused.clone(), refused]);
}

#[tokio::test]
async fn expired_certificates_are_refused_by_quic() {
    expired_certificates_are_refused(Kind::Quic).await;
}

#[tokio::test]
async fn expired_certificates_are_refused_by_grpc() {
    expired_certificates_are_refused(Kind::Grpc).await;
}

#[tokio::test]
async fn certificates_of_other_clusters_are_refused_by_quic() {
    certificates_of_other_clusters_are_refused(Kind::Quic).await;
}

#[tokio::test]
async fn certificates_of_other_clusters_are_refused_by_grpc() {
    certificates_of_other_clusters_are_refused(Kind::Grpc).await;
}

/// TLS for who knows the cluster's authority and has no certificate of its own.
fn client_without_certificate(cluster: &Cluster, protocol: &[u8]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(cluster.authority.certificate().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// The same for QUIC, and the name that nodes of the cluster have.
pub(crate) fn quic_without_certificate(cluster: &Cluster) -> (quinn::ClientConfig, String) {
    let tls = client_without_certificate(cluster, NODE_PROTOCOL);
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let credentials = cluster.credentials(Role::Node, Validity::starting_now(HOUR));
    (config, credentials.server_name().to_str().into_owned())
}

/// Wait until a log says that somebody had no certificate.
async fn says_why(log: &Mutex<Vec<String>>, transport: &str) {
    let why = format!("by {transport} was refused: {}", Refusal::NoCertificate);
    until(|| log.lock().iter().any(|line| line.ends_with(&why))).await;
}

#[tokio::test]
async fn who_shows_no_certificate_is_refused_by_quic() {
    static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let cluster = Cluster::new();
    let local = LocalNode { log: |line| LOG.lock().push(line.to_string()), ..cluster.local(&Arc::default()) };
    let node = Node { objects: Arc::default(), transport: bind(Kind::Quic, local, LOOPBACK).await };
    let (config, name) = quic_without_certificate(&cluster);
    let stranger = Endpoint::client(LOOPBACK).unwrap();
    let connecting = stranger.connect_with(config, node.transport.local_address(), &name).unwrap();
    // In TLS 1.3 the client is done before it hears what the server thinks of its certificate.
    let connection = bounded(connecting).await.unwrap();
    let (mut send, mut receive) = bounded(connection.open_bi()).await.unwrap();
    let _ = send.write_all(b"shoal/1\n").await;
    let answer = bounded(receive.read_to_end(1 << 16)).await;
    assert!(answer.is_err(), "{answer:?}");
    let ended = bounded(connection.closed()).await;
    let alert = u8::from(AlertDescription::CertificateRequired);
    let expected = TransportErrorCode::crypto(alert);
    assert!(
        matches!(&ended, ConnectionError::ConnectionClosed(close) if close.error_code == expected),
        "{ended:?}"
    );
    assert_eq!(Refusal::from_alert(alert), Refusal::NoCertificate);
    says_why(&LOG, "QUIC").await;
    connect(&cluster.node(Kind::Quic).await, &node).await;
}

#[tokio::test]
async fn who_shows_no_certificate_is_refused_by_grpc() {
    static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let cluster = Cluster::new();
    let local = LocalNode { log: |line| LOG.lock().push(line.to_string()), ..cluster.local(&Arc::default()) };
    let name = local.credentials.server_name();
    let node = Node { objects: Arc::default(), transport: bind(Kind::Grpc, local, LOOPBACK).await };
    for protocol in [NODE_PROTOCOL, BULK_PROTOCOL] {
        let stream = TcpStream::connect(node.transport.local_address()).await.unwrap();
        let connector = TlsConnector::from(Arc::new(client_without_certificate(&cluster, protocol)));
        let mut stream = bounded(connector.connect(name.clone(), stream)).await.unwrap();
        let mut answer = Vec::new();
        // It ends without a farewell, which is an error of TLS.
        let _ = bounded(stream.read_to_end(&mut answer)).await;
        assert_eq!(answer, b"", "not even a welcome");
        says_why(&LOG, "gRPC").await;
        LOG.lock().clear();
    }
    connect(&cluster.node(Kind::Grpc).await, &node).await;
}

#[tokio::test]
async fn nonsense_on_the_port_harms_nobody() {
    let cluster = Cluster::new();
    let (grpc, quic) = (cluster.node(Kind::Grpc).await, cluster.node(Kind::Quic).await);
    let plain = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let long = vec![0x16; 1 << 16];
    for nonsense in [plain, b"GET / HTTP/1.1\r\n\r\n".to_vec(), long] {
        let mut stream = TcpStream::connect(grpc.transport.local_address()).await.unwrap();
        stream.write_all(&nonsense).await.unwrap();
        let mut answer = Vec::new();
        // An alert of TLS, or a reset.
        let _ = bounded(stream.read_to_end(&mut answer)).await;
        assert!(answer.len() <= 7, "{} bytes of answer", answer.len());

        let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
        for datagram in nonsense.chunks(1200) {
            socket.send_to(datagram, quic.transport.local_address()).await.unwrap();
        }
    }
    connect(&cluster.node(Kind::Grpc).await, &grpc).await;
    connect(&cluster.node(Kind::Quic).await, &quic).await;
}

#[tokio::test]
async fn a_node_joins_by_the_secret_and_connects_by_either_transport() {
    let cluster = Cluster::new();
    let objects = Arc::new(Objects::default());
    let head = LocalNode { authority: Some(cluster.authority.clone()), ..cluster.local(&objects) };
    let grpc = Node { objects, transport: bind(Kind::Grpc, head, LOOPBACK).await };
    let quic = cluster.node(Kind::Quic).await;

    let dial = || TcpStream::connect(grpc.transport.local_address());
    let name = "worker-7".parse().unwrap();
    let wrong = JoinSecret::generate().unwrap();
    let refused = bounded(join(dial().await.unwrap(), &wrong, &name)).await;
    assert!(matches!(refused, Err(JoinError::Refused(Refusal::WrongSecret))), "{refused:?}");

    let secret = cluster.authority.secret();
    let joined = bounded(join(dial().await.unwrap(), secret, &name)).await.unwrap();
    bounded(renew(dial().await.unwrap(), &joined)).await.unwrap();
    for (kind, there) in [(Kind::Grpc, &grpc), (Kind::Quic, &quic)] {
        let here = node_with(kind, joined.clone()).await;
        let (_one, two) = connect(&here, there).await;
        assert_eq!(two.peer.member.name, name);
        assert_eq!(two.peer.member.role, Role::Node);
    }
}

#[tokio::test]
async fn a_node_without_the_authority_lets_nobody_join() {
    let cluster = Cluster::new();
    let node = cluster.node(Kind::Grpc).await;
    let stream = TcpStream::connect(node.transport.local_address()).await.unwrap();
    let refused = bounded(join(stream, cluster.authority.secret(), &"worker".parse().unwrap())).await;
    assert!(matches!(refused, Err(JoinError::Refused(Refusal::NoAuthority))), "{refused:?}");
}
