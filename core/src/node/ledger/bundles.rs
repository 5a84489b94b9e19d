//! What the ledger has set aside for the bundles of placement groups.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::stock::Stock;
use super::{Holding, Ledger, nonsense};
use crate::group;
use crate::ids::GroupId;
use crate::resources::{Devices, Resources};

/// Names what was set aside for one bundle; never reused.
pub(super) type Share = u64;

/// What was set aside for one bundle of a placement group.
#[derive(Clone, Debug)]
pub(super) struct Bundle {
    pub(super) group: GroupId,
    pub(super) index: u32,
    /// The placement of the group that it belongs to.
    pub(super) attempt: u32,
    /// The group is placed: its work may use it.
    pub(super) committed: bool,
    /// It goes back to the node as soon as nobody uses it.
    pub(super) returning: bool,
    /// What it holds of the node's own.
    pub(super) holding: Holding,
    pub(super) stock: Stock,
    /// How many holdings are in it.
    pub(super) users: u32,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Shown {
    pub(super) total: Resources,
    pub(super) free: Resources,
}

impl Ledger {
    /// Set bundles aside, all or none. They can be used once they are committed.
    pub(in crate::node) fn reserve(
        &mut self,
        group: GroupId,
        attempt: u32,
        bundles: &[(u32, Resources)],
    ) -> bool {
        if bundles.iter().any(|(_, resources)| nonsense(resources).is_some()) {
            return false;
        }
        let before = self.last_share;
        for (index, resources) in bundles {
            let Some(holding) = self.take_from(None, resources, false) else {
                for share in before + 1..=self.last_share {
                    self.drop_bundle(share);
                }
                return false;
            };
            self.last_share += 1;
            let stock = Stock::part(resources.clone(), &holding.devices);
            let bundle = Bundle {
                group,
                index: *index,
                attempt,
                committed: false,
                returning: false,
                holding,
                stock,
                users: 0,
            };
            self.bundles.insert(self.last_share, bundle);
            self.by_group.entry(group).or_default().push(self.last_share);
        }
        if self.shown.is_none() {
            self.shown = self.show();
        }
        true
    }

    /// Whatever of the group this placement replaces goes back: what an earlier one has set aside and
    /// never used, and other bundles of the same numbers.
    pub(in crate::node) fn displace(&mut self, group: GroupId, bundles: &[(u32, Resources)]) {
        let replaced =
            |bundle: &Bundle| !bundle.committed || bundles.iter().any(|(index, _)| *index == bundle.index);
        self.return_those(group, replaced);
    }

    /// Whether exactly this is set aside for a placement of the group already.
    pub(in crate::node) fn has_reserved(
        &self,
        group: GroupId,
        attempt: u32,
        bundles: &[(u32, Resources)],
    ) -> bool {
        let placed = |(index, resources): &(u32, Resources)| {
            self.of_group(group).any(|bundle| {
                let same = bundle.attempt == attempt && bundle.index == *index;
                same && !bundle.returning && bundle.stock.total() == resources
            })
        };
        bundles.iter().all(placed)
    }

    /// The group is whole: what this placement has set aside can be used, and what was there goes on.
    pub(in crate::node) fn commit(&mut self, group: GroupId, attempt: u32) {
        self.show_group(group, Resources::subtract);
        for share in self.shares(group) {
            let bundle = self.bundle_mut(share);
            if !bundle.returning && (bundle.committed || bundle.attempt == attempt) {
                bundle.committed = true;
                bundle.attempt = attempt;
            }
        }
        self.suspended.remove(&group);
        self.show_group(group, Resources::add);
    }

    /// The group is not whole: it admits nothing new.
    pub(in crate::node) fn suspend(&mut self, group: GroupId) {
        if self.by_group.contains_key(&group) {
            self.show_group(group, Resources::subtract);
            self.suspended.insert(group);
            self.show_group(group, Resources::add);
        }
    }

    /// Whether the group has bundles here and is not whole.
    pub(in crate::node) fn is_suspended(&self, group: GroupId) -> bool {
        self.suspended.contains(&group)
    }

    /// Take back what was set aside for this and earlier placements of a group, as soon as nobody uses
    /// it any more.
    pub(in crate::node) fn return_bundles(&mut self, group: GroupId, attempt: u32) {
        self.return_those(group, |bundle| bundle.attempt <= attempt);
    }

    /// Take back what was set aside for this placement and not committed.
    pub(in crate::node) fn release(&mut self, group: GroupId, attempt: u32) {
        self.return_those(group, |bundle| !bundle.committed && bundle.attempt == attempt);
    }

    fn return_those(&mut self, group: GroupId, picks: impl Fn(&Bundle) -> bool) {
        self.show_group(group, Resources::subtract);
        for share in self.shares(group) {
            let bundle = self.bundle_mut(share);
            if picks(bundle) {
                bundle.returning = true;
                if bundle.users == 0 {
                    self.drop_bundle(share);
                }
            }
        }
        self.show_group(group, Resources::add);
    }

    /// The group in whose bundle this is, if that bundle goes back to the node.
    pub(in crate::node) fn returning(&self, holding: &Holding) -> Option<GroupId> {
        let bundle = &self.bundles[&holding.share?];
        bundle.returning.then_some(bundle.group)
    }

    /// What is set aside: group, placement, bundles, whether they can be used.
    pub(in crate::node) fn set_aside(&self) -> Vec<(GroupId, u32, Vec<u32>, bool)> {
        let mut set_aside: BTreeMap<(GroupId, u32, bool), Vec<u32>> = BTreeMap::new();
        for bundle in self.bundles.values().filter(|bundle| !bundle.returning) {
            let key = (bundle.group, bundle.attempt, bundle.committed);
            set_aside.entry(key).or_default().push(bundle.index);
        }
        let listed = set_aside.into_iter();
        listed.map(|((group, attempt, committed), bundles)| (group, attempt, bundles, committed)).collect()
    }

    /// The devices of each bundle.
    pub(in crate::node) fn devices_of_bundles(&self) -> impl Iterator<Item = (Share, &Devices)> {
        self.bundles.iter().map(|(share, bundle)| (*share, bundle.holding.devices()))
    }

    /// Whether a bundle here could run such work of its group, once enough of it is free.
    pub(super) fn has_bundle_for(&self, group: GroupId, bundle: Option<u32>, resources: &Resources) -> bool {
        self.open(group, bundle).any(|share| self.bundles[&share].stock.total().covers(resources))
    }

    /// The bundles that admit work of the group; of one index, if one is named.
    pub(super) fn open(&self, group: GroupId, index: Option<u32>) -> impl Iterator<Item = Share> {
        let whole = !self.suspended.contains(&group);
        let shares = self.by_group.get(&group).into_iter().flatten().copied().filter(move |_| whole);
        shares.filter(move |share| {
            let bundle = &self.bundles[share];
            bundle.is_open() && index.is_none_or(|index| bundle.index == index)
        })
    }

    fn shares(&self, group: GroupId) -> Vec<Share> {
        self.by_group.get(&group).cloned().unwrap_or_default()
    }

    fn of_group(&self, group: GroupId) -> impl Iterator<Item = &Bundle> {
        self.by_group.get(&group).into_iter().flatten().map(|share| &self.bundles[share])
    }

    /// What a bundle held is the node's again.
    pub(super) fn drop_bundle(&mut self, share: Share) {
        let bundle = self.bundles.remove(&share).expect("bundles are dropped once");
        assert_eq!(bundle.users, 0, "{bundle:?} is in use");
        let shares = self.by_group.get_mut(&bundle.group).expect("bundles are listed by group");
        shares.retain(|other| *other != share);
        if shares.is_empty() {
            self.by_group.remove(&bundle.group);
            self.suspended.remove(&bundle.group);
        }
        self.give_back(bundle.holding);
        if self.bundles.is_empty() {
            self.shown = None;
        }
    }

    /// What is to be shown. It is kept up to date bundle by bundle, and made anew for the first one only.
    pub(super) fn show(&self) -> Option<Shown> {
        if self.bundles.is_empty() {
            return None;
        }
        let (total, free) = (self.node.total().clone(), self.node.free().clone());
        let mut shown = Shown { total, free };
        for bundle in self.bundles.values().filter(|bundle| bundle.is_open()) {
            shown.total.add(&bundle.offers(bundle.stock.total()));
            if !self.suspended.contains(&bundle.group) {
                shown.free.add(&bundle.offers(bundle.stock.free()));
            }
        }
        Some(shown)
    }

    /// Add what the bundles of a group offer to what is shown, or take it away before they change.
    fn show_group(&mut self, group: GroupId, change: impl Fn(&mut Resources, &Resources)) {
        let Some(mut shown) = self.shown.take() else { return };
        for bundle in self.of_group(group).filter(|bundle| bundle.is_open()) {
            change(&mut shown.total, &bundle.offers(bundle.stock.total()));
            if !self.suspended.contains(&group) {
                change(&mut shown.free, &bundle.offers(bundle.stock.free()));
            }
        }
        self.shown = Some(shown);
    }

    pub(super) fn show_free(&mut self, share: Option<Share>, change: impl Fn(&mut Resources, &Resources)) {
        let Some(shown) = &mut self.shown else { return };
        match share {
            None => change(&mut shown.free, self.node.free()),
            Some(share) => {
                let bundle = &self.bundles[&share];
                if bundle.is_open() && !self.suspended.contains(&bundle.group) {
                    change(&mut shown.free, &bundle.offers(bundle.stock.free()));
                }
            }
        }
    }
}

impl Bundle {
    pub(super) fn is_open(&self) -> bool {
        self.committed && !self.returning
    }

    /// These amounts of it, under the names that work of the group asks for.
    fn offers(&self, amounts: &Resources) -> Resources {
        group::offered(amounts, self.group, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, TaskId};
    use crate::node::harness::{process, resources};
    use crate::node::ledger::Feasibility;
    use crate::resources::{Demand, Quantity};
    use proptest::prelude::{prop, proptest};

    fn group(number: u64) -> GroupId {
        GroupId(TaskId { owner: process(1), number })
    }

    fn demand(number: u64, bundle: Option<u32>, amounts: &[(&str, f64)]) -> Demand {
        let resources = group::demanded(&resources(amounts), group(number), bundle);
        Demand { resources, group: Some(group(number)), ..Demand::default() }
    }

    fn ledger(amounts: &[(&str, f64)]) -> Ledger {
        Ledger::new(resources(amounts))
    }

    fn index(holding: &Holding) -> u32 {
        holding.devices().0[0].1[0].0
    }

    #[test]
    fn all_bundles_are_set_aside_or_none() {
        let mut ledger = ledger(&[("CPU", 4.0)]);
        let cpus = |amounts: &[f64]| -> Vec<(u32, Resources)> {
            (0..).zip(amounts.iter().map(|cpus| resources(&[("CPU", *cpus)]))).collect()
        };
        assert!(!ledger.reserve(group(1), 1, &cpus(&[2.0, 3.0])));
        assert_eq!(*ledger.free(), resources(&[("CPU", 4.0)]));
        assert!(ledger.reserve(group(1), 1, &cpus(&[2.0, 2.0])));
        assert!(ledger.has_reserved(group(1), 1, &cpus(&[2.0, 2.0])));
        assert!(!ledger.has_reserved(group(1), 2, &cpus(&[2.0, 2.0])));
        assert_eq!(*ledger.free(), Resources::default(), "and nobody can use it yet");
        assert!(ledger.take(&demand(1, None, &[("CPU", 1.0)]), true).is_none());
        ledger.commit(group(1), 1);
        assert_eq!(ledger.set_aside(), [(group(1), 1, alloc::vec![0, 1], true)]);
        assert!(ledger.take(&demand(1, None, &[("CPU", 2.5)]), true).is_none(), "work is in one bundle");
        let held =
            [None, Some(0)].map(|bundle| ledger.take(&demand(1, bundle, &[("CPU", 1.0)]), true).unwrap());
        ledger.check(held.iter());
        assert!(ledger.take(&demand(1, Some(0), &[("CPU", 1.0)]), true).is_none());
        assert!(ledger.lacking(&demand(1, Some(1), &[("CPU", 1.0)])).is_empty());
        // It goes back when nobody uses it any more.
        ledger.return_bundles(group(1), 1);
        ledger.check(held.iter());
        assert_eq!(*ledger.free(), resources(&[("CPU", 2.0)]));
        held.into_iter().for_each(|holding| ledger.give_back(holding));
        assert_eq!(ledger.free(), ledger.total());
        ledger.check([].into_iter());
    }

    #[test]
    fn the_devices_of_a_bundle_serve_only_its_work() {
        let mut ledger = ledger(&[("CPU", 4.0), ("GPU", 4.0)]);
        let gpus = |count| resources(&[("GPU", count)]);
        let plain = |count| Demand { resources: gpus(count), ..Demand::default() };
        let first = ledger.take(&plain(1.0), true).unwrap();
        assert!(ledger.reserve(group(1), 1, &[(0, gpus(1.0)), (1, gpus(0.5))]));
        ledger.commit(group(1), 1);
        let second = ledger.take(&plain(1.0), true).unwrap();
        assert_eq!((index(&first), index(&second)), (0, 3));
        let in_bundle = ledger.take(&demand(1, Some(1), &[("GPU", 0.5)]), true).unwrap();
        let anywhere = ledger.take(&demand(1, None, &[("GPU", 0.25)]), true).unwrap();
        let same = ledger.take(&demand(1, Some(0), &[("GPU", 0.75)]), true).unwrap();
        assert_eq!((index(&in_bundle), index(&anywhere), index(&same)), (2, 1, 1));
        ledger.check([&first, &second, &in_bundle, &anywhere, &same].into_iter());
    }

    #[test]
    fn a_group_that_is_not_whole_admits_nothing_new() {
        let mut ledger = ledger(&[("CPU", 4.0)]);
        let wanted = demand(1, None, &[("CPU", 1.0)]);
        let judge = |ledger: &Ledger| ledger.feasibility(&wanted, NodeId(1)) == Feasibility::Here;
        assert!(!judge(&ledger));
        assert!(ledger.reserve(group(1), 1, &[(0, resources(&[("CPU", 2.0)]))]));
        assert!(!judge(&ledger));
        ledger.commit(group(1), 1);
        assert!(judge(&ledger));
        let mut before = ledger.take(&wanted, true).unwrap();
        ledger.suspend(group(1));
        assert!(ledger.take(&wanted, true).is_none());
        assert_eq!(ledger.lacking(&wanted).len(), 2);
        assert!(ledger.free().covers(&resources(&[("CPU", 2.0)])));
        assert!(!ledger.free().covers(&wanted.resources), "others are not told that there is room");
        ledger.block(&mut before);
        ledger.unblock(&mut before);
        ledger.check([&before].into_iter());
        ledger.commit(group(1), 2);
        assert_eq!(ledger.set_aside(), [(group(1), 2, alloc::vec![0], true)]);
        assert!(ledger.take(&wanted, true).is_some());
        assert!(!judge(&Ledger::new(resources(&[("CPU", 9.0)]))));
        let large = demand(1, None, &[("CPU", 3.0)]);
        assert!(matches!(ledger.feasibility(&large, NodeId(1)), Feasibility::Elsewhere(_)));
        let odd =
            Demand { group: Some(group(1)), resources: resources(&[("CPU", 1.0)]), ..Demand::default() };
        assert!(matches!(ledger.feasibility(&odd, NodeId(1)), Feasibility::Never(_)));
    }

    #[test]
    fn a_later_placement_displaces_what_an_earlier_one_left() {
        let mut ledger = ledger(&[("CPU", 4.0)]);
        let one = |index| (index, resources(&[("CPU", 1.0)]));
        assert!(ledger.reserve(group(1), 1, &[one(0), one(1)]));
        ledger.commit(group(1), 1);
        assert!(ledger.reserve(group(1), 2, &[one(2)]));
        ledger.displace(group(1), &[one(1)]);
        assert!(ledger.reserve(group(1), 3, &[one(1)]));
        let expected = [(group(1), 1, alloc::vec![0], true), (group(1), 3, alloc::vec![1], false)];
        assert_eq!(ledger.set_aside(), expected);
        ledger.return_bundles(group(1), 2);
        assert_eq!(ledger.set_aside(), expected[1..]);
    }

    proptest! {
        /// Invariant 1 under any order of placements, takes, blocks and returns; and when all has gone,
        /// everything is free.
        #[test]
        fn free_held_and_set_aside_make_the_total(
            steps in prop::collection::vec((0u8..11, 0usize..8, 1u64..3, 0u32..3), 1..120),
        ) {
            let mut ledger = ledger(&[("CPU", 4.0), ("GPU", 3.0), ("memory", 1e9)]);
            let mut held: Vec<Holding> = Vec::new();
            for (attempt, (kind, pick, number, index)) in (1..).zip(steps) {
                let amounts = [("CPU", 0.5 + f64::from(index) * 0.5), ("GPU", 0.5 * (pick % 3) as f64)];
                let picked = if held.is_empty() { None } else { Some(pick % held.len()) };
                match (kind, picked) {
                    (0, _) => {
                        let bundles = [(index, resources(&amounts)), (index + 1, resources(&amounts))];
                        ledger.displace(group(number), &bundles);
                        ledger.reserve(group(number), attempt, &bundles);
                    }
                    (1, _) => ledger.commit(group(number), attempt - 1),
                    (2, _) => ledger.suspend(group(number)),
                    (3, _) => ledger.return_bundles(group(number), attempt - pick as u32 % attempt),
                    (4 | 5, _) => {
                        let bundle = (pick % 2 == 0).then_some(index);
                        held.extend(ledger.take(&demand(number, bundle, &amounts), true));
                    }
                    (6, _) => {
                        let plain = Demand { resources: resources(&amounts), ..Demand::default() };
                        held.extend(ledger.take(&plain, pick % 2 == 0));
                    }
                    (7, Some(picked)) => { ledger.block(&mut held[picked]); }
                    (8, Some(picked)) => { ledger.unblock(&mut held[picked]); }
                    (9, Some(picked)) => {
                        let kept = group::demanded(&resources(&[("GPU", 1.0)]), group(number), None);
                        ledger.shrink(&mut held[picked], &kept);
                    }
                    (10, Some(picked)) => ledger.give_back(held.swap_remove(picked)),
                    _ => {}
                }
                ledger.check(held.iter());
            }
            held.into_iter().for_each(|holding| ledger.give_back(holding));
            (1..3).for_each(|number| ledger.return_bundles(group(number), u32::MAX));
            ledger.check([].into_iter());
            assert_eq!(*ledger.free(), resources(&[("CPU", 4.0), ("GPU", 3.0), ("memory", 1e9)]));
            assert_eq!(ledger.free().get("CPU"), Quantity(40_000));
        }
    }
}
