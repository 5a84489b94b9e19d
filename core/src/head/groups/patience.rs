//! What a group waits for that owners hold without a gap.
//!
//! Owners keep their leases while they have work, so a group of CPUs could wait for ever behind a program
//! that always has more small tasks than there are CPUs. After some time the head asks nodes for
//! bundles that would fit if all leases came back. These nodes refuse, and from then on count the bundles among
//! what waits there: they ask for leases back, and for some of the time hold CPUs back
//! (`node/starvation.rs`). Like any other group it gets all of its bundles at once, or none.

use alloc::vec::Vec;

use super::Group;
use super::policy::{Placement, place};
use crate::actor::ActorState;
use crate::head::{Head, Outbox};
use crate::ids::{GroupId, NodeId};
use crate::machine::{Span, Wakeup};
use crate::message::NodeSummary;
use crate::resources::{Quantity, Resources};

/// A group that waits for less takes what is free.
pub(super) const PATIENCE: Span = Span::from_secs(1);

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
        let available = self.nodes.alive().filter(|(_, node)| node.is_available());
        let nodes: Vec<NodeSummary> =
            available.map(|(id, node)| self.without_leases(id, &node.summary)).collect();
        let nodes: Vec<&NodeSummary> = nodes.iter().collect();
        let Placement::Found(places) = place(&nodes, &group.wanted()) else { return false };
        self.reserve(id, places, out);
        true
    }

    /// A node as it would be if its owners gave back all CPUs: what actors and groups have stays theirs.
    fn without_leases(&self, id: NodeId, summary: &NodeSummary) -> NodeSummary {
        let cpus = |resources: &Resources| resources.get(Resources::CPU).0;
        let actors = self.actors.live().filter(|actor| actor.node == Some(id));
        let actors = actors.map(|actor| match actor.state {
            ActorState::Alive { .. } => cpus(&actor.spec.running),
            _ => cpus(&actor.spec.placement.resources),
        });
        let bundles = |group: &Group| -> i64 {
            let here = group.held().chain(group.being_placed()).filter(|(_, node)| *node == id);
            here.map(|(index, _)| cpus(&group.bundle(index).resources)).sum()
        };
        let groups: i64 = self.groups.groups.values().map(bundles).sum();
        let left = cpus(&summary.total) - actors.sum::<i64>() - groups;
        let mut summary = summary.clone();
        summary.free.set(Resources::CPU, Quantity(left));
        summary
    }
}
