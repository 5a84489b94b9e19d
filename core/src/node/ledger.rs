//! What of the node's resources is free, and which devices: of its own, and of the bundles that it has
//! set aside for placement groups.
//!
//! Invariant 1: free + held = total, for every resource and every device. A bundle holds what it
//! consists of, and is a stock of that for the work of its group.

mod bundles;
mod stock;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use self::bundles::{Bundle, Share, Shown};
use self::stock::{Stock, is_device};
use super::inspect::NodeDevice;
use crate::group;
use crate::ids::{GroupId, NodeId};
use crate::resources::{Demand, Devices, Quantity, Resources, Strategy};

/// A lease of less CPU than this, and of no device, is light: resources do not bound how many run.
const LIGHT_CPU: Quantity = Quantity(Quantity::ONE.0 / 4);

/// What of a node's resources is free.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    node: Stock,
    bundles: BTreeMap<Share, Bundle>,
    by_group: BTreeMap<GroupId, Vec<Share>>,
    /// Groups that are not whole: they admit nothing new.
    suspended: BTreeSet<GroupId>,
    last_share: Share,
    light_running: u32,
    /// What the node and its bundles offer together, as others are told; only with bundles.
    shown: Option<Shown>,
}

/// Resources that a claim, a worker or a bundle holds.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    /// In which bundle; else they are the node's own.
    share: Option<Share>,
    resources: Resources,
    devices: Devices,
    /// Its CPU serves others meanwhile.
    blocked: bool,
    /// It counts against the cap of light leases.
    light: bool,
}

impl Holding {
    pub(super) fn devices(&self) -> &Devices {
        &self.devices
    }
    pub(super) fn share(&self) -> Option<Share> {
        self.share
    }
    /// For a mutant: nobody has them any more, and they are not free either.
    pub(super) fn lose_devices(&mut self) {
        self.devices = Devices::default();
    }
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// What is really kept from others.
    fn effective(&self) -> Resources {
        let mut effective = self.resources.clone();
        if self.blocked {
            effective.set(Resources::CPU, Quantity(0));
        }
        effective
    }

    /// Its CPU alone.
    fn cpu(&self) -> Resources {
        let mut cpu = Resources::default();
        cpu.set(Resources::CPU, self.resources.get(Resources::CPU));
        cpu
    }
}

impl Ledger {
    pub(super) fn new(total: Resources) -> Ledger {
        Ledger {
            node: Stock::of_node(total),
            bundles: BTreeMap::new(),
            by_group: BTreeMap::new(),
            suspended: BTreeSet::new(),
            last_share: 0,
            light_running: 0,
            shown: None,
        }
    }

    /// Everything that can be asked for here: the node's own, and what its bundles offer.
    pub(super) fn total(&self) -> &Resources {
        self.shown.as_ref().map_or(self.node.total(), |shown| &shown.total)
    }
    /// What of that is free.
    pub(super) fn free(&self) -> &Resources {
        self.shown.as_ref().map_or(self.node.free(), |shown| &shown.free)
    }
    /// The node's own devices.
    pub(super) fn devices(&self) -> Vec<NodeDevice> {
        self.node.devices().collect()
    }
    /// Light leases that are not blocked.
    pub(super) fn light_running(&self) -> u32 {
        self.light_running
    }
    /// Whole CPUs, at least one.
    pub(super) fn cpus(&self) -> u32 {
        let cpus = self.node.total().get(Resources::CPU).0 / Quantity::ONE.0;
        u32::try_from(cpus).unwrap_or(u32::MAX).max(1)
    }

    /// Take what work of this demand holds, if it is free. `counted` says whether the cap of light
    /// leases applies.
    pub(super) fn take(&mut self, demand: &Demand, counted: bool) -> Option<Holding> {
        let Some(group) = demand.group else {
            return self.take_from(None, &demand.resources, counted);
        };
        let (resources, bundle) = group::needed(&demand.resources, group)?;
        let shares: Vec<Share> = self.open(group, bundle).collect();
        shares.into_iter().find_map(|share| self.take_from(Some(share), &resources, counted))
    }

    fn take_from(&mut self, share: Option<Share>, resources: &Resources, counted: bool) -> Option<Holding> {
        let devices = self.change(share, |stock| stock.take(resources))?;
        if let Some(share) = share {
            self.bundle_mut(share).users += 1;
        }
        let light = counted && is_light_amount(resources);
        self.light_running += u32::from(light);
        Some(Holding { share, resources: resources.clone(), devices, blocked: false, light })
    }

    /// Give back everything of a holding.
    pub(super) fn give_back(&mut self, holding: Holding) {
        self.change(holding.share, |stock| {
            stock.put(&holding.effective());
            stock.put_devices(&holding.devices);
        });
        if holding.light && !holding.blocked {
            self.light_running -= 1;
        }
        if let Some(share) = holding.share {
            let bundle = self.bundle_mut(share);
            bundle.users -= 1;
            if bundle.returning && bundle.users == 0 {
                self.drop_bundle(share);
            }
        }
    }

    /// Lower a holding to at most `kept`, which names resources as the holder's demand did. Devices are
    /// kept or given back by kind, never in part.
    pub(super) fn shrink(&mut self, holding: &mut Holding, kept: &Resources) {
        let in_bundle = holding.share.map(|share| self.bundles[&share].group);
        let kept = match in_bundle {
            Some(group) => group::needed(kept, group).unwrap_or_default().0,
            None => kept.clone(),
        };
        let before = holding.effective();
        let mut rest = Resources::default();
        for (name, amount) in &holding.resources.0 {
            let keep = kept.get(name).0.clamp(0, amount.0);
            let keep = if keep > 0 && is_device(name) { amount.0 } else { keep };
            rest.set(name, Quantity(keep));
        }
        holding.resources = rest;
        let (keep, back): (Vec<_>, Vec<_>) = core::mem::take(&mut holding.devices.0)
            .into_iter()
            .partition(|(name, _)| holding.resources.get(name).0 > 0);
        holding.devices.0 = keep;
        let mut freed = before;
        freed.subtract(&holding.effective());
        self.change(holding.share, |stock| {
            stock.put(&freed);
            stock.put_devices(&Devices(back));
        });
    }

    /// The holder waits: its CPU can serve others. Says whether that was news.
    pub(super) fn block(&mut self, holding: &mut Holding) -> bool {
        if holding.blocked {
            return false;
        }
        self.change(holding.share, |stock| stock.put(&holding.cpu()));
        self.light_running -= u32::from(holding.light);
        holding.blocked = true;
        true
    }

    /// The holder goes on, even where that oversubscribes. Says whether that was news.
    pub(super) fn unblock(&mut self, holding: &mut Holding) -> bool {
        if !holding.blocked {
            return false;
        }
        self.change(holding.share, |stock| stock.overdraw(&holding.cpu()));
        self.light_running += u32::from(holding.light);
        holding.blocked = false;
        true
    }

    /// The resources of which the demand asks more than can be had now.
    pub(super) fn lacking(&self, demand: &Demand) -> Vec<Arc<str>> {
        let Some(group) = demand.group else { return self.node.lacking(&demand.resources) };
        let needed = group::needed(&demand.resources, group);
        let fits = needed.is_some_and(|(resources, bundle)| {
            self.open(group, bundle).any(|share| self.bundles[&share].stock.lacking(&resources).is_empty())
        });
        if fits { Vec::new() } else { demand.resources.0.keys().cloned().collect() }
    }

    /// Invariant 1, against everything that is held.
    pub(super) fn check<'a>(&self, held: impl Iterator<Item = &'a Holding>) {
        let held: Vec<&Holding> = held.collect();
        let of = |share| {
            let held = held.iter().filter(move |holding| holding.share == share);
            held.map(|holding| (holding.effective(), holding.devices()))
        };
        let bundles = self.bundles.values();
        let set_aside = bundles.map(|bundle| (bundle.holding.effective(), bundle.holding.devices()));
        self.node.check(of(None).chain(set_aside));
        for (share, bundle) in &self.bundles {
            bundle.stock.check(of(Some(*share)));
            assert_eq!(bundle.users as usize, of(Some(*share)).count(), "{bundle:?} knows its users");
            assert!(bundle.users > 0 || !bundle.returning, "an unused bundle is returned");
            assert!(bundle.users == 0 || bundle.committed, "a bundle is used once its group is whole");
            assert!(self.by_group[&bundle.group].contains(share));
        }
        assert_eq!(self.by_group.values().map(Vec::len).sum::<usize>(), self.bundles.len());
        assert!(self.suspended.iter().all(|group| self.by_group.contains_key(group)));
        let light = held.iter().filter(|holding| holding.light && !holding.blocked).count();
        assert_eq!(light as u32, self.light_running, "light leases are counted");
        assert_eq!(self.shown, self.show(), "what is shown is what there is");
    }

    /// Change a stock, and what is shown of it.
    fn change<T>(&mut self, share: Option<Share>, change: impl FnOnce(&mut Stock) -> T) -> T {
        self.show_free(share, Resources::subtract);
        let stock = match share {
            None => &mut self.node,
            Some(share) => &mut self.bundle_mut(share).stock,
        };
        let result = change(stock);
        self.show_free(share, Resources::add);
        result
    }

    fn bundle_mut(&mut self, share: Share) -> &mut Bundle {
        self.bundles.get_mut(&share).expect("a bundle is there while something is in it")
    }
}

/// Whether such work alone would let any number of processes run at once.
pub(super) fn is_light(demand: &Demand) -> bool {
    match demand.group {
        None => is_light_amount(&demand.resources),
        Some(group) => {
            group::needed(&demand.resources, group).is_some_and(|(amounts, _)| is_light_amount(&amounts))
        }
    }
}

fn is_light_amount(resources: &Resources) -> bool {
    let devices = resources.0.iter().any(|(name, amount)| is_device(name) && amount.0 > 0);
    !devices && resources.get(Resources::CPU) < LIGHT_CPU
}

/// How many light leases may run at once on a node with that many CPUs.
pub(super) fn light_running_max(cpus: u32) -> u32 {
    cpus.saturating_mul(4).max(8)
}

/// Whether a demand can ever be met.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Feasibility {
    /// By this node, once enough is free.
    Here,
    /// Not by this node; another one might.
    Elsewhere(String),
    /// Not by any node.
    Never(String),
}

impl Ledger {
    /// Whether this node, which is `node`, can ever meet `demand`.
    pub(super) fn feasibility(&self, demand: &Demand, node: NodeId) -> Feasibility {
        let needed = demand.group.map(|group| (group, group::needed(&demand.resources, group)));
        let amounts = match &needed {
            None => &demand.resources,
            Some((_, Some((amounts, _)))) => amounts,
            Some((group, None)) => {
                let amounts = &demand.resources;
                return Feasibility::Never(format!("{amounts} is not of one bundle of {group:?}"));
            }
        };
        if let Some(nonsense) = nonsense(amounts) {
            return Feasibility::Never(nonsense);
        }
        if let Strategy::Node { node: wanted, soft: false, .. } = demand.strategy
            && wanted != node
        {
            return Feasibility::Elsewhere(format!("node {} is not in the cluster", wanted.0));
        }
        match needed {
            None => self.shortage(amounts, node),
            Some((group, Some((amounts, bundle)))) if self.has_bundle_for(group, bundle, &amounts) => {
                Feasibility::Here
            }
            Some((group, _)) => Feasibility::Elsewhere(format!("{group:?} has no such bundle here")),
        }
    }

    fn shortage(&self, amounts: &Resources, node: NodeId) -> Feasibility {
        let total = self.node.total();
        let missing = amounts.0.iter().find(|(name, amount)| total.get(name) < **amount);
        let Some((name, amount)) = missing else { return Feasibility::Here };
        Feasibility::Elsewhere(format!(
            "it needs {} of {name}, and no node has more than {}; it needs {} in all, node {} has {}",
            amount.as_f64(),
            total.get(name).as_f64(),
            amounts,
            node.0,
            total,
        ))
    }
}

/// What of these amounts no node can ever have.
fn nonsense(amounts: &Resources) -> Option<String> {
    amounts.0.iter().find_map(|(name, amount)| {
        if amount.0 < 0 {
            return Some(format!("{} of {name} is negative", amount.as_f64()));
        }
        let parts = is_device(name) && *amount > Quantity::ONE && amount.0 % Quantity::ONE.0 != 0;
        parts.then(|| format!("{} of {name}: above 1, only whole devices", amount.as_f64()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Strategy;
    use proptest::prelude::{prop, proptest};

    fn resources(amounts: &[(&str, f64)]) -> Resources {
        let mut resources = Resources::default();
        for (name, amount) in amounts {
            resources.set(name, Quantity::from_f64(*amount));
        }
        resources
    }

    fn demand(amounts: &[(&str, f64)]) -> Demand {
        Demand { resources: resources(amounts), ..Demand::default() }
    }

    fn indices(holding: &Holding) -> Vec<u32> {
        holding.devices().0.iter().flat_map(|(_, chosen)| chosen.iter().map(|(index, _)| *index)).collect()
    }

    #[test]
    fn feasibility_names_what_is_missing() {
        let total = resources(&[("CPU", 8.0), ("GPU", 2.0)]);
        let demand = |amounts: &[(&str, f64)], strategy| Demand { strategy, ..demand(amounts) };
        let ledger = Ledger::new(total);
        let judge = |demand: &Demand| ledger.feasibility(demand, NodeId(1));
        let hybrid = Strategy::Hybrid;
        assert_eq!(judge(&demand(&[("CPU", 8.0)], hybrid.clone())), Feasibility::Here);
        let elsewhere = judge(&demand(&[("CPU", 9.0)], hybrid.clone()));
        let Feasibility::Elsewhere(detail) = elsewhere else { panic!("{elsewhere:?}") };
        assert!(detail.contains("needs 9 of CPU") && detail.contains("GPU: 2"), "{detail}");
        let never = judge(&demand(&[("GPU", 1.5)], hybrid));
        assert!(matches!(never, Feasibility::Never(_)), "{never:?}");
        let mut negative = Demand::default();
        negative.resources.set("CPU", Quantity(-1));
        assert!(matches!(judge(&negative), Feasibility::Never(_)));
        let hard = demand(&[], Strategy::bound(NodeId(7), false));
        assert!(matches!(judge(&hard), Feasibility::Elsewhere(_)));
        let soft = demand(&[], Strategy::bound(NodeId(7), true));
        assert_eq!(judge(&soft), Feasibility::Here);
    }

    #[test]
    fn a_blocked_holder_lends_its_cpu_only_and_takes_it_back() {
        let mut ledger = Ledger::new(resources(&[("CPU", 1.0), ("GPU", 1.0)]));
        let mut first = ledger.take(&demand(&[("CPU", 1.0), ("GPU", 1.0)]), true).unwrap();
        assert!(ledger.take(&demand(&[("CPU", 1.0)]), true).is_none());
        assert!(ledger.block(&mut first) && !ledger.block(&mut first));
        assert!(ledger.take(&demand(&[("GPU", 1.0)]), true).is_none());
        let second = ledger.take(&demand(&[("CPU", 1.0)]), true).unwrap();
        assert!(ledger.unblock(&mut first) && !ledger.unblock(&mut first));
        assert_eq!(ledger.free().get("CPU"), Quantity(-10_000));
        ledger.check([&first, &second].into_iter());
        ledger.give_back(second);
        ledger.give_back(first);
        assert_eq!(ledger.free(), ledger.total());
    }

    #[test]
    fn shrinking_keeps_the_devices_that_go_on_being_held() {
        let mut ledger = Ledger::new(resources(&[("CPU", 2.0), ("GPU", 2.0), ("TPU", 1.0)]));
        let all = demand(&[("CPU", 1.0), ("GPU", 1.0), ("TPU", 1.0)]);
        let mut holding = ledger.take(&all, false).unwrap();
        ledger.shrink(&mut holding, &resources(&[("GPU", 1.0), ("CPU", 5.0), ("other", 1.0)]));
        assert_eq!(holding.resources, resources(&[("CPU", 1.0), ("GPU", 1.0)]));
        assert_eq!(indices(&holding), [0]);
        assert_eq!(*ledger.free(), resources(&[("CPU", 1.0), ("GPU", 1.0), ("TPU", 1.0)]));
        ledger.check([&holding].into_iter());
    }

    #[test]
    fn lacking_names_resources_and_fragmented_devices() {
        let mut ledger = Ledger::new(resources(&[("CPU", 1.0), ("GPU", 2.0)]));
        let _half = ledger.take(&demand(&[("GPU", 0.5)]), false).unwrap();
        let _other = ledger.take(&demand(&[("GPU", 0.6)]), false).unwrap();
        let lacking = ledger.lacking(&demand(&[("CPU", 2.0), ("GPU", 0.7)]));
        assert_eq!(lacking, [Arc::from("CPU"), Arc::from("GPU")]);
    }

    proptest! {
        /// Invariant 1 under any order of takes, blocks, unblocks, shrinks and returns.
        #[test]
        fn free_and_held_make_the_total(steps in prop::collection::vec((0u8..5, 0usize..8, 0u32..30_000, 0u32..3), 1..200)) {
            let mut ledger = Ledger::new(resources(&[("CPU", 4.0), ("GPU", 3.0), ("memory", 1e9)]));
            let mut held: Vec<Holding> = Vec::new();
            for (kind, pick, amount, gpus) in steps {
                let pick = if held.is_empty() { None } else { Some(pick % held.len()) };
                match (kind, pick) {
                    (0, _) => {
                        let share = if gpus == 2 { 2.0 } else { f64::from(gpus) * 0.4 };
                        let wanted = demand(&[("CPU", f64::from(amount) / 1e4), ("GPU", share)]);
                        held.extend(ledger.take(&wanted, true));
                    }
                    (1, Some(pick)) => { ledger.block(&mut held[pick]); }
                    (2, Some(pick)) => { ledger.unblock(&mut held[pick]); }
                    (3, Some(pick)) => ledger.shrink(&mut held[pick], &resources(&[("CPU", 0.5), ("GPU", 1.0)])),
                    (4, Some(pick)) => ledger.give_back(held.swap_remove(pick)),
                    _ => {}
                }
                ledger.check(held.iter());
            }
        }
    }
}
