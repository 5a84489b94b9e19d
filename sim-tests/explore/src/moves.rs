//! What an action does to a state: frames travel, work ends, processes come and go.

use std::collections::VecDeque;

use shoal_core::ids::{JobId, OperationId, ProcessId};
use shoal_core::message::Message;
use shoal_core::node::{self, WorkResult};
use shoal_core::owner::{self, Owner};
use shoal_core::value::Death;
use shoal_core::{Time, head};

use crate::part::{Event, Frame, Part, Role, Work};
use crate::process::Process;
use crate::search::{Check, Story};
use crate::state::{Action, Id, State, Way};
use crate::world::{Act, Cause, World, link, up};

const CRASH: Death = Death::Signalled { signal: 9 };

/// A state that is changed by an action, until nothing more happens at once.
pub(crate) struct Moment<'a> {
    world: &'a mut World,
    state: State,
    story: &'a mut Story,
    /// What happens at once: a daemon that is also the head speaks to itself without a way between.
    at_once: VecDeque<(ProcessId, ProcessId, Id)>,
}

impl<'a> Moment<'a> {
    pub(crate) fn new(world: &'a mut World, state: State, story: &'a mut Story) -> Moment<'a> {
        Moment { world, state, story, at_once: VecDeque::new() }
    }

    pub(crate) fn into_state(self) -> State {
        self.state
    }

    /// Let everybody in, and let everything that follows from that happen, in one order.
    pub(crate) fn begin(&mut self) -> Check {
        for name in self.state.parts.keys().copied().collect::<Vec<_>>() {
            if self.world.facts(self.state.parts[&name]).deadline.is_some_and(|(after, _)| after.0 == 0) {
                self.step(name, Cause::Deadline)?;
            }
        }
        for driver in 0..self.world.scenario.programs.drivers.len() as u64 {
            self.step(ProcessId::daemon(shoal_core::ids::NodeId(1)), Cause::Connects(driver))?;
        }
        self.settle()?;
        // Drivers wait with their first step until the workers that are wanted before are up.
        while let Some(action) = self.next_of_start() {
            self.act(&action)?;
        }
        Ok(())
    }

    fn next_of_start(&self) -> Option<Action> {
        let way = self.state.ways.keys().next();
        way.map(|way| Action::Deliver(*way)).or((!self.state.work.is_empty()).then_some(Action::Finish(0)))
    }

    /// Let an action happen, and what follows at once.
    pub(crate) fn act(&mut self, action: &Action) -> Check {
        self.story.line(|| tell(self.world, &self.state, action));
        match *action {
            Action::Deliver(way) => {
                let frame = self.take_frame(way);
                self.deliver(way, frame)?;
            }
            Action::Lose(way) => self.lose(way),
            Action::Finish(at) => {
                let (starter, operation, work) = self.state.work.remove(at);
                self.finish(starter, operation, work)?;
            }
            Action::Go(process, thread) => self.step(process, Cause::Go(thread))?,
            Action::Deadline(name) => {
                // Whatever else could have happened was overtaken.
                if self.world.is_quiet(&self.state) {
                    self.state.waited += 1;
                } else {
                    self.state.left.early -= 1;
                }
                self.step(name, Cause::Deadline)?;
            }
            Action::Crash(process) => {
                let driver = self.world.is_driver(&self.state, process);
                let budget = if driver { &mut self.state.left.drivers } else { &mut self.state.left.workers };
                *budget -= 1;
                self.note_lost(process);
                self.die(process, CRASH, true);
            }
            Action::Leave => {
                self.state.leaving = true;
                for process in self.state.parts.keys().copied().collect::<Vec<_>>() {
                    if self.world.is_driver(&self.state, process) {
                        self.die(process, Death::Exited { code: 0 }, false);
                    }
                }
            }
        }
        self.settle()
    }

    /// What a process has passed on may be lost with it, which is known and must not be.
    fn note_lost(&mut self, process: ProcessId) {
        let lent = self.world.facts(self.state.parts[&process]).lent.clone();
        if !self.world.scenario.strict && !lent.is_empty() {
            let mut history = (**self.world.histories.get(self.state.history)).clone();
            history.lose(lent);
            self.state.history = self.world.histories.of(history, &mut self.world.printer);
        }
    }

    fn settle(&mut self) -> Check {
        while let Some((from, at, frame)) = self.at_once.pop_front() {
            self.step(at, Cause::Frame(frame, from))?;
        }
        Ok(())
    }

    fn take_frame(&mut self, way: Way) -> Id {
        let frames = self.state.ways.get_mut(&way).expect("ways are there while frames are on them");
        let frame = frames.remove(0);
        if frames.is_empty() {
            self.state.ways.remove(&way);
            self.forget_crash(way.from);
        }
        frame
    }

    /// When nothing of a crashed process is under way any more, it is like every other dead one.
    fn forget_crash(&mut self, process: ProcessId) {
        if !self.state.ways.keys().any(|way| way.from == process) {
            self.state.crashed.retain(|crashed| *crashed != process);
        }
    }

    /// All messages that are left on a way are lost; that its sender is gone is seen all the same.
    fn lose(&mut self, way: Way) {
        let frames = self.state.ways.get_mut(&way).expect("something is lost");
        frames.retain(|frame| !matches!(**self.world.frames.get(*frame), Frame::Message { .. }));
        if frames.is_empty() {
            self.state.ways.remove(&way);
            self.forget_crash(way.from);
        }
    }

    /// A frame comes to the end of a way.
    fn deliver(&mut self, way: Way, id: Id) -> Check {
        let frame = self.world.frames.get(id).clone();
        match *frame {
            Frame::Message { to, .. } if to != way.to && way.to.is_daemon() => {
                self.pass_on(way.to, to, id);
                Ok(())
            }
            _ if self.state.parts.contains_key(&way.to) => self.step(way.to, Cause::Frame(id, way.from)),
            _ => Ok(()),
        }
    }

    /// A daemon, or the head, sends a frame on to where it belongs.
    fn pass_on(&mut self, at: ProcessId, to: ProcessId, frame: Id) {
        let alone = self.world.scenario.nodes.len() == 1;
        if to == ProcessId::HEAD || (at == ProcessId::HEAD && to.is_daemon()) {
            if alone {
                self.at_once.push_back((at, to, frame));
            } else {
                self.put(Way { from: at, to }, frame);
            }
            return;
        }
        let daemon = ProcessId::daemon(to.node());
        if at == daemon || (alone && at == ProcessId::HEAD) {
            self.put(Way { from: daemon, to }, frame);
        } else {
            self.put(Way { from: at, to: daemon }, frame);
        }
    }

    /// Put a frame on a way. What the dead are sent is lost at once: nothing else can become of it.
    fn put(&mut self, way: Way, frame: Id) {
        if self.state.parts.contains_key(&way.to) {
            self.state.ways.entry(way).or_default().push(frame);
        }
    }

    /// One step of a part, and what it does to the rest.
    fn step(&mut self, name: ProcessId, cause: Cause) -> Check {
        let part = self.state.parts[&name];
        let stepped = self.world.step_part(name, part, cause, |world| world.event(name, cause))?;
        self.state.parts.insert(name, stepped.part);
        for act in &stepped.acts {
            self.story.line(|| format!("        {}", shorten(&tell_act(self.world, name, act))));
            self.carry_out(name, act)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, name: ProcessId, act: &Act) -> Check {
        match *act {
            Act::Send { to, frame, opens_link } => self.send(name, to, frame, opens_link),
            Act::Start { operation, work } => self.state.work.push((name, operation, work)),
            Act::Accept { driver, process, job } => self.spawn(process, job, Some(driver)),
            Act::Observe(ref observation) => {
                let mut history = (**self.world.histories.get(self.state.history)).clone();
                let parts = &self.state.parts;
                history.observe(name, observation, &|process| parts.contains_key(&process))?;
                self.state.history = self.world.histories.of(history, &mut self.world.printer);
            }
            Act::Exit { code } => self.die(name, Death::Exited { code }, false),
        }
        Ok(())
    }

    /// Somebody sends: a task that is pushed opens a direct link, what follows takes that; all else goes
    /// through the daemon.
    fn send(&mut self, from: ProcessId, to: ProcessId, frame: Id, opens_link: bool) {
        if from == to {
            return self.at_once.push_back((from, to, frame));
        }
        if from.is_daemon() {
            return self.pass_on(from, to, frame);
        }
        let pair = link(from, to);
        let linked = self.state.links.contains(&pair);
        if to.is_daemon() || from.node() != to.node() || !(linked || opens_link) {
            return self.put(up(from), frame);
        }
        if !self.state.parts.contains_key(&to) {
            // There is no such process any more: the link is refused, which is a closed one.
            let closed = self.world.frames.of(Frame::Closed, &mut self.world.printer);
            return self.put(Way { from: to, to: from }, closed);
        }
        if !linked {
            self.state.links.push(pair);
            self.state.links.sort_unstable();
        }
        self.put(Way { from, to }, frame);
    }

    fn spawn(&mut self, id: ProcessId, job: JobId, driver: Option<usize>) {
        let owner = Owner::new(self.world.owner_config(id, job));
        let role = Role::Process(Box::new(Process::new(owner, job, driver)));
        let part = self.world.add_part(Part { now: Time(0), role });
        self.state.parts.insert(id, part);
    }

    fn finish(&mut self, starter: ProcessId, operation: Option<OperationId>, work: Id) -> Check {
        match &*self.world.works.get(work).clone() {
            Work::Fork { process, job } => {
                self.spawn(*process, *job, None);
                let message = Message::WorkerReady;
                let frame = Frame::Message { from: *process, to: starter, message };
                let frame = self.world.frames.of(frame, &mut self.world.printer);
                self.put(up(*process), frame);
                let operation = operation.expect("forks are answered");
                self.step(starter, Cause::Finished(work, operation.0))
            }
            Work::Kill { process, death } => {
                self.die(*process, death.clone(), true);
                Ok(())
            }
        }
    }

    /// A process is gone. Who had a link to it sees that closed, its daemon that it exited, each after
    /// what it had sent there; one that crashes may have sent less than it wanted.
    fn die(&mut self, id: ProcessId, death: Death, crashed: bool) {
        let Some(part) = self.state.parts.remove(&id) else { return };
        let Role::Process(process) = &self.world.parts.get(part).role else {
            unreachable!("only processes die")
        };
        let last_started = process.last_started;
        self.state.ways.retain(|way, _| way.to != id);
        self.state.work.retain(|(_, _, work)| {
            !matches!(&**self.world.works.get(*work), Work::Kill { process, .. } if *process == id)
        });
        if crashed {
            self.state.crashed.push(id);
            self.state.crashed.sort_unstable();
        }
        let closed = self.world.frames.of(Frame::Closed, &mut self.world.printer);
        let is_its = |pair: &(ProcessId, ProcessId)| pair.0 == id || pair.1 == id;
        for pair in self.state.links.extract_if(.., |pair| is_its(pair)).collect::<Vec<_>>() {
            let peer = if pair.0 == id { pair.1 } else { pair.0 };
            self.put(Way { from: id, to: peer }, closed);
        }
        let exited = Frame::Exited { death, last_started };
        let exited = self.world.frames.of(exited, &mut self.world.printer);
        self.put(up(id), exited);
    }
}

impl World {
    /// What a cause means to the part it happens to.
    fn event(&self, name: ProcessId, cause: Cause) -> Event {
        let (id, neighbour) = match cause {
            Cause::Frame(id, neighbour) => (id, neighbour),
            Cause::Deadline => return Event::Deadline,
            Cause::Go(thread) => return Event::Go(thread),
            Cause::Finished(work, operation) => {
                let result = match &**self.works.get(work) {
                    Work::Fork { process, .. } => WorkResult::Forked { pid: 1_000 + process.number() },
                    other => unreachable!("nothing answers {other:?}"),
                };
                return Event::Node(node::Input::Finished { operation: OperationId(operation), result });
            }
            Cause::Connects(connection) => {
                return Event::Node(node::Input::DriverConnected {
                    connection,
                    pid: 1_000,
                    namespace: String::from("everybody"),
                    prestart: self.scenario.prestarted,
                    launch: bytes::Bytes::new(),
                });
            }
        };
        match (&**self.frames.get(id), name) {
            (Frame::Message { from, message, .. }, ProcessId::HEAD) => {
                let (via, from, message) = (neighbour.node(), *from, message.clone());
                Event::Head(head::Input::Received { via, from, message })
            }
            (Frame::Message { from, message, .. }, name) if name.is_daemon() => {
                Event::Node(node::Input::Received { from: *from, message: message.clone() })
            }
            (Frame::Message { from, message, .. }, _) => {
                Event::Owner(owner::Input::Received { from: *from, message: message.clone() })
            }
            (Frame::Closed, _) => Event::Owner(owner::Input::LinkClosed { peer: neighbour }),
            (Frame::Exited { death, last_started }, _) => Event::Node(node::Input::ProcessExited {
                process: neighbour,
                death: death.clone(),
                last_started: *last_started,
            }),
        }
    }
}

/// An action in words.
fn tell(world: &World, state: &State, action: &Action) -> String {
    let what = match action {
        Action::Deliver(way) => {
            let frame = world.frames.get(state.ways[way][0]);
            let text = match &**frame {
                Frame::Message { from, to, message } if *from != way.from || *to != way.to => {
                    format!("{message:?} (from {from:?} to {to:?})")
                }
                Frame::Message { message, .. } => format!("{message:?}"),
                other => format!("{other:?}"),
            };
            format!("{:?} -> {:?}: {text}", way.from, way.to)
        }
        Action::Lose(way) => {
            let lost = state.ways[way].len() - 1;
            format!("{:?} -> {:?}: {lost} frames were never sent", way.from, way.to)
        }
        Action::Finish(at) => {
            let (starter, _, work) = &state.work[*at];
            format!("{starter:?} has finished {:?}", world.works.get(*work))
        }
        Action::Go(process, thread) => format!("thread {thread} of {process:?} goes on"),
        Action::Deadline(name) => {
            let deadline = world.facts(state.parts[name]).deadline;
            format!("a deadline of {name:?} has come: {:?}", deadline.map(|(_, wakeup)| wakeup))
        }
        Action::Crash(process) => format!("{process:?} crashes"),
        Action::Leave => String::from("the drivers leave"),
    };
    format!("    {}", shorten(&what))
}

/// What a part does, in words.
fn tell_act(world: &World, name: ProcessId, act: &Act) -> String {
    match act {
        Act::Send { to, frame, .. } => match &**world.frames.get(*frame) {
            Frame::Message { message, .. } => format!("{name:?} to {to:?}: {message:?}"),
            other => unreachable!("no machine sends {other:?}"),
        },
        Act::Start { work, .. } => format!("{name:?} starts {:?}", world.works.get(*work)),
        Act::Accept { process, .. } => format!("{name:?} lets {process:?} in"),
        Act::Observe(observation) => format!("{name:?} sees {observation:?}"),
        Act::Exit { code } => format!("{name:?} exits with {code}"),
    }
}

/// Long messages are cut: who wants to know more reads the code.
fn shorten(text: &str) -> String {
    const CHARACTERS: usize = 200;
    if text.len() <= CHARACTERS {
        return text.to_string();
    }
    let head: String = text.chars().take(CHARACTERS).collect();
    format!("{head}…")
}
