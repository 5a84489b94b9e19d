//! What this process knows of objects, and for how long it must know it.
//!
//! A record lives while the program references the object (`local`), while unfinished tasks or other
//! values of this process need it (`uses`), or while other processes hold it through this one
//! (`held_for`). Lineage keeps the record of an object whose value may go (see [`super::lineage`]).

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::records::Kept;
use super::{Effect, Out, Owner};
use crate::ids::{ActorId, NodeId, ObjectId, ProcessId, TaskId};
use crate::machine::Time;
use crate::message::Message;
use crate::mutants::Mutant;
use crate::value::{Failure, Outcome, Payload, Value};

/// Why an evicted object has no value.
const DROPPED: &str = "its value was dropped while nobody needed it";

/// One object.
#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    pub(super) state: State,
    /// References in the program of this process.
    pub(super) local: u32,
    /// Unfinished tasks, values and streams of this process that need it.
    pub(super) uses: u32,
    /// Tasks of this process that were finished but may have to run again to rebuild something.
    pub(super) lineage: u32,
    /// Which attempt of its task made the value, if this process owns it.
    pub(super) attempt: u32,
    /// A later attempt has made it again, where the value was.
    pub(super) remade: bool,
    /// Tasks of this process that cannot start before it is ready.
    pub(super) waiting: Vec<TaskId>,
    pub(super) sharing: Option<Box<Sharing>>,
}

/// Whether there is an outcome.
#[derive(Clone, Debug, Default)]
pub(super) enum State {
    /// Borrowed, and nobody here asked for it yet.
    #[default]
    Unknown,
    /// Borrowed; the owner was asked.
    Fetching,
    /// Its task has not ended.
    Pending,
    /// Its task ended.
    Ready(Outcome),
    /// Nobody needed the value any more; its task can make it again.
    Evicted,
}

/// What other processes have to do with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Sharing {
    /// Who holds it through this process, by the number of grants; negative while a return
    /// overtook its grant.
    pub(super) held_for: Vec<(ProcessId, i64)>,
    /// Whose grants keep it alive for this process.
    pub(super) grants: Vec<(ProcessId, u32)>,
    /// The owner was asked to register this process and has not answered.
    pub(super) registering: bool,
    /// Who asked for the outcome.
    pub(super) fetchers: Vec<ProcessId>,
    /// Set while stewards have a record of it.
    pub(super) kept: Option<Box<Kept>>,
}

/// What [`Owner::lookup`] finds.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// No outcome yet, or its bytes are not here yet.
    NotReady,
    /// A value or exception whose bytes are in the message.
    Inline {
        /// The bytes.
        bytes: &'a bytes::Bytes,
        /// It is an exception.
        exception: bool,
    },
    /// A value or exception whose bytes are pinned in the store: [`Owner::open`] them.
    Stored {
        /// It is an exception.
        exception: bool,
    },
    /// There will be no value.
    Failed(&'a Failure),
}

impl Object {
    pub(super) fn sharing(&mut self) -> &mut Sharing {
        self.sharing.get_or_insert_with(Box::default)
    }

    /// Whether somebody may still want the value.
    pub(super) fn is_wanted(&self) -> bool {
        self.local > 0
            || self.uses > 0
            || self.sharing.as_ref().is_some_and(|s| s.held_for.iter().any(|(_, n)| *n != 0))
                && !Mutant::ForgetHolders.is_active()
    }
}

impl Owner {
    /// Whether, and where, the object's bytes are here.
    pub fn lookup(&self, object: ObjectId) -> Lookup<'_> {
        let Some(record) = self.objects.get(&object) else {
            return Lookup::NotReady;
        };
        let State::Ready(outcome) = &record.state else {
            return Lookup::NotReady;
        };
        let (value, exception) = match outcome {
            Outcome::Value(value) => (value, false),
            Outcome::Exception(value) => (value, true),
            Outcome::Failure(failure) => return Lookup::Failed(failure),
        };
        match &value.payload {
            Payload::Inline(bytes) => Lookup::Inline { bytes, exception },
            Payload::Stored { .. } if self.is_pinned(object) => Lookup::Stored { exception },
            Payload::Stored { .. } => Lookup::NotReady,
        }
    }

    /// Whether the object's task has ended, wherever the bytes are.
    pub fn has_outcome(&self, object: ObjectId) -> bool {
        self.objects.get(&object).is_some_and(|record| matches!(record.state, State::Ready(_)))
    }

    /// How many objects this process has a record of.
    pub fn object_count(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn outcome(&self, object: ObjectId) -> Option<&Outcome> {
        match &self.objects.get(&object)?.state {
            State::Ready(outcome) => Some(outcome),
            _ => None,
        }
    }

    pub(super) fn put(&mut self, object: ObjectId, value: Value) {
        self.use_all(&value.contains);
        self.own(object, State::Ready(Outcome::Value(value))).local += 1;
    }

    /// A new object of ours. A peer may have made up its id before: what counts that stays counted.
    pub(super) fn own(&mut self, object: ObjectId, state: State) -> &mut Object {
        let record = self.objects.entry(object).or_default();
        record.state = state;
        record
    }

    pub(super) fn add_reference(&mut self, object: ObjectId) {
        self.record(object).local += 1;
    }

    /// The record of `object`, made if there is none.
    pub(super) fn record(&mut self, object: ObjectId) -> &mut Object {
        let born_here = object.owner() == self.config.process;
        let inherited = !born_here && self.is_owned(object) && self.is_settled(object.owner());
        let gone = inherited.then(|| self.gone(object));
        self.objects.entry(object).or_insert_with(|| {
            // A reference to something of ours that is gone: nobody will ever make it. Of what is being
            // inherited somebody may still say what it is.
            let freed = || Outcome::Failure(Box::new(Failure::Freed { object }));
            let state = gone.or_else(|| born_here.then(freed)).map_or(State::Unknown, State::Ready);
            Object { state, ..Object::default() }
        })
    }

    pub(super) fn remove_reference(&mut self, object: ObjectId) {
        if let Some(record) = self.objects.get_mut(&object) {
            record.local = record.local.saturating_sub(1);
            if record.local == 0 {
                self.dropped.push(object);
            }
        }
    }

    pub(super) fn use_all(&mut self, objects: &[ObjectId]) {
        for object in objects {
            self.record(*object).uses += 1;
        }
    }

    pub(super) fn unuse(&mut self, object: ObjectId) {
        if let Some(record) = self.objects.get_mut(&object) {
            record.uses = record.uses.saturating_sub(1);
            if record.uses == 0 {
                self.dropped.push(object);
            }
        }
    }

    /// Forget objects that nobody holds any more, and what only they held.
    pub(super) fn settle_dropped(&mut self, now: Time, out: Out<'_>) {
        while let Some(object) = self.dropped.pop() {
            let Some(record) = self.objects.get(&object) else {
                continue;
            };
            if record.is_wanted() {
                continue;
            }
            if record.lineage > 0 {
                self.evict(object, out);
            } else if self.is_owned(object) {
                self.forget_owned(now, object, out);
            } else {
                self.forget_borrowed(object, out);
            }
        }
    }

    fn forget_owned(&mut self, now: Time, object: ObjectId, out: Out<'_>) {
        let Some(record) = self.objects.remove(&object) else {
            return;
        };
        let kept = record.sharing.and_then(|sharing| sharing.kept);
        self.object_forgotten(object, kept, out);
        if let State::Ready(outcome) = record.state {
            let node =
                super::copies::named_location(&outcome).filter(|_| record.remade || record.attempt > 0);
            self.release_last(object, outcome, out);
            if let Some(node) = node {
                // What is freed there may be an earlier attempt's, while the last one's is on its way from its
                // worker: said twice, it holds against that, too.
                let attempt = self.freed_attempt(object);
                self.send(ProcessId::daemon(node), Message::FreeObject { object, attempt }, out);
            }
        }
        let actor = ActorId(object.task);
        if object.index == 0 && self.actors.get(&actor).is_some_and(|calls| calls.created_here()) {
            self.actor_out_of_scope(now, actor, out);
        }
        self.forget_lineage(object.task, out);
    }

    /// The value of `object` is not needed here any more: free its bytes, release what it contains.
    pub(super) fn release_outcome(&mut self, object: ObjectId, outcome: Outcome, out: Out<'_>) {
        self.release_attempt(object, self.freed_attempt(object), outcome, out);
    }

    /// Up to which attempt's an object is freed: what has no task that could run again, for good.
    fn freed_attempt(&self, object: ObjectId) -> u32 {
        self.tasks.get(&object.task).map_or(u32::MAX, |task| task.attempt)
    }

    /// The same for the outcome that the record of an object had: all copies of it go.
    pub(super) fn release_last(&mut self, object: ObjectId, outcome: Outcome, out: Out<'_>) {
        if !self.copies.is_empty() {
            self.free_copies(object, self.freed_attempt(object), out);
        }
        self.release_outcome(object, outcome, out);
    }

    /// The value that an attempt made of `object` is not needed; what a later one makes may be.
    pub(super) fn release_attempt(&mut self, object: ObjectId, attempt: u32, outcome: Outcome, out: Out<'_>) {
        let (Outcome::Value(value) | Outcome::Exception(value)) = outcome else {
            return;
        };
        for inner in value.contains {
            self.unuse(inner);
        }
        if let Payload::Stored { node, .. } = value.payload {
            self.unmap(object, out);
            if self.is_owned(object) {
                self.send(ProcessId::daemon(node), Message::FreeObject { object, attempt }, out);
            }
        }
    }

    /// Somebody here waits for the object.
    pub(super) fn need(&mut self, now: Time, object: ObjectId, out: Out<'_>) {
        match &self.record(object).state {
            State::Unknown => self.fetch(now, object, None, out),
            State::Evicted => self.rebuild(now, object, DROPPED, out),
            State::Ready(Outcome::Value(value) | Outcome::Exception(value)) => {
                if matches!(value.payload, Payload::Stored { .. }) {
                    self.pin(now, object, out);
                }
            }
            State::Fetching | State::Pending | State::Ready(Outcome::Failure(_)) => {}
        }
    }

    /// Ask the owner of a borrowed object for its outcome.
    pub(super) fn fetch(&mut self, now: Time, object: ObjectId, missing_at: Option<NodeId>, out: Out<'_>) {
        let Some(owner) = self.owner_of(object) else {
            let gone = self.gone(object);
            self.resolve(now, object, gone, out);
            return;
        };
        if owner == self.me() {
            // It is being inherited: what it is will be known before long.
            return;
        }
        self.record(object).state = State::Fetching;
        self.watch(owner, out);
        self.send(owner, Message::FetchObject { object, missing_at }, out);
    }

    /// A borrower asks for an outcome.
    pub(super) fn fetch_received(
        &mut self,
        now: Time,
        from: ProcessId,
        object: ObjectId,
        missing_at: Option<NodeId>,
        out: Out<'_>,
    ) {
        if self.keep_early(from, object, Message::FetchObject { object, missing_at }, out) {
            return;
        }
        let known = self.objects.contains_key(&object) || !self.is_settled(object.owner());
        if !known || !self.is_owned(object) {
            let outcome = self.gone(object);
            self.send(from, Message::ObjectContent { object, outcome }, out);
            return;
        }
        if let Some(node) = missing_at {
            self.missing_at(now, object, node, out);
        }
        if let Some(outcome) = self.outcome_for(object, from.node()) {
            self.grant_contained(&outcome, from, out);
            self.send(from, Message::ObjectContent { object, outcome }, out);
            return;
        }
        match &self.record(object).state {
            State::Evicted => {
                self.record(object).sharing().fetchers.push(from);
                self.rebuild(now, object, DROPPED, out);
            }
            _ => self.record(object).sharing().fetchers.push(from),
        }
    }

    /// The owner answers a fetch.
    pub(super) fn content_received(
        &mut self,
        now: Time,
        from: ProcessId,
        object: ObjectId,
        outcome: Outcome,
        out: Out<'_>,
    ) {
        let wanted = self.objects.get(&object).is_some_and(|r| matches!(r.state, State::Fetching));
        self.receive_contained(&outcome, from, out);
        if wanted && (object.owner() == from || self.owner_of(object) == Some(from)) {
            self.resolve(now, object, outcome, out);
        } else {
            self.release_copy(outcome);
        }
    }

    /// The outcome of an object is known: tell everyone who waits. What the outcome contains is
    /// already counted as used.
    pub(super) fn resolve(&mut self, now: Time, object: ObjectId, outcome: Outcome, out: Out<'_>) {
        self.resolve_made(now, object, 0, outcome, out);
    }

    /// The same for what this attempt of a task of ours has made.
    pub(super) fn resolve_made(
        &mut self,
        now: Time,
        object: ObjectId,
        attempt: u32,
        outcome: Outcome,
        out: Out<'_>,
    ) {
        let Some(record) = self.objects.get_mut(&object) else {
            self.release_outcome(object, outcome, out);
            return;
        };
        let waiting = core::mem::take(&mut record.waiting);
        let is_kept = record.sharing.as_ref().is_some_and(|sharing| sharing.kept.is_some());
        let fetchers = record.sharing.as_mut().map(|s| core::mem::take(&mut s.fetchers)).unwrap_or_default();
        let earlier = core::mem::replace(&mut record.attempt, attempt);
        if let State::Ready(before) = core::mem::replace(&mut record.state, State::Ready(outcome)) {
            self.replaced(object, earlier, before, out);
        }
        for from in fetchers {
            if let Some(outcome) = self.outcome_for(object, from.node()) {
                self.grant_contained(&outcome, from, out);
                self.send(from, Message::ObjectContent { object, outcome }, out);
            }
        }
        if is_kept {
            self.outcome_changed(object, out);
        }
        out.push(Effect::Changed { object });
        self.argument_resolved(object, out);
        for task in waiting {
            self.dependency_ready(now, task, out);
        }
    }

    /// The object's task ran again for the sake of another result, and made this one anew. What an
    /// earlier attempt made goes, unless the task did worse this time.
    fn replaced(&mut self, object: ObjectId, mut attempt: u32, mut before: Outcome, out: Out<'_>) {
        let Some(record) = self.objects.get_mut(&object) else {
            return;
        };
        let State::Ready(outcome) = &mut record.state else {
            return;
        };
        if matches!((&before, &*outcome), (Outcome::Value(_), Outcome::Exception(_) | Outcome::Failure(_))) {
            core::mem::swap(outcome, &mut before);
            core::mem::swap(&mut record.attempt, &mut attempt);
        } else {
            self.free_copies(object, attempt, out);
        }
        self.release_attempt(object, attempt, before, out);
    }
}
