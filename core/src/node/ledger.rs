//! What of the node's resources is free, and which devices.
//!
//! Invariant 1: free + held = total, for every resource and every device.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::ids::NodeId;
use crate::resources::{Demand, Devices, Quantity, Resources, Strategy};

/// Resources that come as numbered devices; a worker is told which ones it may use.
const DEVICE_RESOURCES: [&str; 9] =
    [Resources::GPU, "TPU", "neuron_cores", "NPU", "HPU", "RBLN", "FURIOSA", "TTNPU", "MBLT"];

/// More devices than this of one kind are not told apart.
const DEVICES_MAX: i64 = 65_536;

/// A lease of less CPU than this, and of no device, is light: resources do not bound how many run.
const LIGHT_CPU: Quantity = Quantity(Quantity::ONE.0 / 4);

/// What of a node's resources is free.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    total: Resources,
    free: Resources,
    devices: BTreeMap<Arc<str>, Vec<Quantity>>,
    light_running: u32,
}

/// Resources that a claim or a worker holds.
#[derive(Clone, Debug)]
pub(super) struct Holding {
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
}

impl Ledger {
    pub(super) fn new(total: Resources) -> Ledger {
        let mut devices = BTreeMap::new();
        for (name, amount) in total.0.iter().filter(|(name, _)| is_device(name)) {
            devices.insert(name.clone(), whole_devices(*amount));
        }
        Ledger { free: total.clone(), total, devices, light_running: 0 }
    }

    pub(super) fn total(&self) -> &Resources {
        &self.total
    }
    pub(super) fn free(&self) -> &Resources {
        &self.free
    }
    /// Light leases that are not blocked.
    pub(super) fn light_running(&self) -> u32 {
        self.light_running
    }
    /// Whole CPUs, at least one.
    pub(super) fn cpus(&self) -> u32 {
        let cpus = self.total.get(Resources::CPU).0 / Quantity::ONE.0;
        u32::try_from(cpus).unwrap_or(u32::MAX).max(1)
    }

    /// Take `resources` if all are free. `counted` says whether the cap of light leases applies.
    pub(super) fn take(&mut self, resources: &Resources, counted: bool) -> Option<Holding> {
        if !self.free.covers(resources) {
            return None;
        }
        let mut devices = Devices::default();
        for (name, amount) in resources.0.iter().filter(|(_, amount)| amount.0 > 0) {
            if let Some(free) = self.devices.get(name) {
                devices.0.push((name.clone(), choose_devices(free, *amount)?));
            }
        }
        self.free.subtract(resources);
        for (name, chosen) in &devices.0 {
            self.change_devices(name, chosen, -1);
        }
        let light = counted && is_light(resources);
        self.light_running += u32::from(light);
        Some(Holding { resources: resources.clone(), devices, blocked: false, light })
    }

    /// Give back everything of a holding.
    pub(super) fn give_back(&mut self, holding: Holding) {
        self.free.add(&holding.effective());
        for (name, chosen) in &holding.devices.0 {
            self.change_devices(name, chosen, 1);
        }
        if holding.light && !holding.blocked {
            self.light_running -= 1;
        }
        self.assert_within_total();
    }

    /// Lower a holding to at most `kept`. Devices are kept or given back by kind, never in part.
    pub(super) fn shrink(&mut self, holding: &mut Holding, kept: &Resources) {
        self.free.add(&holding.effective());
        let mut rest = Resources::default();
        for (name, amount) in &holding.resources.0 {
            let keep = kept.get(name).0.clamp(0, amount.0);
            let keep = if keep > 0 && is_device(name) { amount.0 } else { keep };
            rest.set(name, Quantity(keep));
        }
        holding.resources = rest;
        self.free.subtract(&holding.effective());
        let (keep, back): (Vec<_>, Vec<_>) = core::mem::take(&mut holding.devices.0)
            .into_iter()
            .partition(|(name, _)| holding.resources.get(name).0 > 0);
        holding.devices.0 = keep;
        for (name, chosen) in &back {
            self.change_devices(name, chosen, 1);
        }
        self.assert_within_total();
    }

    /// The holder waits: its CPU can serve others. Says whether that was news.
    pub(super) fn block(&mut self, holding: &mut Holding) -> bool {
        if holding.blocked {
            return false;
        }
        let mut cpu = Resources::default();
        cpu.set(Resources::CPU, holding.resources.get(Resources::CPU));
        self.free.add(&cpu);
        self.light_running -= u32::from(holding.light);
        holding.blocked = true;
        self.assert_within_total();
        true
    }

    /// The holder goes on, even where that oversubscribes. Says whether that was news.
    pub(super) fn unblock(&mut self, holding: &mut Holding) -> bool {
        if !holding.blocked {
            return false;
        }
        let mut cpu = Resources::default();
        cpu.set(Resources::CPU, holding.resources.get(Resources::CPU));
        self.free.subtract(&cpu);
        self.light_running += u32::from(holding.light);
        holding.blocked = false;
        true
    }

    /// The resources of which `wanted` asks more than can be had now.
    pub(super) fn lacking(&self, wanted: &Resources) -> Vec<Arc<str>> {
        let short = |(name, amount): &(&Arc<str>, &Quantity)| {
            let fits = self.devices.get(*name).is_none_or(|free| choose_devices(free, **amount).is_some());
            amount.0 > 0 && (self.free.get(name) < **amount || !fits)
        };
        wanted.0.iter().filter(short).map(|(name, _)| name.clone()).collect()
    }

    /// Invariant 1, against everything that is held.
    pub(super) fn check<'a>(&self, held: impl Iterator<Item = &'a Holding>) {
        let mut sum = self.free.clone();
        let mut devices = self.devices.clone();
        let mut light = 0;
        for holding in held {
            sum.add(&holding.effective());
            light += u32::from(holding.light && !holding.blocked);
            for (name, chosen) in &holding.devices.0 {
                let devices = devices.get_mut(name).expect("held devices exist");
                for (index, amount) in chosen {
                    devices[*index as usize].0 += amount.0;
                }
            }
        }
        assert_eq!(sum, self.total, "free + held = total");
        assert_eq!(light, self.light_running, "light leases are counted");
        for (name, amounts) in &devices {
            assert_eq!(*amounts, whole_devices(self.total.get(name)), "devices of {name}");
        }
    }

    fn change_devices(&mut self, name: &str, chosen: &[(u32, Quantity)], sign: i64) {
        let devices = self.devices.get_mut(name).expect("chosen devices exist");
        for (index, amount) in chosen {
            let free = &mut devices[*index as usize];
            free.0 += sign * amount.0;
            assert!((0..=Quantity::ONE.0).contains(&free.0), "device {name} {index} is {free:?} free");
        }
    }

    fn assert_within_total(&self) {
        assert!(self.total.covers(&self.free), "more free than there is: {:?}", self.free);
    }
}

fn is_device(name: &str) -> bool {
    DEVICE_RESOURCES.contains(&name)
}

/// One entry a device; the last one may be a part of a device.
fn whole_devices(total: Quantity) -> Vec<Quantity> {
    let whole = (total.0 / Quantity::ONE.0).clamp(0, DEVICES_MAX);
    let mut devices = vec![Quantity::ONE; whole as usize];
    let part = total.0 - whole * Quantity::ONE.0;
    if (1..Quantity::ONE.0).contains(&part) {
        devices.push(Quantity(part));
    }
    devices
}

/// Whether `resources` alone would let any number of processes run at once.
pub(super) fn is_light(resources: &Resources) -> bool {
    let devices = resources.0.iter().any(|(name, amount)| is_device(name) && amount.0 > 0);
    !devices && resources.get(Resources::CPU) < LIGHT_CPU
}

/// How many light leases may run at once on a node with that many CPUs.
pub(super) fn light_running_max(cpus: u32) -> u32 {
    cpus.saturating_mul(4).max(8)
}

/// The devices for `amount`: shares go to the fullest device that has room, whole ones to the first.
fn choose_devices(free: &[Quantity], amount: Quantity) -> Option<Vec<(u32, Quantity)>> {
    let numbered = || free.iter().enumerate().map(|(index, free)| (index as u32, *free));
    if amount < Quantity::ONE {
        let (_, index) =
            numbered().filter(|(_, free)| *free >= amount).map(|(index, free)| (free, index)).min()?;
        return Some(vec![(index, amount)]);
    }
    if amount.0 % Quantity::ONE.0 != 0 {
        return None;
    }
    let wanted = (amount.0 / Quantity::ONE.0) as usize;
    let whole = numbered().filter(|(_, free)| *free == Quantity::ONE).take(wanted).collect::<Vec<_>>();
    (whole.len() == wanted).then_some(whole)
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

/// Whether a node that has `total` in all can ever meet `demand`.
pub(super) fn feasibility(demand: &Demand, node: NodeId, total: &Resources) -> Feasibility {
    for (name, amount) in &demand.resources.0 {
        if amount.0 < 0 {
            return Feasibility::Never(format!("{} of {name} is negative", amount.as_f64()));
        }
        if is_device(name) && *amount > Quantity::ONE && amount.0 % Quantity::ONE.0 != 0 {
            let wanted = amount.as_f64();
            return Feasibility::Never(format!("{wanted} of {name}: above 1, only whole devices"));
        }
    }
    if let Strategy::Node { node: wanted, soft: false } = demand.strategy
        && wanted != node
    {
        return Feasibility::Elsewhere(format!("node {} is not in the cluster", wanted.0));
    }
    let missing = demand.resources.0.iter().find(|(name, amount)| total.get(name) < **amount);
    match missing {
        None => Feasibility::Here,
        Some((name, amount)) => Feasibility::Elsewhere(format!(
            "it needs {} of {name}, and no node has more than {}; it needs {} in all, node {} has {}",
            amount.as_f64(),
            total.get(name).as_f64(),
            listed(&demand.resources),
            node.0,
            listed(total),
        )),
    }
}

fn listed(resources: &Resources) -> String {
    let amounts: Vec<String> =
        resources.0.iter().map(|(name, amount)| format!("{name}: {}", amount.as_f64())).collect();
    format!("{{{}}}", amounts.join(", "))
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

    fn indices(holding: &Holding) -> Vec<u32> {
        holding.devices().0.iter().flat_map(|(_, chosen)| chosen.iter().map(|(index, _)| *index)).collect()
    }

    #[test]
    fn devices_are_chosen_whole_or_packed() {
        let free = |amounts: &[i64]| amounts.iter().map(|a| Quantity(*a)).collect::<Vec<_>>();
        // Free amounts, the amount wanted, the devices chosen.
        type Case<'a> = (&'a [i64], i64, Option<&'a [u32]>);
        let cases: [Case; 9] = [
            (&[10_000, 10_000], 10_000, Some(&[0])),
            (&[5_000, 10_000], 10_000, Some(&[1])),
            (&[10_000, 5_000, 10_000], 20_000, Some(&[0, 2])),
            (&[10_000, 5_000], 20_000, None),
            (&[10_000, 5_000], 5_000, Some(&[1])),
            (&[10_000, 2_000, 5_000], 2_500, Some(&[2])),
            (&[10_000, 2_000], 2_500, Some(&[0])),
            (&[2_000, 2_000], 2_500, None),
            (&[10_000, 10_000], 15_000, None),
        ];
        for (free_amounts, amount, expected) in cases {
            let chosen = choose_devices(&free(free_amounts), Quantity(amount));
            let chosen = chosen.map(|list| list.into_iter().map(|(index, _)| index).collect::<Vec<_>>());
            assert_eq!(chosen.as_deref(), expected, "{amount} of {free_amounts:?}");
        }
    }

    #[test]
    fn feasibility_names_what_is_missing() {
        let total = resources(&[("CPU", 8.0), ("GPU", 2.0)]);
        let demand = |amounts: &[(&str, f64)], strategy| Demand {
            resources: resources(amounts),
            strategy,
            ..Demand::default()
        };
        let judge = |demand: &Demand| feasibility(demand, NodeId(1), &total);
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
        let hard = demand(&[], Strategy::Node { node: NodeId(7), soft: false });
        assert!(matches!(judge(&hard), Feasibility::Elsewhere(_)));
        let soft = demand(&[], Strategy::Node { node: NodeId(7), soft: true });
        assert_eq!(judge(&soft), Feasibility::Here);
    }

    #[test]
    fn a_blocked_holder_lends_its_cpu_only_and_takes_it_back() {
        let mut ledger = Ledger::new(resources(&[("CPU", 1.0), ("GPU", 1.0)]));
        let mut first = ledger.take(&resources(&[("CPU", 1.0), ("GPU", 1.0)]), true).unwrap();
        assert!(ledger.take(&resources(&[("CPU", 1.0)]), true).is_none());
        assert!(ledger.block(&mut first) && !ledger.block(&mut first));
        assert!(ledger.take(&resources(&[("GPU", 1.0)]), true).is_none());
        let second = ledger.take(&resources(&[("CPU", 1.0)]), true).unwrap();
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
        let all = resources(&[("CPU", 1.0), ("GPU", 1.0), ("TPU", 1.0)]);
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
        let _half = ledger.take(&resources(&[("GPU", 0.5)]), false).unwrap();
        let _other = ledger.take(&resources(&[("GPU", 0.6)]), false).unwrap();
        let lacking = ledger.lacking(&resources(&[("CPU", 2.0), ("GPU", 0.7)]));
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
                        let wanted = resources(&[("CPU", f64::from(amount) / 1e4), ("GPU", share)]);
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
