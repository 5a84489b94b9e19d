//! When nodes die, and when the head does.
//!
//! A group that has lost bundles is not whole. What is left of it keeps running what it runs and admits
//! nothing new until all that is missing has been placed, at once and in two phases like a new group.
//!
//! # No wait cycles
//!
//! A group that waits for room may wait for what another one holds. New groups hold nothing while they
//! wait, so a cycle can only consist of groups under repair: each holds what is left of it, and waits for
//! what is left of the next. Such a cycle has a youngest member, and an older one that waits for what the
//! younger ones hold. [`Head::resolve_wait_cycles`] runs whenever groups that wait were looked at and found
//! no room. It takes the groups under repair from the youngest on, and asks whether any older one could be
//! placed if these gave up what they hold; if so, they do (their work ends, and is tried again), and the
//! older one is placed. So a group waits for ever only if no set of younger groups under repair could
//! give it what it lacks: it then waits for older groups, for groups that are whole, for other work, or
//! for new nodes. Waits between groups under repair thus only lead from the younger to the older, and
//! that order has no cycle. Age is the order of creation, which never changes and is in the log; a group
//! that has given up its bundles keeps its age, so it cannot be made to give up for ever: once it is
//! the oldest, it never does.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::policy::{Placement, place};
use super::{Group, Phase};
use crate::head::{Head, Key, Outbox};
use crate::ids::{GroupId, NodeId};
use crate::machine::{Span, Wakeup};
use crate::message::{Message, NodeSummary};
use crate::mutants::Mutant;

/// How long groups under repair wait for room before one gives up what it holds for another.
const SURRENDER_AFTER: Span = Span::from_secs(1);
/// A group that nodes have refused so often in a row waits, whatever is known of the nodes.
const REFUSALS_MAX: u32 = 3;

impl Head {
    /// What a dead node had set aside is gone. Groups that had nothing there may have waited for what it
    /// would say.
    pub(in crate::head) fn group_node_died(&mut self, node: NodeId, out: &mut Outbox) {
        self.groups.stir();
        let affected = self.groups.groups.values().filter(|group| group.involved().contains(&node));
        let affected: Vec<GroupId> = affected.map(|group| group.spec.id).collect();
        for id in affected {
            let group = &self.groups.groups[&id];
            if matches!(&group.phase, Phase::Reserving { places, .. } if places.contains_key(&node)) {
                self.abandon_attempt(id, node, out);
            }
            let lost = |(_, at): &(usize, &Option<NodeId>)| **at == Some(node);
            let lost = self.groups.groups[&id].nodes.iter().enumerate().filter(lost);
            let lost: Vec<usize> = lost.map(|(index, _)| index).collect();
            self.lose_bundles(id, node, &lost, out);
        }
    }

    /// These bundles were on this node, and are nowhere any more. Others may be being placed: then these are
    /// missing, too, and what is missing is placed at once.
    fn lose_bundles(&mut self, id: GroupId, node: NodeId, lost: &[usize], out: &mut Outbox) {
        if lost.is_empty() {
            return;
        }
        self.abandon_attempt(id, node, out);
        let group = self.groups.groups.get_mut(&id).expect("it has bundles");
        lost.iter().for_each(|index| group.nodes[*index] = None);
        if !Mutant::ForgetRescheduling.is_active() {
            out.touch(Key::Group(id));
        }
        if matches!(group.phase, Phase::Placed) {
            group.since = out.now;
            let survivors = group.involved();
            self.groups.set_phase(id, Phase::Waiting);
            for node in survivors {
                self.tell_node(node, Message::SuspendBundles { group: id }, out);
            }
            self.groups.announce(id, out);
        }
        self.groups.stir();
    }

    /// See the module's text.
    pub(super) fn resolve_wait_cycles(&mut self, out: &mut Outbox) {
        if Mutant::NoSurrender.is_active() {
            return;
        }
        let groups = &self.groups.groups;
        let under_way = self.groups.reserving.iter().any(|id| groups[id].refusals < REFUSALS_MAX);
        let unknown = self.nodes.alive().any(|(_, node)| !node.known);
        if under_way || unknown {
            // This is awaited first; it stirs the groups when it is there, or dead.
            return;
        }
        let repairs =
            groups.values().filter(|group| group.was_placed && !matches!(group.phase, Phase::Placed));
        let mut repairs: Vec<(u64, GroupId)> = repairs.map(|group| (group.order, group.spec.id)).collect();
        // From the youngest on.
        repairs.sort_unstable_by(|one, other| other.cmp(one));
        let repairs: Vec<GroupId> = repairs.into_iter().map(|(_, id)| id).collect();
        if repairs.len() < 2 {
            return;
        }
        let since = repairs.iter().map(|id| groups[id].since).max().expect("there are some");
        let due = since + SURRENDER_AFTER;
        if due > out.now {
            return self.deadlines.arm(Wakeup::PlaceGroups, due);
        }
        for id in self.who_gives_up(&repairs) {
            self.surrender(id, out);
        }
    }

    /// The youngest groups without which an older one could be placed; no more of them than needed.
    fn who_gives_up(&self, repairs: &[GroupId]) -> Vec<GroupId> {
        let holds = |id: &&GroupId| self.groups.groups[id].nodes.iter().any(Option::is_some);
        let holders: Vec<GroupId> = repairs.iter().filter(holds).copied().collect();
        for count in 1..=holders.len() {
            let mut givers = holders[..count].to_vec();
            let youngest_last = givers.iter().map(|id| self.groups.groups[id].order).min();
            let older = |id: &&GroupId| Some(self.groups.groups[id].order) < youngest_last;
            let mut takers = repairs.iter().rev().filter(older);
            let Some(taker) = takers.find(|taker| self.fits_without(taker, &givers)) else { continue };
            // Where nodes refuse what should fit, it is not known who stands in the way.
            let certain = self.groups.groups[taker].refusals < REFUSALS_MAX;
            for giver in holders[..count].iter().rev().filter(|_| certain) {
                let rest: Vec<GroupId> = givers.iter().copied().filter(|id| id != giver).collect();
                if self.fits_without(taker, &rest) {
                    givers = rest;
                }
            }
            return givers;
        }
        Vec::new()
    }

    /// Whether a group could be placed if these others gave up what they hold.
    fn fits_without(&self, taker: &GroupId, givers: &[GroupId]) -> bool {
        let available = self.nodes.alive().filter(|(_, node)| node.is_available());
        let mut nodes: BTreeMap<NodeId, NodeSummary> =
            available.map(|(id, node)| (id, node.summary.clone())).collect();
        for giver in givers.iter().map(|id| &self.groups.groups[id]) {
            for (bundle, node) in giver.spec.bundles.iter().zip(&giver.nodes) {
                if let Some(summary) = node.and_then(|node| nodes.get_mut(&node)) {
                    summary.free.add(&bundle.resources);
                }
            }
        }
        let nodes: Vec<&NodeSummary> = nodes.values().collect();
        matches!(place(&nodes, &self.groups.groups[taker].wanted()), Placement::Found(_))
    }

    /// Give up what is left of a group, and what is being placed of it, so that an older one can be repaired.
    fn surrender(&mut self, id: GroupId, out: &mut Outbox) {
        let group = self.groups.groups.get_mut(&id).expect("it waits");
        let before = group.clone();
        group.nodes.fill(None);
        group.detail = "it has given up its bundles, so that an older group could be repaired".into();
        out.touch(Key::Group(id));
        for node in before.involved() {
            let attempt = before.attempt;
            self.tell_node(node, Message::ReturnBundles { group: id, attempt, removed: false }, out);
        }
        self.groups.set_phase(id, Phase::Waiting);
        self.credit(&before, before.held().chain(before.being_placed()));
        self.groups.announce(id, out);
        self.groups.stir();
    }

    /// What a node of the head before this one has set aside: see [`crate::head`]'s `takeover`. The log
    /// holds what was decided; of a placement that had not come so far, nothing remains.
    pub(in crate::head) fn settle_bundles(
        &mut self,
        node: NodeId,
        present: Vec<(GroupId, u32, Vec<u32>, bool)>,
        out: &mut Outbox,
    ) {
        let mut here: BTreeSet<(GroupId, u32)> = BTreeSet::new();
        for (id, attempt, indices, committed) in present {
            let Some(group) = self.groups.groups.get_mut(&id) else {
                out.send_to_node(node, Message::ReturnBundles { group: id, attempt, removed: true });
                continue;
            };
            let decided = matches!(group.phase, Phase::Placed) && group.attempt == attempt;
            let ours = indices.iter().all(|index| group.nodes.get(*index as usize) == Some(&Some(node)));
            group.attempt = group.attempt.max(attempt);
            if ours && (committed || decided) {
                here.extend(indices.into_iter().map(|index| (id, index)));
            } else if committed {
                out.send_to_node(node, Message::ReturnBundles { group: id, attempt, removed: false });
            } else {
                out.send_to_node(node, Message::ReleaseBundles { group: id, attempt });
            }
        }
        let groups = self.groups.groups.values().filter(|group| group.nodes.contains(&Some(node)));
        for id in groups.map(|group| group.spec.id).collect::<Vec<GroupId>>() {
            self.settle_group(node, id, &here, out);
        }
        self.groups.stir();
    }

    /// A group has bundles on the node, as far as the log knows.
    fn settle_group(&mut self, node: NodeId, id: GroupId, here: &BTreeSet<(GroupId, u32)>, out: &mut Outbox) {
        let group = &self.groups.groups[&id];
        let missing = group.held().filter(|(index, at)| *at == node && !here.contains(&(id, *index)));
        let missing: Vec<usize> = missing.map(|(index, _)| index as usize).collect();
        self.lose_bundles(id, node, &missing, out);
        let group = &self.groups.groups[&id];
        let message = match group.phase {
            Phase::Placed => Message::CommitBundles { group: id, attempt: group.attempt },
            _ => Message::SuspendBundles { group: id },
        };
        if group.nodes.contains(&Some(node)) {
            out.send_to_node(node, message);
        }
    }
}

impl Group {
    /// Its bundles that nodes were asked to set aside.
    pub(super) fn being_placed(&self) -> impl Iterator<Item = (u32, NodeId)> {
        let places = match &self.phase {
            Phase::Reserving { places, .. } => Some(places),
            _ => None,
        };
        let places = places.into_iter().flatten();
        places.flat_map(|(node, indices)| indices.iter().map(|index| (*index, *node)))
    }

    /// Its bundles that are somewhere.
    pub(super) fn held(&self) -> impl Iterator<Item = (u32, NodeId)> {
        (0..).zip(&self.nodes).filter_map(|(index, node)| Some((index, (*node)?)))
    }
}
