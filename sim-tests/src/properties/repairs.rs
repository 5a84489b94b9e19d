//! Invariant 4: groups that have lost bundles with a node do not wait for what is left of each other. As long
//! as nothing disturbs them, an older one is not kept waiting by what younger ones hold that wait, too.

use std::collections::BTreeMap;

use shoal_core::group::{Bundle, GroupSpec, GroupState, GroupStrategy};
use shoal_core::head::{GroupView, Key, Row};
use shoal_core::ids::{GroupId, NodeId};
use shoal_core::resources::Resources;
use shoal_core::{Span, Time};

use super::groups::acting;
use super::{Check, Property};
use crate::world::World;

/// Looks are so far apart.
const EVERY: Span = Span::from_secs(1);
/// A wait that lasts so long does not end by itself.
const TOO_LONG: Span = Span::from_secs(4);

/// The groups under repair, as they were when they began to wait for each other.
#[derive(Default)]
pub(super) struct Repairs {
    next: Time,
    waiting: Option<(Time, Vec<Repair>)>,
}

/// A group under repair.
#[derive(Clone, Debug, PartialEq)]
struct Repair {
    order: u64,
    group: GroupId,
    nodes: Vec<Option<NodeId>>,
}

impl Property for Repairs {
    fn name(&self) -> &'static str {
        "repairs"
    }

    fn after_event(&mut self, world: &World) -> Check {
        let now = world.cluster.now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + EVERY;
        let repairs = repairs(world);
        let Some((taker, givers)) = cycle(world, &repairs) else {
            self.waiting = None;
            return Ok(());
        };
        match &self.waiting {
            Some((since, before)) if *before == repairs && *since + TOO_LONG <= now => {
                Err(format!("{taker:?} waits for what is left of {givers:?}, which wait, too: {repairs:?}"))
            }
            Some((_, before)) if *before == repairs => Ok(()),
            _ => {
                self.waiting = Some((now, repairs));
                Ok(())
            }
        }
    }
}

/// The groups under repair, the oldest first; none while something else may be in their way.
fn repairs(world: &World) -> Vec<Repair> {
    let Some(head) = acting(world).filter(|_| world.cluster.is_undisturbed()) else { return Vec::new() };
    // A new head waits for nodes that are dead until it knows.
    let lives = |(key, row): (&Key, &Row)| match (key, row) {
        (Key::Node(id), Row::Node(row)) => !row.summary.alive || world.cluster.nodes.contains_key(id),
        _ => true,
    };
    // Nothing is placed on a node that is to be emptied.
    let drains = head.inspect().nodes.iter().any(|node| node.alive && node.draining);
    if drains || !world.cluster.log.rows.iter().all(lives) {
        return Vec::new();
    }
    let waits = |view: &GroupView| matches!(view.state, GroupState::Rescheduling { .. });
    let views = head.inspect().groups.into_iter().filter(waits);
    let repair = |view: GroupView| {
        let (order, _) = row(world, view.group)?;
        Some(Repair { order, group: view.group, nodes: view.nodes })
    };
    let mut repairs: Vec<Repair> = views.filter_map(repair).collect();
    repairs.sort_unstable_by_key(|repair| repair.order);
    repairs
}

fn row(world: &World, group: GroupId) -> Option<(u64, &GroupSpec)> {
    match world.cluster.log.rows.get(&Key::Group(group)) {
        Some(Row::Group(row)) => Some((row.order, &row.spec)),
        _ => None,
    }
}

/// A group that waits, and younger ones that wait, without which it would not have to.
fn cycle(world: &World, repairs: &[Repair]) -> Option<(GroupId, Vec<GroupId>)> {
    let holds = |repair: &&Repair| repair.nodes.iter().any(Option::is_some);
    for (at, taker) in repairs.iter().enumerate() {
        let givers: Vec<&Repair> = repairs[at + 1..].iter().filter(holds).collect();
        let mut free: BTreeMap<NodeId, Resources> =
            world.cluster.nodes.iter().map(|(id, daemon)| (*id, daemon.node.inspect().free)).collect();
        for giver in &givers {
            let (_, spec) = row(world, giver.group)?;
            for (bundle, node) in spec.bundles.iter().zip(&giver.nodes) {
                if let Some(free) = node.and_then(|node| free.get_mut(&node)) {
                    free.add(&bundle.resources);
                }
            }
        }
        let (_, spec) = row(world, taker.group)?;
        if !givers.is_empty() && fits(world, spec, &taker.nodes, &free) {
            return Some((taker.group, givers.iter().map(|giver| giver.group).collect()));
        }
    }
    None
}

/// Whether there is a way to place what a group lacks, by trying all.
fn fits(
    world: &World,
    spec: &GroupSpec,
    nodes: &[Option<NodeId>],
    free: &BTreeMap<NodeId, Resources>,
) -> bool {
    let Some(missing) = nodes.iter().position(Option::is_none) else { return true };
    let Bundle { resources, labels } = &spec.bundles[missing];
    free.iter().any(|(node, room)| {
        let elsewhere = nodes.iter().flatten().any(|other| other != node);
        let here = nodes.contains(&Some(*node));
        let allowed = match spec.strategy {
            GroupStrategy::StrictPack => !elsewhere,
            GroupStrategy::StrictSpread => !here,
            GroupStrategy::Pack | GroupStrategy::Spread => true,
        };
        let host = world.cluster.nodes.get(node).map(|daemon| daemon.host);
        let suits = |host: usize| {
            labels.iter().all(|label| label.matches(*node, &world.cluster.hosts[host].settings.labels))
        };
        if !allowed || !room.covers(resources) || !host.is_some_and(suits) {
            return false;
        }
        let (mut nodes, mut free) = (nodes.to_vec(), free.clone());
        nodes[missing] = Some(*node);
        free.entry(*node).and_modify(|free| free.subtract(resources));
        fits(world, spec, &nodes, &free)
    })
}
