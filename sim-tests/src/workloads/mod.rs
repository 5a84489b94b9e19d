//! What simulated users do. Each file is one kind of program; a seed gives it its shape.

mod actor_chain;
mod backlog;
mod big_objects;
mod borrowing;
mod builder;
mod cancellation;
mod devices;
mod evacuation;
mod fan_out;
mod far_objects;
mod floods;
mod gangs;
mod generators;
mod groups;
mod named_actors;
mod nested;
mod orphans;
mod rivals;
mod short_owners;
mod waiting_actors;

pub use builder::Builder;

use shoal_transport_sim::cluster::HostSettings;

use crate::program::Script;
use crate::scenario::Item;

/// One kind of program.
pub struct Workload {
    /// As scenarios name it.
    pub name: &'static str,
    /// Writes the program.
    build: fn(&mut Builder),
}

/// All of them.
pub const ALL: &[Workload] = &[
    Workload { name: "fan_out", build: fan_out::build },
    Workload { name: "nested", build: nested::build },
    Workload { name: "actor_chain", build: actor_chain::build },
    Workload { name: "generators", build: generators::build },
    Workload { name: "cancellation", build: cancellation::build },
    Workload { name: "big_objects", build: big_objects::build },
    Workload { name: "borrowing", build: borrowing::build },
    Workload { name: "named_actors", build: named_actors::build },
    Workload { name: "floods", build: floods::build },
    Workload { name: "far_objects", build: far_objects::build },
    Workload { name: "groups", build: groups::build },
    Workload { name: "orphans", build: orphans::build },
    Workload { name: "backlog", build: backlog::build },
    Workload { name: "short_owners", build: short_owners::build },
    Workload { name: "waiting_actors", build: waiting_actors::build },
    Workload { name: "gangs", build: gangs::build },
    Workload { name: "rivals", build: rivals::build },
    Workload { name: OF_DEVICES, build: devices::build },
    Workload { name: OF_DRAINS, build: evacuation::build },
];

/// The workload that is drawn only where machines have numbered devices.
pub const OF_DEVICES: &str = "devices";

/// The workload that is drawn only where nodes are drained.
pub const OF_DRAINS: &str = "evacuation";

/// The program of an item in a cluster of these machines. `number` keeps its functions apart from those
/// of other items.
pub fn build(item: &Item, number: u64, hosts: &[HostSettings]) -> Script {
    let Some(workload) = ALL.iter().find(|workload| workload.name == item.workload) else {
        return Script::default();
    };
    let mut builder = Builder::new(item.seed, number, hosts);
    (workload.build)(&mut builder);
    builder.script()
}
