//! Which nodes get the bundles of a placement group: all of them at once, or none.
//!
//! Pure functions of what is known of the nodes. Strict strategies are decided exactly. For the others
//! a greedy choice comes first, then a search of bounded effort, so that a group does not wait although
//! there is room for it.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::group::{Bundle, GroupStrategy};
use crate::ids::NodeId;
use crate::message::NodeSummary;
use crate::resources::{LabelSelector, Quantity, Resources};

/// How many choices the search of bounded effort may make.
const CHOICES_MAX: u32 = 20_000;

/// Bundles that need nodes.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) strategy: GroupStrategy,
    /// Index and bundle.
    pub(super) bundles: Vec<(u32, &'a Bundle)>,
    /// The nodes of the group's other bundles, which stay where they are.
    pub(super) taken: Vec<NodeId>,
}

/// What came out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Placement {
    /// A node for each bundle.
    Found(Vec<(u32, NodeId)>),
    /// Not now, and why.
    NoRoom(String),
    /// Not while the cluster is as it is, whatever becomes free, and why.
    Impossible(String),
}

/// Find a node for each of the bundles.
pub(super) fn place(nodes: &[&NodeSummary], wanted: &Wanted) -> Placement {
    let now = Problem::new(nodes, wanted, |node| &node.free);
    if let Some(found) = now.solve() {
        let place = |(bundle, site): (usize, usize)| (now.needs[bundle].index, now.sites[site].node);
        let mut places: Vec<(u32, NodeId)> = found.into_iter().enumerate().map(place).collect();
        places.sort_unstable();
        return Placement::Found(places);
    }
    let ever = Problem::new(nodes, wanted, |node| &node.total);
    match ever.solve() {
        Some(_) => Placement::NoRoom(now.shortage(" free now")),
        None => Placement::Impossible(ever.shortage("")),
    }
}

/// A node as the search sees it.
struct Site<'a> {
    node: NodeId,
    labels: &'a [(String, String)],
    /// By number of the resource.
    room: Vec<i64>,
    /// Bundles of the group that stay here.
    taken: bool,
}

impl Site<'_> {
    fn matches(&self, need: &Need) -> bool {
        need.labels.iter().all(|selector| selector.matches(self.node, self.labels))
    }
}

/// A bundle as the search sees it.
struct Need<'a> {
    index: u32,
    labels: &'a [LabelSelector],
    /// By number of the resource.
    amounts: Vec<i64>,
}

/// Bundles and nodes, with resources by number.
struct Problem<'a> {
    strategy: GroupStrategy,
    names: Vec<Arc<str>>,
    /// Largest first.
    needs: Vec<Need<'a>>,
    sites: Vec<Site<'a>>,
    /// The most that any site has, by number of the resource.
    most: Vec<i64>,
}

/// A site for each need.
type Solution = Vec<usize>;

impl<'a> Problem<'a> {
    fn new(
        nodes: &[&'a NodeSummary],
        wanted: &Wanted<'a>,
        room: impl Fn(&NodeSummary) -> &Resources,
    ) -> Problem<'a> {
        let names = wanted.bundles.iter().flat_map(|(_, bundle)| bundle.resources.0.keys().cloned());
        let names: Vec<Arc<str>> = names.collect::<BTreeSet<_>>().into_iter().collect();
        let amounts = |of: &Resources| names.iter().map(|name| of.get(name).0).collect::<Vec<i64>>();
        let sites: Vec<Site> = nodes
            .iter()
            .map(|node| Site {
                node: node.node,
                labels: &node.labels,
                room: amounts(room(node)),
                taken: wanted.taken.contains(&node.node),
            })
            .collect();
        let most = |number: usize| sites.iter().map(|site| site.room[number]).max().unwrap_or(0);
        let most: Vec<i64> = (0..names.len()).map(most).collect();
        let needs = wanted.bundles.iter().map(|(index, bundle)| Need {
            index: *index,
            labels: &bundle.labels,
            amounts: amounts(&bundle.resources),
        });
        let mut needs: Vec<Need> = needs.collect();
        needs.sort_by_cached_key(|need| (core::cmp::Reverse(share(&need.amounts, &most)), need.index));
        Problem { strategy: wanted.strategy, names, needs, sites, most }
    }

    fn solve(&self) -> Option<Solution> {
        match self.strategy {
            GroupStrategy::StrictPack => self.on_one_site(),
            GroupStrategy::StrictSpread => self.on_distinct_sites(),
            GroupStrategy::Pack => {
                self.on_one_site().or_else(|| self.greedily(Self::packs)).or_else(|| self.search())
            }
            GroupStrategy::Spread => {
                self.on_distinct_sites().or_else(|| self.greedily(Self::spreads)).or_else(|| self.search())
            }
        }
    }

    /// Whether a site with so much room can take the bundle.
    fn fits(&self, need: &Need, site: usize, room: &[i64]) -> bool {
        need.amounts.iter().zip(room).all(|(amount, room)| amount <= room) && self.sites[site].matches(need)
    }

    /// The site that is fullest afterwards, of those that take everything.
    fn on_one_site(&self) -> Option<Solution> {
        let mut sum = vec![0; self.names.len()];
        for need in &self.needs {
            add(&mut sum, &need.amounts);
        }
        let settled = self.sites.iter().any(|site| site.taken);
        let takes_all = |site: &usize| {
            let Site { room, taken, .. } = &self.sites[*site];
            (*taken || !settled)
                && sum.iter().zip(room).all(|(amount, room)| amount <= room)
                && self.needs.iter().all(|need| self.fits(need, *site, room))
        };
        let rest = |site: &usize| share(&self.sites[*site].room, &self.most);
        let best = (0..self.sites.len()).filter(takes_all).min_by_key(rest)?;
        Some(vec![best; self.needs.len()])
    }

    /// A site of its own for each need, if that is possible at all: a matching is grown one need at a
    /// time, moving earlier ones to other sites where that helps.
    fn on_distinct_sites(&self) -> Option<Solution> {
        let mut order: Vec<usize> = (0..self.sites.len()).filter(|site| !self.sites[*site].taken).collect();
        if order.len() < self.needs.len() {
            return None;
        }
        order.sort_by_key(|site| core::cmp::Reverse(share(&self.sites[*site].room, &self.most)));
        let mut holder: Vec<Option<usize>> = vec![None; self.sites.len()];
        for need in 0..self.needs.len() {
            if !self.match_need(need, &order, &mut holder) {
                return None;
            }
        }
        let mut solution = vec![0; self.needs.len()];
        for (site, need) in holder.into_iter().enumerate() {
            if let Some(need) = need {
                solution[need] = site;
            }
        }
        Some(solution)
    }

    /// Find an augmenting path from `need`, breadth first, and turn it round.
    fn match_need(&self, need: usize, order: &[usize], holder: &mut [Option<usize>]) -> bool {
        // The need from which each site was reached.
        let mut reached_by: Vec<Option<usize>> = vec![None; self.sites.len()];
        let mut frontier = vec![need];
        let mut at = 0;
        while at < frontier.len() {
            let from = frontier[at];
            at += 1;
            for &site in order {
                if reached_by[site].is_some() || !self.fits(&self.needs[from], site, &self.sites[site].room) {
                    continue;
                }
                reached_by[site] = Some(from);
                match holder[site] {
                    Some(other) => frontier.push(other),
                    None => {
                        shift(site, need, &reached_by, holder);
                        return true;
                    }
                }
            }
        }
        false
    }

    /// One need after the other, each to the site that `rank` likes best of those that have room.
    fn greedily<Rank: Ord>(
        &self,
        rank: impl Fn(&Self, &Need, usize, &[i64], u32) -> Rank,
    ) -> Option<Solution> {
        let mut rooms: Vec<Vec<i64>> = self.sites.iter().map(|site| site.room.clone()).collect();
        let mut used: Vec<u32> = self.sites.iter().map(|site| u32::from(site.taken)).collect();
        let mut solution = Vec::with_capacity(self.needs.len());
        for need in &self.needs {
            let fitting = (0..self.sites.len()).filter(|site| self.fits(need, *site, &rooms[*site]));
            let site = fitting.min_by_key(|site| rank(self, need, *site, &rooms[*site], used[*site]))?;
            subtract(&mut rooms[site], &need.amounts);
            used[site] += 1;
            solution.push(site);
        }
        Some(solution)
    }

    /// Sites that have some of the group first, then those with most room.
    fn packs(
        &self,
        _: &Need,
        site: usize,
        room: &[i64],
        used: u32,
    ) -> (bool, core::cmp::Reverse<i64>, usize) {
        (used == 0, core::cmp::Reverse(share(room, &self.most)), site)
    }

    /// Sites that have least of the group first, then those with most room.
    fn spreads(
        &self,
        _: &Need,
        site: usize,
        room: &[i64],
        used: u32,
    ) -> (u32, core::cmp::Reverse<i64>, usize) {
        (used, core::cmp::Reverse(share(room, &self.most)), site)
    }

    /// Any solution, by trying, with an end to the effort.
    fn search(&self) -> Option<Solution> {
        if self.needs.len() > 64 {
            return None;
        }
        let mut rooms: Vec<Vec<i64>> = self.sites.iter().map(|site| site.room.clone()).collect();
        let mut solution = Vec::new();
        let mut choices = CHOICES_MAX;
        self.search_from(&mut rooms, &mut solution, &mut choices).then_some(solution)
    }

    fn search_from(&self, rooms: &mut [Vec<i64>], solution: &mut Solution, choices: &mut u32) -> bool {
        let Some(need) = self.needs.get(solution.len()) else { return true };
        let before = solution.last().copied();
        let twin = |number: usize| {
            let other = &self.needs[number];
            other.amounts == need.amounts && other.labels == need.labels
        };
        // Equal bundles may change places: it is enough to try them in the order of the sites.
        let first = match solution.len().checked_sub(1) {
            Some(number) if twin(number) => before.unwrap_or(0),
            _ => 0,
        };
        for site in first..self.sites.len() {
            if !self.fits(need, site, &rooms[site]) {
                continue;
            }
            if *choices == 0 {
                return false;
            }
            *choices -= 1;
            subtract(&mut rooms[site], &need.amounts);
            solution.push(site);
            if self.search_from(rooms, solution, choices) {
                return true;
            }
            solution.pop();
            add(&mut rooms[site], &need.amounts);
        }
        false
    }

    /// Why there is no solution, for people; `so` qualifies what nodes have.
    fn shortage(&self, so: &str) -> String {
        let fits_somewhere =
            |need: &Need| (0..self.sites.len()).any(|site| self.fits(need, site, &self.sites[site].room));
        let unfit = self.needs.iter().filter(|need| !fits_somewhere(need));
        if let Some(need) = unfit.min_by_key(|need| need.index) {
            return self.shortage_of(need, so);
        }
        match self.strategy {
            GroupStrategy::StrictPack => {
                let mut amounts = vec![0; self.names.len()];
                self.needs.iter().for_each(|need| add(&mut amounts, &need.amounts));
                match self.scarcest(&amounts, |_| true, so) {
                    Some(short) => format!("its bundles need {short}; they must be on one node"),
                    None => format!("no node has room for all of its bundles together{so}"),
                }
            }
            GroupStrategy::StrictSpread => {
                let fits = |site: usize| {
                    let room = &self.sites[site].room;
                    !self.sites[site].taken && self.needs.iter().any(|need| self.fits(need, site, room))
                };
                let usable = (0..self.sites.len()).filter(|site| fits(*site)).count();
                let wanted = self.needs.len();
                format!(
                    "it needs {wanted} nodes more, each bundle its own, and {usable} have room for one{so}"
                )
            }
            GroupStrategy::Pack | GroupStrategy::Spread => {
                format!("the nodes have no room for all of its bundles together{so}")
            }
        }
    }

    fn shortage_of(&self, need: &Need, so: &str) -> String {
        let index = need.index;
        if self.sites.is_empty() {
            return String::from("there is no node that could be asked");
        }
        let matches = |site: &Site| site.matches(need);
        if !self.sites.iter().any(matches) {
            let labels = LabelSelector::list(need.labels);
            return format!("no node has the labels that bundle {index} asks for ({labels})");
        }
        match self.scarcest(&need.amounts, matches, so) {
            Some(short) => format!("bundle {index} needs {short}"),
            None => format!("no node has room for all of bundle {index}{so}"),
        }
    }

    /// The first resource that no site has enough of.
    fn scarcest(&self, amounts: &[i64], counts: impl Fn(&Site) -> bool, so: &str) -> Option<String> {
        let most = |number: usize| {
            let sites = self.sites.iter().filter(|site| counts(site));
            sites.map(|site| site.room[number]).max().unwrap_or(0).max(0)
        };
        let short = (0..self.names.len()).find(|number| amounts[*number] > most(*number))?;
        let (wanted, most) = (Quantity(amounts[short]).as_f64(), Quantity(most(short)).as_f64());
        Some(format!("{wanted} of {}, and no node has more than {most}{so}", self.names[short]))
    }
}

/// Along the way on which `site` was reached, each need gets the site to which it led.
fn shift(mut site: usize, need: usize, reached_by: &[Option<usize>], holder: &mut [Option<usize>]) {
    while let Some(from) = reached_by[site] {
        let before = holder.iter().position(|held| *held == Some(from));
        holder[site] = Some(from);
        if from == need {
            return;
        }
        let Some(before) = before else { return };
        site = before;
    }
}

/// What is more than there can ever be is too much, too.
fn add(to: &mut [i64], amounts: &[i64]) {
    to.iter_mut().zip(amounts).for_each(|(to, amount)| *to = to.saturating_add(*amount));
}

fn subtract(from: &mut [i64], amounts: &[i64]) {
    from.iter_mut().zip(amounts).for_each(|(from, amount)| *from = from.saturating_sub(*amount));
}

/// The largest part of what there is at most, in millionths, over all resources.
fn share(amounts: &[i64], most: &[i64]) -> i64 {
    let part = |(amount, most): (&i64, &i64)| {
        (i128::from(*amount) * 1_000_000 / i128::from(*most).max(1)).clamp(-1_000_000, 1 << 40) as i64
    };
    amounts.iter().zip(most).map(part).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::{Strategy as _, any, prop, prop_assert, prop_assert_eq, proptest};

    fn resources(amounts: &[(&str, i64)]) -> Resources {
        let mut resources = Resources::default();
        for (name, amount) in amounts {
            resources.set(name, Quantity(amount * Quantity::ONE.0));
        }
        resources
    }

    /// A node with CPUs and GPUs, as many of them free, in a zone of its parity.
    fn node(number: u32, total: (i64, i64), free: (i64, i64)) -> NodeSummary {
        let zone = if number.is_multiple_of(2) { "even" } else { "odd" };
        NodeSummary {
            node: NodeId(number),
            alive: true,
            name: String::new(),
            host: String::new(),
            address: String::new(),
            total: resources(&[("CPU", total.0), ("GPU", total.1)]),
            free: resources(&[("CPU", free.0), ("GPU", free.1)]),
            labels: vec![(String::from("zone"), String::from(zone))],
        }
    }

    fn bundle(cpus: i64, gpus: i64, zone: Option<&str>) -> Bundle {
        let selector = |zone: &str| LabelSelector {
            key: String::from("zone"),
            values: vec![String::from(zone)],
            excludes: false,
        };
        Bundle {
            resources: resources(&[("CPU", cpus), ("GPU", gpus)]),
            labels: zone.map(selector).into_iter().collect(),
        }
    }

    fn place_on(
        nodes: &[NodeSummary],
        bundles: &[Bundle],
        strategy: GroupStrategy,
        taken: &[u32],
    ) -> Placement {
        let nodes: Vec<&NodeSummary> = nodes.iter().collect();
        let taken = taken.iter().copied().map(NodeId).collect();
        place(&nodes, &Wanted { strategy, bundles: (0..).zip(bundles).collect(), taken })
    }

    #[test]
    fn bundles_that_nobody_can_add_up_fit_nowhere() {
        let mut huge = bundle(1, 0, None);
        huge.resources.set("CPU", Quantity(i64::MAX));
        for strategy in [GroupStrategy::Pack, GroupStrategy::StrictPack] {
            let placement =
                place_on(&[node(1, (8, 0), (8, 0))], &[huge.clone(), huge.clone()], strategy, &[]);
            assert!(matches!(placement, Placement::Impossible(_)), "{placement:?}");
        }
    }

    #[test]
    fn strategies_choose_as_their_names_say() {
        use GroupStrategy::{Pack, Spread, StrictPack, StrictSpread};
        // Free CPUs of nodes 1, 2, … of 8 each; CPUs of the bundles; nodes of others; the chosen nodes.
        type Case<'a> = (GroupStrategy, &'a [i64], &'a [i64], &'a [u32], Option<&'a [u32]>);
        let cases: [Case; 21] = [
            (Pack, &[8, 8], &[1, 1], &[], Some(&[1, 1])),
            // The fullest node that takes all.
            (Pack, &[8, 4, 2], &[2, 2], &[], Some(&[2, 2])),
            (Pack, &[3, 2, 1], &[2, 2], &[], Some(&[1, 2])),
            (Pack, &[3, 2, 1], &[2, 2, 2], &[], None),
            // Greed would put 3 on the first and then have no room for 5.
            (Pack, &[6, 5], &[5, 3, 3], &[], Some(&[2, 1, 1])),
            (Pack, &[8, 8], &[1], &[2], Some(&[2])),
            (Pack, &[8, 0], &[1], &[2], Some(&[1])),
            (Spread, &[8, 8, 8], &[1, 1], &[], Some(&[1, 2])),
            (Spread, &[8, 1], &[1, 1, 1], &[], Some(&[1, 2, 1])),
            (Spread, &[1, 0], &[1, 1], &[], None),
            (Spread, &[8, 8], &[1], &[1], Some(&[2])),
            (Spread, &[8, 0], &[1], &[1], Some(&[1])),
            (StrictPack, &[3, 4, 8], &[2, 2], &[], Some(&[2, 2])),
            (StrictPack, &[3, 3], &[2, 2], &[], None),
            (StrictPack, &[8, 8], &[2], &[2], Some(&[2])),
            (StrictPack, &[8, 1], &[2], &[2], None),
            (StrictSpread, &[8, 8], &[1, 1], &[], Some(&[1, 2])),
            (StrictSpread, &[8, 8], &[1, 1, 1], &[], None),
            // Only one node takes the large one.
            (StrictSpread, &[4, 8], &[1, 8], &[], Some(&[1, 2])),
            (StrictSpread, &[8, 8], &[1], &[1], Some(&[2])),
            (StrictSpread, &[8, 0], &[1], &[1], None),
        ];
        for (index, (strategy, free, bundles, taken, expected)) in cases.into_iter().enumerate() {
            let nodes: Vec<NodeSummary> =
                (1..).zip(free).map(|(number, free)| node(number, (8, 0), (*free, 0))).collect();
            let bundles: Vec<Bundle> = bundles.iter().map(|cpus| bundle(*cpus, 0, None)).collect();
            let chosen = match place_on(&nodes, &bundles, strategy, taken) {
                Placement::Found(places) => {
                    Some(places.into_iter().map(|(_, node)| node.0).collect::<Vec<_>>())
                }
                _ => None,
            };
            assert_eq!(chosen.as_deref(), expected, "case {index}: {strategy:?}");
        }
    }

    #[test]
    fn the_reason_names_the_bundle_and_what_is_missing() {
        use GroupStrategy::{Pack, StrictPack, StrictSpread};
        let nodes = [node(1, (4, 0), (1, 0)), node(3, (8, 2), (2, 1))];
        let small = || bundle(1, 0, None);
        let cases: [(GroupStrategy, &[Bundle], bool, &str); 9] = [
            (
                Pack,
                &[small(), bundle(16, 0, None)],
                true,
                "bundle 1 needs 16 of CPU, and no node has more than 8",
            ),
            (Pack, &[bundle(1, 3, None)], true, "bundle 0 needs 3 of GPU, and no node has more than 2"),
            (Pack, &[bundle(1, 0, Some("even"))], true, "labels that bundle 0 asks for (zone=even)"),
            (Pack, &[bundle(1, 2, None)], false, "2 of GPU, and no node has more than 1 free now"),
            (
                Pack,
                &[bundle(8, 0, None), bundle(8, 0, None)],
                true,
                "no room for all of its bundles together",
            ),
            (
                StrictPack,
                &[bundle(5, 0, None), bundle(4, 0, None)],
                true,
                "need 9 of CPU, and no node has more than 8",
            ),
            (StrictPack, &[bundle(2, 0, None), bundle(2, 0, None)], false, "more than 2 free now; they must"),
            (
                StrictSpread,
                &[small(), small(), small()],
                true,
                "needs 3 nodes more, each bundle its own, and 2 have",
            ),
            (
                StrictSpread,
                &[bundle(2, 0, None), bundle(2, 0, None)],
                false,
                "and 1 have room for one free now",
            ),
        ];
        for (strategy, bundles, impossible, text) in cases {
            let told = match place_on(&nodes, bundles, strategy, &[]) {
                Placement::Impossible(told) if impossible => told,
                Placement::NoRoom(told) if !impossible => told,
                other => panic!("{other:?}: {text}"),
            };
            assert!(told.contains(text), "{told}");
        }
        assert!(matches!(place_on(&[], &[small()], Pack, &[]), Placement::Impossible(_)));
    }

    #[test]
    fn large_groups_are_placed_in_reasonable_time() {
        let nodes: Vec<NodeSummary> = (1..=500).map(|number| node(number, (4, 0), (4, 0))).collect();
        let bundles: Vec<Bundle> = (0..1_000).map(|_| bundle(2, 0, None)).collect();
        for (strategy, count) in
            [(GroupStrategy::Pack, 1_000), (GroupStrategy::Spread, 1_000), (GroupStrategy::StrictSpread, 500)]
        {
            let placed = place_on(&nodes, &bundles[..count], strategy, &[]);
            let Placement::Found(places) = placed else { panic!("{placed:?}") };
            let distinct: BTreeSet<NodeId> = places.iter().map(|(_, node)| *node).collect();
            assert_eq!(distinct.len(), 500, "{strategy:?}");
        }
    }

    /// Every assignment, until one keeps to capacity, labels and strategy.
    fn brute_force(
        nodes: &[NodeSummary],
        bundles: &[Bundle],
        strategy: GroupStrategy,
        taken: &[u32],
    ) -> bool {
        let ways = nodes.len().pow(bundles.len() as u32);
        (0..ways).any(|mut way| {
            let digit = |_: &Bundle| {
                let site = way % nodes.len();
                way /= nodes.len();
                nodes[site].node
            };
            let places: Vec<NodeId> = bundles.iter().map(digit).collect();
            is_legal(nodes, bundles, strategy, taken, &places)
        })
    }

    fn is_legal(
        nodes: &[NodeSummary],
        bundles: &[Bundle],
        strategy: GroupStrategy,
        taken: &[u32],
        places: &[NodeId],
    ) -> bool {
        let mut load: BTreeMap<NodeId, Resources> = BTreeMap::new();
        for (bundle, node) in bundles.iter().zip(places) {
            load.entry(*node).or_default().add(&bundle.resources);
        }
        let find = |id: &NodeId| nodes.iter().find(|node| node.node == *id).expect("it is one of these");
        let room = load.iter().all(|(id, load)| find(id).free.covers(load));
        let matches = |(bundle, id): (&Bundle, &NodeId)| {
            bundle.labels.iter().all(|selector| selector.matches(*id, &find(id).labels))
        };
        let all = taken.iter().copied().map(NodeId).chain(places.iter().copied());
        let distinct = all.collect::<BTreeSet<NodeId>>().len();
        let in_order = match strategy {
            GroupStrategy::Pack | GroupStrategy::Spread => true,
            GroupStrategy::StrictPack => distinct == 1,
            GroupStrategy::StrictSpread => distinct == taken.len() + places.len(),
        };
        room && in_order && bundles.iter().zip(places).all(matches)
    }

    proptest! {
        /// What is found is legal, and whatever brute force finds on small inputs is found.
        #[test]
        fn what_is_possible_is_found_and_nothing_else(
            rooms in prop::collection::vec((0i64..6, 0i64..3), 1..5),
            wanted in prop::collection::vec((0i64..5, 0i64..2, any::<Option<bool>>()), 1..6),
            strategy in (0usize..4).prop_map(|index| {
                use GroupStrategy::{Pack, Spread, StrictPack, StrictSpread};
                [Pack, Spread, StrictPack, StrictSpread][index]
            }),
            survivor in prop::option::of(1u32..5),
        ) {
            let nodes: Vec<NodeSummary> =
                (1..).zip(&rooms).map(|(number, free)| node(number, (6, 3), *free)).collect();
            let zone = |even: bool| if even { "even" } else { "odd" };
            let bundles: Vec<Bundle> =
                wanted.iter().map(|(cpus, gpus, even)| bundle(*cpus, *gpus, even.map(zone))).collect();
            let taken: Vec<u32> =
                survivor.into_iter().filter(|number| *number as usize <= nodes.len()).collect();
            let possible = brute_force(&nodes, &bundles, strategy, &taken);
            match place_on(&nodes, &bundles, strategy, &taken) {
                Placement::Found(places) => {
                    prop_assert_eq!(places.iter().map(|(index, _)| *index as usize).collect::<Vec<_>>(),
                        (0..bundles.len()).collect::<Vec<_>>());
                    let places: Vec<NodeId> = places.into_iter().map(|(_, node)| node).collect();
                    prop_assert!(is_legal(&nodes, &bundles, strategy, &taken, &places), "{places:?}");
                }
                Placement::NoRoom(why) | Placement::Impossible(why) => prop_assert!(!possible, "{}", why),
            }
        }
    }
}
