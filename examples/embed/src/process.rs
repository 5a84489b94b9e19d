//! The driver's and the workers' side: an `Owner`, its channel, and closures.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use bytes::Bytes;
use shoal_core::ids::{JobId, ObjectId, ProcessId};
use shoal_core::message::Message;
use shoal_core::owner::{self, Config, Lookup, Owner, RunResult};
use shoal_core::task::{Assignment, Callee, Definition, Submission, Target};
use shoal_core::value::{Failure, Outcome, Payload, Value};
use shoal_core::{Effects, Machine, wire};

use crate::clock::Clock;
use crate::story::Story;
use crate::switchboard::{Delivery, Switchboard};

/// What a task runs: numbers in, a number out.
pub type Closure = Box<dyn Fn(&Call) -> u64 + Send + Sync>;

/// The closures of this program by name. A task's code is the name of one.
pub type Closures = HashMap<&'static str, Closure>;

/// How a closure is called.
#[derive(Debug)]
pub struct Call {
    /// The values of the task's references.
    pub numbers: Vec<u64>,
    /// Which attempt of the task this is, from 0.
    pub attempt: u32,
}

/// One process: a driver, or a worker.
pub struct Process {
    owner: Owner,
    line: Receiver<Delivery>,
    board: Arc<Switchboard>,
    closures: Arc<Closures>,
    clock: Clock,
    story: Story,
    runnable: Vec<Assignment>,
    leaving: bool,
}

impl Process {
    /// A process that the daemon has let in.
    pub fn new(
        id: ProcessId,
        job: JobId,
        line: Receiver<Delivery>,
        board: Arc<Switchboard>,
        closures: Arc<Closures>,
        clock: Clock,
    ) -> Process {
        let owner = Owner::new(Config::new(id, job, 2));
        let (story, runnable) = (Story::default(), Vec::new());
        Process { owner, line, board, closures, clock, story, runnable, leaving: false }
    }

    /// What became of the task that [`Process::follow`] named.
    pub fn story(&self) -> &Story {
        &self.story
    }

    /// Tell the story of the next task that is submitted.
    pub fn follow(&mut self) {
        self.story.begin();
    }

    /// Run a function; the result is a reference.
    pub fn submit(
        &mut self,
        function: &Arc<Definition>,
        number: u64,
        dependencies: Vec<ObjectId>,
    ) -> ObjectId {
        let id = self.owner.next_task_id();
        let submission = Submission {
            id,
            target: Target::Function(function.clone()),
            arguments: Bytes::copy_from_slice(&number.to_le_bytes()),
            dependencies,
            borrows: Vec::new(),
            parent: None,
        };
        self.tell(owner::Input::Submit(Box::new(submission)));
        id.object(0)
    }

    /// Wait for a reference's value.
    pub fn get(&mut self, object: ObjectId) -> Result<u64, Failure> {
        self.tell(owner::Input::Need { object });
        loop {
            match self.owner.lookup(object) {
                Lookup::Inline { bytes, .. } => return Ok(decode(bytes)),
                Lookup::Failed(failure) => return Err(failure.clone()),
                Lookup::Stored { .. } => unreachable!("numbers are small"),
                Lookup::NotReady => self.step(),
            }
        }
    }

    /// Let go of a reference.
    pub fn drop_reference(&mut self, object: ObjectId) {
        self.tell(owner::Input::RemoveReference { object });
    }

    /// A worker's life: run what comes until it is told to end.
    pub fn work(&mut self) {
        self.board.send(self.owner.process(), self.daemon(), &Message::WorkerReady);
        while !self.leaving {
            self.step();
        }
    }

    /// Wait for whatever comes first: a delivery or a deadline.
    fn step(&mut self) {
        match self.line.recv_timeout(self.clock.until(self.owner.poll_timeout())) {
            Ok(Delivery::Frame { from, bytes, .. }) => {
                let message = wire::decode(&bytes).expect("this program speaks only to itself");
                self.tell(owner::Input::Received { from, message });
            }
            Ok(Delivery::Ended { process, .. }) => self.tell(owner::Input::LinkClosed { peer: process }),
            Ok(Delivery::Knock { .. }) => unreachable!("drivers knock at the daemon"),
            Err(RecvTimeoutError::Timeout) => {
                let mut effects = Effects::new();
                self.owner.handle_timeout(self.clock.now(), &mut effects);
                self.apply(effects);
            }
            // The switchboard has forgotten this process: it is to end at once.
            Err(RecvTimeoutError::Disconnected) => self.leaving = true,
        }
    }

    fn tell(&mut self, input: owner::Input) {
        self.story.input(&input);
        let mut effects = Effects::new();
        self.owner.handle(self.clock.now(), input, &mut effects);
        self.apply(effects);
    }

    /// Do what the machine asks for, in order; tasks run when all of it is done.
    fn apply(&mut self, mut effects: Effects<owner::Effect>) {
        let me = self.owner.process();
        for effect in effects.drain() {
            self.story.effect(&effect);
            match effect {
                owner::Effect::Send { to, message } => self.board.send(me, to, &message),
                owner::Effect::Run { assignment, .. } => self.runnable.push(*assignment),
                owner::Effect::Exit { .. } => self.leaving = true,
                // `get` looks by itself, and this program has neither actors, generators nor a store.
                _ => {}
            }
        }
        while let Some(assignment) = self.runnable.pop() {
            self.run(assignment);
        }
    }

    fn run(&mut self, assignment: Assignment) {
        let task = assignment.task;
        self.board.note_started(self.owner.process(), task);
        let started = self.clock.now();
        // A closure that panics ends this thread, and to everybody else that is a process that died.
        let number = self.call(&assignment);
        let micros = (self.clock.now() - started).0 / 1_000;
        let value = Value::inline(Bytes::copy_from_slice(&number.to_le_bytes()));
        let result = RunResult {
            outcomes: vec![Outcome::Value(value)],
            items: 0,
            retryable: false,
            started: 0,
            micros: micros as u32,
            exiting: false,
            silent: false,
        };
        self.tell(owner::Input::Ran { task, result: Box::new(result) });
    }

    fn call(&self, assignment: &Assignment) -> u64 {
        let Callee::Function { function, .. } = &assignment.callee else {
            unreachable!("this program has no actors");
        };
        let closure = crate::functions::name_of(*function).and_then(|name| self.closures.get(name));
        let closure = closure.expect("this program submits its own functions");
        let values = assignment.dependencies.iter().map(|dependency| match &dependency.outcome {
            Outcome::Value(Value { payload: Payload::Inline(bytes), .. }) => decode(bytes),
            other => unreachable!("a task runs when its arguments are there: {other:?}"),
        });
        let numbers = std::iter::once(decode(&assignment.arguments)).chain(values).collect();
        closure(&Call { numbers, attempt: assignment.attempt })
    }

    fn daemon(&self) -> ProcessId {
        ProcessId::daemon(self.owner.process().node())
    }
}

fn decode(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("a number is eight bytes"))
}
