//! A look inside, for simulations and dashboards: nothing here changes anything.

use alloc::vec::Vec;

use super::Node;
use crate::ids::{GroupId, JobId, LeaseId, NodeId, ObjectId, ProcessId};
use crate::message::StoreSummary;
use crate::resources::Resources;

/// What a node knows.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Everything it has.
    pub total: Resources,
    /// What of it is free; negative where resumed workers oversubscribe.
    pub free: Resources,
    /// Leases with lessee and worker; lessees may be on other nodes.
    pub leases: Vec<(LeaseId, ProcessId, ProcessId)>,
    /// What is set aside for placement groups: group, placement, bundles, whether they can be used.
    pub bundles: Vec<(GroupId, u32, Vec<u32>, bool)>,
    /// Who waits for a lease, once for each kind of what it waits for. The head waits for actors.
    pub claimants: Vec<ProcessId>,
    /// Live workers, each with the word for its state.
    pub workers: Vec<(ProcessId, &'static str)>,
    /// Jobs that it knows, and whether it knows that they have ended.
    pub jobs: Vec<(JobId, bool)>,
    /// Other nodes that it counts as alive.
    pub nodes: Vec<NodeId>,
    /// Processes of other nodes of whose deaths it wants to hear, and who here does: its own daemon, or
    /// a process.
    pub watches: Vec<(ProcessId, Vec<ProcessId>)>,
    /// What the store holds.
    pub store: StoreSummary,
    /// Objects in memory and on disk; of a copy that is dropped when room is short, the node that keeps
    /// the object.
    pub objects: Vec<(ObjectId, Option<NodeId>)>,
    /// Objects that are copied from other nodes, and the node that was asked.
    pub pulls: Vec<(ObjectId, Option<NodeId>)>,
    /// Objects that other nodes read here.
    pub offers: Vec<(NodeId, ObjectId)>,
}

impl Node {
    /// What this node was told to be free on another live one.
    pub fn believed_free(&self, node: NodeId) -> Option<&Resources> {
        self.view.reported(node)
    }

    /// What this node knows.
    pub fn inspect(&self) -> Inspection {
        let watches = self.processes.remote.iter();
        Inspection {
            total: self.ledger.total().clone(),
            free: self.ledger.free().clone(),
            leases: self.leases.iter().map(|(id, lease)| (id, lease.lessee, lease.worker)).collect(),
            bundles: self.ledger.set_aside(),
            claimants: self.claims().map(|(party, _)| party).collect(),
            workers: self.processes.workers().map(|(id, _, worker)| (id, worker.describe())).collect(),
            jobs: self.jobs.iter().map(|(id, job)| (*id, job.ended)).collect(),
            nodes: self.view.nodes().map(|node| node.node).collect(),
            watches: watches.map(|(id, watchers)| (*id, watchers.iter().copied().collect())).collect(),
            store: self.store.summary(),
            objects: self.store.objects().collect(),
            pulls: self.store.pulls().collect(),
            offers: self.store.offers().collect(),
        }
    }
}
