//! Two ends of a session over byte streams in memory, which are cut and replaced.

#![cfg(not(madsim))]

use std::time::Duration;

use tokio::io::{DuplexStream, duplex, split};
use tokio::task::JoinHandle;

use shoal_core::session::Packet;

use super::*;

const BOUND: Duration = Duration::from_secs(20);

struct End {
    session: PeerSession,
    deliver: mpsc::Sender<Vec<Bytes>>,
    received: mpsc::Receiver<Vec<Bytes>>,
}

impl End {
    fn new(config: Config, acknowledging: Acknowledging) -> End {
        let (deliver, received) = mpsc::channel(4);
        End { session: PeerSession::new(config, acknowledging), deliver, received }
    }

    fn drive(&self, stream: DuplexStream) -> JoinHandle<Ended> {
        let (session, deliver) = (self.session.clone(), self.deliver.clone());
        tokio::spawn(async move {
            let (read, write) = split(stream);
            let (mut reader, mut writer) =
                (ControlReader::new(Box::new(read)), ControlWriter::new(Box::new(write)));
            session.drive(&mut reader, &mut writer, &deliver).await
        })
    }

    async fn receive(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let batch = tokio::time::timeout(BOUND, self.received.recv()).await.unwrap().unwrap();
            numbers.extend(batch.iter().map(number));
        }
        numbers
    }
}

fn frame(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

fn number(frame: &Bytes) -> u64 {
    u64::from_le_bytes(frame.as_ref().try_into().unwrap())
}

fn pair() -> (End, End) {
    let end = || End::new(Config::default(), Acknowledging::OnReceipt);
    (end(), end())
}

#[tokio::test]
async fn frames_arrive_in_order_and_are_acknowledged() {
    let (here, mut there) = pair();
    let (one, two) = duplex(1000);
    here.drive(one);
    there.drive(two);
    (0..10_000).for_each(|number| here.session.send(frame(number)));
    assert_eq!(there.receive(10_000).await, (0..10_000).collect::<Vec<_>>());
    tokio::time::timeout(BOUND, async {
        while here.session.unacknowledged_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_session_goes_on_over_the_next_connection() {
    let (here, mut there) = pair();
    let mut next = 0;
    for _ in 0..20 {
        let (one, two) = duplex(300);
        let (one, _) = (here.drive(one), there.drive(two));
        (next..next + 200).for_each(|number| here.session.send(frame(number)));
        // Of what is on its way, some is lost with the connection.
        tokio::task::yield_now().await;
        one.abort();
        next += 200;
    }
    let (one, two) = duplex(300);
    here.drive(one);
    there.drive(two);
    assert_eq!(there.receive(next as usize).await, (0..next).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_newer_connection_takes_the_session_over() {
    let (here, mut there) = pair();
    let (one, two) = duplex(1000);
    let (old, _) = (here.drive(one), there.drive(two));
    here.session.send(frame(0));
    there.receive(1).await;
    let (one, two) = duplex(1000);
    here.drive(one);
    there.drive(two);
    assert_eq!(old.await.unwrap(), Ended::Replaced);
    here.session.send(frame(1));
    assert_eq!(there.receive(1).await, [1]);
}

#[tokio::test]
async fn who_sends_waits_while_the_peer_does_not_take() {
    let config = Config { unacknowledged_bytes_max: 10_000, ..Config::default() };
    let (here, mut there) =
        (End::new(config, Acknowledging::OnReceipt), End::new(config, Acknowledging::OnReceipt));
    let (one, two) = duplex(1000);
    here.drive(one);
    there.drive(two);
    let mut sent = 0;
    let sender = async {
        loop {
            here.session.room().await;
            here.session.send(frame(sent));
            sent += 1;
        }
    };
    // Nobody receives: this ends by time, and by then everything is full.
    let _ = tokio::time::timeout(Duration::from_millis(100), sender).await;
    assert!(here.session.is_full());
    assert!(here.session.unacknowledged_bytes() < 10_000 + 100);
    assert_eq!(there.receive(sent as usize).await, (0..sent).collect::<Vec<_>>());
    tokio::time::timeout(BOUND, here.session.room()).await.unwrap();
}

#[tokio::test]
async fn the_successor_of_a_head_gets_what_was_not_handled() {
    let node = End::new(Config::default(), Acknowledging::OnReceipt);
    let mut head = End::new(Config::default(), Acknowledging::WhenHandled);
    let (one, two) = duplex(1000);
    let driven = (node.drive(one), head.drive(two));
    (0..10).for_each(|number| node.session.send(frame(number)));
    head.receive(10).await;
    (0..4).for_each(|_| head.session.handled());
    tokio::time::timeout(BOUND, async {
        while node.session.unacknowledged().len() > 6 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    driven.1.abort();
    let left: Vec<u64> = node.session.unacknowledged().iter().map(number).collect();
    assert_eq!(left, [4, 5, 6, 7, 8, 9]);
}

#[tokio::test]
async fn what_a_session_does_not_expect_ends_the_connection() {
    let table = [
        (Control::Greeting(Bytes::new()), None),
        (Control::Packet(Packet::Acknowledge { up_to: 0 }), Some(Fault::OutOfPlace)),
    ];
    for (said, fault) in table {
        let (here, _there) = pair();
        let (one, two) = duplex(1000);
        let driven = here.drive(one);
        let (_read, write) = split(two);
        let mut writer = ControlWriter::new(Box::new(write));
        writer.push(&said).unwrap();
        writer.flush().await.unwrap();
        match (driven.await.unwrap(), fault) {
            (Ended::Fault(found), Some(fault)) => assert_eq!(found, fault),
            (Ended::Connection(TransportError::Malformed(_)), None) => {}
            other => panic!("{other:?}"),
        }
    }
}
