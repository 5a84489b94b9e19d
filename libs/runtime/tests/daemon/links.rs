//! Links between two processes.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;

use shoal_core::message::Message;
use shoal_runtime::control::Control;

use crate::support::*;

#[test]
fn two_processes_get_one_link() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    // Both ask; whoever is first, there is one link.
    let open = format!("open {}", driver.welcome.process.0);
    let task = driver.push(&lease, &open);
    driver.connection.control(&Control::OpenLink { peer: lease.worker });
    driver.connection.control(&Control::OpenLink { peer: lease.worker });
    let mut links = 0;
    let mut answered = false;
    while !(answered && links == 1) {
        match driver.connection.next().expect("the link is open") {
            Frame::Control(Control::Link { peer }) => {
                assert_eq!(peer, lease.worker);
                links += 1;
            }
            Frame::Message(_, Message::TaskFinished(finished)) => answered |= finished.task == task,
            _ => {}
        }
    }
    assert_eq!(driver.run(&lease, "linked"), "1");
    let socket = driver.connection.descriptors.pop_front().expect("it came along");
    assert!(driver.connection.descriptors.is_empty());
    let mut peer = BufReader::new(UnixStream::from(socket));
    let mut line = String::new();
    peer.read_line(&mut line).expect("the worker greets");
    assert_eq!(line, format!("hello from {}\n", lease.worker.number()));
    // The link ends with the peer, and not with the daemon's copy.
    driver.push(&lease, "exit 0");
    assert_eq!(peer.read(&mut [0; 1]).expect("the end of the stream"), 0);
    // The dead cannot be linked.
    death_of(&mut driver, &lease);
    driver.connection.control(&Control::OpenLink { peer: lease.worker });
    let refused = driver.connection.expect("a refusal", |frame| match frame {
        Frame::Control(Control::LinkRefused { peer }) => Some(peer),
        Frame::Control(Control::Link { .. }) => panic!("linked with the dead"),
        _ => None,
    });
    assert_eq!(refused, lease.worker);
    let own = driver.welcome.process;
    driver.connection.control(&Control::OpenLink { peer: own });
    driver.connection.expect("a refusal", |frame| match frame {
        Frame::Control(Control::LinkRefused { peer }) => (peer == own).then_some(()),
        _ => None,
    });
}
