//! Placement groups: bundles of resources that are set aside on nodes, all of a group at once.
//!
//! A group is placed in two phases. First every node that the [`policy`] chose sets its bundles aside;
//! if one refuses, all give back what they have, and the group waits. When all have answered, the
//! placement is written to the log and the nodes open the bundles. So whatever happens in between,
//! nobody sees a part of a group (invariant 4). [`repair`] tells what happens when nodes die.
//!
//! This file holds the table: what is known of each group, and who wants to hear of it.

#[cfg(test)]
mod cluster;
mod lifecycle;
mod patience;
mod placing;
mod policy;
mod repair;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "world"))]
#[cfg_attr(
    not(feature = "world"),
    allow(dead_code, unreachable_pub, reason = "for who explores it from outside")
)]
pub mod world;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::inspect::GroupView;
use super::rows::GroupRow;
use super::{Key, Outbox, Row};
use crate::group::{GroupSpec, GroupState};
use crate::ids::{ActorId, GroupId, NodeId, ProcessId};
use crate::machine::Time;
use crate::message::Message;

/// How many removed groups are remembered, for lists.
const REMOVED_MAX: usize = 1_000;

/// A group that is not removed.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) spec: Box<GroupSpec>,
    /// Counts up with each group that is made: the lower, the older.
    order: u64,
    /// Counts its placements; answers to older ones are ignored.
    attempt: u32,
    /// Where its bundles are. All or none before it is placed; afterwards what a dead node had is
    /// missing until it is placed anew.
    nodes: Vec<Option<NodeId>>,
    /// It was whole once, so work may run in what is left of it.
    was_placed: bool,
    phase: Phase,
    /// The orders of this head by which nodes were told to set bundles aside in the last attempt.
    orders: BTreeMap<NodeId, u64>,
    /// Since when it is not whole.
    since: Time,
    /// Nodes that refused in a row, and when it may be tried again after that.
    refusals: u32,
    not_before: Time,
    /// Why it waits, for people.
    detail: String,
}

#[derive(Clone, Debug)]
enum Phase {
    /// It waits for room.
    Waiting,
    /// Nodes were asked to set bundles aside.
    Reserving {
        /// The bundles that are being placed.
        places: BTreeMap<NodeId, Vec<u32>>,
        /// Who has not answered.
        outstanding: BTreeSet<NodeId>,
    },
    /// It is whole.
    Placed,
}

impl Group {
    fn new(spec: Box<GroupSpec>, order: u64, now: Time) -> Group {
        Group {
            order,
            attempt: 0,
            nodes: vec![None; spec.bundles.len()],
            was_placed: false,
            phase: Phase::Waiting,
            orders: BTreeMap::new(),
            since: now,
            refusals: 0,
            not_before: Time(0),
            detail: String::new(),
            spec,
        }
    }

    /// As the log knows it. A placement that was under way begins anew.
    fn restore(row: GroupRow) -> Group {
        let GroupRow { spec, order, attempt, nodes, was_placed } = row;
        let whole = nodes.iter().all(Option::is_some);
        let phase = if whole { Phase::Placed } else { Phase::Waiting };
        Group { attempt, nodes, was_placed, phase, ..Group::new(spec, order, Time(0)) }
    }

    fn row(&self) -> Row {
        let Group { spec, order, attempt, nodes, was_placed, .. } = self.clone();
        Row::Group(Box::new(GroupRow { spec, order, attempt, nodes, was_placed }))
    }

    /// What others are told of it.
    fn state(&self) -> GroupState {
        let detail = self.detail.clone();
        match &self.phase {
            Phase::Placed => GroupState::Placed { nodes: self.nodes.iter().flatten().copied().collect() },
            _ if self.was_placed => GroupState::Rescheduling { detail },
            _ => GroupState::Pending { detail },
        }
    }

    /// The nodes that have bundles of it, or are to set some aside.
    fn involved(&self) -> BTreeSet<NodeId> {
        let mut nodes: BTreeSet<NodeId> = self.nodes.iter().flatten().copied().collect();
        if let Phase::Reserving { places, .. } = &self.phase {
            nodes.extend(places.keys());
        }
        nodes
    }

    fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting)
    }
}

/// Somebody asked for a group whose creation is still on its way here, if it was ever sent.
#[derive(Clone, Debug)]
struct Awaited {
    deadline: Time,
    /// It is to be removed as soon as it is made.
    remove: bool,
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    groups: BTreeMap<GroupId, Group>,
    names: BTreeMap<(String, String), GroupId>,
    /// Groups that end with the actor that made them.
    by_maker: BTreeMap<ActorId, BTreeSet<GroupId>>,
    /// Groups that wait for room: those that were whole once first, then by age.
    waiting: BTreeSet<(bool, u64, GroupId)>,
    /// Groups whose nodes were asked.
    reserving: BTreeSet<GroupId>,
    removed: VecDeque<Box<GroupSpec>>,
    subscribers: BTreeMap<GroupId, BTreeSet<ProcessId>>,
    subscriptions: BTreeMap<ProcessId, BTreeSet<GroupId>>,
    awaited: BTreeMap<GroupId, Awaited>,
    last_order: u64,
    /// Something has changed for those that wait.
    stirred: bool,
    /// When those that wait were looked at last.
    looked: Time,
}

impl Groups {
    /// All groups as the log knows them.
    pub(super) fn restore(rows: BTreeMap<GroupId, GroupRow>, unmade: Vec<GroupId>) -> Groups {
        let mut groups = Groups::default();
        for row in rows.into_values() {
            groups.insert(Group::restore(row));
        }
        let removed = Awaited { deadline: Time(0), remove: true };
        groups.awaited = unmade.into_iter().map(|id| (id, removed.clone())).collect();
        groups
    }

    fn insert(&mut self, group: Group) {
        let (id, spec) = (group.spec.id, &group.spec);
        self.last_order = self.last_order.max(group.order);
        if !spec.name.is_empty() {
            self.names.insert((spec.namespace.clone(), spec.name.clone()), id);
        }
        if let Some(actor) = spec.creator.filter(|_| !spec.detached) {
            self.by_maker.entry(actor).or_default().insert(id);
        }
        if group.is_waiting() {
            self.waiting.insert((!group.was_placed, group.order, id));
        }
        self.groups.insert(id, group);
        self.stirred = true;
    }

    /// Whether all bundles of a group are there.
    pub(super) fn is_whole(&self, id: GroupId) -> bool {
        self.groups.get(&id).is_some_and(|group| matches!(group.phase, Phase::Placed))
    }

    /// Whether it is known that there was such a group.
    fn was_removed(&self, id: GroupId) -> bool {
        self.removed.iter().any(|spec| spec.id == id)
    }

    fn by_name(&self, namespace: &str, name: &str) -> Option<&Group> {
        let key = (String::from(namespace), String::from(name));
        self.names.get(&key).and_then(|id| self.groups.get(id))
    }

    /// What the log must hold of a group.
    pub(super) fn row(&self, id: GroupId) -> Option<Row> {
        let unmade = || self.awaited.get(&id).filter(|awaited| awaited.remove).map(|_| Row::UnmadeGroup);
        self.groups.get(&id).map(Group::row).or_else(unmade)
    }

    /// Change where a group is in its life; the tables follow.
    fn set_phase(&mut self, id: GroupId, phase: Phase) {
        let group = self.groups.get_mut(&id).expect("only groups that are there change");
        let key = (!group.was_placed, group.order, id);
        self.waiting.remove(&(true, group.order, id));
        self.waiting.remove(&(false, group.order, id));
        self.reserving.remove(&id);
        match phase {
            Phase::Waiting => drop(self.waiting.insert(key)),
            Phase::Reserving { .. } => drop(self.reserving.insert(id)),
            Phase::Placed => {}
        }
        group.phase = phase;
    }

    /// Forget a group.
    fn take(&mut self, id: GroupId) -> Option<Group> {
        let group = self.groups.remove(&id)?;
        let spec = &group.spec;
        if !spec.name.is_empty() {
            self.names.remove(&(spec.namespace.clone(), spec.name.clone()));
        }
        if let Some(actor) = spec.creator {
            leave(&mut self.by_maker, actor, &id);
        }
        self.waiting.remove(&(!group.was_placed, group.order, id));
        self.reserving.remove(&id);
        self.removed.push_back(spec.clone());
        if self.removed.len() > REMOVED_MAX {
            self.removed.pop_front();
        }
        Some(group)
    }

    fn subscribe(&mut self, subscriber: ProcessId, id: GroupId) {
        self.subscribers.entry(id).or_default().insert(subscriber);
        self.subscriptions.entry(subscriber).or_default().insert(id);
    }

    fn unsubscribe(&mut self, subscriber: ProcessId, id: GroupId) {
        leave(&mut self.subscribers, id, &subscriber);
        leave(&mut self.subscriptions, subscriber, &id);
    }

    /// The process is gone.
    pub(super) fn unsubscribe_all(&mut self, subscriber: ProcessId) {
        for id in self.subscriptions.remove(&subscriber).unwrap_or_default() {
            leave(&mut self.subscribers, id, &subscriber);
        }
    }

    /// Tell all subscribers the present state.
    fn announce(&self, id: GroupId, out: &mut Outbox) {
        for subscriber in self.subscribers.get(&id).into_iter().flatten() {
            self.tell(*subscriber, id, out);
        }
    }

    /// Tell one process the present state.
    fn tell(&self, to: ProcessId, id: GroupId, out: &mut Outbox) {
        let state = self.groups.get(&id).map_or(GroupState::Removed, Group::state);
        out.send(to, Message::GroupUpdate { group: id, state });
    }

    /// Tell one process what the group consists of.
    fn introduce(&self, to: ProcessId, id: GroupId, out: &mut Outbox) {
        if let Some(group) = self.groups.get(&id) {
            let bundles = group.spec.amounts().cloned().collect();
            out.send(to, Message::GroupMade { group: id, bundles });
        }
    }

    /// There is no such group, and there will be none: whoever asked for it is told so.
    fn give_up(&mut self, id: GroupId, out: &mut Outbox) {
        if self.awaited.remove(&id).is_some_and(|awaited| awaited.remove) {
            out.touch(Key::Group(id));
        }
        self.announce(id, out);
        for subscriber in self.subscribers.remove(&id).unwrap_or_default() {
            leave(&mut self.subscriptions, subscriber, &id);
        }
    }

    /// For [`Head::inspect`](crate::head::Head::inspect).
    pub(super) fn views(&self) -> impl Iterator<Item = GroupView> {
        self.groups.iter().map(|(id, group)| GroupView {
            group: *id,
            nodes: group.nodes.clone(),
            state: group.state(),
        })
    }

    /// The view of the cluster has changed.
    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    /// What the tables say of each other must be true.
    pub(super) fn check(&self, is_alive: impl Fn(NodeId) -> bool) {
        for (id, group) in &self.groups {
            assert_eq!(group.nodes.len(), group.spec.bundles.len());
            assert!(group.nodes.iter().flatten().all(|node| is_alive(*node)), "{group:?} is on living nodes");
            let whole = group.nodes.iter().all(Option::is_some);
            assert_eq!(matches!(group.phase, Phase::Placed), whole, "{group:?} is whole, or waits");
            assert!(group.was_placed || whole || group.nodes.iter().all(Option::is_none), "all or nothing");
            assert_eq!(group.is_waiting(), self.waiting.contains(&(!group.was_placed, group.order, *id)));
            assert_eq!(matches!(group.phase, Phase::Reserving { .. }), self.reserving.contains(id));
            if let Phase::Reserving { places, outstanding } = &group.phase {
                assert!(!outstanding.is_empty() && outstanding.iter().all(|node| places.contains_key(node)));
                assert!(places.keys().all(|node| is_alive(*node)), "{group:?} is placed on living nodes");
            }
        }
        assert!(self.waiting.iter().all(|(.., id)| self.groups.contains_key(id)));
        assert!(self.names.values().all(|id| self.groups.contains_key(id)), "names are of groups");
        let known = |id: &GroupId| self.groups.contains_key(id) || self.awaited.contains_key(id);
        assert!(self.subscribers.keys().all(known));
        assert!(self.awaited.keys().all(|id| !self.groups.contains_key(id)), "what is awaited is not known");
    }
}

fn leave<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: &V) {
    if let Some(set) = sets.get_mut(&key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(&key);
        }
    }
}
