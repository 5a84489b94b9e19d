//! The table of nodes: what is known of each, and who may be told something.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::rows::NodeRow;
use super::{Config, Key, Outbox, Row};
use crate::group;
use crate::ids::NodeId;
use crate::machine::{Span, Time};
use crate::message::{Drain, Message, NodeSummary};
use crate::mutants::Mutant;
use crate::resources::{Quantity, Resources};

/// How many dead nodes are remembered.
const DEAD_MAX: usize = 10_000;

/// Whether the head and a node hear each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Link {
    /// A head before this one let it in, and it has not come to this one yet.
    Awaited {
        /// Since when there is reason to believe that it is gone.
        missed: Option<Time>,
    },
    /// They do.
    Up,
    /// Its connection broke.
    Cut {
        /// When.
        since: Time,
    },
}

/// A node that was ever let in.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// What is free is what it has reported, without what was placed there since.
    pub(super) summary: NodeSummary,
    /// Nothing new is to be placed there.
    pub(super) draining: Option<Drain>,
    /// When it is dead because it drains.
    pub(super) leaves: Option<Time>,
    /// Of a dead node: see [`NodeRow::heir`].
    pub(super) heir: Option<NodeId>,
    pub(super) link: Link,
    /// When it was heard of last.
    pub(super) heard: Time,
    /// What is on it is known: it joined under this head, or has told it everything.
    pub(super) known: bool,
    /// How often it was ordered to start something.
    orders: u64,
    /// What it was ordered to start, by the number of the order, and no report knows of yet.
    placed: BTreeMap<u64, Resources>,
}

impl Node {
    pub(super) fn new(summary: NodeSummary, now: Time) -> Node {
        Node {
            summary,
            draining: None,
            leaves: None,
            heir: None,
            link: Link::Up,
            heard: now,
            known: true,
            orders: 0,
            placed: BTreeMap::new(),
        }
    }

    fn restore(row: NodeRow) -> Node {
        let NodeRow { summary, draining, heir } = row;
        Node {
            summary,
            draining,
            leaves: None,
            heir,
            link: Link::Awaited { missed: None },
            heard: Time(0),
            known: false,
            orders: 0,
            placed: BTreeMap::new(),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.summary.alive
    }

    /// Whether it has not come to this head yet.
    fn is_awaited(&self) -> bool {
        matches!(self.link, Link::Awaited { .. })
    }

    /// Whether something may be placed there: a node that is cut off may be dead already.
    pub(super) fn is_available(&self) -> bool {
        self.is_settled() && self.draining.is_none()
    }

    /// Whether it is connected, and what is on it is known.
    pub(super) fn is_settled(&self) -> bool {
        self.is_alive() && self.link == Link::Up && self.known
    }

    /// What the node says of itself, having dealt with the orders up to this one.
    pub(super) fn report(&mut self, report: NodeSummary, order: u64) {
        self.summary = NodeSummary { alive: true, node: self.summary.node, ..report };
        self.placed.retain(|number, _| *number > order);
        for resources in self.placed.values() {
            self.summary.free.subtract(resources);
        }
    }

    /// It is about to be ordered to start something that needs this: the number of the order.
    pub(super) fn order(&mut self, resources: &Resources) -> u64 {
        self.summary.free.subtract(resources);
        self.orders += 1;
        self.placed.insert(self.orders, resources.clone());
        self.orders
    }

    /// Whether nothing that it was ordered to start after this order is on its way to it.
    pub(super) fn has_heard(&self, order: u64) -> bool {
        self.orders == order
    }

    /// What it was ordered to set aside goes back, and whether a report knew of the order does not
    /// matter any more.
    pub(super) fn given_back(&mut self, resources: &Resources, order: Option<u64>) {
        order.map(|order| self.placed.remove(&order));
        let NodeSummary { total, free, .. } = &mut self.summary;
        for (name, amount) in &resources.0 {
            let sum = Quantity(free.get(name).0 + amount.0);
            free.set(name, total.get(name).min(sum));
        }
    }

    /// What others are told of it: a draining node has nothing to offer.
    pub(super) fn shown(&self) -> NodeSummary {
        let mut summary = self.summary.clone();
        if self.draining.is_some() {
            // Groups that have bundles there go on using them.
            summary.total.0.retain(|name, _| group::is_derived(name));
            summary.free.0.retain(|name, _| group::is_derived(name));
        }
        summary.free.0.retain(|_, amount| *amount > Quantity(0));
        summary
    }

    /// When it is dead if nothing is heard of it until then.
    pub(super) fn deadline(&self, config: &Config) -> Time {
        let slow_is_dead = Mutant::SlowIsDead.is_active();
        let grace = if slow_is_dead { config.reconnect_grace } else { config.silence_grace };
        let silent = self.heard + grace;
        match self.link {
            Link::Cut { since } if Mutant::HastyDeath.is_active() => {
                silent.min(since + Span(config.reconnect_grace.0 / 2))
            }
            Link::Cut { since } | Link::Awaited { missed: Some(since) } => {
                silent.min(since + config.reconnect_grace)
            }
            Link::Up | Link::Awaited { missed: None } => silent,
        }
    }
}

/// All nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<NodeId, Node>,
    /// The dead in the order of their numbers.
    dead: BTreeSet<NodeId>,
}

impl Nodes {
    /// All nodes as the log knows them.
    pub(super) fn restore(rows: BTreeMap<NodeId, NodeRow>) -> Nodes {
        let nodes: BTreeMap<NodeId, Node> =
            rows.into_iter().map(|(id, row)| (id, Node::restore(row))).collect();
        let dead = nodes.iter().filter(|(_, node)| !node.is_alive()).map(|(id, _)| *id).collect();
        Nodes { nodes, dead }
    }

    /// What the log must hold of a node.
    pub(super) fn row(&self, id: NodeId) -> Option<Row> {
        let node = self.nodes.get(&id)?;
        let mut summary = node.summary.clone();
        summary.free = Resources::default();
        Some(Row::Node(Box::new(NodeRow { summary, draining: node.draining.clone(), heir: node.heir })))
    }

    pub(super) fn insert(&mut self, node: Node) {
        self.nodes.insert(node.summary.node, node);
    }

    /// The node, if it is not dead.
    pub(super) fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id).filter(|node| node.is_alive())
    }

    /// The node, if it is not dead.
    pub(super) fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(&id).filter(|node| node.is_alive())
    }

    /// Every node that is remembered.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    /// The nodes that are not dead.
    pub(super) fn alive(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().filter(|(_, node)| node.is_alive()).map(|(id, node)| (*id, node))
    }

    /// The nodes that are not dead.
    pub(super) fn alive_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.values_mut().filter(|node| node.is_alive())
    }

    /// The nodes that can be told something: one that is still awaited is told everything when it comes.
    pub(super) fn within_reach(&self) -> impl Iterator<Item = NodeId> {
        self.alive().filter(|(_, node)| !node.is_awaited()).map(|(id, _)| id)
    }

    pub(super) fn is_within_reach(&self, id: NodeId) -> bool {
        self.get(id).is_some_and(|node| !node.is_awaited())
    }

    /// Say something to every node that can be told something.
    pub(super) fn tell_all(&self, message: &Message, out: &mut Outbox) {
        for node in self.within_reach() {
            out.send_to_node(node, message.clone());
        }
    }

    /// Every node, for lists.
    pub(super) fn list(&self) -> Vec<NodeSummary> {
        self.nodes.values().map(Node::shown).collect()
    }

    /// A node is dead. The oldest of the dead are forgotten when there are too many.
    pub(super) fn bury(&mut self, id: NodeId, heir: Option<NodeId>, out: &mut Outbox) {
        let node = self.nodes.get_mut(&id).expect("only nodes die");
        node.summary.alive = false;
        node.summary.free = Resources::default();
        node.heir = heir;
        node.placed.clear();
        out.touch(Key::Node(id));
        self.dead.insert(id);
        if self.dead.len() > DEAD_MAX
            && let Some(oldest) = self.dead.pop_first()
        {
            self.nodes.remove(&oldest);
            out.touch(Key::Node(oldest));
        }
    }

    /// Give dead nodes without an heir this one.
    pub(super) fn inherit(&mut self, heir: NodeId, out: &mut Outbox) {
        for id in &self.dead {
            let node = self.nodes.get_mut(id).expect("the dead are remembered");
            if node.heir.is_none() {
                node.heir = Some(heir);
                out.touch(Key::Node(*id));
            }
        }
    }

    /// The dead, each with the living node that has in the end inherited from it.
    pub(super) fn dead(&self) -> impl Iterator<Item = (NodeId, NodeId)> {
        self.dead.iter().filter_map(|id| Some((*id, self.living_heir(*id)?)))
    }

    /// The living node that has in the end inherited from a dead one.
    pub(super) fn living_heir(&self, id: NodeId) -> Option<NodeId> {
        // An heir was alive when the other died, so the chain goes on in time, and ends.
        let mut heir = self.nodes.get(&id)?.heir?;
        while let Some(next) = self.nodes.get(&heir).filter(|node| !node.is_alive()) {
            heir = next.heir?;
        }
        self.get(heir).map(|_| heir)
    }

    /// What the table says of itself must be true.
    pub(super) fn check(&self) {
        for (id, node) in &self.nodes {
            assert_eq!(*id, node.summary.node);
            assert_eq!(node.is_alive(), !self.dead.contains(id), "whoever is not dead is alive");
            assert!(node.is_alive() || node.placed.is_empty(), "nothing is placed on dead nodes");
        }
        let heirless = |id: &NodeId| self.nodes.get(id).is_some_and(|node| node.heir.is_none());
        assert!(
            self.alive().next().is_none() || !self.dead.iter().any(heirless),
            "where somebody lives the dead have heirs"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::harness::*;

    #[test]
    fn what_was_ordered_is_deducted_until_a_report_knows_of_it() {
        let cpus = |count| resources(&[("CPU", count)]);
        let report = |count| NodeSummary { free: cpus(count), ..summary(NODE) };
        let mut node = Node::new(report(4), Time(0));
        let orders = [node.order(&cpus(1)), node.order(&cpus(2))];
        assert_eq!(node.summary.free, cpus(1));
        node.report(report(4), 0);
        assert_eq!(node.summary.free, cpus(1), "this was on its way before the orders");
        node.report(report(3), orders[0]);
        assert_eq!(node.summary.free, cpus(1));
        node.report(report(1), orders[1]);
        assert_eq!(node.summary.free, cpus(1));
        node.report(report(4), orders[1]);
        assert_eq!(node.summary.free, cpus(4), "both have ended");
    }
}
