//! What a group waits for that owners hold without a gap.
//!
//! Owners keep their leases while they have work, so a group of CPUs could wait for ever behind a program
//! that always has more small tasks than there are CPUs. After some time the head asks nodes for
//! bundles that would fit if all leases came back. These nodes refuse, and from then on count the bundles among
//! what waits there: they ask for leases back, and for some of the time hold CPUs back
//! (`node/starvation.rs`). Like any other group it gets all of its bundles at once, or none.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::policy::{Placement, place};
use crate::head::{Head, Outbox};
use crate::ids::{GroupId, NodeId};
use crate::machine::{Span, Wakeup};
use crate::message::NodeSummary;
use crate::resources::{Quantity, Resources};

/// A group that waits for less takes what is free.
const PATIENCE: Span = Span::from_secs(1);

impl Head {
    /// There is no room for a group: if it has waited long enough, ask for what leases hold. Says whether
    /// nodes were asked.
    pub(super) fn ask_for_leased(&mut self, id: GroupId, out: &mut Outbox) -> bool {
        let group = &self.groups.groups[&id];
        // Groups under repair have their own way to get what other groups hold.
        if group.was_placed {
            return false;
        }
        let due = group.since + PATIENCE;
        if due > out.now {
            self.deadlines.arm(Wakeup::PlaceGroups, due);
            return false;
        }
        let nodes = self.without_leases();
        let nodes: Vec<&NodeSummary> = nodes.iter().collect();
        let Placement::Found(places) = place(&nodes, &group.wanted()) else { return false };
        self.reserve(id, places, out);
        true
    }

    /// The nodes as they would be if owners gave back all CPUs: what actors and groups have stays theirs.
    fn without_leases(&self) -> Vec<NodeSummary> {
        let cpus = |resources: &Resources| resources.get(Resources::CPU).0;
        let actors = self.actors.live().filter_map(|actor| Some((actor.node?, cpus(actor.held()))));
        let bundles = self.groups.groups.values().flat_map(|group| {
            let places = group.held().chain(group.being_placed());
            places.map(|(index, node)| (node, cpus(&group.bundle(index).resources)))
        });
        let mut kept: BTreeMap<NodeId, i64> = BTreeMap::new();
        for (node, amount) in actors.chain(bundles) {
            *kept.entry(node).or_default() += amount;
        }
        let available = self.nodes.alive().filter(|(_, node)| node.is_available());
        let freed = |id: NodeId, summary: &NodeSummary| {
            let left = cpus(&summary.total) - kept.get(&id).copied().unwrap_or_default();
            let mut summary = summary.clone();
            summary.free.set(Resources::CPU, Quantity(left));
            summary
        };
        available.map(|(id, node)| freed(id, &node.summary)).collect()
    }
}
