//! Programs going on, one step at a time.

use shoal_core::Span;
use shoal_core::ids::{ObjectId, ProcessId};
use shoal_core::message::{Answer, Query};
use shoal_core::owner::{self, NextItem};
use shoal_core::task::{Dependency, Returns};
use shoal_core::value::{Outcome, Payload};

use super::calls::Passed;
use super::values::Found;
use super::{Given, Holding, Role, Scene, Thread, Waits};
use crate::observation::{Content, Got, Observation};
use crate::program::{Product, Slot, Step};

/// An actor remembers this many references.
const STATE_MAX: usize = 4;

/// What a step led to.
pub(super) enum Next {
    /// The next step, after up to the usual time.
    Go,
    /// The next step, after this many microseconds.
    After(u64),
    /// This step again, when something changes.
    Wait(Waits),
    /// The program raises.
    Raise,
    /// The thread is over, or its process is.
    Over,
}

impl Scene<'_> {
    pub(super) fn thread_step(&mut self, id: ProcessId, number: u32, wake: u32) {
        let Some(program) = self.users.programs.get_mut(&id) else {
            return;
        };
        let Some(mut thread) = program.threads.remove(&number) else {
            return;
        };
        if thread.wake != wake {
            program.threads.insert(number, thread);
            return;
        }
        let ended = self.go_on(id, number, &mut thread);
        if !self.cluster.processes.contains_key(&id) {
            return;
        }
        let Some(program) = self.users.programs.get_mut(&id) else {
            return;
        };
        if !ended {
            program.threads.insert(number, thread);
        } else if program.driver.is_some() {
            self.finish_driver(id);
        }
    }

    /// Run a thread until it waits, takes time, or ends. Says whether it has ended.
    fn go_on(&mut self, id: ProcessId, number: u32, thread: &mut Thread) -> bool {
        if self.load_arguments(id, thread) {
            return true;
        }
        loop {
            if !self.cluster.processes.contains_key(&id) {
                return true;
            }
            if std::mem::take(&mut thread.interrupted) && self.cluster.random.chance(800) {
                self.cluster.count("a running task was interrupted");
                self.stop_waiting(id, thread);
                self.raise(id, thread);
                return true;
            }
            let Some(step) = thread.script.steps.get(thread.at).cloned() else {
                thread.waits = Waits::Nothing;
                return self.thread_returns(id, thread) || !self.cluster.processes.contains_key(&id);
            };
            match self.one_step(id, number, thread, step) {
                Next::Go => {
                    self.stop_waiting(id, thread);
                    thread.at += 1;
                    if self.cluster.random.chance(500) {
                        self.continue_later(id, number, thread);
                        return false;
                    }
                }
                Next::After(micros) => {
                    thread.wake += 1;
                    let token = super::token(number, thread.wake);
                    self.cluster.wake_after(id, Span::from_micros(micros), token);
                    return false;
                }
                Next::Wait(waits) => {
                    thread.waits = waits;
                    self.start_waiting(id, thread);
                    return !self.cluster.processes.contains_key(&id);
                }
                Next::Raise => {
                    self.stop_waiting(id, thread);
                    self.raise(id, thread);
                    return true;
                }
                Next::Over => return true,
            }
        }
    }

    fn continue_later(&mut self, id: ProcessId, number: u32, thread: &mut Thread) {
        thread.wake += 1;
        let most = self.cluster.settings.step_micros;
        self.cluster.wake_in(id, most, super::token(number, thread.wake));
    }

    fn start_waiting(&mut self, id: ProcessId, thread: &mut Thread) {
        if matches!(thread.waits, Waits::Objects(_)) && !thread.blocked && thread.task().is_some() {
            thread.blocked = true;
            self.cluster.tell(id, owner::Input::Blocked);
        }
    }

    fn stop_waiting(&mut self, id: ProcessId, thread: &mut Thread) {
        thread.waits = Waits::Nothing;
        if std::mem::take(&mut thread.blocked) {
            self.cluster.tell(id, owner::Input::Unblocked);
        }
    }

    /// Before the first step: the values of dependencies, then the borrows, go to the first slots. Says
    /// whether the thread ends with that.
    fn load_arguments(&mut self, id: ProcessId, thread: &mut Thread) -> bool {
        let Some(Given { task, arguments, borrows }) = thread.given.take() else {
            return false;
        };
        if let Some(broken) = arguments.iter().find(|given| !matches!(given.outcome, Outcome::Value(_))) {
            match thread.role {
                Role::Task { .. } => self.thread_ends(id, thread, vec![broken.outcome.clone()], false),
                _ => self.raise(id, thread),
            }
            return true;
        }
        for given in &arguments {
            let Some(holding) = self.load(id, given) else {
                self.observe(Observation::Unmapped { process: id, task, argument: given.object });
                self.raise(id, thread);
                return true;
            };
            thread.slots.push(holding);
        }
        self.load_borrows(id, thread, &borrows);
        false
    }

    fn load_borrows(&mut self, id: ProcessId, thread: &mut Thread, borrows: &[ObjectId]) {
        for object in borrows {
            self.reference(id, *object);
            let holding = self.holding(*object);
            thread.slots.push(holding);
        }
    }

    /// The value of an argument, without waiting for it; nothing if its bytes are not mapped.
    fn load(&mut self, id: ProcessId, given: &Dependency) -> Option<Holding> {
        let Outcome::Value(value) = &given.outcome else {
            return Some(Holding::Nothing);
        };
        let object = given.object;
        let mut mapped = false;
        if matches!(value.payload, Payload::Stored { .. }) {
            if !self.cluster.nodes.contains_key(&id.node()) {
                // Its daemon is gone, and the process will be, as soon as it notices.
                return Some(Holding::Nothing);
            }
            let got = self.open(id, object, false)?;
            mapped = matches!(got, Got::Value { .. });
            self.observe_got(id, object, got);
        }
        for inner in &value.contains {
            self.reference(id, *inner);
        }
        Some(Holding::Value { object, contains: value.contains.clone(), mapped })
    }

    fn one_step(&mut self, id: ProcessId, number: u32, thread: &mut Thread, step: Step) -> Next {
        match step {
            Step::Compute { micros } => {
                if std::mem::take(&mut thread.computed) {
                    return Next::Go;
                }
                thread.computed = true;
                Next::After(micros)
            }
            Step::Submit { function, dependencies, borrows, into } => {
                let passed = Passed { dependencies: &dependencies, borrows: &borrows };
                self.submit(id, thread, &function, passed, into);
                Next::Go
            }
            Step::Call { actor, method, dependencies, borrows, into } => {
                let passed = Passed { dependencies: &dependencies, borrows: &borrows };
                self.call(id, thread, actor, method, passed, into);
                Next::Go
            }
            Step::Put { product, into } => self.put_step(id, thread, &product, into),
            Step::Get { slot, into } => self.get_step(id, thread, slot, into),
            Step::Wait { slots, count } => self.wait_step(id, thread, &slots, count),
            Step::Take { slot, index, into } => {
                if let Holding::Value { contains, .. } = thread.slot(slot)
                    && let Some(object) = contains.get(index).copied()
                {
                    self.reference(id, object);
                    let holding = self.holding(object);
                    self.set(id, thread, into, holding);
                }
                Next::Go
            }
            Step::Drop { slot } => {
                self.set(id, thread, slot, Holding::Nothing);
                Next::Go
            }
            Step::Next { slot, into } => self.next_step(id, thread, slot, into),
            Step::CreateActor { .. } | Step::FindActor { .. } => self.actor_step(id, thread, step),
            Step::Kill { actor, no_restart } => {
                if let Holding::Actor { actor, .. } = *thread.slot(actor) {
                    let after = self.last_submitted(id);
                    self.observe(Observation::Killed { actor, by: id, for_good: no_restart, after });
                    self.cluster.tell(id, owner::Input::KillActor { actor, no_restart });
                }
                Next::Go
            }
            Step::Cancel { slot, force, recursive } => {
                let object = match thread.slot(slot) {
                    Holding::Stream(task) => Some(task.object(0)),
                    other => other.object(),
                };
                if let Some(object) = object {
                    self.cancelled(id, object.task, recursive);
                    self.cluster.tell(id, owner::Input::Cancel { object, force, recursive });
                }
                Next::Go
            }
            Step::Yield { product } => self.yield_step(id, thread, &product),
            Step::Keep { .. } | Step::Recall { .. } | Step::ExitActor => self.state_step(id, thread, step),
            Step::CreateGroup { .. }
            | Step::FindGroup { .. }
            | Step::AwaitGroup { .. }
            | Step::RemoveGroup { .. }
            | Step::SubmitWithin { .. }
            | Step::SubmitCaptured { .. }
            | Step::ActorWithin { .. } => self.group_step(id, number, thread, step),
            Step::Raise => Next::Raise,
            Step::RaiseUntil { attempts } => match attempt(thread) {
                made if made < attempts => Next::Raise,
                _ => Next::Go,
            },
            Step::CrashUntil { attempts } => match attempt(thread) {
                made if made < attempts => {
                    self.cluster.count("a program crashed its process");
                    self.cluster.crash(id, 11);
                    Next::Over
                }
                _ => Next::Go,
            },
        }
    }

    fn put_step(&mut self, id: ProcessId, thread: &mut Thread, product: &Product, into: Slot) -> Next {
        let Some(process) = self.cluster.processes.get_mut(&id) else {
            return Next::Over;
        };
        let object = process.owner.next_task_id().object(0);
        match self.make(id, thread, product, Content { object, attempt: 0 }) {
            Ok(Outcome::Value(value)) => {
                self.users.ended.entry(object).or_default().push((0, false));
                self.cluster.tell(id, owner::Input::Put { object, value });
                self.set(id, thread, into, Holding::Reference(object));
                Next::Go
            }
            Ok(_) if thread.task().is_some() => Next::Raise,
            Ok(_) => Next::Go,
            Err(waits) => Next::Wait(waits),
        }
    }

    fn get_step(&mut self, id: ProcessId, thread: &mut Thread, slot: Slot, into: Slot) -> Next {
        let Some(object) = thread.slot(slot).object() else {
            return Next::Go;
        };
        match self.find(id, object) {
            Found::NotYet => Next::Wait(Waits::Objects(vec![object])),
            Found::Value(holding) => {
                self.set(id, thread, into, holding);
                Next::Go
            }
            // A task lets the error through; a driver notes it and goes on.
            Found::Error if thread.task().is_some() => Next::Raise,
            Found::Error => Next::Go,
            Found::Gone => Next::Over,
        }
    }

    fn wait_step(&mut self, id: ProcessId, thread: &mut Thread, slots: &[Slot], count: usize) -> Next {
        let objects = thread.objects(slots);
        let mut missing = Vec::new();
        for object in &objects {
            let Some(process) = self.cluster.processes.get(&id) else {
                return Next::Over;
            };
            if !process.owner.has_outcome(*object) {
                missing.push(*object);
            }
        }
        if objects.len() - missing.len() >= count.min(objects.len()) {
            return Next::Go;
        }
        for object in &missing {
            self.cluster.tell(id, owner::Input::Need { object: *object });
        }
        Next::Wait(Waits::Objects(missing))
    }

    fn next_step(&mut self, id: ProcessId, thread: &mut Thread, slot: Slot, into: Slot) -> Next {
        let Holding::Stream(task) = *thread.slot(slot) else {
            return Next::Go;
        };
        let Some(next) = self.cluster.next_item(id, task) else {
            return Next::Over;
        };
        match next {
            NextItem::Item(object) => {
                self.set(id, thread, into, Holding::Reference(object));
                Next::Go
            }
            NextItem::NotYet(object) => Next::Wait(Waits::Objects(vec![object])),
            NextItem::End => {
                self.set(id, thread, into, Holding::Nothing);
                Next::Go
            }
        }
    }

    fn actor_step(&mut self, id: ProcessId, thread: &mut Thread, step: Step) -> Next {
        let answered = thread.answer.take();
        match step {
            Step::CreateActor { class, dependencies, borrows, name, detached, into } => {
                if let (Some(answer), Some(actor)) = (answered, thread.pending_actor.take()) {
                    let handle = Holding::Actor { actor, weak: false };
                    if answer == Answer::ActorCreated {
                        self.set(id, thread, into, handle);
                    } else {
                        self.cluster.count("an actor's name was taken");
                        self.release(id, handle);
                    }
                    return Next::Go;
                }
                let passed = Passed { dependencies: &dependencies, borrows: &borrows };
                let Some((actor, request)) = self.create_actor(id, thread, &class, passed, &name, detached)
                else {
                    return Next::Over;
                };
                match request {
                    Some(request) => {
                        thread.pending_actor = Some(actor);
                        Next::Wait(Waits::Answer(request))
                    }
                    None => {
                        self.set(id, thread, into, Holding::Actor { actor, weak: false });
                        Next::Go
                    }
                }
            }
            Step::FindActor { name, into, .. } => {
                match answered {
                    None => {}
                    Some(Answer::Actor { actor, .. }) => {
                        self.cluster.tell(id, owner::Input::WatchActor { actor });
                        self.set(id, thread, into, Holding::Actor { actor, weak: true });
                        return Next::Go;
                    }
                    Some(_) => return Next::Go,
                }
                let Some(process) = self.cluster.processes.get_mut(&id) else {
                    return Next::Over;
                };
                let request = process.request();
                let query = Query::ActorByName { name, namespace: String::from("everybody") };
                self.cluster.tell(id, owner::Input::Ask { request, to: ProcessId::HEAD, query });
                Next::Wait(Waits::Answer(request))
            }
            _ => Next::Go,
        }
    }

    fn yield_step(&mut self, id: ProcessId, thread: &mut Thread, product: &Product) -> Next {
        let Role::Task { task, attempt, returns, yielded, consumed, .. } = thread.role else {
            return Next::Go;
        };
        let Returns::Stream { backpressure } = returns else {
            return Next::Go;
        };
        if backpressure > 0 && yielded.saturating_sub(consumed) >= backpressure {
            self.cluster.count("a generator waited for its consumer");
            return Next::Wait(Waits::Consumer);
        }
        let object = task.object(yielded + 1);
        match self.make(id, thread, product, Content { object, attempt }) {
            Ok(outcome) => {
                if matches!(outcome, Outcome::Value(_)) {
                    self.users.ended.entry(object).or_default().push((attempt, false));
                }
                self.cluster.tell(id, owner::Input::Yielded { task, index: yielded, outcome });
                if let Role::Task { yielded, .. } = &mut thread.role {
                    *yielded += 1;
                }
                Next::Go
            }
            Err(waits) => Next::Wait(waits),
        }
    }

    fn state_step(&mut self, id: ProcessId, thread: &mut Thread, step: Step) -> Next {
        let Some(actor) = self.users.programs.get_mut(&id).and_then(|program| program.actor.as_mut()) else {
            return Next::Go;
        };
        match step {
            Step::Keep { slot } => {
                let holding = thread.put_slot(slot, Holding::Nothing);
                actor.state.push(holding);
                if actor.state.len() > STATE_MAX {
                    let oldest = actor.state.remove(0);
                    self.release(id, oldest);
                }
            }
            Step::Recall { index, into } => {
                if let Some(object) = actor.state.get(index).and_then(Holding::object) {
                    self.reference(id, object);
                    let holding = self.holding(object);
                    self.set(id, thread, into, holding);
                }
            }
            _ => self.cluster.tell(id, owner::Input::ExitActor),
        }
        Next::Go
    }
}

fn attempt(thread: &Thread) -> u32 {
    match thread.role {
        Role::Task { attempt, .. } => attempt,
        _ => u32::MAX,
    }
}
