//! How the command line talks to a running daemon. Everything here waits.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use shoal_core::ids::ProcessId;
use shoal_core::wire;

use super::session::Description;
use crate::control::Control;
use crate::frame::{self, Kind};
use crate::inbox::Inbox;

/// A daemon that does not answer in this time is in trouble.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// How often to look whether a daemon has ended.
const POLL_PERIOD: Duration = Duration::from_millis(5);

/// What is going on at a node, as a JSON document.
pub fn status(node: &Description) -> io::Result<String> {
    let mut stream = connect(node)?;
    send(&mut stream, &Control::AskStatus)?;
    match receive(&mut stream)? {
        Control::Status { json } => Ok(json),
        _ => Err(io::Error::new(
            ErrorKind::InvalidData,
            "the node answers something else",
        )),
    }
}

/// Ask a node to stop, and wait until nothing of it is left. `Ok(false)`: it needs more than `patience`.
pub fn stop(node: &Description, patience: Duration) -> io::Result<bool> {
    let lock = File::open(lock_of(node))?;
    let mut stream = connect(node)?;
    send(&mut stream, &Control::Stop)?;
    Ok(wait_for_end(&lock, patience))
}

/// Wait until the daemon of a session has ended, by its lock.
pub fn wait_until_ended(node: &Description, patience: Duration) -> bool {
    match File::open(lock_of(node)) {
        Ok(lock) => wait_for_end(&lock, patience),
        Err(_) => true,
    }
}

fn lock_of(node: &Description) -> std::path::PathBuf {
    Path::new(&node.session).join("lock")
}

fn wait_for_end(lock: &File, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while flock(lock, FlockOperation::NonBlockingLockShared).is_err() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(POLL_PERIOD);
    }
    true
}

fn connect(node: &Description) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(&node.socket)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    Ok(stream)
}

fn send(stream: &mut UnixStream, control: &Control) -> io::Result<()> {
    let mut bytes = Vec::new();
    frame::append(
        &mut bytes,
        Kind::Control,
        ProcessId::default(),
        ProcessId::default(),
        control,
    )
    .map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
    stream.write_all(&bytes)
}

fn receive(stream: &mut UnixStream) -> io::Result<Control> {
    let invalid = |error: String| io::Error::new(ErrorKind::InvalidData, error);
    let mut inbox = Inbox::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if let Some((_, body)) = inbox
            .next_frame()
            .map_err(|error| invalid(error.to_string()))?
        {
            return wire::decode(body).map_err(|error| invalid(error.to_string()));
        }
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => inbox.extend(&buffer[..count]),
        }
    }
}
