//! What comes over links.

use std::time::Duration;

use shoal_core::ids::ProcessId;
use shoal_core::message::Message;
use shoal_core::value::Death;

use crate::support::*;

/// Nobody but the one who breaks the rules notices.
#[test]
fn malformed_frames_close_the_link_alone() {
    let daemon = Daemon::start(&[]);
    let mut bystander = daemon.driver();
    let lease = bystander.lease();
    let broken: [&[u8]; 7] = [
        &[0xff; 64],
        &header(u32::MAX, 0),
        // Before a greeting even a permitted size is refused.
        &header(64 << 20, 1),
        &header(0, 7),
        // A message from somebody who has not greeted.
        &header(1, 0),
        // A control frame that is none.
        &[&header(3, 1)[..], &[0xff; 3]].concat(),
        // A greeting that is cut off by the end of the frame.
        &[&header(1, 1)[..], &[0]].concat(),
    ];
    for bytes in broken {
        let mut guest = daemon.connect();
        guest.write(bytes);
        if bytes == header(1, 0) {
            guest.write(&[0]);
        }
        guest.expect_end();
    }
    // The same from processes that have been let in.
    for bytes in [&[0xff; 64][..], &header(u32::MAX, 0), &[&header(3, 1)[..], &[0xff; 3]].concat()] {
        let mut driver = daemon.driver();
        driver.connection.write(bytes);
        driver.connection.expect_end();
    }
    // Greeting twice is out of place.
    let mut twice = daemon.driver();
    twice.connection.control(&hello(launch(), false));
    twice.connection.expect_end();
    assert_eq!(bystander.run(&lease, "variable GREETING"), "hello");
    assert_eq!(daemon.connect().ask_status()["drivers"], 1);
}

#[test]
fn a_worker_that_sends_garbage_is_killed() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    driver.push(&lease, "garbage");
    let death = death_of(&mut driver, &lease);
    let Death::Killed { reason } = death else { panic!("{death:?}") };
    assert!(reason.contains("cannot be understood"), "{reason}");
    let next = driver.lease();
    assert_ne!(next.worker, lease.worker);
    assert_eq!(driver.run(&next, "variable GREETING"), "hello");
}

/// Whoever a sender claims to be, the receiver is told the truth.
#[test]
fn the_sender_cannot_be_forged() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let mut victim = daemon.driver();
    let forged = victim.welcome.process;
    let to = victim.welcome.process;
    let reason = String::from("from the node, it says");
    let exit = Message::Exit { graceful: true, reason };
    driver.send_as(to, ProcessId::daemon(driver.welcome.node), &exit);
    driver.send_as(to, forged, &exit);
    for _ in 0..2 {
        let from = victim.connection.expect("the message", |frame| match frame {
            Frame::Message(from, Message::Exit { .. }) => Some(from),
            _ => None,
        });
        assert_eq!(from, driver.welcome.process);
    }
}

#[test]
fn messages_to_nobody_are_dropped() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    for nobody in [
        ProcessId::new(driver.welcome.node, 4_000_000),
        ProcessId::new(shoal_core::ids::NodeId(77), 1),
        ProcessId::daemon(shoal_core::ids::NodeId(77)),
    ] {
        driver.send(nobody, &Message::Blocked);
    }
    let lease = driver.lease();
    assert_eq!(driver.run(&lease, "variable GREETING"), "hello");
}

/// A driver that does not read slows its workers down; it does not fill the daemon's memory, and it
/// misses nothing.
#[test]
fn a_slow_reader_slows_its_senders() {
    const SIZE: usize = 1 << 20;
    const COUNT: usize = 300;
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    let tasks: Vec<_> = (0..COUNT).map(|_| driver.push(&lease, &format!("size {SIZE}"))).collect();
    let resident = || {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", daemon.pid())).expect("it runs");
        let pages: usize = text.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a number");
        pages * 4096
    };
    // Wait until the daemon takes no more.
    let mut before = 0;
    wait_until("a standstill", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = resident();
        let still = now > 60 << 20 && now == before;
        before = now;
        still
    });
    assert!(resident() < 200 << 20, "the daemon holds {} bytes", resident());
    for task in tasks {
        assert_eq!(driver.answer(task).len(), SIZE);
    }
}

/// A sender that is slowed down by somebody who reads nothing at all, and dies, is noticed.
#[test]
fn the_end_of_a_slowed_sender_is_noticed() {
    let daemon = Daemon::start(&[]);
    let still = daemon.driver();
    let mut sender = daemon.driver();
    let reason = "x".repeat(1 << 20);
    let message = Message::Exit { graceful: true, reason };
    // More than the daemon keeps for anybody, and its sockets hold.
    sender.connection.stream.set_write_timeout(Some(std::time::Duration::from_secs(1))).expect("set");
    let to = still.welcome.process;
    let held_up = (0..200).any(|_| sender.try_send(to, &message).is_err());
    assert!(held_up, "the daemon took everything");
    drop(sender);
    wait_until("one driver", || daemon.connect().ask_status()["drivers"] == 1);
    drop(still);
    wait_until("no driver", || daemon.connect().ask_status()["drivers"] == 0);
}
