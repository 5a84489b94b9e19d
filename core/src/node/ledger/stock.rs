//! A stock of resources: what there is, what of it is free, and which devices.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::node::inspect::NodeDevice;
use crate::resources::{DeviceShare, Devices, Quantity, Resources};

/// Resources that come as numbered devices; a worker is told which ones it may use.
const DEVICE_RESOURCES: [&str; 9] =
    [Resources::GPU, "TPU", "neuron_cores", "NPU", "HPU", "RBLN", "FURIOSA", "TTNPU", "MBLT"];

/// More devices than this of one kind are not told apart.
const DEVICES_MAX: i64 = 65_536;

/// Whether a resource comes as numbered devices.
pub(super) fn is_device(name: &str) -> bool {
    DEVICE_RESOURCES.contains(&name)
}

/// One device, or a part of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Device {
    index: u32,
    total: Quantity,
    free: Quantity,
}

/// See the module's text. The node has one, and each bundle that it has set aside.
#[derive(Clone, Debug)]
pub(super) struct Stock {
    total: Resources,
    free: Resources,
    devices: BTreeMap<Arc<str>, Vec<Device>>,
}

impl Stock {
    /// A node's: its devices are numbered from 0.
    pub(super) fn of_node(total: Resources) -> Stock {
        let mut devices = BTreeMap::new();
        for (name, amount) in total.0.iter().filter(|(name, _)| is_device(name)) {
            devices.insert(name.clone(), numbered(*amount));
        }
        Stock { free: total.clone(), total, devices }
    }

    /// A part of another stock.
    pub(super) fn part(total: Resources, devices: &Devices) -> Stock {
        let device = |(index, amount): &DeviceShare| Device { index: *index, total: *amount, free: *amount };
        let devices =
            devices.0.iter().map(|(name, chosen)| (name.clone(), chosen.iter().map(device).collect()));
        Stock { free: total.clone(), total, devices: devices.collect() }
    }

    pub(super) fn total(&self) -> &Resources {
        &self.total
    }
    pub(super) fn free(&self) -> &Resources {
        &self.free
    }

    /// Every device.
    pub(super) fn devices(&self) -> impl Iterator<Item = NodeDevice> {
        let view = |name: &Arc<str>, device: &Device| {
            let Device { index, total, free } = *device;
            NodeDevice { resource: name.clone(), index, total, free }
        };
        self.devices.iter().flat_map(move |(name, list)| list.iter().map(move |device| view(name, device)))
    }

    /// Take these amounts, if all are free, and choose devices for them.
    pub(super) fn take(&mut self, amounts: &Resources) -> Option<Devices> {
        if !self.free.covers(amounts) {
            return None;
        }
        let mut chosen = Devices::default();
        for (name, amount) in amounts.0.iter().filter(|(_, amount)| amount.0 > 0) {
            if let Some(devices) = self.devices.get(name) {
                chosen.0.push((name.clone(), choose(devices, *amount)?));
            }
        }
        self.free.subtract(amounts);
        self.change_devices(&chosen, -1);
        Some(chosen)
    }

    /// Amounts are free again.
    pub(super) fn put(&mut self, amounts: &Resources) {
        self.free.add(amounts);
        assert!(self.total.covers(&self.free), "more free than there is: {:?}", self.free);
    }

    /// Devices are free again.
    pub(super) fn put_devices(&mut self, devices: &Devices) {
        self.change_devices(devices, 1);
    }

    /// Take amounts that may not be free: the holder was here before.
    pub(super) fn overdraw(&mut self, amounts: &Resources) {
        self.free.subtract(amounts);
    }

    /// The resources of which `wanted` asks more than can be had now.
    pub(super) fn lacking(&self, wanted: &Resources) -> Vec<Arc<str>> {
        let short = |(name, amount): &(&Arc<str>, &Quantity)| {
            let fits = self.devices.get(*name).is_none_or(|devices| choose(devices, **amount).is_some());
            amount.0 > 0 && (self.free.get(name) < **amount || !fits)
        };
        wanted.0.iter().filter(short).map(|(name, _)| name.clone()).collect()
    }

    /// What is free with what is held must be everything.
    pub(super) fn check<'a>(&self, held: impl Iterator<Item = (Resources, &'a Devices)>) {
        let mut sum = self.free.clone();
        let mut devices = self.devices.clone();
        for (amounts, chosen) in held {
            sum.add(&amounts);
            for (name, chosen) in &chosen.0 {
                let devices = devices.get_mut(name).expect("held devices exist");
                for share in chosen {
                    find(devices, share.0).free.0 += share.1.0;
                }
            }
        }
        assert_eq!(sum, self.total, "free + held = total");
        for (name, devices) in &devices {
            assert!(devices.iter().all(|device| device.free == device.total), "{name}: {devices:?}");
        }
    }

    fn change_devices(&mut self, chosen: &Devices, sign: i64) {
        for (name, chosen) in &chosen.0 {
            let devices = self.devices.get_mut(name).expect("chosen devices exist");
            for (index, amount) in chosen {
                let device = find(devices, *index);
                device.free.0 += sign * amount.0;
                let all = 0..=device.total.0;
                assert!(all.contains(&device.free.0), "{name}: {device:?}");
            }
        }
    }
}

fn find(devices: &mut [Device], index: u32) -> &mut Device {
    let at = devices.binary_search_by_key(&index, |device| device.index).expect("chosen devices exist");
    &mut devices[at]
}

/// One entry a device; the last one may be a part of a device.
fn numbered(total: Quantity) -> Vec<Device> {
    let whole = (total.0 / Quantity::ONE.0).clamp(0, DEVICES_MAX);
    let mut amounts = vec![Quantity::ONE; whole as usize];
    let part = total.0 - whole * Quantity::ONE.0;
    if (1..Quantity::ONE.0).contains(&part) {
        amounts.push(Quantity(part));
    }
    (0..).zip(amounts).map(|(index, amount)| Device { index, total: amount, free: amount }).collect()
}

/// The devices for `amount`: shares go to the fullest device that has room, whole ones to the first.
fn choose(devices: &[Device], amount: Quantity) -> Option<Vec<DeviceShare>> {
    if amount < Quantity::ONE {
        let roomy = devices.iter().filter(|device| device.free >= amount);
        let fullest = roomy.min_by_key(|device| (device.free, device.index))?;
        return Some(vec![(fullest.index, amount)]);
    }
    if amount.0 % Quantity::ONE.0 != 0 {
        return None;
    }
    let wanted = (amount.0 / Quantity::ONE.0) as usize;
    let whole = devices.iter().filter(|device| device.free == Quantity::ONE);
    let whole: Vec<DeviceShare> = whole.take(wanted).map(|device| (device.index, device.free)).collect();
    (whole.len() == wanted).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_chosen_whole_or_packed() {
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
        for (free, amount, expected) in cases {
            let device = |(index, free)| Device { index, total: Quantity::ONE, free: Quantity(free) };
            let devices: Vec<Device> = (0..).zip(free.iter().copied()).map(device).collect();
            let chosen = choose(&devices, Quantity(amount));
            let chosen = chosen.map(|list| list.into_iter().map(|(index, _)| index).collect::<Vec<_>>());
            assert_eq!(chosen.as_deref(), expected, "{amount} of {free:?}");
        }
    }

    #[test]
    fn a_part_has_the_devices_that_were_chosen_for_it() {
        let mut total = Resources::default();
        total.set(Resources::GPU, Quantity(25_000));
        let mut node = Stock::of_node(total);
        let half = |stock: &mut Stock, amount| {
            let mut wanted = Resources::default();
            wanted.set(Resources::GPU, Quantity(amount));
            stock.take(&wanted).map(|chosen| (wanted, chosen))
        };
        let first = half(&mut node, 10_000).unwrap();
        let (amounts, chosen) = half(&mut node, 10_000).unwrap();
        let mut part = Stock::part(amounts.clone(), &chosen);
        assert_eq!(half(&mut part, 5_000).unwrap().1.0[0].1, [(1, Quantity(5_000))]);
        assert!(half(&mut part, 10_000).is_none());
        assert_eq!(half(&mut node, 5_000).unwrap().1.0[0].1, [(2, Quantity(5_000))]);
        assert!(half(&mut node, 1).is_none());
        node.put(&first.0);
        node.put_devices(&first.1);
        assert!(half(&mut node, 10_000).is_some());
    }
}
