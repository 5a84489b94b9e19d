//! Invariant 1, device by device: no more than all of a device is given out at any moment, over all leases,
//! claims, actors and bundles of a node; what a process uses it holds in its node's books, until it has ended
//! whatever becomes of its lessee; and at rest all devices are free.
//!
//! What daemons leave on a machine when they crash is not looked at here: its processes find their links closed
//! and end by themselves, and a new daemon may come before the last of them has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_core::ids::ProcessId;
use shoal_core::node::{DeviceHolder, HeldDevices, Inspection};
use shoal_core::resources::{self, Quantity};
use shoal_transport_sim::cluster::{Fact, Process};

use super::{Check, Property};
use crate::observation::Observation;
use crate::world::World;

/// A device of a node: its resource and its number.
type Device = (Arc<str>, u32);

/// See the module's text.
#[derive(Default)]
pub(super) struct Devices {
    /// Who was told to use devices and may do so still.
    users: BTreeSet<ProcessId>,
}

impl Property for Devices {
    fn name(&self) -> &'static str {
        "devices"
    }

    fn observe(&mut self, world: &World, observation: &Observation) -> Check {
        if let Observation::Fact(Fact::Started { process, .. } | Fact::Constructing { process, .. }) =
            observation
            && used(world, *process).is_some()
        {
            self.users.insert(*process);
        }
        Ok(())
    }

    fn after_event(&mut self, world: &World) -> Check {
        self.users.retain(|process| used(world, *process).is_some());
        let mut shared: BTreeMap<(u32, Device), i64> = BTreeMap::new();
        for id in &self.users {
            let Some(daemon) = world.cluster.nodes.get(&id.node()) else { continue };
            let Some(process) = used(world, *id) else { continue };
            let booked = daemon.node.devices_of(*id);
            if booked != Some(&process.devices) {
                return Err(format!(
                    "{id:?} uses {:?}, and its node's books say {booked:?}",
                    process.devices
                ));
            }
            for (device, amount) in parts(&process.devices) {
                let sum = shared.entry((id.node().0, device)).or_default();
                *sum += amount.0;
                if *sum > Quantity::ONE.0 {
                    return Err(format!(
                        "{id:?} and others use more than all of one device: {:?}",
                        process.devices
                    ));
                }
            }
        }
        Ok(())
    }

    fn look_closely(&mut self, world: &World) -> Check {
        each_node(world, |node| {
            let given = given(node, None);
            for device in &node.devices {
                let given = given.get(&(device.resource.clone(), device.index)).copied().unwrap_or_default();
                if device.free.0 < 0 || device.free.0 + given != device.total.0 {
                    return Err(format!("{device:?}, and this is given out: {:?}", node.held));
                }
            }
            node.held.iter().try_for_each(|held| has_enough(node, held))
        })
    }

    fn at_rest(&mut self, world: &World) -> Check {
        each_node(world, |node| {
            // Bundles of detached groups stay, and so do actors that somebody has a handle of.
            let stays = |held: &HeldDevices| match held.by {
                DeviceHolder::Worker(process) => {
                    world.cluster.processes.get(&process).is_some_and(|process| process.actor.is_some())
                }
                DeviceHolder::Bundle(_) => true,
                DeviceHolder::Claim => false,
            };
            match node.held.iter().find(|held| !stays(held)) {
                Some(held) => Err(format!("{held:?} is left")),
                None => Ok(()),
            }
        })
    }
}

/// A process that uses devices.
fn used(world: &World, id: ProcessId) -> Option<&Process> {
    world.cluster.processes.get(&id).filter(|process| !process.devices.0.is_empty())
}

fn parts(devices: &resources::Devices) -> impl Iterator<Item = (Device, Quantity)> {
    let of = |name: &Arc<str>, index: u32| (name.clone(), index);
    devices
        .0
        .iter()
        .flat_map(move |(name, list)| list.iter().map(move |(index, amount)| (of(name, *index), *amount)))
}

/// What is given out of the node's own, or of a bundle.
fn given(node: &Inspection, within: Option<u64>) -> BTreeMap<Device, i64> {
    let mut sums: BTreeMap<Device, i64> = BTreeMap::new();
    for held in node.held.iter().filter(|held| held.within == within) {
        for (device, amount) in parts(&held.devices) {
            *sums.entry(device).or_default() += amount.0;
        }
    }
    sums
}

/// If this is a bundle, no more of its devices is given out than it has.
fn has_enough(node: &Inspection, held: &HeldDevices) -> Check {
    let DeviceHolder::Bundle(number) = held.by else { return Ok(()) };
    let has: BTreeMap<Device, i64> =
        parts(&held.devices).map(|(device, amount)| (device, amount.0)).collect();
    let fits = |(device, amount): (&Device, &i64)| has.get(device).is_some_and(|has| amount <= has);
    if given(node, Some(number)).iter().all(fits) {
        return Ok(());
    }
    Err(format!("more than {held:?} has is given out of it: {:?}", node.held))
}

fn each_node(world: &World, check: impl Fn(&Inspection) -> Check) -> Check {
    for (id, daemon) in &world.cluster.nodes {
        check(&daemon.node.inspect()).map_err(|wrong| format!("{id:?}: {wrong}"))?;
    }
    Ok(())
}
