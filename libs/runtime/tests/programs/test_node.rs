//! What the tests of the daemon run as processes of their own: a daemon, a template without an
//! interpreter, and workers that do what the label of a task says.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio, exit};
use std::time::Duration;

use shoal_core::ids::{ProcessId, TaskId};
use shoal_core::message::Message;
use shoal_core::task::{Assignment, Completion};
use shoal_core::value::{Outcome, Value};
use shoal_core::wire;
use shoal_runtime::control::Control;
use shoal_runtime::daemon::{self, Options};
use shoal_runtime::frame::{self, Kind};
use shoal_runtime::inbox::Inbox;
use shoal_runtime::socket;
use shoal_runtime::template::{Event, ForkRequest, Template};
use shoal_store::{ProcessTable, Segment, WriteMapping};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["daemon", temp, ref options @ ..] => serve(temp, options),
        // The command line of an interpreter that runs the template's program.
        ["-P", "-c", _program, link, segment, path, ..] => {
            run_template([link, segment, path].map(descriptor))
        }
        _ => panic!("unknown arguments {arguments:?}"),
    }
}

fn descriptor(number: &str) -> OwnedFd {
    let number = number.parse().expect("a number");
    // SAFETY: the starter has left it open for this process, and nobody else here knows of it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// `spill=PATH`, `idle=MILLISECONDS` and `owner` are options; the description goes to standard output.
fn serve(temp: &str, words: &[&str]) {
    let mut options = Options { temp_directory: PathBuf::from(temp), ..Options::default() };
    options.wanted.num_cpus = Some(1.0);
    options.wanted.object_store_memory = Some(64 << 20);
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().expect("a descriptor");
    options.ready = Some(stdout);
    for word in words {
        match word.split_once('=') {
            Some(("spill", path)) => options.spill_directory = Some(PathBuf::from(path)),
            Some(("idle", time)) => {
                let time = time.parse().expect("milliseconds");
                options.idle_exit = Some(Duration::from_millis(time));
            }
            Some(("cpus", count)) => options.wanted.num_cpus = count.parse().ok(),
            None if *word == "owner" => {
                let stdin = std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor");
                options.owner = Some(stdin);
            }
            _ => panic!("unknown option {word}"),
        }
    }
    if let Err(error) = daemon::run(options) {
        eprintln!("{error}");
        exit(1);
    }
}

fn run_template([link, segment, path]: [OwnedFd; 3]) {
    let mut module_path = String::new();
    File::from(path).read_to_string(&mut module_path).expect("the search path");
    if let Ok(last_words) = std::env::var("TEST_TEMPLATE_FAILS") {
        eprintln!("{last_words}");
        exit(3);
    }
    if std::env::var_os("TEST_TEMPLATE_HANGS").is_some() {
        std::thread::sleep(Duration::from_secs(600));
    }
    let mut template = Template::new(link);
    loop {
        match template.wait().expect("the daemon keeps to the rules") {
            Event::Closed => return,
            Event::Fork(request) => {
                // SAFETY: this process has one thread.
                let pid = unsafe { libc::fork() };
                assert!(pid >= 0, "fork");
                if pid == 0 {
                    return become_worker(template, *request, segment, &module_path);
                }
                let process = request.welcome.process;
                drop(request);
                template.forked(process, pid as u32).expect("the daemon listens");
            }
        }
    }
}

fn become_worker(template: Template, request: ForkRequest, segment: OwnedFd, module_path: &str) {
    let ForkRequest { welcome, environment, link, stdout, stderr } = request;
    template.into_worker(stdout, stderr).expect("a worker of its own");
    for (name, value) in &environment.variables {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var(name, value) };
    }
    let segment = Segment::from_fd(segment, welcome.segment).expect("the store's segment");
    let mut worker = Worker {
        id: welcome.process,
        node: ProcessId::daemon(welcome.node),
        link: Some(link),
        inbox: Inbox::default(),
        descriptors: VecDeque::new(),
        store: WriteMapping::new(&segment).expect("mapped"),
        segment,
        module_path: module_path.to_owned(),
        stubborn: false,
        peers: Vec::new(),
    };
    worker.send(worker.node, &Message::WorkerReady);
    worker.serve();
}

struct Worker {
    id: ProcessId,
    node: ProcessId,
    link: Option<OwnedFd>,
    inbox: Inbox,
    descriptors: VecDeque<OwnedFd>,
    store: WriteMapping,
    segment: Segment,
    module_path: String,
    /// Does not exit when asked to.
    stubborn: bool,
    peers: Vec<UnixStream>,
}

impl Worker {
    fn serve(&mut self) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            while let Some((header, body)) = self.inbox.next_frame().expect("well formed") {
                let body = body.to_vec();
                match header.kind {
                    Kind::Control => self.control(wire::decode(&body).expect("a control frame")),
                    Kind::Message => {
                        self.message(header.from, wire::decode(&body).expect("a message"));
                    }
                }
            }
            let Some(link) = &self.link else {
                std::thread::sleep(Duration::from_secs(600));
                return;
            };
            match socket::receive(link, &mut buffer, &mut self.descriptors, true) {
                Ok(0) | Err(_) => return,
                Ok(count) => self.inbox.extend(&buffer[..count]),
            }
        }
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Link { .. } => {
                let socket = self.descriptors.pop_front().expect("it came with the frame");
                let mut peer = UnixStream::from(socket);
                writeln!(peer, "hello from {}", self.id.number()).expect("the peer listens");
                self.peers.push(peer);
            }
            Control::LinkRefused { peer } => println!("refused {}", peer.number()),
            other => panic!("a worker cannot do this: {other:?}"),
        }
    }

    fn message(&mut self, from: ProcessId, message: Message) {
        match message {
            Message::PushTask(assignment) => self.run(from, &assignment),
            Message::Exit { .. } if !self.stubborn => exit(0),
            _ => {}
        }
    }

    fn run(&mut self, owner: ProcessId, assignment: &Assignment) {
        let task = assignment.task;
        let slot = u64::from(self.id.number());
        ProcessTable::new(&self.store).slot(slot).store(task.owner.0, task.number);
        let label = String::from(&*assignment.label);
        let (command, argument) = label.split_once(' ').unwrap_or((&label, ""));
        let answer = match command {
            "pid" => std::process::id().to_string(),
            "read" => std::fs::read_to_string(argument).unwrap_or_else(|error| error.to_string()),
            "variable" => std::env::var(argument).unwrap_or_default(),
            "directory" => std::env::current_dir().expect("it exists").display().to_string(),
            "path" => self.module_path.clone(),
            "descriptors" => open_descriptors(&self.segment),
            "group" => format!("{:?}", rustix::process::getpgrp().as_raw_pid()),
            "print" => {
                print!("{argument}");
                std::io::stdout().flush().expect("printed");
                String::new()
            }
            "lines" => {
                let mut out = std::io::BufWriter::new(std::io::stdout().lock());
                for number in 0..argument.parse().expect("a number") {
                    writeln!(out, "line {number} {}", "x".repeat(80)).expect("printed");
                }
                String::new()
            }
            "complain" => {
                eprint!("{argument}");
                String::new()
            }
            "size" => "x".repeat(argument.parse().expect("a size")),
            "sleepers" => sleepers(),
            "stubborn" => {
                self.stubborn = true;
                String::new()
            }
            "open" => {
                let peer = ProcessId(argument.parse().expect("a process"));
                self.control_daemon(&Control::OpenLink { peer });
                String::new()
            }
            "linked" => self.peers.len().to_string(),
            "garbage" => {
                self.write(&[0xff; 64]);
                String::new()
            }
            "hang" => {
                self.link = None;
                return;
            }
            "exit" => exit(argument.parse().expect("a code")),
            "crash" => {
                self.answer(owner, task, "before");
                die();
            }
            // Once the file is there, whose absence is noted beside it.
            "late" => {
                std::fs::write(format!("{argument}.awaited"), "").expect("written");
                while !std::path::Path::new(argument).exists() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                self.answer(owner, task, &"x".repeat(150_000));
                die();
            }
            other => panic!("unknown command {other}"),
        };
        self.answer(owner, task, &answer);
    }

    fn answer(&mut self, owner: ProcessId, task: TaskId, text: &str) {
        let completion = Completion {
            task,
            attempt: 0,
            outcomes: vec![Outcome::Value(Value::inline(text.as_bytes().to_vec()))],
            items: 0,
            started: 0,
            retryable: false,
            kept: Vec::new(),
            micros: 0,
            exiting: false,
        };
        self.send(owner, &Message::TaskFinished(Box::new(completion)));
    }

    fn send(&mut self, to: ProcessId, message: &Message) {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, Kind::Message, to, self.id, message).expect("encodable");
        self.write(&bytes);
    }

    fn control_daemon(&mut self, control: &Control) {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, Kind::Control, self.node, self.id, control).expect("encodable");
        self.write(&bytes);
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some(link) = &self.link else { return };
        let mut rest = bytes;
        while !rest.is_empty() {
            match socket::send(link, &[IoSlice::new(rest)], &[]) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return,
            }
        }
    }
}

/// What the open descriptors are, besides standard streams and the store's segment.
fn open_descriptors(segment: &Segment) -> String {
    let inode = rustix::fs::fstat(segment).expect("it is open").st_ino;
    let entries = std::fs::read_dir("/proc/self/fd").expect("Linux");
    let mut found: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()) > Some(2))
        .filter(|entry| std::fs::metadata(entry.path()).is_ok_and(|file| file.ino() != inode))
        .filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.display().to_string()))
        .filter(|target| !target.ends_with("/fd"))
        .map(|target| target.split(':').next().unwrap_or_default().to_owned())
        .collect();
    found.sort();
    found.join(" ")
}

/// Start two processes that outlive their starter unless somebody takes care: one in the worker's
/// group, one in a session of its own.
fn sleepers() -> String {
    let start = |detached: bool| {
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if detached {
            // SAFETY: one system call between fork and exec.
            unsafe {
                command.pre_exec(|| {
                    rustix::process::setsid()?;
                    Ok(())
                })
            };
        }
        command.spawn().expect("sleep exists").id()
    };
    format!("{} {}", start(false), start(true))
}

fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    exit(99);
}
