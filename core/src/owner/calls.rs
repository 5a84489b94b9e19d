//! Calls of actors, at the caller: one queue per actor keeps the order in which they were made.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;

use super::objects::State;
use super::questions::Question;
use super::tasks::{Stage, Task};
use super::{Out, Owner};
use crate::actor::{ActorSpec, ActorState};
use crate::ids::{ActorId, NodeId, ObjectId, ProcessId, RequestId, TaskId};
use crate::machine::Time;
use crate::message::Message;
use crate::mutants::Mutant;
use crate::task::{Callee, Dependency, Target};
use crate::value::{ActorDeath, Failure, Outcome, Value};
use crate::{Map, OrderedMap};

/// At most this many calls are on their way to one actor.
const IN_FLIGHT_MAX: usize = 100_000;

/// What a process knows of an actor that it calls or created.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    state: ActorState,
    incarnation: u32,
    restarts_left: i32,
    /// Numbers of calls that were not pushed, in order.
    queue: VecDeque<TaskId>,
    /// Numbers of calls that were pushed and have not ended; the numbers tell their order.
    in_flight: OrderedMap<TaskId, ()>,
    /// The process that `in_flight` went to.
    process: Option<ProcessId>,
    /// The link to `process` is closed.
    closed: bool,
    /// This process has killed it for good: what is called from then on waits for the news.
    killed: bool,
    /// Set at the creator: what the constructor's arguments hold while the actor may restart.
    creation: Option<Box<Creation>>,
}

/// A creator's part.
#[derive(Clone, Debug)]
struct Creation {
    /// Sent once the dependencies have outcomes.
    unsent: Option<(Box<ActorSpec>, Option<RequestId>)>,
    dependencies: Vec<ObjectId>,
    borrows: Vec<ObjectId>,
    detached: bool,
}

/// Which queued call to push next: the first, or, where order does not matter, the first that is
/// ready.
fn next_call(queue: &VecDeque<TaskId>, tasks: &Map<TaskId, Task>) -> Option<usize> {
    let is_ready = |id: &TaskId| tasks.get(id).is_some_and(|task| task.stage == Stage::Queued);
    let first = queue.front()?;
    if is_ready(first) {
        return Some(0);
    }
    let any_order = tasks.get(first).is_some_and(|task| match &task.submission.target {
        Target::Method { method, .. } => method.any_order,
        Target::Function(_) => false,
    });
    if any_order { queue.iter().position(is_ready) } else { None }
}

impl Calls {
    fn new(state: ActorState) -> Calls {
        Calls {
            state,
            incarnation: 0,
            restarts_left: 0,
            queue: VecDeque::new(),
            in_flight: OrderedMap::default(),
            process: None,
            closed: false,
            killed: false,
            creation: None,
        }
    }

    /// For [`Owner::inspect`].
    pub(super) fn view(&self, id: ActorId) -> super::ActorView {
        super::ActorView {
            id,
            state: format!("{:?}", self.state),
            incarnation: self.incarnation,
            queued: self.queue.len(),
            in_flight: self.in_flight.len(),
        }
    }

    /// For [`Owner::check`]: what is kept for the constructor.
    pub(super) fn held_by_creation(&self) -> impl Iterator<Item = &ObjectId> {
        self.creation.iter().flat_map(|creation| creation.dependencies.iter().chain(&creation.borrows))
    }

    /// For [`Owner::check`]: how often a call is queued.
    pub(super) fn queued(&self, task: TaskId) -> usize {
        self.queue.iter().filter(|queued| **queued == task).count()
    }

    /// Whether this process made the actor, and so counts its handles.
    pub(super) fn is_made_here(&self) -> bool {
        self.creation.is_some()
    }

    /// Whether the head has not been told of it yet, by this process, which makes it.
    fn is_unsent(&self) -> bool {
        self.creation.as_ref().is_some_and(|creation| creation.unsent.is_some())
    }

    pub(super) fn created_here(&self) -> bool {
        self.creation.as_ref().is_some_and(|creation| !creation.detached)
    }
}

impl Owner {
    pub(super) fn create_actor(
        &mut self,
        now: Time,
        spec: Box<ActorSpec>,
        dependencies: Vec<ObjectId>,
        request: Option<RequestId>,
        out: Out<'_>,
    ) {
        let actor = spec.id;
        self.use_all(&dependencies);
        self.use_all(&spec.borrows);
        self.own(actor.handle_object(), State::Pending).local += 1;
        for object in &dependencies {
            self.need(now, *object, out);
        }
        let mut calls = Calls::new(ActorState::Starting);
        calls.creation = Some(Box::new(Creation {
            borrows: spec.borrows.clone(),
            detached: spec.detached,
            unsent: Some((spec, request)),
            dependencies,
        }));
        self.actors.insert(actor, calls);
        self.send_creation(now, actor, out);
        self.tell_of_unmade(actor, out);
    }

    /// The creation of an actor still waits: others who get a handle must find that the head knows of it.
    fn tell_of_unmade(&self, actor: ActorId, out: Out<'_>) {
        if Mutant::QuietCreation.is_active() {
            return;
        }
        let creation = self.actors.get(&actor).and_then(|calls| calls.creation.as_ref());
        if let Some((spec, _)) = creation.and_then(|creation| creation.unsent.as_ref()) {
            let summary = Box::new(spec.summary(0, ActorState::Starting));
            self.send(ProcessId::HEAD, Message::ActorUnmade { summary }, out);
        }
    }

    /// Send the actor's description to the head once every dependency has an outcome.
    fn send_creation(&mut self, now: Time, actor: ActorId, out: Out<'_>) {
        let Some(creation) = self.actors.get(&actor).and_then(|calls| calls.creation.as_ref()) else {
            return;
        };
        if creation.unsent.is_none() {
            return;
        }
        let waiting: Vec<ObjectId> =
            creation.dependencies.iter().copied().filter(|o| !self.has_outcome(*o)).collect();
        if !waiting.is_empty() {
            // The creation's number never is a task's, so it can stand for the creation here.
            for object in waiting {
                let record = self.record(object);
                if !record.waiting.contains(&actor.0) {
                    record.waiting.push(actor.0);
                }
            }
            return;
        }
        let outcome = |object: &ObjectId| {
            self.outcome(*object).cloned().map(|outcome| Dependency { object: *object, outcome })
        };
        let dependencies: Vec<Dependency> = creation.dependencies.iter().filter_map(outcome).collect();
        let broken = super::arguments::failed(&dependencies);
        let Some(creation) = self.actors.get_mut(&actor).and_then(|c| c.creation.as_mut()) else {
            return;
        };
        let Some((mut spec, request)) = creation.unsent.take() else {
            return;
        };
        match broken {
            Some(cause) => self.never_made(now, &spec, cause, out),
            None => {
                spec.dependencies = dependencies;
                self.lend(&spec.borrows, ProcessId::HEAD, out);
                for dependency in &spec.dependencies {
                    self.lend(super::borrowing::contained(&dependency.outcome), ProcessId::HEAD, out);
                }
                match request {
                    Some(request) => self.ask(request, Question::CreateActor(spec), out),
                    None => self.send(ProcessId::HEAD, Message::CreateActor { spec, request }, out),
                }
                self.send(ProcessId::HEAD, Message::SubscribeActor { actor }, out);
            }
        }
    }

    /// A dependency of something with this number has an outcome; it may be an actor's creation.
    pub(super) fn creation_dependency_ready(&mut self, now: Time, id: TaskId, out: Out<'_>) {
        self.send_creation(now, ActorId(id), out);
    }

    /// The program got a handle from somewhere.
    pub(super) fn watch_actor(&mut self, actor: ActorId, out: Out<'_>) {
        if !self.actors.contains_key(&actor) {
            self.actors.insert(actor, Calls::new(ActorState::Starting));
            self.send(ProcessId::HEAD, Message::SubscribeActor { actor }, out);
        }
    }

    /// The program kills it. What was called before a kill for good may still be answered, what is
    /// called after it is not. An actor whose creation still waits for its arguments is not made any more;
    /// a kill that lets it start again means nothing to it.
    pub(super) fn kill_actor(&mut self, now: Time, actor: ActorId, no_restart: bool, out: Out<'_>) {
        self.watch_actor(actor, out);
        let calls = &mut self.actors[&actor];
        if calls.is_unsent() {
            if no_restart {
                self.take_back_creation(now, actor, ActorDeath::Killed, out);
            }
            return;
        }
        calls.killed |= no_restart;
        self.send(ProcessId::HEAD, Message::KillActor { actor, no_restart }, out);
    }

    /// How many calls of the actor this process has made that have not ended.
    pub fn pending_calls(&self, actor: ActorId) -> usize {
        self.actors.get(&actor).map_or(0, |calls| calls.queue.len() + calls.in_flight.len())
    }

    pub(super) fn queue_call(&mut self, actor: ActorId, id: TaskId, out: Out<'_>) {
        self.watch_actor(actor, out);
        // The call holds the actor: its handle may go while the call is under way.
        self.record(actor.handle_object()).uses += 1;
        self.actors[&actor].queue.push_back(id);
    }

    pub(super) fn queue_call_again(&mut self, actor: ActorId, id: TaskId) {
        let Some(calls) = self.actors.get_mut(&actor) else {
            return;
        };
        calls.in_flight.swap_remove(&id);
        let at = calls
            .queue
            .iter()
            .position(|queued| *queued > id && !Mutant::RetryOutOfOrder.is_active())
            .unwrap_or(calls.queue.len());
        calls.queue.insert(at, id);
    }

    pub(super) fn unqueue_call(&mut self, actor: ActorId, id: TaskId) {
        if let Some(calls) = self.actors.get_mut(&actor) {
            calls.queue.retain(|queued| *queued != id);
        }
    }

    /// The call has its outcome.
    pub(super) fn call_ended(&mut self, actor: ActorId, id: TaskId) {
        if let Some(calls) = self.actors.get_mut(&actor) {
            calls.in_flight.swap_remove(&id);
        }
        self.unuse(actor.handle_object());
    }

    /// Push calls, in order, until one is not ready.
    pub(super) fn push_calls(&mut self, now: Time, actor: ActorId, out: Out<'_>) {
        if let Some(calls) = self.actors.get(&actor)
            && let ActorState::Dead { cause } = &calls.state
        {
            let cause = cause.clone();
            self.fail_queued(now, actor, &cause, out);
            return;
        }
        loop {
            let Some(calls) = self.actors.get(&actor) else {
                return;
            };
            let ActorState::Alive { process } = calls.state else {
                return;
            };
            if calls.closed || calls.killed || calls.in_flight.len() >= IN_FLIGHT_MAX {
                return;
            }
            if self.is_dead(process) {
                // The head will tell where the actor is next.
                return;
            }
            if calls.process.is_some_and(|earlier| earlier != process) {
                // What is in flight to the earlier process is settled when its link is closed.
                return;
            }
            let Some(at) = next_call(&calls.queue, &self.tasks) else {
                return;
            };
            let id = calls.queue[at];
            if self.lacks_dependency(id) {
                self.await_dependencies(now, id, out);
                continue;
            }
            let Some(calls) = self.actors.get_mut(&actor) else {
                return;
            };
            calls.queue.remove(at);
            calls.in_flight.insert(id, ());
            calls.process = Some(process);
            let incarnation = calls.incarnation;
            self.push_call(actor, incarnation, process, id, out);
        }
    }

    fn push_call(&mut self, actor: ActorId, incarnation: u32, process: ProcessId, id: TaskId, out: Out<'_>) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let Target::Method { method, .. } = &task.submission.target else {
            return;
        };
        let callee =
            Callee::Method { actor, incarnation, name: method.name.clone(), group: method.group.clone() };
        if !self.has_link(process) {
            // Without a link, news of its death is what settles the calls.
            self.watch(process, out);
        }
        if let Some(assignment) = self.assignment(id, process.node(), callee) {
            self.pushed(id, process, assignment, out);
        }
    }

    /// The head says where the actor is in its life.
    pub(super) fn actor_update(
        &mut self,
        now: Time,
        actor: ActorId,
        incarnation: u32,
        state: ActorState,
        restarts_left: i32,
        out: Out<'_>,
    ) {
        let Some(calls) = self.actors.get_mut(&actor) else {
            return;
        };
        let dead = matches!(calls.state, ActorState::Dead { .. });
        if dead || incarnation < calls.incarnation {
            return;
        }
        calls.incarnation = incarnation;
        calls.restarts_left = restarts_left;
        calls.state = state;
        self.settle_actor(now, actor, out);
    }

    /// The link to a process is closed; was it an actor's?
    pub(super) fn actor_closed(&mut self, now: Time, peer: ProcessId, out: Out<'_>) {
        let of_peer = |(actor, calls): (&ActorId, &Calls)| (calls.process == Some(peer)).then_some(*actor);
        let actors: Vec<ActorId> = self.actors.iter().filter_map(of_peer).collect();
        for actor in actors {
            self.actors[&actor].closed = true;
            self.settle_actor(now, actor, out);
        }
    }

    /// Whether calls are under way to an actor in this process.
    pub(super) fn is_called(&self, process: ProcessId) -> bool {
        let under_way =
            |calls: &Calls| calls.process == Some(process) && !calls.closed && !calls.in_flight.is_empty();
        self.actors.values().any(under_way)
    }

    /// A node died, and its processes with it: nothing more comes from the actors there.
    pub(super) fn actors_of_dead_node(&mut self, now: Time, node: NodeId, out: Out<'_>) {
        let processes = self.actors.values().filter_map(|calls| calls.process);
        let processes: Vec<ProcessId> = processes.filter(|process| process.node() == node).collect();
        for process in processes {
            self.actor_closed(now, process, out);
        }
    }

    /// Another head acts: tell it of actors that are not made yet, and subscribe to the others again, but for
    /// dead ones.
    pub(super) fn subscribe_actors(&self, out: Out<'_>) {
        for (actor, calls) in &self.actors {
            if calls.is_unsent() {
                self.tell_of_unmade(*actor, out);
            } else if !matches!(calls.state, ActorState::Dead { .. }) {
                self.send(ProcessId::HEAD, Message::SubscribeActor { actor: *actor }, out);
            }
        }
    }

    /// Act on the actor's state; what was in flight to an earlier process is settled first, once
    /// everything that process had said is here.
    fn settle_actor(&mut self, now: Time, actor: ActorId, out: Out<'_>) {
        let Some(calls) = self.actors.get_mut(&actor) else {
            return;
        };
        let moved = match (&calls.state, calls.process) {
            (ActorState::Alive { process }, Some(earlier)) => *process != earlier,
            (_, Some(_)) => true,
            (_, None) => false,
        };
        if moved {
            if !calls.closed && !calls.in_flight.is_empty() {
                return;
            }
            calls.process = None;
            calls.closed = false;
            let mut lost: Vec<TaskId> = calls.in_flight.keys().copied().collect();
            lost.sort_unstable();
            calls.in_flight.clear();
            for id in lost {
                self.call_lost(now, actor, id, out);
            }
        }
        let Some(calls) = self.actors.get(&actor) else {
            return;
        };
        match calls.state.clone() {
            ActorState::Alive { .. } => {
                self.actor_ready(now, actor, Outcome::Value(Value::inline(b"".as_slice())), out);
                self.push_calls(now, actor, out);
            }
            ActorState::Dead { cause } => {
                let failure = Failure::ActorDied { actor, cause: cause.clone() };
                self.actor_ready(now, actor, Outcome::Failure(Box::new(failure)), out);
                self.release_creation(actor);
                self.fail_queued(now, actor, &cause, out);
            }
            ActorState::Starting | ActorState::Restarting => {}
        }
    }

    /// The handle object of an actor stands for "its constructor has returned".
    fn actor_ready(&mut self, now: Time, actor: ActorId, outcome: Outcome, out: Out<'_>) {
        let object = actor.handle_object();
        if self.objects.contains_key(&object) && !self.has_outcome(object) {
            self.resolve(now, object, outcome, out);
        }
    }

    fn release_creation(&mut self, actor: ActorId) {
        let Some(creation) = self.actors.get_mut(&actor).and_then(|calls| calls.creation.as_mut()) else {
            return;
        };
        let held: Vec<ObjectId> = creation.dependencies.drain(..).chain(creation.borrows.drain(..)).collect();
        for object in held {
            self.unuse(object);
        }
    }

    /// A call was on its way or running when the actor's process died.
    fn call_lost(&mut self, now: Time, actor: ActorId, id: TaskId, out: Out<'_>) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let failure = match &self.actors[&actor].state {
            ActorState::Dead { cause } => Failure::ActorDied { actor, cause: cause.clone() },
            _ if task.cancelled => Failure::Cancelled,
            _ if task.retries_left != 0 => {
                if task.retries_left > 0 {
                    task.retries_left -= 1;
                }
                task.attempt += 1;
                task.stage = Stage::Queued;
                self.task_changed(id, out);
                self.queue_call_again(actor, id);
                return;
            }
            _ => {
                let detail = format!(
                    "its process died while the call was under way; the actor restarts ({} restarts left)",
                    self.actors[&actor].restarts_left
                );
                Failure::ActorUnavailable { actor, detail }
            }
        };
        self.fail(now, id, Outcome::Failure(Box::new(failure)), out);
    }

    fn fail_queued(&mut self, now: Time, actor: ActorId, cause: &ActorDeath, out: Out<'_>) {
        let Some(calls) = self.actors.get_mut(&actor) else {
            return;
        };
        for id in core::mem::take(&mut calls.queue) {
            // A call that waited for the result of one before it has ended with that one.
            if self.tasks.get(&id).is_none_or(|task| task.stage == Stage::Done) {
                continue;
            }
            let failure = Failure::ActorDied { actor, cause: cause.clone() };
            self.fail(now, id, Outcome::Failure(Box::new(failure)), out);
        }
    }

    /// The last handle of an actor that this process created is gone.
    pub(super) fn actor_out_of_scope(&mut self, now: Time, actor: ActorId, out: Out<'_>) {
        let Some(calls) = self.actors.get_mut(&actor) else {
            return;
        };
        if !calls.is_unsent() {
            self.send(ProcessId::HEAD, Message::ActorOutOfScope { actor }, out);
        } else if !Mutant::ForgetUnsent.is_active() {
            self.take_back_creation(now, actor, ActorDeath::OutOfScope, out);
        }
    }

    /// It ends before the head was told to make it.
    fn take_back_creation(&mut self, now: Time, actor: ActorId, cause: ActorDeath, out: Out<'_>) {
        let creation = self.actors.get_mut(&actor).and_then(|calls| calls.creation.as_mut());
        if let Some((spec, _)) = creation.and_then(|creation| creation.unsent.take()) {
            self.never_made(now, &spec, cause, out);
        }
    }

    /// What waits for an actor ends, here and where others have a handle.
    fn never_made(&mut self, now: Time, spec: &ActorSpec, cause: ActorDeath, out: Out<'_>) {
        let dead = ActorState::Dead { cause };
        let summary = Box::new(spec.summary(0, dead.clone()));
        self.send(ProcessId::HEAD, Message::ActorUnmade { summary }, out);
        self.actor_update(now, spec.id, 0, dead, 0, out);
    }

    /// Whether the object is the result of an actor's call that this process made.
    pub fn is_call(&self, object: ObjectId) -> bool {
        let task = self.tasks.get(&object.task);
        task.is_some_and(|task| task.actor().is_some())
    }

    /// Whether the actor is known to be dead for good, and why.
    pub fn actor_death(&self, actor: ActorId) -> Option<&ActorDeath> {
        match &self.actors.get(&actor)?.state {
            ActorState::Dead { cause } => Some(cause),
            _ => None,
        }
    }
}
