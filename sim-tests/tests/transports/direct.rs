//! Bytes of objects over streams that carry nothing else.

use shoal_identity::{Refusal, Role, Validity};
use shoal_runtime::transport::bulk::CHUNK_BYTES;
use shoal_runtime::transport::{BulkError, BulkRefusal, BulkRequest, LocalNode, Priority, TransportError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

use crate::support::{Cluster, Kind, LOOPBACK, Node, Objects, bind, bounded, pattern, request, silent};

async fn fetch(here: &Node, there: &Node, name: &'static str, into: &mut [u8]) -> Result<(), BulkError> {
    let address = there.transport.local_address();
    let length = into.len();
    bounded(here.transport.fetch(address, request(name, length), into).unwrap()).await
}

#[tokio::test]
async fn they_come_whole_and_the_stream_is_used_again() {
    let cluster = Cluster::new();
    let (here, there) = (cluster.node(Kind::Grpc).await, cluster.node(Kind::Grpc).await);
    for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 7, 64 << 20] {
        let bytes = pattern(length);
        there.objects.put("object", bytes.clone());
        let mut into = vec![0; length];
        fetch(&here, &there, "object", &mut into).await.unwrap();
        assert!(into == bytes, "{length} bytes");
    }
}

#[tokio::test]
async fn what_is_not_there_is_refused_and_the_stream_goes_on() {
    let cluster = Cluster::new();
    let (here, there) = (cluster.node(Kind::Grpc).await, cluster.node(Kind::Grpc).await);
    there.objects.put("object", pattern(100));
    let mut into = vec![0; 101];
    let refused = fetch(&here, &there, "other", &mut into).await;
    assert_eq!(refused, Err(BulkRefusal::NotOffered.into()));
    assert_eq!(fetch(&here, &there, "object", &mut into).await, Err(BulkRefusal::OutOfRange.into()));
    assert_eq!(fetch(&here, &there, "object", &mut into[..100]).await, Ok(()));
}

#[tokio::test]
async fn who_drops_a_request_cancels_it_and_others_go_on() {
    let cluster = Cluster::new();
    let (here, there) = (cluster.node(Kind::Grpc).await, cluster.node(Kind::Grpc).await);
    let bytes = pattern(100 << 20);
    let mut into = vec![0; bytes.len()];
    for patience in [0, 1, 5] {
        let released = there.objects.put_watched("object", bytes.clone());
        let fetching = fetch(&here, &there, "object", &mut into);
        assert!(timeout(Duration::from_millis(patience), fetching).await.is_err());
        there.objects.put("object", vec![7; 10]);
        // The sender has stopped: it holds what it sends until it has sent all of it.
        released.wait().await;
        fetch(&here, &there, "object", &mut into[..10]).await.unwrap();
        assert_eq!(into[..10], [7; 10]);
    }
}

#[tokio::test]
async fn what_is_urgent_overtakes() {
    const BYTES: usize = 64 << 20;
    let cluster = Cluster::new();
    let (here, there) = (cluster.node(Kind::Grpc).await, cluster.node(Kind::Grpc).await);
    let bytes = pattern(BYTES);
    there.objects.put("object", bytes.clone());
    let (mut early, mut urgent) = (vec![0; BYTES], vec![0; BYTES / 4]);
    let background = fetch(&here, &there, "object", &mut early);
    let foreground = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let blocked = BulkRequest { priority: Priority(7), ..request("object", BYTES / 4) };
        let address = there.transport.local_address();
        bounded(here.transport.fetch(address, blocked, &mut urgent).unwrap()).await
    };
    let mut background = Box::pin(background);
    tokio::select! {
        biased;
        first = foreground => first.unwrap(),
        _ = &mut background => panic!("a quarter of the bytes at a higher priority takes longer"),
    }
    background.await.unwrap();
    assert!(early == bytes && urgent == bytes[..BYTES / 4]);
}

#[tokio::test]
async fn many_come_at_the_same_time() {
    let cluster = Cluster::new();
    let (here, there) = (cluster.node(Kind::Grpc).await, cluster.node(Kind::Grpc).await);
    let bytes = pattern(2 * CHUNK_BYTES + 3);
    there.objects.put("object", bytes.clone());
    let there = Arc::new(there);
    let here = Arc::new(here);
    let fetches: Vec<_> = (0..50)
        .map(|_| {
            let (here, there, bytes) = (here.clone(), there.clone(), bytes.clone());
            tokio::spawn(async move {
                let mut into = vec![0; bytes.len()];
                fetch(&here, &there, "object", &mut into).await.unwrap();
                assert!(into == bytes);
            })
        })
        .collect();
    for fetch in fetches {
        bounded(fetch).await.unwrap();
    }
}

#[tokio::test]
async fn strangers_get_none() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let there = cluster.node(Kind::Grpc).await;
    there.objects.put("object", pattern(100));
    let credentials = other.credentials(Role::Head, Validity::starting_now(Duration::from_secs(3600)));
    let source = Arc::new(Objects::default());
    let local = LocalNode { credentials, authority: None, source: source.clone(), log: silent };
    let stranger = Node { objects: source, transport: bind(Kind::Grpc, local, LOOPBACK).await };
    let mut into = vec![0; 100];
    let error = fetch(&stranger, &there, "object", &mut into).await.unwrap_err();
    let refused = TransportError::Refused(Refusal::OtherCluster);
    assert_eq!(error, BulkError::Connection(refused));
    assert_eq!(into, [0; 100]);
}

#[tokio::test]
async fn a_transport_without_such_streams_says_so() {
    let cluster = Cluster::new();
    let (here, there) = (cluster.node(Kind::Quic).await, cluster.node(Kind::Quic).await);
    let address = there.transport.local_address();
    assert!(here.transport.fetch(address, request("object", 1), &mut [0]).is_none());
}
