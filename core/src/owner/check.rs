//! What must be true of an owner between any two inputs: its tables agree with each other.
//!
//! The counts of references are counted again, from what holds them. Whatever comes to hold a
//! reference (a new kind of task, of value, of record) must be counted here as well.

use alloc::collections::BTreeMap;

use super::Owner;
use super::borrowing::contained;
use super::objects::State;
use super::tasks::Stage;
use crate::ids::ObjectId;

/// How often each object is used.
type Counts = BTreeMap<ObjectId, u32>;

fn count<'a>(counts: &mut Counts, objects: impl IntoIterator<Item = &'a ObjectId>) {
    for object in objects {
        *counts.entry(*object).or_default() += 1;
    }
}

impl Owner {
    /// Check the owner's invariants; a violation panics. Takes time: it walks everything.
    pub fn check(&self) {
        self.check_counts();
        self.check_tasks();
        self.leases.check(&self.tasks);
        self.region.check();
    }

    fn check_counts(&self) {
        let (mut uses, mut lineage) = (Counts::new(), Counts::new());
        let mut lineage_bytes = 0;
        for task in self.tasks.values() {
            let submission = &task.submission;
            let held = submission.dependencies.iter().chain(&submission.borrows);
            if task.stage != Stage::Done {
                count(&mut uses, held);
                count(&mut uses, task.actor().map(|actor| actor.handle_object()).as_ref());
            } else if task.stream.is_none() {
                count(&mut lineage, &Self::references_of(task));
                lineage_bytes += task.lineage_bytes();
            }
            if let Some(stream) = &task.stream {
                count(
                    &mut uses,
                    &stream.untaken().map(|index| task.id().object(index)).collect::<alloc::vec::Vec<_>>(),
                );
            }
        }
        for record in self.objects.values() {
            if let State::Ready(outcome) = &record.state {
                count(&mut uses, contained(outcome));
            }
        }
        self.actors.values().for_each(|calls| count(&mut uses, calls.held_by_creation()));
        count(&mut uses, self.executor.held_arguments());
        if let Some(steward) = &self.steward {
            count(&mut uses, steward.held());
        }
        for (object, record) in &self.objects {
            let counted = (uses.remove(object).unwrap_or(0), lineage.remove(object).unwrap_or(0));
            assert_eq!((record.uses, record.lineage), counted, "uses and lineage of {object:?}: {record:?}");
        }
        assert!(uses.is_empty(), "used, and without a record: {uses:?}");
        assert!(lineage.is_empty(), "needed for rebuilding, and without a record: {lineage:?}");
        assert_eq!(self.lineage_bytes, lineage_bytes, "bytes of lineage");
    }

    fn check_tasks(&self) {
        for (id, task) in &self.tasks {
            assert_eq!(*id, task.id(), "a task under another name");
            if let Stage::Waiting { missing } = task.stage {
                let waits = |object: &&ObjectId| {
                    self.objects.get(*object).is_some_and(|record| record.waiting.contains(id))
                };
                let waiting = task.submission.dependencies.iter().filter(waits).count();
                assert_eq!(waiting, missing as usize, "{id:?} waits for what will not wake it");
            }
            if task.stage == Stage::Queued {
                let delayed = self.delayed.keys().filter(|(_, delayed)| delayed == id).count();
                let queued = match task.actor() {
                    Some(actor) => self.actors.get(&actor).map_or(0, |calls| calls.queued(*id)),
                    None => self.leases.queued(*id),
                };
                assert_eq!(delayed + queued, 1, "{id:?} is in so many queues");
            }
        }
    }
}
