//! A node whose store is tried out.

use alloc::vec::Vec;

use super::Store;
use super::objects::Place;
use crate::ids::{ObjectId, ProcessId, RequestId, TaskId};
use crate::machine::Span;
use crate::message::Message;
use crate::node::harness::{Harness, config, demand, driver};
use crate::node::{Config, Effect, SpillLocation, Work, WorkResult};

pub(super) struct StoreHarness {
    pub(super) node: Harness,
    requests: u64,
    files: u64,
}

pub(super) fn object_of(owner: ProcessId, number: u64) -> ObjectId {
    TaskId { owner, number }.object(0)
}

pub(super) fn object(number: u64) -> ObjectId {
    object_of(driver(), number)
}

pub(super) fn pin(object: ObjectId) -> Message {
    Message::Pin { object, locations: Vec::new() }
}

impl StoreHarness {
    /// A node with a driver and a store of that many bytes.
    pub(super) fn new(capacity: u64) -> StoreHarness {
        let config = Config { store_capacity: capacity, ..config(&[("CPU", 8.0)]) };
        StoreHarness { node: Harness::with_driver_and(config), requests: 0, files: 0 }
    }

    pub(super) fn table(&self) -> &Store {
        &self.node.node.store
    }

    /// A worker that the driver leases.
    pub(super) fn worker(&mut self) -> ProcessId {
        self.node.lease(driver(), &demand(&[("CPU", 1.0)])).1
    }

    /// Ask for an extent.
    pub(super) fn ask(&mut self, process: ProcessId, size: u64) -> Vec<Effect> {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.node.receive(process, Message::RequestExtent { request, size })
    }

    pub(super) fn last_request(&self) -> RequestId {
        RequestId(self.requests)
    }

    /// An extent, with whatever work it takes done at once.
    pub(super) fn extent(&mut self, process: ProcessId, size: u64) -> (u64, u64) {
        let effects = self.ask(process, size);
        let effects = self.settle(effects);
        let granted = effects.iter().find_map(|effect| match effect {
            Effect::Send { message: Message::ExtentGranted { offset, size, .. }, .. } => {
                Some((*offset, *size))
            }
            _ => None,
        });
        granted.unwrap_or_else(|| panic!("{effects:?}"))
    }

    /// Make an object of this size in an extent of its own.
    pub(super) fn put(&mut self, process: ProcessId, object: ObjectId, size: u64) -> u64 {
        let (offset, _) = self.extent(process, size);
        self.node.receive(process, Message::Seal { object, attempt: 0, offset, size });
        offset
    }

    /// Do all work that was started, and what that starts; return what was sent.
    pub(super) fn settle(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut sent = Vec::new();
        let mut todo = effects;
        while !todo.is_empty() {
            let mut next = Vec::new();
            for effect in todo {
                if let Effect::Start { operation, work } = effect {
                    let result = self.done(&work);
                    next.extend(self.node.finished(operation, result));
                } else {
                    sent.push(effect);
                }
            }
            todo = next;
        }
        sent
    }

    /// The result of work that succeeds.
    pub(super) fn done(&mut self, work: &Work) -> WorkResult {
        let Work::Spill { objects } = work else { return WorkResult::Done };
        self.files += 1;
        let mut offset = 0;
        let locations = objects.iter().map(|(_, _, size)| {
            let location = SpillLocation { file: self.files, offset, size: *size };
            offset += size;
            location
        });
        WorkResult::Spilled(locations.collect())
    }

    /// Where objects would be put that are spilled now.
    pub(super) fn node_spilled(&mut self, objects: &[ObjectId]) -> Vec<SpillLocation> {
        let sizes = objects.iter().map(|id| (*id, 0, self.table().objects[id].size)).collect();
        match self.done(&Work::Spill { objects: sizes }) {
            WorkResult::Spilled(locations) => locations,
            other => panic!("{other:?}"),
        }
    }

    /// An object that is on disk only.
    pub(super) fn spilled_object(&self) -> ObjectId {
        let spilled = self.table().objects.iter().find(|(_, object)| object.place == Place::Disk);
        *spilled.expect("an object is on disk").0
    }

    /// Do all work up to the first restore.
    pub(super) fn until_restore(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        loop {
            let restores =
                |effect: &Effect| matches!(effect, Effect::Start { work: Work::Restore { .. }, .. });
            if effects.iter().any(restores) {
                return effects.into_iter().filter(restores).collect();
            }
            let work = effects.into_iter().find_map(|effect| match effect {
                Effect::Start { operation, work } => Some((operation, work)),
                _ => None,
            });
            effects = match work {
                Some((operation, work)) => {
                    let result = self.done(&work);
                    self.node.finished(operation, result)
                }
                None => self.node.pass(Span::from_millis(10)),
            };
        }
    }
}
