//! Nodes, and which of them gets an actor.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Head, Outbox};
use crate::ids::NodeId;
use crate::message::NodeSummary;
use crate::resources::{Demand, Quantity, Resources, Strategy};

/// How full a node may become before work is spread, in thousandths.
const SPREAD_ABOVE: i128 = 500;

impl Head {
    pub(super) fn node_report(&mut self, mut report: NodeSummary, out: &mut Outbox) {
        report.alive = true;
        self.nodes.insert(report.node, report);
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
