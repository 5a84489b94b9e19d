//! The store's slow work, and what happens when memory is short.

use std::os::fd::OwnedFd;

use shoal_core::ids::{ObjectId, RequestId, TaskId};
use shoal_core::message::Message;
use shoal_core::value::Death;
use shoal_store::{ReadMapping, Segment, WriteMapping};

use crate::support::*;

const SIZE: u64 = 16 << 20;

/// More objects than the store holds: those that do not fit go to disk and come back as they were.
#[test]
fn objects_survive_the_way_to_disk_and_back() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let segment = OwnedFd::from(driver.segment.try_clone().expect("a descriptor"));
    let segment = Segment::from_fd(segment, driver.welcome.segment).expect("the store's segment");
    let writer = WriteMapping::new(&segment).expect("mapped");
    let reader = ReadMapping::new(&segment).expect("mapped");

    let objects: Vec<ObjectId> = (0..10)
        .map(|number| TaskId { owner: driver.welcome.process, number: 1000 + number }.object(0))
        .collect();
    for (number, object) in (0_u8..).zip(&objects) {
        let (offset, size) = extent(&mut driver);
        assert!(size >= SIZE);
        // SAFETY: the extent is this process's, and nothing in it is sealed.
        unsafe { writer.write_at(offset, &[&vec![number; SIZE as usize]]) }.expect("written");
        let node = driver.node();
        driver.send(node, &Message::Seal { object: *object, attempt: 0, offset, size: SIZE });
    }
    let store = daemon.connect().ask_status()["store"].clone();
    assert_eq!(store["objects"].as_u64().map(|count| count < 10), Some(true), "{store}");
    assert!(store["spilled"].as_u64() >= Some(6 * SIZE), "{store}");
    let spilled = std::fs::read_dir(&daemon.description.spill).expect("a directory").count();
    assert!(spilled > 0, "spilled objects are files");

    for (number, object) in (0_u8..).zip(&objects) {
        let node = driver.node();
        driver.send(node, &Message::Pin { object: *object, locations: Vec::new() });
        let offset = driver.connection.expect("a pinned object", |frame| match frame {
            Frame::Message(_, Message::Pinned { object: pinned, offset, size }) => {
                assert_eq!((pinned, size), (*object, SIZE));
                Some(offset)
            }
            Frame::Message(_, Message::PinFailed { failure, .. }) => panic!("{failure:?}"),
            _ => None,
        });
        // SAFETY: the object is pinned.
        let bytes = unsafe { reader.slice(offset, SIZE) }.expect("in the store");
        assert!(bytes.iter().all(|byte| *byte == number), "object {number} is not what it was");
        driver.send(node, &Message::Unpin { object: *object });
    }
    let node = driver.node();
    for object in objects {
        driver.send(node, &Message::FreeObject { object, attempt: u32::MAX });
    }
    wait_until("the end of all objects", || {
        let store = daemon.connect().ask_status()["store"].clone();
        let files = std::fs::read_dir(&daemon.description.spill).expect("a directory");
        let left = files.flatten().filter(|file| file.metadata().is_ok_and(|file| file.len() > 0));
        (store["objects"] == 0, store["spilled"] == 0, left.count()) == (true, true, 0)
    });
}

/// Room for one object.
fn extent(driver: &mut Driver) -> (u64, u64) {
    let node = driver.node();
    driver.send(node, &Message::RequestExtent { request: RequestId(1), size: SIZE });
    driver.connection.expect("an extent", |frame| match frame {
        Frame::Message(_, Message::ExtentGranted { offset, size, .. }) => Some((offset, size)),
        Frame::Message(_, Message::ExtentRefused { failure, .. }) => panic!("{failure:?}"),
        _ => None,
    })
}

/// With a threshold of zero, memory is always short.
#[test]
fn a_worker_is_killed_when_memory_is_short() {
    let daemon = Daemon::start_with(&[], &[("SHOAL_MEMORY_THRESHOLD", "0")]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    let death = death_of(&mut driver, &lease);
    let Death::OutOfMemory { detail } = death else { panic!("{death:?}") };
    assert!(detail.contains("over the threshold of 0.0 %"), "{detail}");
    assert!(detail.contains("SHOAL_MEMORY_THRESHOLD"), "{detail}");
}
