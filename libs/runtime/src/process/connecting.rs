//! How a process joins its node.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use rustix::event::epoll;
use shoal_core::ids::ProcessId;
use shoal_core::owner::{Config, Owner};

use super::inner::Inner;
use super::link::{Incoming, Outgoing, ReadState};
use super::reader::Reader;
use super::store::{Store, StoreError};
use super::{Hooks, Process, background};
use crate::control::{Control, Launch, VERSION, Welcome};
use crate::frame::{self, FrameError, Kind};

/// Why a process could not join a node.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket cannot be reached.
    #[error("cannot reach the node daemon at {path}: {source}")]
    Unreachable {
        /// The socket.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The daemon said no.
    #[error("the node daemon refused this process: {0}")]
    Refused(String),
    /// The daemon closed the link, or said something else.
    #[error("the node daemon did not answer as expected: {0}")]
    Protocol(String),
    /// A frame was malformed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The operating system refused something.
    #[error("cannot set up the connection: {0}")]
    System(#[from] std::io::Error),
    /// The store could not be mapped.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Process {
    /// Join the node behind `socket` as a driver.
    pub fn connect(
        socket: &Path,
        namespace: String,
        launch: Launch,
        output: bool,
        hooks: Box<dyn Hooks>,
    ) -> Result<Arc<Process>, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable { path: socket.display().to_string(), source };
        let stream = UnixStream::connect(socket).map_err(unreachable)?;
        let mut hello = Vec::new();
        let pid = std::process::id();
        let control = Control::Hello { version: VERSION.into(), pid, namespace, launch, output };
        frame::append(&mut hello, Kind::Control, ProcessId::HEAD, ProcessId::HEAD, &control)?;
        let socket = Arc::new(OwnedFd::from(stream));
        let mut outgoing = Outgoing::new(socket.clone());
        outgoing.buffer = hello;
        outgoing.flush();
        let mut incoming = Incoming::new(socket, ProcessId::HEAD, true);
        let welcome = greet(&mut incoming)?;
        let segment = incoming
            .take_descriptor()
            .ok_or_else(|| ConnectError::Protocol("the welcome came without the store".into()))?;
        Process::start(welcome, outgoing, incoming, segment, hooks, false)
    }

    /// Start the runtime of a worker that was just forked.
    pub fn start_worker(
        welcome: Welcome,
        link: OwnedFd,
        segment: OwnedFd,
        hooks: Box<dyn Hooks>,
    ) -> Result<Arc<Process>, ConnectError> {
        let link = Arc::new(link);
        let outgoing = Outgoing::new(link.clone());
        let incoming = Incoming::new(link, ProcessId::HEAD, true);
        let process = Process::start(welcome, outgoing, incoming, segment, hooks, true)?;
        process.inner.lock().worker_ready();
        Ok(process)
    }

    fn start(
        welcome: Welcome,
        outgoing: Outgoing,
        incoming: Incoming,
        segment: OwnedFd,
        hooks: Box<dyn Hooks>,
        is_worker: bool,
    ) -> Result<Arc<Process>, ConnectError> {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let kick = rustix::event::eventfd(0, flags).map_err(std::io::Error::from)?;
        let config = Config { stewards: true, ..Config::new(welcome.process, welcome.job, welcome.cpus) };
        let inner = Inner::new(Owner::new(config), outgoing, Instant::now());
        let mut reader = Reader::default();
        reader.add(&poller, incoming)?;
        let jobs_came = rustix::event::eventfd(0, flags).map_err(std::io::Error::from)?;
        reader.watch_jobs(&poller, &jobs_came)?;
        let store = Store::new(segment, &welcome)?;
        let process = Arc::new(Process {
            inner: Mutex::new(inner),
            progress: Condvar::new(),
            waiting: AtomicUsize::new(0),
            reader: Mutex::new(reader),
            poller,
            kick,
            background_asleep: AtomicBool::new(false),
            has_loop: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            jobs_came,
            jobs_told: AtomicBool::new(false),
            activity: AtomicU64::new(0),
            dropped: Mutex::new(Vec::new()),
            has_dropped: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            hooks,
            welcome,
            store,
            is_worker,
        });
        background::start(&process)?;
        Ok(process)
    }
}

/// Wait for the daemon's answer to a greeting.
fn greet(incoming: &mut Incoming) -> Result<Welcome, ConnectError> {
    loop {
        if let Some((header, body)) = incoming.next_frame()? {
            let control = match header.kind {
                Kind::Control => shoal_core::wire::decode::<Control>(incoming.bytes(body)),
                Kind::Message => {
                    return Err(ConnectError::Protocol("a message came before the welcome".into()));
                }
            };
            return match control.map_err(FrameError::from)? {
                Control::Welcome(welcome) => Ok(welcome),
                Control::Refused { reason } => Err(ConnectError::Refused(reason)),
                other => Err(ConnectError::Protocol(format!("{other:?}"))),
            };
        }
        let mut descriptors = [rustix::event::PollFd::new(incoming.socket(), rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut descriptors, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        if incoming.read() == ReadState::Closed {
            return Err(ConnectError::Protocol("it closed the connection".into()));
        }
    }
}
