//! Ownership survives its owner: what an owner sees to while it lives.
//!
//! Every daemon hosts one more owner, the *steward* of its node. Before a reference to an object leaves
//! its owner in something that can outlive it, the owner has sent a [`Record`] of the object to the
//! steward of its own node and to that of the receiver's: the outcome, or, while there is none and as long
//! as the object may have to be made again, the task; and, each once, the records of what these need in
//! turn. It also tells both stewards, once, that this receiver is a *holder*. Records are kept up to date
//! while they are needed and dropped with the object.
//!
//! The order of messages does the rest. What a process tells its daemon, and through it stewards, is
//! written before what it tells its peers directly; and what goes to another node goes through both
//! daemons in order. So whoever has a reference has it after the stewards have its record.
//!
//! A call without references inside its arguments sends none of this. What the arguments refer to by
//! value travels by value, and the caller alone holds the results.
//!
//! Not recorded: handles of actors, whose creator counts them and which end with it; streams, which only
//! their consumer can make use of; tasks without a retry left, for they may have run.
//!
//! What happens when the owner dies is told in [`super::steward`] and [`super::mourning`].

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

use super::borrowing::contained;
use super::tasks::Task;
use super::{Out, Owner};
use crate::ids::{ActorId, FunctionId, NodeId, ObjectId, ProcessId, TaskId};
use crate::message::Message;
use crate::record::{Record, Subject};
use crate::task::{Assignment, Definition, Target};
use crate::value::{Outcome, Payload, Value};

/// So many stewards of other nodes keep a record, beside that of the owner's node. They are those of
/// the nodes that got a reference first.
const OTHERS_MAX: usize = 2;

/// Records go to a steward in messages of about this size.
const BATCH_BYTES: usize = 1 << 20;

/// What an owner has told stewards.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Holders.
    holders: BTreeSet<ProcessId>,
    /// The stewards of other nodes that the own one knows as holders.
    nodes: BTreeSet<NodeId>,
    /// Code that the steward of a node has.
    codes: BTreeSet<(NodeId, FunctionId)>,
}

/// Of an object with a record at stewards.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// The nodes whose stewards have it.
    at: Vec<NodeId>,
    /// A reference has left: the record is kept for as long as the object.
    lent: bool,
    /// Recorded values and tasks that need it.
    needs: u32,
    /// What its own record counts among the needs: objects of this process in its value, and its task.
    holds: Vec<ObjectId>,
    has_task: bool,
}

/// Of a task with a record at stewards.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptTask {
    at: Vec<NodeId>,
    /// Its results with a record.
    results: u32,
    /// Its arguments that this process owns.
    holds: Vec<ObjectId>,
}

/// Something with a record.
#[derive(Clone, Copy, Debug)]
enum Item {
    Object(ObjectId),
    Task(TaskId),
}

/// Records on their way, by node.
pub(super) type Batch = BTreeMap<NodeId, Vec<Record>>;

impl Owner {
    /// References to these objects are about to leave for `to`, in something that may outlive this
    /// process.
    pub(super) fn lend(&mut self, objects: &[ObjectId], to: ProcessId, out: Out<'_>) {
        if objects.is_empty() || !self.config.stewards {
            return;
        }
        let mut lent: Vec<ObjectId> = objects.to_vec();
        lent.retain(|object| self.is_recordable(*object));
        if lent.is_empty() {
            return;
        }
        let own = self.node();
        let elsewhere = to.node() != own && to != ProcessId::HEAD && !self.is_dead_node(to.node());
        let mut batch = Batch::new();
        for object in lent {
            if self.kept(object).is_none() {
                self.start_keeping(object);
            }
            let Some(kept) = self.kept(object) else { continue };
            kept.lent = true;
            let others = kept.at.iter().filter(|node| **node != own).count();
            if self.steward.is_none() {
                self.place(Item::Object(object), own, &mut batch, out);
            }
            if elsewhere && others < OTHERS_MAX {
                self.place(Item::Object(object), to.node(), &mut batch, out);
            }
        }
        self.tell_holder(to, out);
        self.send_records(batch, out);
    }

    /// References in a task's arguments are about to leave.
    pub(super) fn lend_with(&mut self, assignment: &Assignment, to: ProcessId, out: Out<'_>) {
        self.lend(&assignment.borrows, to, out);
        for dependency in &assignment.dependencies {
            self.lend(contained(&dependency.outcome), to, out);
        }
    }

    /// Whether the object is ours to record. Handles of actors are not: who counts them ends with them.
    fn is_recordable(&self, object: ObjectId) -> bool {
        let is_handle = || self.actors.get(&ActorId(object.task)).is_some_and(|calls| calls.is_made_here());
        self.is_owned(object) && self.objects.contains_key(&object) && !is_handle()
    }

    /// Whether another owner could run the task, now or again.
    fn may_run(&self, task: TaskId) -> bool {
        let may = |task: &Task| task.retries_left != 0 && !task.cancelled && task.stream.is_none();
        self.tasks.get(&task).is_some_and(may)
    }

    fn kept(&mut self, object: ObjectId) -> Option<&mut Kept> {
        self.objects.get_mut(&object)?.sharing.as_mut()?.kept.as_deref_mut()
    }

    fn recordable_of(&self, objects: &[ObjectId]) -> Vec<ObjectId> {
        objects.iter().copied().filter(|object| self.is_recordable(*object)).collect()
    }

    /// What a task refers to: its arguments, and the actor that it calls.
    pub(super) fn references_of(task: &Task) -> Vec<ObjectId> {
        let submission = &task.submission;
        let handle = task.actor().map(ActorId::handle_object);
        submission.dependencies.iter().chain(&submission.borrows).copied().chain(handle).collect()
    }

    /// The object has a record from now on, and so has what it needs, and what that needs.
    fn start_keeping(&mut self, object: ObjectId) {
        let mut items = Vec::from([Item::Object(object)]);
        while let Some(item) = items.pop() {
            let needed = match item {
                Item::Object(object) => {
                    let inner = self.outcome(object).map(contained).unwrap_or_default().to_vec();
                    let has_task = self.may_run(object.task);
                    if has_task && let Some(task) = self.tasks.get_mut(&object.task) {
                        let kept = task.kept.get_or_insert_with(Box::default);
                        kept.results += 1;
                        if kept.results == 1 {
                            items.push(Item::Task(object.task));
                        }
                    }
                    let holds = self.recordable_of(&inner);
                    let kept = self.record(object).sharing().kept.get_or_insert_with(Box::default);
                    kept.has_task = has_task;
                    kept.holds.clone_from(&holds);
                    holds
                }
                Item::Task(id) => {
                    let references = self.tasks.get(&id).map(Self::references_of).unwrap_or_default();
                    let holds = self.recordable_of(&references);
                    if let Some(kept) = self.tasks.get_mut(&id).and_then(|task| task.kept.as_mut()) {
                        kept.holds.clone_from(&holds);
                    }
                    holds
                }
            };
            for object in needed {
                if self.kept(object).is_none() {
                    items.push(Item::Object(object));
                }
                self.record(object).sharing().kept.get_or_insert_with(Box::default).needs += 1;
            }
        }
    }

    /// See that a node's steward has the record, and those of what it needs.
    fn place(&mut self, item: Item, node: NodeId, batch: &mut Batch, out: Out<'_>) {
        let mut items = Vec::from([item]);
        while let Some(item) = items.pop() {
            match item {
                Item::Object(object) => {
                    let Some(kept) = self.kept(object).filter(|kept| !kept.at.contains(&node)) else {
                        continue;
                    };
                    kept.at.push(node);
                    items.extend(kept.holds.iter().copied().map(Item::Object));
                    items.extend(kept.has_task.then_some(Item::Task(object.task)));
                }
                Item::Task(id) => {
                    let kept = self.tasks.get_mut(&id).and_then(|task| task.kept.as_mut());
                    let Some(kept) = kept.filter(|kept| !kept.at.contains(&node)) else {
                        continue;
                    };
                    kept.at.push(node);
                    items.extend(kept.holds.iter().copied().map(Item::Object));
                }
            }
            self.add_record(item, node, batch, out);
        }
    }

    /// Put the present record into the batch. What it refers to and others own is lent to the steward.
    fn add_record(&mut self, item: Item, node: NodeId, batch: &mut Batch, out: Out<'_>) {
        let record = match item {
            Item::Object(object) => self.record_of_object(object),
            Item::Task(task) => self.record_of_task(task, node),
        };
        let Some(record) = record else { return };
        for object in &record.lent {
            self.count_grant(*object, ProcessId::steward(node), out);
        }
        batch.entry(node).or_default().push(record);
    }

    fn record_of_object(&self, object: ObjectId) -> Option<Record> {
        let outcome = self.outcome(object).cloned();
        let refers = outcome.as_ref().map(contained).unwrap_or_default();
        let lent = refers.iter().copied().filter(|object| !self.is_owned(*object)).collect();
        let attempt = self.objects.get(&object)?.attempt;
        let job = self.job_of(object.task);
        Some(Record { job, attempt, subject: Subject::Object { object, outcome }, lent })
    }

    fn record_of_task(&mut self, id: TaskId, node: NodeId) -> Option<Record> {
        let task = self.tasks.get(&id)?;
        let mut lent = Self::references_of(task);
        lent.retain(|object| !self.is_owned(*object));
        let submission = task.submission.clone();
        let (job, attempt, retries_left) = (task.job, task.attempt, task.retries_left);
        let subject = Subject::Task { submission: Box::new(submission), retries_left };
        let mut record = Record { job, attempt, subject, lent };
        self.leave_out_code(&mut record, node);
        Some(record)
    }

    /// The steward of that node may have the function's code from an earlier record.
    pub(super) fn leave_out_code(&mut self, record: &mut Record, node: NodeId) {
        if let Subject::Task { submission, .. } = &mut record.subject
            && let Target::Function(definition) = &mut submission.target
            && !self.told.codes.insert((node, definition.function))
        {
            *definition = Arc::new(Definition { code: Bytes::new(), ..(**definition).clone() });
        }
    }

    pub(super) fn send_records(&self, batch: Batch, out: Out<'_>) {
        for (node, records) in batch {
            let (mut message, mut bytes) = (Vec::new(), 0);
            for record in records {
                bytes += record_bytes(&record);
                message.push(record);
                if bytes > BATCH_BYTES {
                    let records = core::mem::take(&mut message);
                    self.send(ProcessId::steward(node), Message::KeepRecords { records }, out);
                    bytes = 0;
                }
            }
            if !message.is_empty() {
                self.send(ProcessId::steward(node), Message::KeepRecords { records: message }, out);
            }
        }
    }

    /// An object's outcome has changed: it has one, has another one, or has none any more.
    pub(super) fn outcome_changed(&mut self, object: ObjectId, out: Out<'_>) {
        if self.kept(object).is_none() {
            return;
        }
        let inner = self.outcome(object).map(contained).unwrap_or_default().to_vec();
        let holds = self.recordable_of(&inner);
        for inner in &holds {
            if self.kept(*inner).is_none() {
                self.start_keeping(*inner);
            }
            if let Some(kept) = self.kept(*inner) {
                kept.needs += 1;
            }
        }
        let Some(kept) = self.kept(object) else { return };
        let before = core::mem::replace(&mut kept.holds, holds.clone());
        let at = kept.at.clone();
        let mut batch = Batch::new();
        for node in at {
            for inner in &holds {
                self.place(Item::Object(*inner), node, &mut batch, out);
            }
            self.add_record(Item::Object(object), node, &mut batch, out);
        }
        self.send_records(batch, out);
        self.let_go(before, Vec::new(), out);
    }

    /// A task has another attempt, or will have none.
    pub(super) fn task_changed(&mut self, id: TaskId, out: Out<'_>) {
        let may_run = self.may_run(id);
        let Some(task) = self.tasks.get_mut(&id).filter(|task| task.kept.is_some()) else {
            return;
        };
        if !may_run {
            let kept = task.kept.take();
            self.task_forgotten(id, kept, out);
            return;
        }
        let at = task.kept.as_ref().map(|kept| kept.at.clone()).unwrap_or_default();
        let mut batch = Batch::new();
        for node in at {
            self.add_record(Item::Task(id), node, &mut batch, out);
        }
        self.send_records(batch, out);
    }

    /// A task's record is not needed any more.
    pub(super) fn task_forgotten(&mut self, id: TaskId, kept: Option<Box<KeptTask>>, out: Out<'_>) {
        if let Some(kept) = kept {
            self.let_go(kept.holds, kept.at.into_iter().map(|node| (node, Item::Task(id))).collect(), out);
        }
    }

    /// An object's record is not needed any more.
    pub(super) fn object_forgotten(&mut self, object: ObjectId, kept: Option<Box<Kept>>, out: Out<'_>) {
        let Some(kept) = kept else { return };
        let mut drops: Vec<(NodeId, Item)> =
            kept.at.into_iter().map(|node| (node, Item::Object(object))).collect();
        let mut holds = kept.holds;
        if kept.has_task {
            self.result_forgotten(object.task, &mut holds, &mut drops);
        }
        self.let_go(holds, drops, out);
    }

    fn result_forgotten(&mut self, id: TaskId, holds: &mut Vec<ObjectId>, drops: &mut Vec<(NodeId, Item)>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Some(kept) = task.kept.as_mut() else { return };
        kept.results = kept.results.saturating_sub(1);
        if kept.results == 0
            && let Some(kept) = task.kept.take()
        {
            holds.extend(kept.holds);
            drops.extend(kept.at.into_iter().map(|node| (node, Item::Task(id))));
        }
    }

    /// These are needed once less; drop records that nothing needs.
    fn let_go(&mut self, mut needed: Vec<ObjectId>, mut drops: Vec<(NodeId, Item)>, out: Out<'_>) {
        while let Some(object) = needed.pop() {
            let Some(sharing) = self.objects.get_mut(&object).and_then(|record| record.sharing.as_mut())
            else {
                continue;
            };
            let Some(kept) = sharing.kept.as_mut() else { continue };
            kept.needs = kept.needs.saturating_sub(1);
            if kept.lent || kept.needs > 0 {
                continue;
            }
            let Some(kept) = sharing.kept.take() else { continue };
            drops.extend(kept.at.into_iter().map(|node| (node, Item::Object(object))));
            needed.extend(kept.holds);
            if kept.has_task {
                self.result_forgotten(object.task, &mut needed, &mut drops);
            }
        }
        let mut by_node: BTreeMap<NodeId, (Vec<ObjectId>, Vec<TaskId>)> = BTreeMap::new();
        for (node, item) in drops {
            let (objects, tasks) = by_node.entry(node).or_default();
            match item {
                Item::Object(object) => objects.push(object),
                Item::Task(task) => tasks.push(task),
            }
        }
        for (node, (objects, tasks)) in by_node {
            self.send(ProcessId::steward(node), Message::DropRecords { objects, tasks }, out);
        }
    }

    /// The stewards concerned know that `to` may hold references from here.
    fn tell_holder(&mut self, to: ProcessId, out: Out<'_>) {
        let (here, there) = (self.node(), to.node());
        if to.is_daemon() || to == ProcessId::steward(here) || !self.told.holders.insert(to) {
            return;
        }
        if there != here {
            self.send(ProcessId::steward(there), Message::KeepHolder { holder: to }, out);
        }
        if self.steward.is_some() {
            // Its own death is that of its node, of which everybody hears.
            return;
        }
        let holder = if there == here { to } else { ProcessId::steward(there) };
        if there == here || self.told.nodes.insert(there) {
            self.send(ProcessId::steward(here), Message::KeepHolder { holder }, out);
        }
    }

    /// A node died with the records that its steward kept.
    pub(super) fn records_of_dead_node(&mut self, node: NodeId) {
        let kept = self.objects.values_mut().filter_map(|record| record.sharing.as_mut()?.kept.as_mut());
        for kept in kept {
            kept.at.retain(|at| *at != node);
        }
        for kept in self.tasks.values_mut().filter_map(|task| task.kept.as_mut()) {
            kept.at.retain(|at| *at != node);
        }
        self.told.holders.retain(|holder| holder.node() != node);
        self.told.nodes.remove(&node);
        self.told.codes.retain(|(at, _)| *at != node);
    }
}

/// Roughly what a record takes on its way.
fn record_bytes(record: &Record) -> usize {
    let of_value = |value: &Value| match &value.payload {
        Payload::Inline(bytes) => bytes.len(),
        Payload::Stored { .. } => 0,
    };
    let most = match &record.subject {
        Subject::Object { outcome: Some(Outcome::Value(value) | Outcome::Exception(value)), .. } => {
            of_value(value)
        }
        Subject::Object { .. } => 0,
        Subject::Task { submission, .. } => {
            let code = match &submission.target {
                Target::Function(definition) => definition.code.len(),
                Target::Method { .. } => 0,
            };
            submission.arguments.len() + code
        }
    };
    256 + most
}
