//! How the command line talks to a running daemon. Everything here waits.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shoal_core::ids::{NodeId, ProcessId};
use shoal_core::message::Drain;
use shoal_core::wire;

use super::session::Description;
use crate::control::Control;
use crate::frame::{self, Kind};
use crate::inbox::Inbox;

/// A daemon that does not answer in this time is in trouble.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// What is going on at a node, as a JSON document.
pub fn status(node: &Description) -> io::Result<String> {
    let mut stream = connect(node)?;
    send(&mut stream, &Control::AskStatus)?;
    match receive(&mut stream)? {
        Control::Status { json } => Ok(json),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "the node answers something else")),
    }
}

/// Have a node of the cluster emptied (`drain`), or not any more, by asking the daemon of a node that may be
/// another one. Gives the reason if the head refuses.
pub fn drain(asked: &Description, node: NodeId, drain: Option<Drain>) -> io::Result<Result<(), String>> {
    let mut stream = connect(asked)?;
    send(&mut stream, &Control::Drain { node, drain })?;
    match receive(&mut stream)? {
        Control::Drained { refusal } => Ok(refusal.map_or(Ok(()), Err)),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "the node answers something else")),
    }
}

/// Ask a node to stop, and wait until nothing of it is left. `Ok(false)`: it needs more than `patience`.
pub fn stop(node: &Description, patience: Duration) -> io::Result<bool> {
    let daemon = daemon_of(node)?;
    let mut stream = connect(node)?;
    send(&mut stream, &Control::Stop)?;
    wait_for_end(&daemon, patience)
}

/// Kill the daemon of a node; the kernel ends its templates and workers with it. `Ok(false)`: it has
/// not ended within `patience`.
pub fn kill(node: &Description, patience: Duration) -> io::Result<bool> {
    let daemon = daemon_of(node)?;
    pidfd_send_signal(&daemon, Signal::KILL)?;
    wait_for_end(&daemon, patience)
}

fn daemon_of(node: &Description) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(node.pid as i32).ok_or(ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn wait_for_end(daemon: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(daemon, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn connect(node: &Description) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(&node.socket)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    Ok(stream)
}

fn send(stream: &mut UnixStream, control: &Control) -> io::Result<()> {
    let mut bytes = Vec::new();
    frame::append(&mut bytes, Kind::Control, ProcessId::default(), ProcessId::default(), control)
        .map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
    stream.write_all(&bytes)
}

fn receive(stream: &mut UnixStream) -> io::Result<Control> {
    let invalid = |error: String| io::Error::new(ErrorKind::InvalidData, error);
    let mut inbox = Inbox::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if let Some((_, body)) = inbox.next_frame().map_err(|error| invalid(error.to_string()))? {
            return wire::decode(body).map_err(|error| invalid(error.to_string()));
        }
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => inbox.extend(&buffer[..count]),
        }
    }
}
