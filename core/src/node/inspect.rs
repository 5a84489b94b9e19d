//! A look inside, for simulations and dashboards: nothing here changes anything.

use alloc::vec::Vec;

use super::Node;
use crate::ids::{GroupId, LeaseId, ProcessId};
use crate::message::StoreSummary;
use crate::resources::Resources;

/// What a node knows.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Everything it has.
    pub total: Resources,
    /// What of it is free; negative where resumed workers oversubscribe.
    pub free: Resources,
    /// Leases with lessee and worker.
    pub leases: Vec<(LeaseId, ProcessId, ProcessId)>,
    /// What is set aside for placement groups: group, placement, bundles, whether they can be used.
    pub bundles: Vec<(GroupId, u32, Vec<u32>, bool)>,
    /// Live workers, each with the word for its state.
    pub workers: Vec<(ProcessId, &'static str)>,
    /// What the store holds.
    pub store: StoreSummary,
}

impl Node {
    /// What this node knows.
    pub fn inspect(&self) -> Inspection {
        Inspection {
            total: self.ledger.total().clone(),
            free: self.ledger.free().clone(),
            leases: self.leases.iter().map(|(id, lease)| (id, lease.lessee, lease.worker)).collect(),
            bundles: self.ledger.set_aside(),
            workers: self.processes.workers().map(|(id, _, worker)| (id, worker.describe())).collect(),
            store: self.store.summary(),
        }
    }
}
