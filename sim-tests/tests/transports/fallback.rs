//! The choice between two transports.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use shoal_identity::{Refusal, Role, Validity};
use shoal_runtime::transport::{Fallback, Transport, TransportError};

use crate::support::{Cluster, Kind, LOOPBACK, bounded, silent};

/// QUIC first, gRPC second, for a node of the cluster.
async fn choosing(cluster: &Cluster, log: fn(fmt::Arguments<'_>)) -> Fallback {
    let (quic, grpc) = (cluster.node(Kind::Quic).await, cluster.node(Kind::Grpc).await);
    Fallback::new(quic.transport, grpc.transport, log).with_patience(Duration::from_millis(300))
}

#[tokio::test]
async fn where_quic_passes_it_is_used() {
    let cluster = Cluster::new();
    let (here, there) = (choosing(&cluster, silent).await, choosing(&cluster, silent).await);
    let address = there.local_address();
    let (one, two) = bounded(async { tokio::join!(here.connect(address), there.accept()) }).await;
    assert_eq!((one.unwrap().peer.transport, two.unwrap().peer.transport), ("QUIC", "QUIC"));
}

#[tokio::test]
async fn where_it_does_not_grpc_is_used_and_a_line_says_so_once() {
    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let cluster = Cluster::new();
    let here = choosing(&cluster, |line| LINES.lock().push(line.to_string())).await;
    // It listens at a TCP port; at the UDP port of that number is nobody.
    let there = cluster.node(Kind::Grpc).await;
    let address = there.transport.local_address();
    for _ in 0..2 {
        let (one, two) =
            bounded(async { tokio::join!(here.connect(address), there.transport.accept()) }).await;
        assert_eq!((one.unwrap().peer.transport, two.unwrap().peer.transport), ("gRPC", "gRPC"));
    }
    let lines = LINES.lock().clone();
    let expected = format!("{address} cannot be reached by QUIC (no answer in time); gRPC is used instead");
    assert_eq!(lines, [expected]);
}

#[tokio::test]
async fn who_is_refused_by_the_one_does_not_try_the_other() {
    let cluster = Cluster::new();
    let there = choosing(&cluster, silent).await;
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    let validity = Validity { not_before: now - 2 * hour, not_after: now - hour };
    let credentials = cluster.credentials(Role::Node, validity);
    let local = shoal_runtime::transport::LocalNode { credentials, ..cluster.local(&Arc::default()) };
    let quic = crate::support::bind(Kind::Quic, local.clone(), LOOPBACK).await;
    let grpc = crate::support::bind(Kind::Grpc, local, LOOPBACK).await;
    let here = Fallback::new(quic, grpc, |line| panic!("{line}"));
    let refused = bounded(here.connect(there.local_address())).await.unwrap_err();
    assert_eq!(refused, TransportError::Refused(Refusal::Expired));
}

#[tokio::test]
async fn where_nobody_is_neither_is_used() {
    let cluster = Cluster::new();
    let here = choosing(&cluster, |line| panic!("{line}")).await;
    let nobody = std::net::TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    let refused = bounded(here.connect(nobody)).await.unwrap_err();
    assert!(matches!(refused, TransportError::Lost(_)), "{refused:?}");
}
