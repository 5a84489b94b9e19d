//! A look inside, for simulations and dashboards: nothing here changes anything.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Node;
use super::ledger::Holding;
use crate::ids::{GroupId, JobId, LeaseId, NodeId, ObjectId, ProcessId};
use crate::message::StoreSummary;
use crate::resources::{Devices, Quantity, Resources};

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
    /// Its numbered devices.
    pub devices: Vec<NodeDevice>,
    /// Who holds devices.
    pub held: Vec<HeldDevices>,
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
    /// Whether it is to be emptied.
    pub draining: bool,
    /// Objects in memory and on disk; of a copy that is dropped when room is short, the node that keeps
    /// the object.
    pub objects: Vec<(ObjectId, Option<NodeId>)>,
    /// Objects that are copied from other nodes, and the node that was asked.
    pub pulls: Vec<(ObjectId, Option<NodeId>)>,
    /// Objects that other nodes read here.
    pub offers: Vec<(NodeId, ObjectId)>,
}

/// A numbered device of a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeDevice {
    /// Its resource.
    pub resource: Arc<str>,
    /// Its number.
    pub index: u32,
    /// What there is of it.
    pub total: Quantity,
    /// What of that is free.
    pub free: Quantity,
}

/// Devices that a node has given to somebody.
#[derive(Clone, Debug)]
pub struct HeldDevices {
    /// To whom.
    pub by: DeviceHolder,
    /// Out of this bundle; else they are the node's own.
    pub within: Option<u64>,
    /// Which.
    pub devices: Devices,
}

/// Who may hold devices.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeviceHolder {
    /// A worker: under a lease, as an actor, or until it has ended.
    Worker(ProcessId),
    /// A claim that waits for its worker.
    Claim,
    /// A bundle of a placement group. The number is the node's own.
    Bundle(u64),
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
            devices: self.ledger.devices(),
            held: self.held_devices(),
            claimants: self.claims().map(|(party, _)| party).collect(),
            workers: self.processes.workers().map(|(id, _, worker)| (id, worker.describe())).collect(),
            jobs: self.jobs.iter().map(|(id, job)| (*id, job.ended)).collect(),
            nodes: self.view.nodes().map(|node| node.node).collect(),
            watches: watches.map(|(id, watchers)| (*id, watchers.iter().copied().collect())).collect(),
            store: self.store.summary(),
            draining: self.draining.is_some(),
            objects: self.store.objects().collect(),
            pulls: self.store.pulls().collect(),
            offers: self.store.offers().collect(),
        }
    }

    /// The devices that a worker holds, if it is there.
    pub fn devices_of(&self, worker: ProcessId) -> Option<&Devices> {
        self.processes.worker(worker)?.holding.as_ref().map(Holding::devices)
    }

    fn held_devices(&self) -> Vec<HeldDevices> {
        let held = |by, holding: &Holding| {
            let (within, devices) = (holding.share(), holding.devices().clone());
            HeldDevices { by, within, devices }
        };
        let workers = self.processes.workers().filter_map(|(id, _, worker)| {
            worker.holding.as_ref().map(|holding| held(DeviceHolder::Worker(id), holding))
        });
        let waiting = self.pools.iter().flat_map(|(_, pool)| &pool.waiting);
        let claims = waiting.map(|(_, holding)| held(DeviceHolder::Claim, holding));
        let bundles = self.ledger.devices_of_bundles().map(|(share, devices)| HeldDevices {
            by: DeviceHolder::Bundle(share),
            within: None,
            devices: devices.clone(),
        });
        workers.chain(claims).chain(bundles).filter(|held| !held.devices.0.is_empty()).collect()
    }
}
