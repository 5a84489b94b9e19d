//! The two phases of a placement, and where the actors of a group go.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::policy::{Placement, Wanted, place};
use super::{Group, Phase};
use crate::group::{Bundle, bundles_for, misfit, needed};
use crate::head::{Head, Key, Outbox};
use crate::ids::{ActorId, GroupId, NodeId};
use crate::machine::{Span, Wakeup};
use crate::message::{Message, NodeSummary};
use crate::placement::admits;
use crate::resources::Resources;
use crate::value::ActorDeath;

/// Groups that wait are not looked at more often than this.
const LOOK_EVERY: Span = Span::from_millis(10);

/// How long a group waits after so many refusals in a row. What is known of a node may be wrong in a
/// way that its reports do not tell, as when its devices are free in parts only.
fn refusal_delay(refusals: u32) -> Span {
    Span::from_millis((10_u64 << refusals.min(7)).min(1_000))
}

impl Group {
    /// The bundles that have no node, and where the others are.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        let missing = (0..).zip(self.spec.bundles.iter().zip(&self.nodes));
        let bundles =
            missing.filter(|(_, (_, node))| node.is_none()).map(|(index, (bundle, _))| (index, bundle));
        Wanted {
            strategy: self.spec.strategy,
            bundles: bundles.collect(),
            taken: self.nodes.iter().flatten().copied().collect(),
        }
    }

    pub(super) fn bundle(&self, index: u32) -> &Bundle {
        &self.spec.bundles[index as usize]
    }

    fn amounts(&self, indices: &[u32]) -> Vec<(u32, Resources)> {
        indices.iter().map(|index| (*index, self.bundle(*index).resources.clone())).collect()
    }
}

impl Head {
    /// Look at the groups that wait, if something has changed for them.
    pub(in crate::head) fn place_groups(&mut self, out: &mut Outbox) {
        if !self.groups.stirred || self.groups.waiting.is_empty() {
            self.groups.stirred = false;
            return;
        }
        let due = self.groups.looked + LOOK_EVERY;
        if out.now < due {
            return self.deadlines.arm(Wakeup::PlaceGroups, due);
        }
        self.groups.looked = out.now;
        self.groups.stirred = false;
        let waiting: Vec<GroupId> = self.groups.waiting.iter().map(|(.., id)| *id).collect();
        // What has no room for one has none for another that asks for the same.
        let mut failed: Vec<GroupId> = Vec::new();
        for id in waiting {
            let alike = |other: &GroupId| {
                let (one, other) = (&self.groups.groups[&id], &self.groups.groups[other]);
                let fresh = one.nodes.iter().chain(&other.nodes).all(Option::is_none);
                fresh && one.spec.strategy == other.spec.strategy && one.spec.bundles == other.spec.bundles
            };
            if let Some(other) = failed.iter().find(|other| alike(other)) {
                let detail = self.groups.groups[other].detail.clone();
                self.set_detail(id, detail, out);
            } else if !self.try_group(id, out) {
                failed.push(id);
            }
        }
        self.resolve_wait_cycles(out);
        if self.groups.stirred {
            self.deadlines.arm(Wakeup::PlaceGroups, out.now + LOOK_EVERY);
        }
    }

    /// Begin to place a group that waits, if there is room for it.
    pub(super) fn try_group(&mut self, id: GroupId, out: &mut Outbox) -> bool {
        let group = &self.groups.groups[&id];
        if group.not_before > out.now {
            self.deadlines.arm(Wakeup::PlaceGroups, group.not_before);
            return false;
        }
        let nodes = self.nodes.alive().filter(|(_, node)| node.is_available());
        let nodes: Vec<&NodeSummary> = nodes.map(|(_, node)| &node.summary).collect();
        match place(&nodes, &group.wanted()) {
            Placement::Found(places) => {
                self.reserve(id, places, out);
                true
            }
            Placement::NoRoom(detail) => {
                self.set_detail(id, detail, out);
                self.ask_for_leased(id, out)
            }
            Placement::Impossible(detail) => {
                self.set_detail(id, detail, out);
                false
            }
        }
    }

    fn set_detail(&mut self, id: GroupId, detail: alloc::string::String, out: &mut Outbox) {
        let group = self.groups.groups.get_mut(&id).expect("it waits");
        if group.detail != detail {
            group.detail = detail;
            self.groups.announce(id, out);
        }
    }

    /// The first phase: have bundles set aside.
    pub(super) fn reserve(&mut self, id: GroupId, chosen: Vec<(u32, NodeId)>, out: &mut Outbox) {
        let mut places: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for (index, node) in chosen {
            places.entry(node).or_default().push(index);
        }
        let group = self.groups.groups.get_mut(&id).expect("it waits");
        group.attempt += 1;
        group.orders.clear();
        for (node, indices) in &places {
            let bundles = group.amounts(indices);
            let mut sum = Resources::default();
            bundles.iter().for_each(|(_, amounts)| sum.add(amounts));
            let order = self.nodes.get_mut(*node).expect("it was chosen").order(&sum);
            group.orders.insert(*node, order);
            let attempt = group.attempt;
            out.send_to_node(*node, Message::ReserveBundles { group: id, attempt, bundles, order });
        }
        let outstanding: BTreeSet<NodeId> = places.keys().copied().collect();
        outstanding.iter().for_each(|node| self.view_changed(*node));
        self.groups.set_phase(id, Phase::Reserving { places, outstanding });
    }

    pub(in crate::head) fn bundles_reserved(
        &mut self,
        node: NodeId,
        id: GroupId,
        attempt: u32,
        out: &mut Outbox,
    ) {
        let Some(group) = self.groups.groups.get_mut(&id).filter(|group| group.attempt == attempt) else {
            return;
        };
        if let Phase::Reserving { outstanding, .. } = &mut group.phase
            && outstanding.remove(&node)
            && outstanding.is_empty()
        {
            self.group_is_whole(id, out);
        }
    }

    /// The second phase: what was set aside is opened, everywhere, once the log says so.
    fn group_is_whole(&mut self, id: GroupId, out: &mut Outbox) {
        let group = self.groups.groups.get_mut(&id).expect("it was being placed");
        if let Phase::Reserving { places, .. } = &group.phase {
            for (node, indices) in places {
                indices.iter().for_each(|index| group.nodes[*index as usize] = Some(*node));
            }
        }
        self.groups.set_phase(id, Phase::Placed);
        let group = self.groups.groups.get_mut(&id).expect("it was being placed");
        group.was_placed = true;
        group.refusals = 0;
        group.detail.clear();
        let (attempt, nodes) = (group.attempt, group.involved());
        out.touch(Key::Group(id));
        for node in nodes {
            self.tell_node(node, Message::CommitBundles { group: id, attempt }, out);
        }
        self.groups.announce(id, out);
        self.place_unplaced(out);
    }

    pub(in crate::head) fn bundles_refused(
        &mut self,
        node: NodeId,
        id: GroupId,
        attempt: u32,
        out: &mut Outbox,
    ) {
        let current = |group: &&mut Group| {
            let asked = match &group.phase {
                Phase::Reserving { outstanding, .. } => outstanding.contains(&node),
                _ => false,
            };
            asked && group.attempt == attempt
        };
        let Some(group) = self.groups.groups.get_mut(&id).filter(current) else { return };
        group.refusals += 1;
        group.not_before = out.now + refusal_delay(group.refusals);
        self.deadlines.arm(Wakeup::PlaceGroups, group.not_before);
        self.abandon_attempt(id, node, out);
    }

    /// A placement comes to nothing because of one node: the others take back what they have set aside.
    pub(super) fn abandon_attempt(&mut self, id: GroupId, because_of: NodeId, out: &mut Outbox) {
        let group = self.groups.groups.get(&id).expect("it was being placed");
        let Phase::Reserving { places, .. } = &group.phase else { return };
        let attempt = group.attempt;
        for node in places.keys().filter(|node| **node != because_of) {
            self.tell_node(*node, Message::ReleaseBundles { group: id, attempt }, out);
        }
        let group = group.clone();
        self.credit(&group, group.being_placed().filter(|(_, node)| *node != because_of));
        self.groups.set_phase(id, Phase::Waiting);
        self.groups.stir();
    }

    /// Bundles go back to their nodes: count on it before the nodes report it.
    pub(super) fn credit(&mut self, group: &Group, bundles: impl Iterator<Item = (u32, NodeId)>) {
        for (index, id) in bundles {
            let Some(node) = self.nodes.get_mut(id) else { continue };
            let order = group.orders.get(&id).copied();
            node.given_back(&group.bundle(index).resources, order);
            self.view_changed(id);
        }
    }

    /// Send an actor to a node of its group, as soon as the group is whole.
    pub(in crate::head) fn place_in_group(&mut self, id: ActorId, group_id: GroupId, out: &mut Outbox) {
        let Some(group) = self.groups.groups.get(&group_id) else {
            if self.groups.was_removed(group_id) {
                return self.actors.bury(id, ActorDeath::GroupRemoved, out);
            }
            self.expect_group(group_id, out);
            return self.put_off(id, out);
        };
        let actor = self.actors.get(id).expect("it is being placed");
        let demand = &actor.spec.placement;
        let bundles = bundles_for(group.spec.amounts(), &demand.resources, group_id);
        if bundles.is_empty() {
            let detail = misfit(group.spec.amounts(), &demand.resources, group_id);
            return self.actors.bury(id, ActorDeath::Unschedulable(detail), out);
        }
        if !matches!(group.phase, Phase::Placed) {
            return self.put_off(id, out);
        }
        let mut places: Vec<NodeId> = Vec::new();
        for node in bundles.iter().filter_map(|index| group.nodes[*index as usize]) {
            if !places.contains(&node) {
                places.push(node);
            }
        }
        places.retain(|node| self.nodes.get(*node).is_some_and(|at| admits(&at.summary, demand)));
        let rank = |node: &&NodeId| {
            let (room, actors) = self.room_in_group(group, **node);
            let amounts = needed(&demand.resources, group_id).unwrap_or_default().0;
            (!room.covers(&amounts), actors)
        };
        match places.iter().min_by_key(rank).copied() {
            Some(node) => self.send_to(id, node, out),
            None => self.put_off(id, out),
        }
    }

    /// What the actors of a group leave of its bundles on a node, and how many they are. Where its tasks
    /// run is not known here.
    fn room_in_group(&self, group: &Group, node: NodeId) -> (Resources, usize) {
        let mut room = Resources::default();
        for (index, _) in group.held().filter(|(_, at)| *at == node) {
            room.add(&group.bundle(index).resources);
        }
        let actors = self.actors.in_group(group.spec.id);
        let here = actors.filter_map(|id| self.actors.get(id)).filter(|actor| actor.node == Some(node));
        let mut count = 0;
        for actor in here {
            room.subtract(&needed(actor.held(), group.spec.id).unwrap_or_default().0);
            count += 1;
        }
        (room, count)
    }
}
