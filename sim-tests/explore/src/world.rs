//! The cluster as a [`Model`]: what can happen in a state, and how it must end.

use std::rc::Rc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use shoal_core::ids::{JobId, NodeId, OperationId, ProcessId};
use shoal_core::message::Message;
use shoal_core::owner;
use shoal_core::resources::Resources;
use shoal_core::{Time, head, node};

use crate::fingerprint::Printer;
use crate::history::{History, Observation};
use crate::moves::Moment;
use crate::part::{Event, Facts, Frame, Output, Part, Role, Work};
use crate::program::cpus;
use crate::scenario::Scenario;
use crate::search::{Check, Model, Story, Violation};
use crate::state::{Action, Id, Left, Numbered, State, Way};

/// When nothing but deadlines was left to wait for so often, what is still left stays for ever.
const WAITS_MAX: u8 = 60;

/// A scenario, and everything that was ever computed of it.
pub struct World {
    /// What is explored.
    pub scenario: Scenario,
    pub(crate) printer: Printer,
    pub(crate) parts: Numbered<Part>,
    facts: Vec<Facts>,
    pub(crate) frames: Numbered<Frame>,
    pub(crate) works: Numbered<Work>,
    pub(crate) histories: Numbered<History>,
    steps: HashMap<(Id, Cause), Rc<Stepped>, FxBuildHasher>,
}

/// What happens to a part, briefly: a key for what it leads to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Cause {
    /// A frame, read from this neighbour.
    Frame(Id, ProcessId),
    /// Work that this part started ends.
    Finished(Id, u64),
    /// See [`Event::Deadline`].
    Deadline,
    /// See [`Event::Go`].
    Go(u8),
    /// A driver connects.
    Connects(u64),
}

/// What a step of a part led to.
pub(crate) struct Stepped {
    pub(crate) part: Id,
    pub(crate) acts: Vec<Act>,
}

/// What a part does, with numbers for all that is large.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// `opens_link`: between processes of a node it goes directly from now on.
    Send {
        to: ProcessId,
        frame: Id,
        opens_link: bool,
    },
    Start {
        operation: Option<OperationId>,
        work: Id,
    },
    Accept {
        driver: usize,
        process: ProcessId,
        job: JobId,
    },
    Observe(Observation),
    Exit {
        code: i32,
    },
}

impl World {
    /// The world of a scenario.
    pub fn new(scenario: Scenario) -> World {
        World {
            scenario,
            printer: Printer::default(),
            parts: Numbered::default(),
            facts: Vec::new(),
            frames: Numbered::default(),
            works: Numbered::default(),
            histories: Numbered::default(),
            steps: HashMap::default(),
        }
    }

    /// The nodes that there are at the start.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.scenario.nodes.len() as u32).map(NodeId)
    }

    /// The number of a part that has just been made.
    pub(crate) fn add_part(&mut self, part: Part) -> Id {
        let printed = self.printer.fingerprint(&part.role, part.now);
        let facts = part.facts();
        let (id, new) = self.parts.number(part, printed);
        if new {
            self.facts.push(facts);
        }
        id
    }

    pub(crate) fn facts(&self, part: Id) -> &Facts {
        &self.facts[part as usize]
    }

    /// One step of a part, looked up or computed.
    pub(crate) fn step_part(
        &mut self,
        name: ProcessId,
        part: Id,
        cause: Cause,
        event: impl FnOnce(&World) -> Event,
    ) -> Check<Rc<Stepped>> {
        if let Some(known) = self.steps.get(&(part, cause)) {
            return Ok(known.clone());
        }
        let event = event(self);
        let (next, outputs) = self.parts.get(part).step(event, &self.scenario.programs)?;
        let acts = outputs.into_iter().map(|output| self.act(name, output)).collect();
        let stepped = Rc::new(Stepped { part: self.add_part(next), acts });
        self.steps.insert((part, cause), stepped.clone());
        Ok(stepped)
    }

    fn act(&mut self, from: ProcessId, output: Output) -> Act {
        match output {
            Output::Send { to, message } => {
                let opens_link = matches!(message, Message::PushTask(_));
                let frame = Frame::Message { from, to, message };
                Act::Send { to, frame: self.frames.of(frame, &mut self.printer), opens_link }
            }
            Output::Start { operation, work } => {
                Act::Start { operation, work: self.works.of(work, &mut self.printer) }
            }
            Output::Accept { driver, process, job } => Act::Accept { driver, process, job },
            Output::Observe(observation) => Act::Observe(observation),
            Output::Exit { code } => Act::Exit { code },
        }
    }

    fn node(&self, node: NodeId) -> Part {
        let mut config = node::Config::new(node);
        config.resources = cpus(self.scenario.nodes[node.0 as usize - 1]);
        config.store_start = 4096;
        config.store_capacity = 1 << 20;
        Part { now: Time(0), role: Role::Node(Box::new(node::Node::new(config))) }
    }

    fn head(&self) -> Part {
        let head = head::Head::new(head::Config::new(1), Vec::new());
        Part { now: Time(0), role: Role::Head(Box::new(head)) }
    }

    /// What a process of this node is told at its start.
    pub(crate) fn owner_config(&self, id: ProcessId, job: JobId) -> owner::Config {
        let total = cpus(self.scenario.nodes[id.node().0 as usize - 1]);
        owner::Config::new(id, job, (total.get(Resources::CPU).as_f64()) as u32)
    }

    /// Whether nothing but deadlines, and what goes wrong, can happen.
    pub(crate) fn is_quiet(&self, state: &State) -> bool {
        state.ways.is_empty()
            && !(0..state.work.len()).any(|at| self.can_finish(state, at))
            && state.parts.values().all(|part| self.facts(*part).runnable.is_empty())
    }

    fn can_finish(&self, state: &State, at: usize) -> bool {
        match &**self.works.get(state.work[at].2) {
            Work::Fork { .. } => true,
            // Who is not there yet is killed once it is.
            Work::Kill { process, .. } => state.parts.contains_key(process),
        }
    }

    /// Everything that is left of work, wherever it is.
    fn left(&self, state: &State) -> Vec<String> {
        let drivers = self.has_driver(state);
        let mut left = Vec::new();
        for (name, part) in &state.parts {
            let of_part = self.parts.get(*part).left();
            left.extend(of_part.into_iter().map(|what| format!("{name:?}: {what}")));
            if !drivers && matches!(self.parts.get(*part).role, Role::Process(_)) {
                left.push(format!("{name:?} has not ended"));
            }
        }
        left
    }

    pub(crate) fn is_driver(&self, state: &State, process: ProcessId) -> bool {
        // Drivers come before any worker is there.
        let drivers = self.scenario.programs.drivers.len() as u32;
        state.parts.contains_key(&process)
            && !process.is_daemon()
            && process.node() == NodeId(1)
            && process.number() <= drivers
    }

    fn has_driver(&self, state: &State) -> bool {
        state.parts.keys().any(|name| self.is_driver(state, *name))
    }

    fn deaths(&self, state: &State, actions: &mut Vec<Action>) {
        for name in state.parts.keys().filter(|name| !name.is_daemon()) {
            let budget = if self.is_driver(state, *name) { state.left.drivers } else { state.left.workers };
            if budget > 0 {
                actions.push(Action::Crash(*name));
            }
        }
    }

    fn early_deadlines(&self, state: &State, actions: &mut Vec<Action>) {
        if state.left.early == 0 {
            return;
        }
        let wanted = self.scenario.faults.early_of;
        for (name, part) in &state.parts {
            let deadline = self.facts(*part).deadline;
            if deadline.is_some_and(|(_, wakeup)| wanted.is_none_or(|wanted| wanted == wakeup)) {
                actions.push(Action::Deadline(*name));
            }
        }
    }

    /// Nothing moves: time passes until the next deadline, or the drivers leave, or it is over.
    fn wait(&self, state: &State, actions: &mut Vec<Action>) {
        if self.left(state).is_empty() {
            actions.extend(self.has_driver(state).then_some(Action::Leave));
        } else if state.waited < WAITS_MAX {
            let deadline = |part: &Id| self.facts(*part).deadline.map(|(after, _)| after);
            let next = state.parts.iter().filter_map(|(name, part)| Some((deadline(part)?, *name))).min();
            actions.extend(next.map(|(_, name)| Action::Deadline(name)));
        }
    }

    /// Every reference of a program must lead to a record at its owner, while that lives.
    fn check_references(&self, state: &State) -> Check {
        let history = self.histories.get(state.history);
        for (name, part) in &state.parts {
            for object in &self.facts(*part).referred {
                let Some(owner) = state.parts.get(&object.owner()) else { continue };
                if self.facts(*owner).owned.binary_search(object).is_err() && !history.may_be_lost(*object) {
                    let detail = format!("{name:?} refers to {object:?}, and its owner has forgotten it");
                    return Err(Violation::new("references", detail));
                }
            }
        }
        Ok(())
    }

    /// When nothing is under way, owners and nodes know of the same leases.
    fn check_leases(&self, state: &State) -> Check {
        let mut granted = Vec::new();
        let mut held = Vec::new();
        for (name, part) in &state.parts {
            match &self.parts.get(*part).role {
                Role::Node(node) => {
                    granted.extend(node.inspect().leases.into_iter().map(|(id, lessee, _)| (id, lessee)));
                }
                Role::Process(process) => {
                    held.extend(process.owner.inspect().leases.into_iter().map(|lease| (lease.id, *name)));
                }
                Role::Head(_) => {}
            }
        }
        granted.sort_unstable();
        held.sort_unstable();
        if granted == held {
            return Ok(());
        }
        let detail = format!("nodes have granted {granted:?}, and processes hold {held:?}");
        Err(Violation::new("leases", detail))
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn start(&mut self, story: &mut Story) -> Check<State> {
        let faults = self.scenario.faults;
        let mut state = State {
            left: Left { workers: faults.workers, drivers: faults.drivers, early: faults.early },
            ..State::default()
        };
        state.history = self.histories.of(History::default(), &mut self.printer);
        let head = self.head();
        state.parts.insert(ProcessId::HEAD, self.add_part(head));
        for node in self.nodes() {
            let part = self.node(node);
            state.parts.insert(ProcessId::daemon(node), self.add_part(part));
        }
        let mut moment = Moment::new(self, state, story);
        moment.begin()?;
        Ok(moment.into_state())
    }

    fn actions(&mut self, state: &State, actions: &mut Vec<Action>) {
        for (way, frames) in &state.ways {
            actions.push(Action::Deliver(*way));
            let lossy = state.crashed.contains(&way.from);
            if lossy && matches!(**self.frames.get(frames[0]), Frame::Message { .. }) {
                actions.push(Action::Lose(*way));
            }
        }
        actions.extend((0..state.work.len()).filter(|at| self.can_finish(state, *at)).map(Action::Finish));
        for (name, part) in &state.parts {
            let threads = self.facts(*part).runnable.iter();
            actions.extend(threads.map(|thread| Action::Go(*name, *thread)));
        }
        if actions.is_empty() {
            self.wait(state, actions);
        } else {
            self.early_deadlines(state, actions);
        }
        let at_rest = matches!(actions[..], [] | [Action::Leave]);
        if !at_rest && !state.leaving {
            self.deaths(state, actions);
        }
    }

    fn step(&mut self, state: &State, action: &Action, story: &mut Story) -> Check<State> {
        let mut moment = Moment::new(self, state.clone(), story);
        moment.act(action)?;
        let state = moment.into_state();
        self.check_references(&state)?;
        if self.is_quiet(&state) {
            self.check_leases(&state)?;
        }
        Ok(state)
    }

    fn at_end(&mut self, state: &State) -> Check {
        let left = self.left(state);
        if left.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = left.into_iter().take(12).collect();
        let detail = format!("this stays for ever:\n    {}", shown.join("\n    "));
        Err(Violation::new("leftovers", detail))
    }

    fn parts(&self) -> usize {
        self.parts.count()
    }
}

/// The direct way between two processes.
pub(crate) fn link(one: ProcessId, other: ProcessId) -> (ProcessId, ProcessId) {
    (one.min(other), one.max(other))
}

/// From a process to its daemon.
pub(crate) fn up(process: ProcessId) -> Way {
    Way { from: process, to: ProcessId::daemon(process.node()) }
}
