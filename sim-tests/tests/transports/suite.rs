//! What a connection carries.

use std::time::Duration;

use bytes::Bytes;
use shoal_core::session::{Config, Packet};
use shoal_runtime::transport::bulk::REQUESTS_MAX;
use shoal_runtime::transport::{BulkError, BulkRefusal, BulkRequest, Control, Priority, TransportError};

use crate::support::{Cluster, End, Kind, bounded, connect, pattern, request};

/// Make a test for each transport of each function.
macro_rules! for_each_transport {
    ($($name:ident),* $(,)?) => {
        mod quic {
            $(#[tokio::test] async fn $name() { super::$name(super::Kind::Quic).await; })*
        }
        mod grpc {
            $(#[tokio::test] async fn $name() { super::$name(super::Kind::Grpc).await; })*
        }
    };
}

for_each_transport!(
    each_end_knows_the_other,
    greetings_pass_both_ways,
    a_session_passes_both_ways,
    a_session_goes_on_over_connections_that_break,
    bytes_of_an_object_come_from_either_end,
    control_frames_are_not_held_up_by_bulk,
    what_is_not_there_is_refused,
    more_requests_than_are_served_at_once_wait,
    what_is_urgent_overtakes,
    who_drops_a_request_cancels_it,
    who_does_not_read_slows_the_sender_down,
    many_nodes_connect_to_one,
    a_frame_that_is_too_long_ends_the_connection,
    both_ends_learn_of_the_end,
    the_last_words_arrive,
);

async fn each_end_knows_the_other(kind: Kind) {
    let cluster = Cluster::new();
    let (here, one, there, two) = cluster.pair(kind).await;
    assert_eq!(one.peer.address, there.transport.local_address());
    assert_eq!(one.peer.member.cluster, cluster.authority.cluster());
    assert_eq!(two.peer.member.cluster, cluster.authority.cluster());
    assert_eq!(one.peer.transport, here.transport.name());
    assert_eq!(two.peer.transport, here.transport.name());
}

async fn greetings_pass_both_ways(kind: Kind) {
    let (_here, mut one, _there, mut two) = Cluster::new().pair(kind).await;
    let long = Bytes::from(pattern(1 << 19));
    for greeting in [Bytes::from_static(b"hello"), Bytes::new(), long] {
        // The end that was connected to may speak first.
        bounded(two.writer.greet(greeting.clone())).await.unwrap();
        assert_eq!(bounded(one.reader.greeting()).await.unwrap(), greeting);
        bounded(one.writer.greet(greeting.clone())).await.unwrap();
        assert_eq!(bounded(two.reader.greeting()).await.unwrap(), greeting);
    }
}

async fn a_session_passes_both_ways(kind: Kind) {
    let (_here, one, _there, two) = Cluster::new().pair(kind).await;
    let (mut here, mut there) = (End::new(Config::default()), End::new(Config::default()));
    here.drive(one.reader, one.writer);
    there.drive(two.reader, two.writer);
    here.send(0..20_000);
    there.send(0..20_000);
    tokio::join!(here.expect(0..20_000), there.expect(0..20_000));
}

async fn a_session_goes_on_over_connections_that_break(kind: Kind) {
    let cluster = Cluster::new();
    let (near, far) = (cluster.node(kind).await, cluster.node(kind).await);
    let (mut here, mut there) = (End::new(Config::default()), End::new(Config::default()));
    let mut sent = 0;
    for round in 0..10 {
        let (one, two) = connect(&near, &far).await;
        let ends = [here.drive(one.reader, one.writer), there.drive(two.reader, two.writer)];
        here.send(sent..sent + 3000);
        there.send(sent..sent + 3000);
        // In the middle of it one end or the other has enough.
        if round > 4 {
            tokio::time::sleep(Duration::from_millis(round)).await;
        }
        if round % 2 == 0 { &one.bulk } else { &two.bulk }.close("the test cuts it");
        tokio::join!(here.expect(sent..sent), there.expect(sent..sent));
        ends.iter().for_each(|end| end.abort());
        sent += 3000;
    }
    let (one, two) = connect(&near, &far).await;
    here.drive(one.reader, one.writer);
    there.drive(two.reader, two.writer);
    tokio::join!(here.expect(0..sent), there.expect(0..sent));
}

async fn bytes_of_an_object_come_from_either_end(kind: Kind) {
    const BYTES: usize = 100 << 20;
    let (here, one, there, two) = Cluster::new().pair(kind).await;
    let bytes = Bytes::from(pattern(BYTES));
    here.objects.put("here", bytes.clone());
    there.objects.put("there", bytes.clone());
    let mut into = vec![0; BYTES];
    bounded(one.bulk.fetch(request("there", BYTES), &mut into)).await.unwrap();
    assert!(into == bytes);
    into.fill(0);
    bounded(two.bulk.fetch(request("here", BYTES), &mut into)).await.unwrap();
    assert!(into == bytes);

    // A range, and no bytes at all.
    let range = BulkRequest { offset: 12_345, ..request("here", 1_000_000) };
    bounded(two.bulk.fetch(range, &mut into[..1_000_000])).await.unwrap();
    assert!(into[..1_000_000] == bytes[12_345..1_012_345]);
    bounded(one.bulk.fetch(request("there", 0), &mut [])).await.unwrap();
}

async fn control_frames_are_not_held_up_by_bulk(kind: Kind) {
    const BYTES: usize = 64 << 20;
    let (_here, mut one, there, mut two) = Cluster::new().pair(kind).await;
    there.objects.put("large", pattern(BYTES));
    let mut into = vec![0; BYTES];
    let fetching = one.bulk.fetch(request("large", BYTES), &mut into);
    let talking = async {
        let mut rounds = 0;
        loop {
            two.writer.greet(Bytes::from_static(b"ping")).await.unwrap();
            one.reader.greeting().await.unwrap();
            one.writer.greet(Bytes::from_static(b"pong")).await.unwrap();
            two.reader.greeting().await.unwrap();
            rounds += 1;
            if rounds == 10 {
                return;
            }
        }
    };
    // Ten round trips end while so many bytes are on their way.
    let early = bounded(async {
        tokio::select! {
            biased;
            () = talking => true,
            _ = fetching => false,
        }
    });
    assert!(early.await);
}

async fn what_is_not_there_is_refused(kind: Kind) {
    let (here, one, there, two) = Cluster::new().pair(kind).await;
    here.objects.put("object", vec![1; 10]);
    there.objects.put("object", vec![1; 10]);
    for end in [&one.bulk, &two.bulk] {
        let mut into = vec![0; 11];
        let missing = bounded(end.fetch(request("missing", 11), &mut into)).await;
        assert_eq!(missing, Err(BulkError::Refused(BulkRefusal::NotOffered)));
        let beyond = bounded(end.fetch(request("object", 11), &mut into)).await;
        assert_eq!(beyond, Err(BulkError::Refused(BulkRefusal::OutOfRange)));
        bounded(end.fetch(request("object", 10), &mut into[..10])).await.unwrap();
    }
}

async fn more_requests_than_are_served_at_once_wait(kind: Kind) {
    let (here, one, there, two) = Cluster::new().pair(kind).await;
    here.objects.put("object", pattern(1 << 20));
    there.objects.put("object", pattern(1 << 20));
    let mut fetches = tokio::task::JoinSet::new();
    for index in 0..4 * REQUESTS_MAX {
        let bulk = if index % 2 == 0 { one.bulk.clone() } else { two.bulk.clone() };
        fetches.spawn(async move {
            let mut into = vec![0; 1 << 20];
            bulk.fetch(request("object", 1 << 20), &mut into).await.map(|()| into)
        });
    }
    let expected = pattern(1 << 20);
    while let Some(fetched) = bounded(fetches.join_next()).await {
        assert!(fetched.unwrap().unwrap() == expected);
    }
}

async fn what_is_urgent_overtakes(kind: Kind) {
    const BYTES: usize = 32 << 20;
    let (here, one, there, two) = Cluster::new().pair(kind).await;
    here.objects.put("object", pattern(BYTES));
    there.objects.put("object", pattern(BYTES));
    for end in [&one.bulk, &two.bulk] {
        let (mut early, mut urgent) = (vec![0; BYTES], vec![0; BYTES / 4]);
        let background = end.fetch(request("object", BYTES), &mut early);
        let blocked = BulkRequest { priority: Priority(7), ..request("object", BYTES / 4) };
        let foreground = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            end.fetch(blocked, &mut urgent).await
        };
        tokio::select! {
            biased;
            first = foreground => first.unwrap(),
            _ = background => panic!("a quarter of the bytes at a higher priority takes longer"),
        }
    }
}

async fn who_drops_a_request_cancels_it(kind: Kind) {
    const BYTES: usize = 100 << 20;
    let (here, one, there, two) = Cluster::new().pair(kind).await;
    for (end, other) in [(&one.bulk, &there), (&two.bulk, &here)] {
        let released = other.objects.put_watched("object", pattern(BYTES));
        let mut into = vec![0; BYTES];
        let fetching = end.fetch(request("object", BYTES), &mut into);
        assert!(tokio::time::timeout(Duration::from_millis(20), fetching).await.is_err());
        other.objects.put("object", vec![7; 10]);
        released.wait().await;
        bounded(end.fetch(request("object", 10), &mut into[..10])).await.unwrap();
        assert_eq!(into[..10], [7; 10]);
    }
}

async fn who_does_not_read_slows_the_sender_down(kind: Kind) {
    const FRAME: usize = 1 << 19;
    let (_here, one, _there, mut two) = Cluster::new().pair(kind).await;
    let mut writer = one.writer;
    let mut taken = 0;
    let writing = async {
        loop {
            writer.greet(Bytes::from(vec![0; FRAME])).await.unwrap();
            taken += FRAME;
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(500), writing).await;
    assert!(taken < 100 << 20, "{taken} bytes are on their way to nobody");
    assert!(taken > 0);
    // What was taken arrives, and then there is room again.
    for _ in 0..taken / FRAME {
        assert_eq!(bounded(two.reader.greeting()).await.unwrap().len(), FRAME);
    }
    let (written, read) =
        bounded(async { tokio::join!(writer.greet(Bytes::new()), two.reader.greeting()) }).await;
    written.unwrap();
    // What had not been written in full comes first.
    assert!([0, FRAME].contains(&read.unwrap().len()));
}

async fn many_nodes_connect_to_one(kind: Kind) {
    const NODES: u64 = 30;
    let cluster = Cluster::new();
    let hub = cluster.node(kind).await;
    hub.objects.put("object", pattern(1 << 20));
    let address = hub.transport.local_address();
    let mut spokes = tokio::task::JoinSet::new();
    for number in 0..NODES {
        let node = cluster.node(kind).await;
        spokes.spawn(async move {
            let mut connection = node.transport.connect(address).await.unwrap();
            let mut into = vec![0; 1 << 20];
            connection.bulk.fetch(request("object", 1 << 20), &mut into).await.unwrap();
            connection.writer.greet(Bytes::copy_from_slice(&number.to_le_bytes())).await.unwrap();
            connection.reader.greeting().await.unwrap()
        });
    }
    let mut seen = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..NODES {
        let mut connection = bounded(hub.transport.accept()).await.unwrap();
        let greeting = bounded(connection.reader.greeting()).await.unwrap();
        connection.writer.greet(greeting.clone()).await.unwrap();
        seen.push(u64::from_le_bytes(greeting.as_ref().try_into().unwrap()));
        connections.push(connection);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..NODES).collect::<Vec<_>>());
    while let Some(spoke) = bounded(spokes.join_next()).await {
        spoke.unwrap();
    }
}

async fn a_frame_that_is_too_long_ends_the_connection(kind: Kind) {
    let (_here, mut one, _there, mut two) = Cluster::new().pair(kind).await;
    let long = Packet::Frame { number: 1, frame: Bytes::from(vec![0; 2 << 20]) };
    one.writer.push(&Control::Packet(long)).unwrap();
    let sending = tokio::spawn(async move { one.writer.flush().await });
    // There is no session yet, so nothing of it is taken.
    let refused = bounded(two.reader.next()).await;
    assert!(matches!(refused, Err(TransportError::TooLong { .. })), "{refused:?}");
    two.bulk.close("a frame is too long");
    // Either the connection had taken all of it, or it says that it has ended.
    let _ = bounded(sending).await.unwrap();
    let ended = bounded(one.bulk.closed()).await;
    assert!(matches!(ended, TransportError::Closed(_) | TransportError::Lost(_)), "{ended:?}");
}

async fn both_ends_learn_of_the_end(kind: Kind) {
    let (_here, mut one, there, two) = Cluster::new().pair(kind).await;
    drop(two);
    bounded(one.bulk.closed()).await;
    assert!(!matches!(bounded(one.reader.next()).await, Ok(Some(_))));
    let mut into = [0; 1];
    let fetched = bounded(one.bulk.fetch(request("object", 1), &mut into)).await;
    assert!(matches!(fetched, Err(BulkError::Connection(_))), "{fetched:?}");

    // A node that stops takes its connections along, also those that somebody uses.
    let cluster = Cluster::new();
    let (_here, one, stopping, two) = cluster.pair(kind).await;
    bounded(stopping.transport.close()).await;
    bounded(one.bulk.closed()).await;
    bounded(two.bulk.closed()).await;
    assert!(bounded(stopping.transport.accept()).await.is_none());
    drop(there);
}

async fn the_last_words_arrive(kind: Kind) {
    let (_here, mut one, _there, mut two) = Cluster::new().pair(kind).await;
    two.writer.push(&Control::Greeting(Bytes::from_static(b"you are dead"))).unwrap();
    bounded(two.writer.finish()).await.unwrap();
    assert_eq!(bounded(one.reader.greeting()).await.unwrap(), "you are dead");
    assert_eq!(bounded(one.reader.next()).await, Ok(None));
}
