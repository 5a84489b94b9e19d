//! What several processes see of one segment. The child processes run this test binary again, with
//! the ignored test `child` as their entry point and the part they play in their environment.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use shoal_store::{Backing, FIRST_OFFSET, ProcessTable, ReadMapping, Segment, StoreError, WriteMapping};

const CAPACITY: u64 = 32 << 20;
const PART: &str = "SHOAL_STORE_TEST_PART";
const DESCRIPTOR: &str = "SHOAL_STORE_TEST_DESCRIPTOR";
const PROCESS: u64 = 77;

fn segments() -> Vec<Segment> {
    let huge =
        Segment::create(CAPACITY, Backing::HugeTmpfs).inspect_err(|error| println!("skipped: {error}"));
    huge.into_iter().chain(Segment::create(CAPACITY, Backing::Memfd)).collect()
}

/// A child process that plays `part` with the segment.
fn command(part: &str, segment: &Segment) -> Command {
    let descriptor = segment.as_fd().as_raw_fd();
    let mut command = Command::new(std::env::current_exe().expect("the test knows its own path"));
    command.args(["--ignored", "--exact", "child", "--nocapture"]);
    command.env(PART, part).env(DESCRIPTOR, descriptor.to_string());
    // SAFETY: the hook makes one system call on a descriptor that the parent keeps open.
    unsafe {
        command.pre_exec(move || {
            let descriptor = BorrowedFd::borrow_raw(descriptor);
            Ok(fcntl_setfd(descriptor, FdFlags::empty())?)
        });
    }
    command
}

#[test]
#[ignore = "entry point of the child processes of the other tests"]
fn child() {
    let (Ok(part), Ok(descriptor)) = (std::env::var(PART), std::env::var(DESCRIPTOR)) else {
        return println!("skipped: not started by another test");
    };
    let descriptor: RawFd = descriptor.parse().unwrap();
    // SAFETY: the parent opened the descriptor for this process, which has no other owner for it.
    let segment = Segment::from_fd(unsafe { OwnedFd::from_raw_fd(descriptor) }, CAPACITY).unwrap();
    match part.as_str() {
        "write" => {
            let mapping = WriteMapping::new(&segment).unwrap();
            mapping.reserve(FIRST_OFFSET, 11).unwrap();
            // SAFETY: the parent waits until this process has ended.
            unsafe { mapping.write_at(FIRST_OFFSET, &[b"hello", b" ", b"shoal"]) }.unwrap();
        }
        "write through a read mapping" => {
            let mapping = ReadMapping::new(&segment).unwrap();
            let pointer = mapping.pointer(FIRST_OFFSET, 1).unwrap();
            // SAFETY: none; the parent expects this process to die of it.
            unsafe { std::ptr::write_volatile(pointer.cast_mut(), 1) };
        }
        "start tasks for ever" => {
            let mapping = WriteMapping::new(&segment).unwrap();
            let slot = ProcessTable::new(&mapping).slot(PROCESS);
            slot.store(!1, 1);
            println!("\nstarted");
            for number in 2_u64.. {
                slot.store(!number, number);
            }
        }
        other => panic!("no such part: {other}"),
    }
}

#[test]
fn what_one_process_writes_another_reads() {
    for segment in segments() {
        let reader = ReadMapping::new(&segment).unwrap();
        let output = command("write", &segment).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        // SAFETY: the only writer has ended.
        assert_eq!(unsafe { reader.slice(FIRST_OFFSET, 11) }.unwrap(), b"hello shoal");
    }
}

#[test]
fn a_process_that_writes_through_a_read_mapping_dies() {
    for segment in segments() {
        // The page is there and holds data: what the child trips over is only the protection.
        let writer = WriteMapping::new(&segment).unwrap();
        writer.reserve(FIRST_OFFSET, 1).unwrap();
        // SAFETY: only this test knows the segment.
        unsafe { writer.write_at(FIRST_OFFSET, &[b"x"]) }.unwrap();
        let output = command("write through a read mapping", &segment).output().unwrap();
        assert_eq!(output.status.signal(), Some(rustix::process::Signal::SEGV.as_raw()), "{output:?}");
        // SAFETY: the other process has ended.
        assert_eq!(unsafe { writer.slice_mut(FIRST_OFFSET, 1) }.unwrap(), b"x");
    }
}

#[test]
fn a_killed_process_leaves_the_whole_id_of_its_last_task() {
    let segment = Segment::create(CAPACITY, Backing::Auto).unwrap();
    let mapping = WriteMapping::new(&segment).unwrap();
    let slot = ProcessTable::new(&mapping).slot(PROCESS);
    for _ in 0..10 {
        slot.clear();
        let mut child = command("start tasks for ever", &segment).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "started"));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(rustix::process::Signal::KILL.as_raw()));
        let (owner, number) = slot.load().unwrap();
        assert_eq!(owner, !number);
        assert_eq!(slot.load(), Some((owner, number)));
    }
}

#[test]
fn a_forked_child_inherits_the_mapping() {
    for segment in segments() {
        let mapping = WriteMapping::new(&segment).unwrap();
        mapping.reserve(FIRST_OFFSET, 2).unwrap();
        // SAFETY: only this test and its child know the segment, one after the other.
        unsafe { mapping.write_at(FIRST_OFFSET, &[b"p"]) }.unwrap();
        let address = mapping.pointer(FIRST_OFFSET, 2).unwrap() as usize;
        let mut fork = Command::new("/proc/self/exe");
        // SAFETY: the hook touches two bytes of shared memory and makes no call at all; the error
        // ends the child before it executes anything.
        unsafe {
            fork.pre_exec(move || {
                let bytes = address as *mut u8;
                bytes.add(1).write_volatile(bytes.read_volatile() + 1);
                Err(std::io::Error::from_raw_os_error(rustix::io::Errno::CANCELED.raw_os_error()))
            });
        }
        let error = fork.spawn().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::CANCELED.raw_os_error()));
        // SAFETY: the child has ended.
        assert_eq!(unsafe { mapping.slice_mut(FIRST_OFFSET, 2) }.unwrap(), b"pq");
    }
}

#[test]
fn the_wrong_descriptor_is_refused() {
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let length = file.metadata().unwrap().len();
    assert!(matches!(Segment::from_fd(file.into(), length), Err(StoreError::NotASegment { .. })));
}
