//! Placement groups: what is asked for and what is known of them.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;
use serde::{Deserialize, Serialize};

use crate::ids::{ActorId, GroupId, JobId, NodeId};
use crate::resources::{LabelSelector, Quantity, Resources};

/// How the bundles of a group lie to each other.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum GroupStrategy {
    /// On as few nodes as possible.
    #[default]
    Pack,
    /// On as many nodes as possible.
    Spread,
    /// All on one node.
    StrictPack,
    /// Each on a node of its own.
    StrictSpread,
}

/// Amounts that lie on one node.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// How much.
    pub resources: Resources,
    /// Only on nodes with such labels.
    pub labels: Vec<LabelSelector>,
}

/// Everything about a placement group that never changes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Its id.
    pub id: GroupId,
    /// The job it belongs to.
    pub job: JobId,
    /// The actor that made it, whose end is the group's; else it ends with its job.
    pub creator: Option<ActorId>,
    /// Its name, unique in `namespace`; empty is none.
    pub name: String,
    /// Where the name counts.
    pub namespace: String,
    /// Outlives its creator and its job.
    pub detached: bool,
    /// What it consists of.
    pub bundles: Vec<Bundle>,
    /// How they lie.
    pub strategy: GroupStrategy,
}

impl GroupSpec {
    /// What each bundle has, by its index.
    pub(crate) fn amounts(&self) -> impl Iterator<Item = &Resources> {
        self.bundles.iter().map(|bundle| &bundle.resources)
    }
}

/// Where a group is in its life, as the head records it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum GroupState {
    /// It waits for room.
    Pending {
        /// What is missing, for people; empty while it is being placed.
        detail: String,
    },
    /// All bundles are there; the node of each.
    Placed {
        /// By bundle index.
        nodes: Vec<NodeId>,
    },
    /// A node died, and the bundles that were there wait for room.
    Rescheduling {
        /// What is missing, for people.
        detail: String,
    },
    /// Gone for good.
    Removed,
}

/// Each bundle offers so much of a resource of its own, of which all work in it takes a trace: work
/// that asks for nothing else is bound to the bundle's node, too.
pub const BUNDLE_SHARES: Quantity = Quantity(1_000 * Quantity::ONE.0);
/// What of [`BUNDLE_SHARES`] a piece of work takes.
pub const BUNDLE_SHARE: Quantity = Quantity(10);
/// The name of the bundle's own resource.
const BUNDLE: &str = "bundle";

/// What names the group in its resources: the program's text for its id.
pub fn text(group: GroupId) -> String {
    format!("{:016x}{:016x}", group.0.owner.0, group.0.number)
}

/// The resource that stands for `name` in any bundle of a group, or in that one.
fn derived_name(name: &str, text: &str, bundle: Option<u32>) -> String {
    match bundle {
        None => format!("{name}_group_{text}"),
        Some(index) => format!("{name}_group_{index}_{text}"),
    }
}

/// Whether a resource may be one of a bundle; users can give theirs such names, too.
pub(crate) fn is_derived(name: &str) -> bool {
    name.contains("_group_")
}

fn derived(resources: &Resources, share: Quantity, group: GroupId, bundle: Option<u32>) -> Resources {
    let text = text(group);
    let mut derived = Resources::default();
    let bundles = core::iter::once(None).chain(bundle.map(Some));
    for of in bundles {
        for (name, amount) in &resources.0 {
            derived.set(&derived_name(name, &text, of), *amount);
        }
        derived.set(&derived_name(BUNDLE, &text, of), share);
    }
    derived
}

/// What a node offers on top while it has this bundle: everything of it twice, under the name of the
/// bundle and under that of the group.
pub fn offered(bundle: &Resources, group: GroupId, index: u32) -> Resources {
    derived(bundle, BUNDLE_SHARES, group, Some(index))
}

/// What work that needs `resources` asks for in order to run in a group: in one of its bundles, or in
/// whichever has room.
pub fn demanded(resources: &Resources, group: GroupId, bundle: Option<u32>) -> Resources {
    derived(resources, BUNDLE_SHARE, group, bundle)
}

/// The inverse of [`demanded`]: what the work needs, and the bundle that it names. `None` if these are
/// not resources of the group alone.
pub fn needed(demanded: &Resources, group: GroupId) -> Option<(Resources, Option<u32>)> {
    let text = text(group);
    let (of_group, of_bundle) = (format!("_group_{text}"), format!("_{text}"));
    let mut resources = Resources::default();
    let mut bundle = None;
    for (name, amount) in &demanded.0 {
        if let Some(name) = name.strip_suffix(&of_group) {
            resources.set(name, *amount);
            continue;
        }
        let (_, index) = name.strip_suffix(&of_bundle)?.rsplit_once("_group_")?;
        let index = index.parse().ok()?;
        if *bundle.get_or_insert(index) != index {
            return None;
        }
    }
    resources.set(BUNDLE, Quantity(0));
    Some((resources, bundle))
}

/// Whether a node with these amounts has one bundle of the group where there is enough for such work. What
/// it shows under the name of the group alone is the sum of all of its bundles.
pub(crate) fn is_in_one_bundle(amounts: &Resources, demanded: &Resources, group: GroupId) -> bool {
    let Some((needed, named)) = needed(demanded, group) else { return false };
    if named.is_some() {
        return true;
    }
    let text = text(group);
    let prefix = format!("{BUNDLE}_group_");
    let of_this = |name: &str| {
        let (index, of) = name.strip_prefix(&prefix)?.split_once('_')?;
        index.parse::<u32>().ok().filter(|_| of == text)
    };
    let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
    let bundles =
        amounts.0.range::<str, _>(from).map_while(|(name, _)| name.strip_prefix(&prefix).map(|_| name));
    let mut indices = bundles.filter_map(|name| of_this(name));
    indices.any(|index| {
        let has = |(name, amount): (&Arc<str>, &Quantity)| {
            amounts.get(&derived_name(name, &text, Some(index))) >= *amount
        };
        needed.0.iter().all(has)
    })
}

/// The bundles, of these, that could run work which asks for `demanded` in the group, were they empty.
pub fn bundles_for<'a>(
    bundles: impl Iterator<Item = &'a Resources>,
    demanded: &Resources,
    group: GroupId,
) -> Vec<u32> {
    let Some((amounts, named)) = needed(demanded, group) else { return Vec::new() };
    let could = |(index, bundle): &(u32, &Resources)| {
        named.is_none_or(|named| named == *index) && bundle.covers(&amounts)
    };
    (0..).zip(bundles).filter(could).map(|(index, _)| index).collect()
}

/// Why no bundle of a group can ever run such work, for people.
pub(crate) fn misfit<'a>(
    bundles: impl Iterator<Item = &'a Resources>,
    demanded: &Resources,
    group: GroupId,
) -> String {
    let Some((amounts, named)) = needed(demanded, group) else {
        return format!("{demanded} is not of one bundle of {group:?}");
    };
    let bundles: Vec<String> = bundles.map(|bundle| format!("{bundle}")).collect();
    let which = match named {
        Some(index) => format!("bundle {index}"),
        None => String::from("any bundle"),
    };
    let listed = bundles.join(", ");
    format!("it needs {amounts}, which cannot fit into {which} of its placement group, which has [{listed}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ProcessId, TaskId};

    const GROUP: GroupId = GroupId(TaskId { owner: ProcessId::new(NodeId(3), 7), number: 12 });

    fn resources(amounts: &[(&str, i64)]) -> Resources {
        let mut resources = Resources::default();
        for (name, amount) in amounts {
            resources.set(name, Quantity(*amount));
        }
        resources
    }

    #[test]
    fn work_names_its_bundle_and_its_group_or_the_group_alone() {
        let id = "0000000300000007000000000000000c";
        let cpu = resources(&[("CPU", 5_000)]);
        let names = |resources: Resources| resources.0.into_keys().collect::<Vec<_>>();
        assert_eq!(
            names(demanded(&cpu, GROUP, None)),
            [format!("CPU_group_{id}"), format!("bundle_group_{id}")].map(alloc::sync::Arc::from)
        );
        assert_eq!(names(demanded(&cpu, GROUP, Some(4))).len(), 4);
        let offer = offered(&cpu, GROUP, 4);
        for bundle in [None, Some(4)] {
            assert!(offer.covers(&demanded(&cpu, GROUP, bundle)));
            assert_eq!(needed(&demanded(&cpu, GROUP, bundle), GROUP), Some((cpu.clone(), bundle)));
        }
        assert!(!offer.covers(&demanded(&cpu, GROUP, Some(3))));
    }

    #[test]
    fn what_two_bundles_have_together_is_not_in_one() {
        let other = GroupId(TaskId { number: 13, ..GROUP.0 });
        let mut amounts = offered(&resources(&[("CPU", 5_000)]), GROUP, 0);
        amounts.add(&offered(&resources(&[("CPU", 5_000), ("GPU", 10_000)]), GROUP, 12));
        amounts.add(&offered(&resources(&[("CPU", 20_000)]), other, 0));
        let cases = [
            (&[("CPU", 10_000)][..], None, false),
            (&[("CPU", 5_000)], None, true),
            (&[("CPU", 5_000), ("GPU", 10_000)], None, true),
            (&[], None, true),
            (&[("CPU", 5_000)], Some(0), true),
        ];
        for (needs, bundle, expected) in cases {
            let wanted = demanded(&resources(needs), GROUP, bundle);
            assert!(amounts.covers(&wanted));
            assert_eq!(is_in_one_bundle(&amounts, &wanted, GROUP), expected, "{needs:?}");
        }
    }

    #[test]
    fn what_is_not_of_the_group_is_not_taken_for_it() {
        let other = GroupId(TaskId { number: 13, ..GROUP.0 });
        let odd = resources(&[("a_group_1", 1), ("b_group_", 2)]);
        for bundle in [None, Some(0)] {
            assert_eq!(needed(&demanded(&odd, GROUP, bundle), GROUP), Some((odd.clone(), bundle)));
            assert_eq!(needed(&demanded(&odd, GROUP, bundle), other), None);
        }
        let mut two = demanded(&odd, GROUP, Some(0));
        two.add(&demanded(&odd, GROUP, Some(1)));
        assert_eq!(needed(&two, GROUP), None, "work runs in one bundle");
        assert_eq!(needed(&resources(&[("CPU", 1)]), GROUP), None);
    }
}
