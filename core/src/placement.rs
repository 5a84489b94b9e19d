//! Where work goes, by what is known of the nodes: pure functions that nodes use for leases and the
//! head for actors.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::group;
use crate::ids::NodeId;
use crate::message::NodeSummary;
use crate::resources::{Demand, LabelSelector, Quantity, Resources, Strategy};

/// How full a node may become before work is spread, in thousandths.
const SPREAD_ABOVE: i128 = 500;

/// Whether a node can ever run work of this demand, once enough is free.
pub(crate) fn is_feasible(node: &NodeSummary, demand: &Demand) -> bool {
    node.alive && holds(&node.total, demand) && admits(node, demand)
}

/// Whether a node that has these amounts has what work of this demand needs, and in one bundle what is to be
/// in one.
pub(crate) fn holds(amounts: &Resources, demand: &Demand) -> bool {
    let in_one = |group| group::is_in_one_bundle(amounts, &demand.resources, group);
    amounts.covers(&demand.resources) && demand.group.is_none_or(in_one)
}

/// Whether work of this demand may run on a node, whatever resources it has.
pub(crate) fn admits(node: &NodeSummary, demand: &Demand) -> bool {
    let elsewhere =
        matches!(demand.strategy, Strategy::Node { node: wanted, soft: false, .. } if wanted != node.node);
    !elsewhere && matches_labels(node, demand)
}

fn matches_labels(node: &NodeSummary, demand: &Demand) -> bool {
    demand.labels.iter().all(|selector| selector.matches(node.node, &node.labels))
}

/// Whether a node can run it now, as far as is known.
pub(crate) fn fits_now(node: &NodeSummary, demand: &Demand) -> bool {
    is_feasible(node, demand) && holds(&node.free, demand)
}

/// So many nodes where work fits are looked at, before the least full of them is taken.
pub(crate) const CANDIDATES_MAX: usize = 16;

/// The best of these nodes, in this order: the first that stays less than half full, else the least full one.
pub(crate) fn best<'a>(nodes: impl Iterator<Item = &'a NodeSummary>, demand: &Demand) -> Option<NodeId> {
    let mut best: Option<(i128, NodeId)> = None;
    for node in nodes {
        let load = load_after(node, &demand.resources);
        if load <= SPREAD_ABOVE {
            return Some(node.node);
        }
        if best.is_none_or(|(least, _)| load < least) {
            best = Some((load, node.node));
        }
    }
    best.map(|(_, node)| node)
}

/// The next of these nodes after `after`, in turns.
pub(crate) fn next_in_turn(nodes: impl Iterator<Item = NodeId>, after: NodeId) -> Option<NodeId> {
    nodes.min_by_key(|node| node.0.wrapping_sub(after.0).wrapping_sub(1))
}

/// The node that gets work of this demand, of those that can ever run it: one where it fits now if there
/// is one. They come in the order of their numbers. Work that is to be spread goes to the least full nodes in turns, `turn` had one last.
pub(crate) fn choose(nodes: &[&NodeSummary], demand: &Demand, turn: NodeId) -> Option<NodeId> {
    let feasible = || nodes.iter().copied().filter(|node| is_feasible(node, demand));
    let strategy = &demand.strategy;
    let wanted = strategy.wants().filter(|wanted| feasible().any(|node| node.node == *wanted));
    let has_room = |wanted: &NodeId| feasible().any(|node| node.node == *wanted && fits_now(node, demand));
    if let Some(wanted) = wanted.or_else(|| strategy.prefers().filter(has_room)) {
        return Some(wanted);
    }
    let fitting: Vec<&NodeSummary> = feasible().filter(|node| fits_now(node, demand)).collect();
    let candidates = if fitting.is_empty() { feasible().collect() } else { fitting };
    if demand.strategy != Strategy::Spread {
        return best(candidates.into_iter(), demand);
    }
    let load = |node: &&NodeSummary| load_after(node, &demand.resources);
    let least = candidates.iter().map(load).min()?;
    let least_full = candidates.iter().filter(|node| load(node) == least);
    next_in_turn(least_full.map(|node| node.node), turn)
}

/// Why work that is not to wait for room is refused, for people.
pub(crate) fn no_room_at_once(node: &NodeSummary, needed: &Resources) -> String {
    let NodeSummary { node, free, .. } = node;
    format!("it needs {needed} at once, node {} has only {free} free, and it is not to wait", node.0)
}

/// How full the fullest resource of a node would be with `demand` on top, in thousandths.
pub(crate) fn load_after(node: &NodeSummary, demand: &Resources) -> i128 {
    let load = |(name, total): (&Arc<str>, &Quantity)| {
        let used = i128::from(total.0) - i128::from(node.free.get(name).0) + i128::from(demand.get(name).0);
        used * 1_000 / i128::from(total.0.max(1))
    };
    node.total.0.iter().map(load).max().unwrap_or(0)
}

/// Why none of these nodes can ever run work of this demand, for people. `home` is who says so.
pub(crate) fn shortage(nodes: &[&NodeSummary], demand: &Demand, home: &NodeSummary) -> String {
    let bound = match demand.strategy {
        Strategy::Node { node, soft: false, .. } => Some(node),
        _ => None,
    };
    if let Some(wanted) = bound
        && !nodes.iter().any(|node| node.node == wanted)
    {
        return format!("node {} is not in the cluster", wanted.0);
    }
    let labels = LabelSelector::list(&demand.labels);
    if !nodes.iter().any(|node| matches_labels(node, demand)) {
        return format!("no node has the labels that it needs ({labels})");
    }
    let candidates: Vec<&NodeSummary> = nodes.iter().copied().filter(|node| admits(node, demand)).collect();
    let nobody = match bound {
        Some(wanted) if candidates.is_empty() => {
            return format!("node {} has not the labels that it needs ({labels})", wanted.0);
        }
        Some(wanted) => format!("node {} does not have", wanted.0),
        None if labels.is_empty() => String::from("no node has"),
        None => format!("no node with the labels that it needs ({labels}) has"),
    };
    let most = |name: &str| candidates.iter().map(|node| node.total.get(name)).max().unwrap_or_default();
    let missing = demand.resources.0.iter().find(|(name, amount)| most(name) < **amount);
    let Some((name, amount)) = missing else {
        return format!("{nobody} all of {} at once", demand.resources);
    };
    format!(
        "it needs {} of {name}, and {nobody} more than {}; it needs {} in all, node {} has {}",
        amount.as_f64(),
        most(name).as_f64(),
        demand.resources,
        home.node.0,
        home.total,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(amount: i64) -> Resources {
        let mut resources = Resources::default();
        resources.set(Resources::CPU, Quantity(amount * Quantity::ONE.0));
        resources
    }

    fn node(number: u32, total: i64, free: i64) -> NodeSummary {
        NodeSummary {
            node: NodeId(number),
            alive: true,
            name: String::new(),
            host: String::new(),
            address: String::new(),
            total: cpus(total),
            free: cpus(free),
            labels: alloc::vec![(String::from("zone"), format!("z{number}"))],
        }
    }

    fn demand(wanted: i64) -> Demand {
        Demand { resources: cpus(wanted), ..Demand::default() }
    }

    #[test]
    fn nodes_are_packed_to_the_half_and_then_spread_from_who_asks_on() {
        // (total, free) of nodes 1, 2, …; counted from; chosen for one CPU.
        type Case<'a> = (&'a [(i64, i64)], u32, Option<u32>);
        let cases: [Case; 6] = [
            (&[], 1, None),
            (&[(8, 8), (8, 8), (8, 8)], 1, Some(1)),
            (&[(8, 8), (8, 8), (8, 8)], 2, Some(2)),
            (&[(8, 4), (8, 8), (8, 3)], 3, Some(2)),
            (&[(8, 4), (8, 3), (8, 4)], 1, Some(1)),
            (&[(8, 4), (8, 3), (8, 4)], 2, Some(3)),
        ];
        for (index, (nodes, from, expected)) in cases.into_iter().enumerate() {
            let nodes: Vec<NodeSummary> =
                (1..).zip(nodes).map(|(number, (total, free))| node(number, *total, *free)).collect();
            let before = from as usize - 1;
            let in_order = nodes.iter().skip(before).chain(nodes.iter().take(before));
            let chosen = best(in_order, &demand(1)).map(|node| node.0);
            assert_eq!(chosen, expected, "case {index}");
        }
    }

    #[test]
    fn work_goes_where_it_fits_and_otherwise_where_it_may_wait_least() {
        let on = |number, soft| Strategy::bound(NodeId(number), soft);
        // (total, free) of nodes 1, 2, …; who had a turn last; CPUs wanted; strategy; chosen.
        type Case<'a> = (&'a [(i64, i64)], u32, i64, Strategy, Option<u32>);
        let at_once = |number, soft| Strategy::Node { node: NodeId(number), soft, at_once: true };
        let cases: [Case; 20] = [
            (&[], 0, 1, Strategy::Hybrid, None),
            (&[(8, 8), (8, 8)], 0, 1, Strategy::Hybrid, Some(1)),
            (&[(8, 5), (8, 8)], 0, 1, Strategy::Hybrid, Some(1)),
            (&[(8, 4), (8, 8)], 0, 1, Strategy::Hybrid, Some(2)),
            (&[(8, 4), (8, 3)], 0, 1, Strategy::Hybrid, Some(1)),
            (&[(8, 0), (2, 2)], 0, 4, Strategy::Hybrid, Some(1)),
            (&[(2, 2), (8, 8)], 0, 16, Strategy::Hybrid, None),
            (&[(8, -3), (8, -2)], 0, 1, Strategy::Hybrid, Some(2)),
            (&[(8, 7), (8, 8)], 0, 1, Strategy::Spread, Some(2)),
            (&[(8, 8), (8, 8), (8, 8)], 2, 1, Strategy::Spread, Some(3)),
            (&[(8, 8), (8, 8), (8, 7)], 2, 1, Strategy::Spread, Some(1)),
            (&[(4, 4), (8, 8)], 2, 1, Strategy::Spread, Some(2)),
            (&[(8, 0), (8, 8)], 0, 1, on(1, false), Some(1)),
            (&[(8, 0), (8, 8)], 0, 1, on(1, true), Some(1)),
            (&[(8, 8), (8, 8)], 0, 1, on(7, true), Some(1)),
            (&[(8, 8), (8, 8)], 0, 1, on(7, false), None),
            (&[(8, 8), (8, 8)], 0, 1, at_once(2, true), Some(2)),
            (&[(8, 8), (8, 0)], 0, 1, at_once(2, true), Some(1)),
            (&[(8, 8), (8, 8)], 0, 1, at_once(2, false), Some(2)),
            (&[(8, 8), (8, 8)], 0, 1, at_once(7, false), None),
        ];
        for (index, (nodes, turn, wanted, strategy, expected)) in cases.into_iter().enumerate() {
            let nodes: Vec<NodeSummary> =
                (1..).zip(nodes).map(|(number, (total, free))| node(number, *total, *free)).collect();
            let nodes: Vec<&NodeSummary> = nodes.iter().collect();
            let demand = Demand { strategy, ..demand(wanted) };
            let chosen = choose(&nodes, &demand, NodeId(turn)).map(|node| node.0);
            assert_eq!(chosen, expected, "case {index}");
        }
    }

    #[test]
    fn turns_go_round() {
        let turns = |after| next_in_turn([2, 5, 9].into_iter().map(NodeId), NodeId(after)).map(|node| node.0);
        assert_eq!([0, 2, 4, 5, 9, 12].map(turns), [2, 5, 5, 9, 2, 2].map(Some));
    }

    #[test]
    fn feasible_is_what_totals_labels_and_strategy_allow() {
        let zone = |value: &str| LabelSelector {
            key: String::from("zone"),
            values: alloc::vec![String::from(value)],
            excludes: false,
        };
        let on = |number, soft| Strategy::bound(NodeId(number), soft);
        let with =
            |labels: &[LabelSelector], strategy| Demand { labels: labels.to_vec(), strategy, ..demand(2) };
        let cases = [
            (demand(2), true),
            (demand(9), false),
            (with(&[zone("z1")], Strategy::Hybrid), true),
            (with(&[zone("z2")], Strategy::Hybrid), false),
            (with(&[], on(2, false)), false),
            (with(&[], on(2, true)), true),
            (with(&[], on(1, false)), true),
        ];
        for (demand, expected) in cases {
            assert_eq!(is_feasible(&node(1, 8, 0), &demand), expected, "{demand:?}");
        }
        assert!(!is_feasible(&NodeSummary { alive: false, ..node(1, 8, 8) }, &demand(1)));
        assert!(!fits_now(&node(1, 8, 1), &demand(2)) && fits_now(&node(1, 8, 2), &demand(2)));
    }

    #[test]
    fn a_shortage_names_what_is_missing_most_directly() {
        let nodes = [node(1, 2, 2), node(2, 4, 0)];
        let all: Vec<&NodeSummary> = nodes.iter().collect();
        let told = |demand: &Demand| shortage(&all, demand, &nodes[0]);
        let text = told(&demand(5));
        assert!(
            text.contains("5 of CPU") && text.contains("more than 4") && text.contains("CPU: 2"),
            "{text}"
        );
        let hard = Demand { strategy: Strategy::bound(NodeId(7), false), ..demand(1) };
        assert!(told(&hard).contains("node 7 is not"));
        let selector = |key: &str, values: &[&str]| {
            let values = values.iter().map(|value| String::from(*value)).collect();
            alloc::vec![LabelSelector { key: key.into(), values, excludes: false }]
        };
        let on = |number| Strategy::bound(NodeId(number), false);
        let cases = [
            (selector("disk", &[]), Strategy::Hybrid, 1, "has the labels that it needs (disk)"),
            (
                selector("zone", &["z1"]),
                Strategy::Hybrid,
                3,
                "labels that it needs (zone=z1) has more than 2",
            ),
            (selector("zone", &["z2"]), on(1), 1, "node 1 has not the labels that it needs (zone=z2)"),
            (Vec::new(), on(1), 3, "node 1 does not have more than 2"),
        ];
        for (labels, strategy, wanted, expected) in cases {
            let text = told(&Demand { labels, strategy, ..demand(wanted) });
            assert!(text.contains(expected), "{text}");
        }
    }

    proptest::proptest! {
        /// The choice is a node that can run the work, where it fits now if it fits anywhere, and no
        /// other of those is less full (or both are less than half full, or it is another's turn).
        #[test]
        fn the_choice_is_as_good_as_any(
            amounts in proptest::collection::vec((0i64..9, 0i64..9), 0..6),
            wanted in 0i64..6,
            turn in 0u32..7,
            spread in proptest::bool::ANY,
        ) {
            let nodes: Vec<NodeSummary> =
                (1..).zip(amounts).map(|(number, (total, used))| node(number, total, total - used)).collect();
            let nodes: Vec<&NodeSummary> = nodes.iter().collect();
            let strategy = if spread { Strategy::Spread } else { Strategy::Hybrid };
            let demand = Demand { strategy, ..demand(wanted) };
            let chosen = choose(&nodes, &demand, NodeId(turn));
            let feasible: Vec<_> = nodes.iter().filter(|node| is_feasible(node, &demand)).collect();
            assert_eq!(chosen.is_some(), !feasible.is_empty());
            let Some(chosen) = feasible.iter().find(|node| Some(node.node) == chosen) else { return Ok(()) };
            let fits = |node: &NodeSummary| fits_now(node, &demand);
            assert!(fits(chosen) || !feasible.iter().any(|node| fits(node)));
            let load = |node: &NodeSummary| load_after(node, &demand.resources);
            for other in feasible.iter().filter(|other| fits(other) == fits(chosen)) {
                let packed = !spread && load(chosen) <= SPREAD_ABOVE;
                assert!(packed || load(chosen) <= load(other), "{chosen:?}, not {other:?}");
            }
        }
    }
}
