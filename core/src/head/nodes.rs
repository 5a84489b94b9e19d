//! Nodes, and which of them gets an actor.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::rows::NodeRow;
use super::{Effect, Head, Key, Outbox, Row};
use crate::ids::NodeId;
use crate::message::NodeSummary;
use crate::resources::{Demand, Quantity, Resources, Strategy};

/// How full a node may become before work is spread, in thousandths.
const SPREAD_ABOVE: i128 = 500;

/// A node that was ever let in.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) summary: NodeSummary,
    /// Nothing new is to be placed there.
    pub(super) draining: bool,
    /// Of a dead node: see [`NodeRow::heir`].
    pub(super) heir: Option<NodeId>,
}

/// All nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<NodeId, Node>,
}

impl Nodes {
    /// All nodes as the log knows them.
    pub(super) fn restore(rows: BTreeMap<NodeId, NodeRow>) -> Nodes {
        let nodes = rows.into_iter().map(|(id, row)| {
            let NodeRow { summary, draining, heir } = row;
            (id, Node { summary, draining, heir })
        });
        Nodes { nodes: nodes.collect() }
    }

    /// What the log must hold of a node.
    pub(super) fn row(&self, id: NodeId) -> Option<Row> {
        let node = self.nodes.get(&id)?;
        let mut summary = node.summary.clone();
        summary.free = Resources::default();
        Some(Row::Node(Box::new(NodeRow { summary, draining: node.draining, heir: node.heir })))
    }

    /// The nodes that are not dead.
    pub(super) fn alive(&self) -> impl Iterator<Item = &NodeSummary> {
        self.nodes.values().map(|node| &node.summary).filter(|summary| summary.alive)
    }

    /// Whether a node was let in and is not dead.
    pub(super) fn is_alive(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.summary.alive)
    }

    /// All nodes, for lists.
    pub(super) fn list(&self) -> Vec<NodeSummary> {
        self.nodes.values().map(|node| node.summary.clone()).collect()
    }
}

impl Head {
    /// A daemon gets a number that was never given before.
    pub(super) fn node_joins(&mut self, connection: u64, mut summary: NodeSummary, out: &mut Outbox) {
        let last = self.meta.last_node.checked_add(1).expect("node numbers are used up");
        self.meta.last_node = last;
        let node = NodeId(last);
        (summary.node, summary.alive) = (node, true);
        out.touch(Key::Meta);
        out.touch(Key::Node(node));
        self.nodes.nodes.insert(node, Node { summary, draining: false, heir: None });
        out.push(Effect::Admit { connection, node, epoch: self.meta.epoch });
    }

    pub(super) fn node_returns(&mut self, connection: u64, node: NodeId, out: &mut Outbox) {
        let effect = if self.nodes.is_alive(node) {
            Effect::Resume { connection, node, epoch: self.meta.epoch }
        } else {
            let reason = format!("node {} is not in the cluster any more", node.0);
            Effect::Refuse { connection, reason }
        };
        out.push(effect);
    }

    pub(super) fn node_report(&mut self, mut report: NodeSummary, out: &mut Outbox) {
        report.alive = true;
        let id = report.node;
        let known = Node { summary: report.clone(), draining: false, heir: None };
        self.nodes.nodes.entry(id).or_insert(known).summary = report;
        self.place_unplaced(out);
    }
}

/// The node that gets work of this demand, if there is any node. A node that can never meet the
/// demand is chosen when none can: it says so once it has waited long enough.
pub(super) fn choose_node<'a>(
    nodes: impl Iterator<Item = &'a NodeSummary>,
    demand: &Demand,
) -> Option<NodeId> {
    let alive: Vec<&NodeSummary> = nodes.filter(|node| node.alive).collect();
    if let Strategy::Node { node: wanted, .. } = demand.strategy
        && alive.iter().any(|node| node.node == wanted)
    {
        return Some(wanted);
    }
    let rank = |node: &&&NodeSummary| {
        let feasible = node.total.covers(&demand.resources);
        let fits = node.free.covers(&demand.resources);
        let load = load_after(node, &demand.resources);
        let packs = demand.strategy != Strategy::Spread && load <= SPREAD_ABOVE;
        (!feasible, !fits, if packs { 0 } else { load }, node.node)
    };
    alive.iter().min_by_key(rank).map(|node| node.node)
}

/// How full the fullest resource of a node would be with `demand` on top, in thousandths.
fn load_after(node: &NodeSummary, demand: &Resources) -> i128 {
    let load = |(name, total): (&Arc<str>, &Quantity)| {
        let used = i128::from(total.0) - i128::from(node.free.get(name).0) + i128::from(demand.get(name).0);
        used * 1_000 / i128::from(total.0.max(1))
    };
    node.total.0.iter().map(load).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn cpus(amount: i64) -> Resources {
        let mut resources = Resources::default();
        resources.set(Resources::CPU, Quantity(amount * Quantity::ONE.0));
        resources
    }

    fn node(number: u32, total: i64, free: i64, alive: bool) -> NodeSummary {
        NodeSummary {
            node: NodeId(number),
            alive,
            host: String::new(),
            address: String::new(),
            total: cpus(total),
            free: cpus(free),
            labels: Vec::new(),
        }
    }

    #[test]
    fn nodes_are_packed_to_the_half_and_then_spread() {
        let on = |number, soft| Strategy::Node { node: NodeId(number), soft };
        // (total, free, alive) of nodes 1, 2, …; CPUs wanted; strategy; chosen.
        type Nodes<'a> = &'a [(i64, i64, bool)];
        let cases: [(Nodes, i64, Strategy, Option<u32>); 12] = [
            (&[], 1, Strategy::Hybrid, None),
            (&[(8, 8, false)], 1, Strategy::Hybrid, None),
            (&[(8, 8, true), (8, 8, true)], 1, Strategy::Hybrid, Some(1)),
            (&[(8, 5, true), (8, 8, true)], 1, Strategy::Hybrid, Some(1)),
            (&[(8, 4, true), (8, 8, true)], 1, Strategy::Hybrid, Some(2)),
            (&[(8, 4, true), (8, 3, true)], 1, Strategy::Hybrid, Some(1)),
            (&[(8, 7, true), (8, 8, true)], 1, Strategy::Spread, Some(2)),
            (&[(8, 0, true), (2, 2, true)], 4, Strategy::Hybrid, Some(1)),
            (&[(2, 2, true), (8, 8, true)], 16, Strategy::Hybrid, Some(2)),
            (&[(8, 0, true), (8, 8, true)], 1, on(1, false), Some(1)),
            (&[(8, 8, false), (8, 8, true)], 1, on(1, true), Some(2)),
            (&[(8, 8, false), (8, 8, true)], 1, on(1, false), Some(2)),
        ];
        for (index, (nodes, wanted, strategy, expected)) in cases.into_iter().enumerate() {
            let nodes: Vec<NodeSummary> = (1..)
                .zip(nodes)
                .map(|(number, (total, free, alive))| node(number, *total, *free, *alive))
                .collect();
            let demand = Demand { resources: cpus(wanted), strategy, ..Demand::default() };
            let chosen = choose_node(nodes.iter(), &demand).map(|node| node.0);
            assert_eq!(chosen, expected, "case {index}");
        }
    }
}
