//! Strangers who hold as many connections as they can, and who gets in beside them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quinn::Endpoint;
use shoal_identity::join::join;
use shoal_runtime::transport::{CONNECT_WITHIN, LocalNode, STRANGERS_MAX};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::strangers::quic_without_certificate;
use crate::support::{Cluster, Kind, LOOPBACK, Node, Objects, bind, bounded, connect, until};

/// Another host, as far as addresses say.
const ELSEWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2)), 0);
/// More than are heard at a time.
const CROWD: usize = STRANGERS_MAX + 8;
/// On a slow machine the time of some is over before anybody comes beside them, which shows nothing.
const ATTEMPTS: usize = 5;
const OUT_OF_TIME: &str = "the crowd never held its places until the others were in";

/// Connections that say nothing and stay; the number of those that were ended comes along.
struct Silent {
    ended: Arc<AtomicUsize>,
    _waiting: JoinSet<()>,
}

impl Silent {
    /// Connect by TCP, and say nothing.
    async fn tcp(from: SocketAddr, to: SocketAddr) -> Silent {
        let (ended, mut waiting) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        for _ in 0..CROWD {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(from).unwrap();
            let mut stream = bounded(socket.connect(to)).await.unwrap();
            let ended = ended.clone();
            waiting.spawn(async move {
                let _ = stream.read(&mut [0]).await;
                ended.fetch_add(1, Ordering::Relaxed);
            });
        }
        Silent { ended, _waiting: waiting }
    }

    /// Begin handshakes of QUIC, show that they come from where they say, and say nothing more.
    async fn quic(cluster: &Cluster, from: SocketAddr, to: SocketAddr) -> Silent {
        let (ended, mut waiting) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let endpoint = Endpoint::client(from).unwrap();
        let (config, name) = quic_without_certificate(cluster);
        for _ in 0..CROWD {
            let between = UdpSocket::bind(from).await.unwrap();
            let via = between.local_addr().unwrap();
            let connecting = endpoint.connect_with(config.clone(), via, &name).unwrap();
            let ended = ended.clone();
            let closed = async {
                if let Ok(connection) = connecting.await {
                    connection.closed().await;
                }
            };
            waiting.spawn(async move {
                tokio::select! {
                    () = closed => {}
                    () = fall_silent(&between, to) => {}
                }
                ended.fetch_add(1, Ordering::Relaxed);
            });
        }
        Silent { ended, _waiting: waiting }
    }

    /// Wait until so many of them have been turned away that the others hold all places.
    async fn fills_all_places(&self) {
        until(|| self.ended.load(Ordering::Relaxed) >= CROWD - STRANGERS_MAX).await;
    }

    /// So many still hold their places.
    fn holding(&self) -> usize {
        CROWD - self.ended.load(Ordering::Relaxed)
    }
}

/// Stand between a client and `to`. The client answers when it is asked whether it is where it says. When the
/// handshake has been answered nothing of it goes further.
async fn fall_silent(between: &UdpSocket, to: SocketAddr) {
    const KIND: u8 = 0xf0;
    const RETRY: u8 = 0xf0;
    let (mut client, mut answered, mut datagram) = (None, false, vec![0; 1 << 16]);
    loop {
        let (length, from) = between.recv_from(&mut datagram).await.unwrap();
        let packet = &datagram[..length];
        if from == to {
            answered |= packet[0] & KIND != RETRY;
            between.send_to(packet, client.expect("it has asked")).await.unwrap();
        } else {
            client = Some(from);
            if !answered {
                between.send_to(packet, to).await.unwrap();
            }
        }
    }
}

/// A node that lets others join.
async fn head(cluster: &Cluster, kind: Kind) -> Node {
    let objects = Arc::new(Objects::default());
    let local = LocalNode { authority: Some(cluster.authority.clone()), ..cluster.local(&objects) };
    Node { objects, transport: bind(kind, local, LOOPBACK).await }
}

#[tokio::test]
async fn who_holds_all_places_of_grpc_keeps_nobody_out() {
    let cluster = Cluster::new();
    let (here, there) = (cluster.node(Kind::Grpc).await, head(&cluster, Kind::Grpc).await);
    let address = there.transport.local_address();
    for _ in 0..ATTEMPTS {
        let crowd = Silent::tcp(ELSEWHERE, address).await;
        crowd.fills_all_places().await;
        connect(&here, &there).await;
        let stream = TcpStream::connect(address).await.unwrap();
        bounded(join(stream, cluster.authority.secret(), &"worker".parse().unwrap())).await.unwrap();
        if crowd.holding() >= STRANGERS_MAX - 2 {
            return;
        }
    }
    panic!("{OUT_OF_TIME}");
}

#[tokio::test]
async fn who_holds_all_places_of_quic_keeps_nobody_out() {
    let cluster = Cluster::new();
    let (here, there) = (cluster.node(Kind::Quic).await, head(&cluster, Kind::Quic).await);
    for _ in 0..ATTEMPTS {
        let crowd = Silent::quic(&cluster, ELSEWHERE, there.transport.local_address()).await;
        crowd.fills_all_places().await;
        connect(&here, &there).await;
        if crowd.holding() >= STRANGERS_MAX - 1 {
            return;
        }
    }
    panic!("{OUT_OF_TIME}");
}

#[tokio::test]
async fn neighbours_of_who_is_silent_get_in_after_a_while() {
    let cluster = Cluster::new();
    for _ in 0..ATTEMPTS {
        let (here, there) = (cluster.node(Kind::Grpc).await, head(&cluster, Kind::Grpc).await);
        let address = there.transport.local_address();
        let began = Instant::now();
        let crowd = Silent::tcp(LOOPBACK, address).await;
        crowd.fills_all_places().await;
        // As long as the others have time for an introduction it is turned away.
        let connected = async {
            while here.transport.connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        bounded(connected).await;
        // Nobody's time can have been over by then.
        if began.elapsed() < CONNECT_WITHIN {
            return;
        }
    }
    panic!("{OUT_OF_TIME}");
}
