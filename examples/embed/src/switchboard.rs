//! The transport: a channel to every process, and one to the daemon.
//!
//! The machines ask three things of it. Between two live processes a message arrives once. What one
//! sender sends to one receiver keeps its order. The news that a process has ended comes after
//! everything that it had sent. Channels give all three: whoever ends says so itself, last.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shoal_core::ids::{JobId, ProcessId, TaskId};
use shoal_core::message::Message;
use shoal_core::value::Death;
use shoal_core::wire;

/// What comes out of a channel.
#[derive(Debug)]
pub enum Delivery {
    /// A message, as bytes: this transport could as well be a socket.
    Frame {
        /// From whom.
        from: ProcessId,
        /// To whom: the daemon's channel serves the node and the head.
        to: ProcessId,
        /// The encoded message.
        bytes: Vec<u8>,
    },
    /// A process has ended, and everything that it had sent was before this.
    Ended {
        /// The process.
        process: ProcessId,
        /// How it ended.
        death: Death,
        /// The task that it started last.
        last_started: Option<TaskId>,
    },
    /// To the daemon: a driver wants to be let in.
    Knock {
        /// Where it waits for the answer: its id, its job, its channel.
        answer: Sender<(ProcessId, JobId, Receiver<Delivery>)>,
    },
}

/// All channels.
#[derive(Debug)]
pub struct Switchboard {
    daemon: Sender<Delivery>,
    lines: Mutex<BTreeMap<ProcessId, Line>>,
}

/// A live process.
#[derive(Debug)]
struct Line {
    sender: Sender<Delivery>,
    last_started: Option<TaskId>,
}

impl Switchboard {
    /// A switchboard whose daemon listens to `daemon`.
    pub fn new(daemon: Sender<Delivery>) -> Switchboard {
        Switchboard { daemon, lines: Mutex::default() }
    }

    /// A new process; what is sent to it comes out here.
    pub fn connect(&self, process: ProcessId) -> Receiver<Delivery> {
        let (sender, receiver) = channel();
        self.lines().insert(process, Line { sender, last_started: None });
        receiver
    }

    /// Carry out a machine's effect `Send`. What goes to a process that has ended is lost, and whoever
    /// has ended says nothing more.
    pub fn send(&self, from: ProcessId, to: ProcessId, message: &Message) {
        let lines = self.lines();
        if !from.is_daemon() && !lines.contains_key(&from) {
            return;
        }
        let bytes = wire::encode(message).expect("messages of a few numbers can be encoded");
        let delivery = Delivery::Frame { from, to, bytes };
        if to.is_daemon() {
            // The daemon outlives every process.
            let _ = self.daemon.send(delivery);
        } else if let Some(line) = lines.get(&to) {
            let _ = line.sender.send(delivery);
        }
    }

    /// Note what a process is about to run, where it can be read after its death.
    pub fn note_started(&self, process: ProcessId, task: TaskId) {
        if let Some(line) = self.lines().get_mut(&process) {
            line.last_started = Some(task);
        }
    }

    /// A process says that it has ended: nothing of it follows.
    pub fn hang_up(&self, process: ProcessId, death: Death) {
        let mut lines = self.lines();
        let Some(Line { last_started, .. }) = lines.remove(&process) else { return };
        let ended = || Delivery::Ended { process, death: death.clone(), last_started };
        for line in lines.values() {
            let _ = line.sender.send(ended());
        }
        let _ = self.daemon.send(ended());
    }

    /// Whether no process is left.
    pub fn is_empty(&self) -> bool {
        self.lines().is_empty()
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<ProcessId, Line>> {
        // Nobody panics while it holds the lock.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
