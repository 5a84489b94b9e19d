//! Ownership survives its owner: what the steward of a node does.
//!
//! A steward is an owner that runs no program. It keeps the records that owners have sent it
//! ([`super::records`]) on *shelves*, one for each owner, and holds, like any borrower, the references in
//! them that others own.
//!
//! **Heirs.** When a process dies, the steward of its node is its heir. When a node dies, the head
//! names the node whose steward is the heir of all its processes, and of everything that its steward had
//! inherited; so who inherits can die, too, at any time. Everybody who hears of a death knows the heir
//! ([`super::heirs`]), registers with it what it holds, and asks it what it had asked the dead. Stewards
//! with records of what a dead node's processes owned send them to the heir.
//!
//! **Adoption.** The heir makes the records its own: it is the owner now, with outcomes, copies and tasks. A
//! task that had not ended has one retry less and is run again when somebody asks for a result, or when
//! all holders have registered and a result is still held: its worker ends with the dead owner, though
//! it may still be ending then. Records may come from several stewards, and some may lag behind: an
//! outcome counts more than none, and a later attempt more than an earlier one. Whether the bytes of a
//! stored object are left anywhere, the nodes say ([`Message::CopyAdded`]).
//!
//! **Until all have registered** ([`super::mourning`]) the heir keeps everything, and of objects
//! that it does not know it keeps the questions: a record may still come. Then it drops what nobody
//! holds, and what nobody knows ends in `OwnerDied`.
//!
//! A job's end is the end of its records, also of those that were adopted. Of processes that outlive their
//! job, detached actors, nothing is adopted.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

use super::borrowing::contained;
use super::copies::{name_location, named_location};
use super::mourning::Mourning;
use super::objects::State;
use super::tasks::{Stage, Task};
use super::{Out, Owner};
use crate::ids::{FunctionId, JobId, NodeId, ObjectId, ProcessId, TaskId};
use crate::machine::Time;
use crate::message::Message;
use crate::record::{Record, Subject};
use crate::task::{Definition, Target};
use crate::value::{Failure, Outcome};

/// So many questions about objects of processes that this steward believes alive are kept.
const EARLY_MAX: usize = 100_000;

/// A steward's part of an owner.
#[derive(Clone, Debug, Default)]
pub(super) struct Steward {
    /// By the process that was born as owner.
    shelves: BTreeMap<ProcessId, Shelf>,
    /// By owner: who may hold references from it, here, and which other nodes' stewards know of more.
    pub(super) holders: BTreeMap<ProcessId, BTreeSet<ProcessId>>,
    pub(super) mournings: BTreeMap<ProcessId, Mourning>,
    /// The jobs of those whose records came here.
    jobs: BTreeMap<ProcessId, JobId>,
    ended: BTreeSet<JobId>,
    codes: BTreeMap<JobId, BTreeMap<FunctionId, Bytes>>,
    /// Questions from those who heard of a death before this steward did.
    early: Vec<(ProcessId, Message)>,
    pub(super) requests: u64,
}

/// The records of one owner.
#[derive(Clone, Debug, Default)]
struct Shelf {
    objects: BTreeMap<ObjectId, Shelved>,
    tasks: BTreeMap<TaskId, Shelved>,
}

#[derive(Clone, Debug)]
struct Shelved {
    /// Who sent it.
    keeper: ProcessId,
    record: Record,
}

/// Keep what this keeper has sent; gives the rest.
fn keep_of<K: Ord>(
    keeper: ProcessId,
    shelved: &mut BTreeMap<K, Shelved>,
) -> impl Iterator<Item = Shelved> + use<K> {
    let (kept, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
        core::mem::take(shelved).into_iter().partition(|(_, it)| it.keeper == keeper);
    *shelved = kept;
    rest.into_values()
}

impl Owner {
    /// The steward's part; only where there is one.
    pub(super) fn steward(&mut self) -> Option<&mut Steward> {
        self.steward.as_deref_mut()
    }

    pub(super) fn job_of(&self, task: TaskId) -> JobId {
        let inherited = self.steward.as_ref().and_then(|steward| steward.jobs.get(&task.owner));
        inherited.copied().unwrap_or(self.config.job)
    }

    /// Whether this steward keeps records of what processes of that node own.
    pub fn keeps_records_of(&self, node: NodeId) -> bool {
        self.steward.iter().any(|steward| steward.shelves.keys().any(|origin| origin.node() == node))
    }

    /// How many records this steward keeps for others, for [`Owner::inspect`].
    pub(super) fn shelved(&self) -> usize {
        let shelves = self.steward.iter().flat_map(|steward| steward.shelves.values());
        shelves.map(|shelf| shelf.objects.len() + shelf.tasks.len()).sum()
    }

    /// An owner, or a steward to the heir, sends records.
    pub(super) fn records_received(
        &mut self,
        now: Time,
        from: ProcessId,
        records: Vec<Record>,
        out: Out<'_>,
    ) {
        if self.steward.is_none() {
            return;
        }
        self.watch(from, out);
        let mut inherited = BTreeSet::new();
        for mut record in records {
            for object in &record.lent {
                self.record(*object).uses += 1;
                self.receive_grant(*object, from, out);
            }
            self.complete_code(&mut record);
            let origin = record.task().owner;
            let owned = self.present(origin) == Some(self.me());
            let Some(steward) = self.steward() else { return };
            steward.jobs.insert(origin, record.job);
            if steward.ended.contains(&record.job) && owned {
                self.release_record(record);
                continue;
            }
            let shelf = steward.shelves.entry(origin).or_default();
            let surplus = shelf.put(Shelved { keeper: from, record }, owned);
            if let Some(record) = surplus {
                self.release_record(record);
            }
            if owned {
                inherited.insert(origin);
            }
        }
        for origin in inherited {
            self.adopt(now, origin, out);
        }
    }

    /// Fill in the code of a function that came with an earlier record.
    fn complete_code(&mut self, record: &mut Record) {
        let Some(steward) = self.steward() else { return };
        let Subject::Task { submission, .. } = &mut record.subject else { return };
        let Target::Function(definition) = &mut submission.target else { return };
        let codes = steward.codes.entry(record.job).or_default();
        if definition.code.is_empty() {
            let code = codes.get(&definition.function).cloned().unwrap_or_default();
            *definition = Arc::new(Definition { code, ..(**definition).clone() });
        } else {
            codes.insert(definition.function, definition.code.clone());
        }
    }

    /// A record that came is not needed, or not any more.
    fn release_record(&mut self, record: Record) {
        for object in record.lent {
            self.unuse(object);
        }
    }

    pub(super) fn records_dropped(&mut self, from: ProcessId, objects: &[ObjectId], tasks: &[TaskId]) {
        let Some(steward) = self.steward() else { return };
        let mut dropped = Vec::new();
        for object in objects {
            if let Some(shelf) = steward.shelves.get_mut(&object.owner())
                && shelf.objects.get(object).is_some_and(|shelved| shelved.keeper == from)
            {
                dropped.extend(shelf.objects.remove(object));
            }
        }
        for task in tasks {
            if let Some(shelf) = steward.shelves.get_mut(&task.owner)
                && shelf.tasks.get(task).is_some_and(|shelved| shelved.keeper == from)
            {
                dropped.extend(shelf.tasks.remove(task));
            }
        }
        steward.shelves.retain(|_, shelf| !shelf.is_empty());
        for shelved in dropped {
            self.release_record(shelved.record);
        }
    }

    pub(super) fn holder_received(&mut self, from: ProcessId, holder: ProcessId, out: Out<'_>) {
        if let Some(steward) = self.steward() {
            steward.holders.entry(from).or_default().insert(holder);
            self.watch(from, out);
        }
    }

    /// Keep a question about an object whose owner this steward believes alive: somebody who asks may
    /// know better, and then the news is on its way. Says whether it was kept.
    pub(super) fn keep_early(
        &mut self,
        from: ProcessId,
        object: ObjectId,
        message: Message,
        out: Out<'_>,
    ) -> bool {
        if self.steward.is_none() || self.is_owned(object) {
            return false;
        }
        self.watch(object.owner(), out);
        if let Some(steward) = self.steward().filter(|steward| steward.early.len() < EARLY_MAX) {
            steward.early.push((from, message));
        }
        true
    }

    /// After news of a death: answer what was asked before it came.
    pub(super) fn answer_early(&mut self, now: Time, out: Out<'_>) {
        let Some(steward) = self.steward() else { return };
        for (from, message) in core::mem::take(&mut steward.early) {
            if !self.is_dead(from) {
                self.received(now, from, message, out);
            }
        }
    }

    /// The owners of these shelves are dead, and somebody inherits: this steward, or another one.
    pub(super) fn pass_on(&mut self, now: Time, of: ProcessId, out: Out<'_>) {
        let Some(steward) = &self.steward else { return };
        let origins: Vec<ProcessId> = steward.shelves.keys().copied().collect();
        for origin in origins {
            if !self.inherits_through(origin, of) {
                continue;
            }
            match self.present(origin) {
                Some(heir) if heir == self.me() => self.adopt(now, origin, out),
                // When a process dies its own steward has everything.
                Some(heir) if of.is_daemon() => self.offer(origin, heir.node(), out),
                _ => {}
            }
        }
    }

    /// Send the heir what this steward has.
    fn offer(&mut self, origin: ProcessId, heir: NodeId, out: Out<'_>) {
        let Some(shelf) = self.steward.as_ref().and_then(|steward| steward.shelves.get(&origin)) else {
            return;
        };
        let shelved = shelf.tasks.values().chain(shelf.objects.values());
        let mut records: Vec<Record> = shelved.map(|shelved| shelved.record.clone()).collect();
        for record in &mut records {
            for object in &record.lent {
                self.count_grant(*object, ProcessId::steward(heir), out);
            }
            self.leave_out_code(record, heir);
        }
        self.send_records(BTreeMap::from([(heir, records)]), out);
    }

    /// Make the records of a dead owner our own, as far as they say enough.
    fn adopt(&mut self, now: Time, origin: ProcessId, out: Out<'_>) {
        let Some(shelf) = self.steward().and_then(|steward| steward.shelves.remove(&origin)) else {
            return;
        };
        let job_ended =
            |steward: &Steward| steward.jobs.get(&origin).is_some_and(|job| steward.ended.contains(job));
        if self.steward.as_deref().is_some_and(job_ended) {
            for shelved in shelf.tasks.into_values().chain(shelf.objects.into_values()) {
                self.release_record(shelved.record);
            }
            return;
        }
        for shelved in shelf.tasks.into_values() {
            self.adopt_task(shelved.record);
        }
        let mut left = Shelf::default();
        for (object, shelved) in shelf.objects {
            if let Some(record) = self.adopt_object(now, shelved.record, out) {
                left.objects.insert(object, Shelved { keeper: shelved.keeper, record });
            }
        }
        if let Some(steward) = self.steward().filter(|_| !left.is_empty()) {
            steward.shelves.insert(origin, left);
        }
    }

    /// A task of a dead owner becomes one that may run again, like those kept for lineage.
    fn adopt_task(&mut self, record: Record) {
        let Record { job, attempt, subject, lent } = record;
        let Subject::Task { submission, retries_left } = subject else { return };
        let id = submission.id;
        if let Some(task) = self.tasks.get_mut(&id) {
            if task.stage == Stage::Done && attempt > task.attempt {
                (task.attempt, task.retries_left) = (attempt, retries_left);
            }
        } else {
            let submission = *submission;
            let task = Task::adopted(submission, job, attempt, retries_left);
            self.lineage_bytes += task.lineage_bytes();
            for object in Self::references_of(&task) {
                self.record(object).lineage += 1;
            }
            self.tasks.insert(id, task);
        }
        for object in lent {
            self.unuse(object);
        }
    }

    /// An object of a dead owner becomes ours. Returns the record if it does not say enough yet.
    fn adopt_object(&mut self, now: Time, record: Record, out: Out<'_>) -> Option<Record> {
        let Record { attempt, subject: Subject::Object { object, outcome }, lent, .. } = &record else {
            return None;
        };
        let (object, attempt) = (*object, *attempt);
        let outcome = outcome.clone().and_then(|outcome| self.outcome_left(object, attempt, outcome));
        if outcome.is_none() && !self.tasks.contains_key(&object.task) {
            return Some(record);
        }
        let lent = lent.clone();
        self.hold_while_mourning(object);
        let entry = self.record(object);
        if let Some(sharing) = &mut entry.sharing {
            sharing.registering = false;
        }
        match (&entry.state, outcome) {
            (State::Ready(_), _) | (State::Pending | State::Evicted, None) => {}
            (_, Some(outcome)) => {
                self.use_all(contained(&outcome));
                self.resolve_made(now, object, attempt, outcome, out);
            }
            (State::Unknown | State::Fetching, None) => {
                entry.attempt = attempt;
                entry.state = State::Evicted;
                let asked = entry.sharing.as_ref().is_some_and(|sharing| !sharing.fetchers.is_empty());
                if asked || !entry.waiting.is_empty() {
                    self.rebuild(now, object, ORPHANED, out);
                }
            }
        }
        for inner in lent {
            self.unuse(inner);
        }
        self.lend_to_holders(object, out);
        self.dropped.push(object);
        None
    }

    /// The outcome, if its bytes are in it or on a living node.
    fn outcome_left(&self, object: ObjectId, attempt: u32, mut outcome: Outcome) -> Option<Outcome> {
        if named_location(&outcome).is_some_and(|node| self.is_dead_node(node)) {
            name_location(&mut outcome, self.copy_known(object, attempt)?);
        }
        Some(outcome)
    }

    /// More is known of an object whose record did not say enough.
    pub(super) fn adopt_again(&mut self, object: ObjectId, out: Out<'_>) {
        let origin = object.owner();
        if self.present(origin) != Some(self.me()) {
            return;
        }
        let Some(shelf) = self.steward().and_then(|steward| steward.shelves.get_mut(&origin)) else {
            return;
        };
        let Some(Shelved { keeper, record }) = shelf.objects.remove(&object) else { return };
        if let Some(record) = self.adopt_object(self.now, record, out)
            && let Some(steward) = self.steward()
        {
            let shelf = steward.shelves.entry(origin).or_default();
            shelf.objects.insert(object, Shelved { keeper, record });
        } else if let Some(steward) = self.steward() {
            steward.shelves.retain(|_, shelf| !shelf.is_empty());
        }
    }

    /// Those who have registered before the record came: their stewards get it, too.
    fn lend_to_holders(&mut self, object: ObjectId, out: Out<'_>) {
        let held_for = self.objects.get(&object).and_then(|record| record.sharing.as_ref());
        let held_for = held_for.map(|sharing| sharing.held_for.as_slice()).unwrap_or_default();
        for holder in held_for.iter().map(|(holder, _)| *holder).collect::<Vec<_>>() {
            self.lend(&[object], holder, out);
        }
    }

    /// Everybody has registered: what is still held and has no outcome is made, and what nobody knows
    /// will not be.
    pub(super) fn conclude(&mut self, now: Time, of: ProcessId, out: Out<'_>) {
        let Some(steward) = &mut self.steward else { return };
        let origins: Vec<ProcessId> = steward.shelves.keys().copied().collect();
        for origin in origins {
            if !self.inherits_through(origin, of) || self.present(origin) != Some(self.me()) {
                continue;
            }
            let shelf = self.steward().and_then(|steward| steward.shelves.remove(&origin));
            for shelved in shelf.into_iter().flat_map(|shelf| shelf.objects.into_values()) {
                self.give_up(now, shelved.record, out);
            }
        }
        self.settle_dropped(now, out);
        let concerned =
            |object: &&ObjectId| self.is_owned(**object) && self.inherits_through(object.owner(), of);
        let mut objects: Vec<ObjectId> = self.objects.keys().filter(concerned).copied().collect();
        objects.sort_unstable();
        for object in objects {
            match self.objects.get(&object).map(|record| (&record.state, record.is_wanted())) {
                Some((State::Unknown, _)) => {
                    let gone = self.gone(object);
                    self.resolve(now, object, gone, out);
                    self.dropped.push(object);
                }
                Some((State::Evicted, true)) => self.rebuild(now, object, ORPHANED, out),
                _ => {}
            }
        }
    }

    /// An object of a dead owner that can neither be read nor made.
    fn give_up(&mut self, now: Time, record: Record, out: Out<'_>) {
        let Subject::Object { object, outcome } = &record.subject else { return };
        let object = *object;
        let unknown = self.objects.get(&object).is_some_and(|record| matches!(record.state, State::Unknown));
        if unknown {
            let failure = match outcome.as_ref().and_then(named_location) {
                Some(node) => {
                    let detail = format!("its only copy was on node {}, which died with its owner", node.0);
                    Outcome::Failure(Box::new(Failure::ObjectLost { object, detail }))
                }
                None => self.gone(object),
            };
            self.resolve(now, object, failure, out);
            self.dropped.push(object);
        }
        self.release_record(record);
    }

    /// The heir has said what it keeps: the other records of the dead are void.
    pub(super) fn clear_shelves(&mut self, of: ProcessId, heir: ProcessId) {
        let Some(steward) = &self.steward else { return };
        let origins = steward.shelves.keys().copied();
        let origins: Vec<ProcessId> = origins.filter(|origin| self.inherits_through(*origin, of)).collect();
        let mut dropped: Vec<Shelved> = Vec::new();
        for origin in origins {
            if let Some(shelf) = self.steward().and_then(|steward| steward.shelves.get_mut(&origin)) {
                dropped.extend(keep_of(heir, &mut shelf.objects));
                dropped.extend(keep_of(heir, &mut shelf.tasks));
            }
        }
        if let Some(steward) = self.steward() {
            steward.shelves.retain(|_, shelf| !shelf.is_empty());
        }
        for shelved in dropped {
            self.release_record(shelved.record);
        }
    }

    /// The job has ended: nothing of it is kept, but for those of its processes that go on.
    pub(super) fn job_ended(&mut self, now: Time, job: JobId, out: Out<'_>) {
        let Some(steward) = self.steward() else { return };
        steward.ended.insert(job);
        steward.codes.remove(&job);
        let mut origins: Vec<ProcessId> =
            steward.jobs.iter().filter(|(_, of)| **of == job).map(|(origin, _)| *origin).collect();
        origins.retain(|origin| self.present(*origin) == Some(self.me()));
        for origin in origins {
            self.disown(now, origin, out);
            if let Some(steward) = self.steward() {
                steward.jobs.remove(&origin);
            }
        }
    }

    /// Nothing that a dead process owned is kept any more.
    fn disown(&mut self, now: Time, origin: ProcessId, out: Out<'_>) {
        self.adopt(now, origin, out);
        let mut tasks: Vec<TaskId> = self.tasks.keys().filter(|task| task.owner == origin).copied().collect();
        tasks.sort_unstable();
        for task in tasks {
            self.unqueue_task(task);
            let failure = self.gone(task.object(0));
            let Some(stage) = self.tasks.get(&task).map(|task| &task.stage) else { continue };
            if let Stage::Pushed { to } = *stage {
                // Nobody will ask for its end, and its worker must not be kept.
                self.send(to, Message::CancelTask { task, force: true, recursive: true }, out);
            }
            if self.tasks.get(&task).is_some_and(|task| task.stage != Stage::Done) {
                self.fail(now, task, failure, out);
            }
        }
        let mut objects: Vec<ObjectId> =
            self.objects.keys().filter(|object| object.owner() == origin).copied().collect();
        objects.sort_unstable();
        for object in objects {
            let Some(record) = self.objects.get_mut(&object) else { continue };
            (record.local, record.uses, record.lineage) = (0, 0, 0);
            if let Some(sharing) = &mut record.sharing {
                sharing.held_for.clear();
            }
            let gone = self.gone(object);
            if !self.has_outcome(object) {
                self.resolve(now, object, gone, out);
            }
            self.dropped.push(object);
        }
        self.settle_dropped(now, out);
    }
}

/// Why an object of a dead owner has no value.
const ORPHANED: &str = "its owner died before it was made, or its last copy is gone";

impl Steward {
    /// For [`Owner::check`]: what records refer to, and what is held until all have registered.
    pub(super) fn held(&self) -> impl Iterator<Item = &ObjectId> {
        let shelved =
            self.shelves.values().flat_map(|shelf| shelf.objects.values().chain(shelf.tasks.values()));
        let lent = shelved.flat_map(|shelved| &shelved.record.lent);
        lent.chain(self.mournings.values().flat_map(Mourning::held))
    }

    /// Whether there are records of what this process owned.
    pub(super) fn has_shelf(&self, origin: ProcessId) -> bool {
        self.shelves.contains_key(&origin)
    }
}

impl Shelf {
    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.tasks.is_empty()
    }

    /// Keep a record. Returns one that is not needed: the one before, or, of two that inheritance brings
    /// together, the one that says less.
    fn put(&mut self, shelved: Shelved, inherited: bool) -> Option<Record> {
        fn is_worse(new: &Record, old: &Record) -> bool {
            match (&new.subject, &old.subject) {
                (Subject::Object { outcome: None, .. }, Subject::Object { outcome: Some(_), .. }) => true,
                (Subject::Object { outcome: Some(_), .. }, Subject::Object { outcome: None, .. }) => false,
                _ => new.attempt < old.attempt,
            }
        }
        fn keep<K: Ord>(
            at: &mut BTreeMap<K, Shelved>,
            key: K,
            new: Shelved,
            inherited: bool,
        ) -> Option<Record> {
            if inherited && at.get(&key).is_some_and(|old| is_worse(&new.record, &old.record)) {
                return Some(new.record);
            }
            at.insert(key, new).map(|old| old.record)
        }
        match &shelved.record.subject {
            Subject::Object { object, .. } => keep(&mut self.objects, *object, shelved, inherited),
            Subject::Task { submission, .. } => keep(&mut self.tasks, submission.id, shelved, inherited),
        }
    }
}
