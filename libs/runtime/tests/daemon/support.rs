//! What the tests of the daemon share: a daemon in a process of its own, and a driver that speaks
//! frames by hand.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use shoal_core::ids::{FunctionId, LeaseId, ProcessId, RequestId, TaskId};
use shoal_core::message::{Message, Route};
use shoal_core::resources::{Demand, Devices, Environment, Quantity, Resources, Strategy};
use shoal_core::task::{Assignment, Callee, RetryExceptions, Returns};
use shoal_core::value::{Death, Outcome, Payload};
use shoal_core::wire;
use shoal_runtime::control::{Control, Launch, VERSION, Welcome};
use shoal_runtime::daemon::session::{self, Description};
use shoal_runtime::frame::{self, HEADER_BYTES, Header, Kind};
use shoal_runtime::inbox::Inbox;
use shoal_runtime::socket;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_shoal-test-node");

/// Whatever takes longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Wait for something that another process does.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process runs; one that only waits to be reaped does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|text| text.rsplit_once(')').map(|(_, rest)| rest.trim_start().to_owned()))
        .is_some_and(|rest| !rest.starts_with(['Z', 'X']))
}

/// The pids of all processes whose environment, or whose parent's, names this directory.
pub(crate) fn processes_of(session: &Path) -> Vec<u32> {
    let mark = format!("{}={}", session::SESSION_VARIABLE, session.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("Linux").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()) && is_alive(pid) {
            found.push(pid);
        }
    }
    found
}

/// A directory that goes away with its owner.
pub(crate) struct Temp(PathBuf);

impl Temp {
    pub(crate) fn new() -> Temp {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("shoal-daemon-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a new directory");
        Temp(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Everything below it, apart from what stays by design.
    pub(crate) fn entries(&self) -> Vec<PathBuf> {
        fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
                if entry.path().is_dir() {
                    walk(&entry.path(), found);
                }
                found.push(entry.path());
            }
        }
        let base = session::base_directory(&self.0);
        let mut found = Vec::new();
        walk(&self.0, &mut found);
        found.retain(|path| *path != base && *path != base.join("lock"));
        found
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = session::clean(&self.0);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A daemon in a process of its own.
pub(crate) struct Daemon {
    pub(crate) process: Child,
    pub(crate) description: Description,
    pub(crate) temp: Rc<Temp>,
}

impl Daemon {
    pub(crate) fn start(options: &[&str]) -> Daemon {
        Daemon::start_in(Rc::new(Temp::new()), options)
    }

    pub(crate) fn start_in(temp: Rc<Temp>, options: &[&str]) -> Daemon {
        let command = command(&temp, options);
        Daemon::spawn(temp, command)
    }

    /// With environment variables.
    pub(crate) fn start_with(options: &[&str], variables: &[(&str, &str)]) -> Daemon {
        let temp = Rc::new(Temp::new());
        let mut command = command(&temp, options);
        command.envs(variables.iter().copied());
        Daemon::spawn(temp, command)
    }

    fn spawn(temp: Rc<Temp>, mut command: Command) -> Daemon {
        let mut process = command.spawn().expect("the test's program");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("it was asked for");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let description = serde_json::from_str(&line).unwrap_or_else(|_| {
            let mut error = String::new();
            let mut stderr = process.stderr.take().expect("it was asked for");
            let _ = stderr.read_to_string(&mut error);
            panic!("the daemon said {line:?} and {error:?}");
        });
        // Read its log, or it stands still when the pipe is full.
        let mut stderr = process.stderr.take().expect("it was asked for");
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
        });
        Daemon { process, description, temp }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The owner's end of the pipe.
    pub(crate) fn owner(&mut self) -> Option<ChildStdin> {
        self.process.stdin.take()
    }

    /// End it without letting it clean up.
    pub(crate) fn kill(&mut self) -> Rc<Temp> {
        self.process.kill().expect("it is our child");
        self.process.wait().expect("it is our child");
        Rc::clone(&self.temp)
    }

    pub(crate) fn wait_for_end(&mut self) {
        wait_until("the end of the daemon", || self.process.try_wait().expect("it is our child").is_some());
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::new(&self.description)
    }

    pub(crate) fn driver(&self) -> Driver {
        Driver::connect(self, launch(), false)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn command(temp: &Temp, options: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("daemon").arg(temp.path()).args(options);
    command.env_remove(session::SESSION_VARIABLE);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A socket to the daemon, and what came over it.
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    inbox: Inbox,
    pub(crate) descriptors: VecDeque<OwnedFd>,
    waiting: VecDeque<(Header, Vec<u8>)>,
}

/// A frame from the daemon.
#[derive(Debug)]
pub(crate) enum Frame {
    Message(ProcessId, Message),
    Control(Control),
}

impl Connection {
    pub(crate) fn new(node: &Description) -> Connection {
        let stream = UnixStream::connect(&node.socket).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Connection { stream, inbox: Inbox::default(), descriptors: VecDeque::new(), waiting: VecDeque::new() }
    }

    pub(crate) fn control(&mut self, control: &Control) {
        let mut bytes = Vec::new();
        let nobody = ProcessId::default();
        frame::append(&mut bytes, Kind::Control, nobody, nobody, control).expect("encodable");
        self.write(&bytes);
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the daemon listens");
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let (header, body) = match self.waiting.pop_front() {
            Some(frame) => frame,
            None => self.read()?,
        };
        Some(match header.kind {
            Kind::Message => Frame::Message(header.from, wire::decode(&body).expect("a message")),
            Kind::Control => Frame::Control(wire::decode(&body).expect("a control frame")),
        })
    }

    fn read(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            if let Some((header, body)) = self.inbox.next_frame().expect("well formed") {
                return Some((header, body.to_vec()));
            }
            match socket::receive(&self.stream, &mut buffer, &mut self.descriptors, true) {
                Ok(0) => return None,
                Ok(count) => self.inbox.extend(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came in {PATIENCE:?}: {error}"),
            }
        }
    }

    /// Take frames until `pick` takes one; others are dropped.
    pub(crate) fn expect<T>(&mut self, what: &str, mut pick: impl FnMut(Frame) -> Option<T>) -> T {
        let mut seen = Vec::new();
        loop {
            let Some(frame) = self.next() else {
                panic!("the link was closed before {what}; before that came {seen:?}");
            };
            let text = format!("{frame:?}");
            match pick(frame) {
                Some(value) => return value,
                None => seen.push(text),
            }
        }
    }

    /// The daemon must close the link.
    pub(crate) fn expect_end(&mut self) {
        while self.next().is_some() {}
    }

    /// The daemon must still answer.
    pub(crate) fn ask_status(&mut self) -> serde_json::Value {
        self.control(&Control::AskStatus);
        self.expect("a status", |frame| match frame {
            Frame::Control(Control::Status { json }) => serde_json::from_str(&json).ok(),
            _ => None,
        })
    }
}

/// How the tests' workers are started.
pub(crate) fn launch() -> Launch {
    Launch {
        python: String::from(PROGRAM),
        module_path: vec![String::from("/a path"), String::from("/b")],
        working_directory: String::from("/"),
        variables: vec![(String::from("GREETING"), String::from("hello"))],
        preload: Vec::new(),
    }
}

pub(crate) fn hello(launch: Launch, output: bool) -> Control {
    let pid = std::process::id();
    let namespace = String::from("tests");
    Control::Hello { version: String::from(VERSION), pid, namespace, launch, output }
}

/// A driver that was let in.
pub(crate) struct Driver {
    pub(crate) connection: Connection,
    pub(crate) welcome: Welcome,
    pub(crate) segment: File,
    asked: u64,
    tasks: u64,
}

/// A leased worker.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) lease: LeaseId,
    pub(crate) worker: ProcessId,
}

impl Driver {
    pub(crate) fn connect(daemon: &Daemon, launch: Launch, output: bool) -> Driver {
        let mut connection = daemon.connect();
        connection.control(&hello(launch, output));
        let welcome = connection.expect("a welcome", |frame| match frame {
            Frame::Control(Control::Welcome(welcome)) => Some(welcome),
            _ => None,
        });
        let segment = connection.descriptors.pop_front().expect("the segment came along");
        Driver { connection, welcome, segment: File::from(segment), asked: 0, tasks: 0 }
    }

    pub(crate) fn node(&self) -> ProcessId {
        ProcessId::daemon(self.welcome.node)
    }

    pub(crate) fn send(&mut self, to: ProcessId, message: &Message) {
        self.send_as(to, self.welcome.process, message);
    }

    pub(crate) fn try_send(&mut self, to: ProcessId, message: &Message) -> io::Result<()> {
        let (mut bytes, from) = (Vec::new(), self.welcome.process);
        frame::append(&mut bytes, Kind::Message, to, from, message).expect("encodable");
        self.connection.stream.write_all(&bytes)
    }

    pub(crate) fn send_as(&mut self, to: ProcessId, from: ProcessId, message: &Message) {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, Kind::Message, to, from, message).expect("encodable");
        self.connection.write(&bytes);
    }

    pub(crate) fn request_lease(&mut self, variables: &[(&str, &str)]) {
        self.asked += 1;
        let mut resources = Resources::default();
        resources.set(Resources::CPU, Quantity::ONE);
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let demand = Demand {
            resources,
            strategy: Strategy::Hybrid,
            environment: Environment { variables },
            ..Demand::default()
        };
        let request = RequestId(self.asked);
        let job = self.welcome.job;
        let message = Message::RequestLease {
            request,
            job,
            demand: Arc::new(demand),
            route: Route::Fresh,
            prefer: None,
        };
        self.send(self.node(), &message);
    }

    pub(crate) fn lease_with(&mut self, variables: &[(&str, &str)]) -> Lease {
        self.request_lease(variables);
        self.connection.expect("a lease", |frame| match frame {
            Frame::Message(_, Message::LeaseGranted { lease, worker, .. }) => Some(Lease { lease, worker }),
            Frame::Message(_, Message::LeaseRefused { failure, .. }) => {
                panic!("the lease was refused: {failure:?}")
            }
            _ => None,
        })
    }

    pub(crate) fn lease(&mut self) -> Lease {
        self.lease_with(&[])
    }

    /// Have the worker do something, without waiting for it.
    pub(crate) fn push(&mut self, lease: &Lease, command: &str) -> TaskId {
        self.tasks += 1;
        let task = TaskId { owner: self.welcome.process, number: self.tasks };
        let callee = Callee::Function {
            function: FunctionId(0),
            code: None,
            lease: lease.lease,
            devices: Devices::default(),
            demand: None,
            calls_max: 0,
        };
        let assignment = Assignment {
            task,
            attempt: 0,
            callee,
            label: Arc::from(command),
            arguments: Default::default(),
            dependencies: Vec::new(),
            borrows: Vec::new(),
            returns: Returns::Count(1),
            retry_exceptions: RetryExceptions::Never,
        };
        self.send(lease.worker, &Message::PushTask(Box::new(assignment)));
        task
    }

    /// What the worker answers.
    pub(crate) fn answer(&mut self, task: TaskId) -> String {
        self.connection.expect("an answer", |frame| match frame {
            Frame::Message(_, Message::TaskFinished(completion)) if completion.task == task => {
                Some(text_of(&completion.outcomes[0]))
            }
            _ => None,
        })
    }

    pub(crate) fn run(&mut self, lease: &Lease, command: &str) -> String {
        let task = self.push(lease, command);
        self.answer(task)
    }
}

pub(crate) fn text_of(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Value(value) => match &value.payload {
            Payload::Inline(bytes) => String::from_utf8(bytes.to_vec()).expect("text"),
            Payload::Stored { .. } => panic!("not inline"),
        },
        other => panic!("no value: {other:?}"),
    }
}

/// The header of a frame with a body of this length.
pub(crate) fn header(length: u32, kind: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&kind.to_le_bytes());
    bytes
}

/// How the worker of a lease died.
pub(crate) fn death_of(driver: &mut Driver, wanted: &Lease) -> Death {
    driver.connection.expect("the end of the lease", |frame| match frame {
        Frame::Message(_, Message::LeaseEnded { lease, death, .. }) if lease == wanted.lease => Some(death),
        _ => None,
    })
}

pub(crate) fn parent_of(pid: u32) -> u32 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let rest = text.rsplit_once(')').expect("well formed").1;
    rest.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a parent")
}

pub(crate) fn kill(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it is ours");
}

/// The templates of a daemon: the processes that it has started itself.
pub(crate) fn templates(daemon: &Daemon) -> Vec<u32> {
    let marked = processes_of(&daemon.description.session);
    marked.into_iter().filter(|pid| parent_of(*pid) == daemon.pid()).collect()
}
