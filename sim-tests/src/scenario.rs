//! Everything about a run that is decided before it starts: the cluster, what its users do, what
//! goes wrong. All drawn from one seed; all writable as TOML, so that a failing run can be kept.

use serde::{Deserialize, Serialize};
use shoal_core::Span;
use shoal_core::resources::Resources;
use shoal_transport_sim::cluster::{HostSettings, Loss, Residence, Settings};
use shoal_transport_sim::{Delays, Fault, FaultKind, LogFate, Random};

use crate::workloads;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scenario {
    /// Seeds everything that is random while the run goes on.
    #[serde(with = "text")]
    pub seed: u64,
    /// The cluster.
    pub cluster: Settings,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// What users do: one list for each driver.
    #[serde(default)]
    pub drivers: Vec<Driver>,
}

/// One driver's work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Driver {
    /// When it comes, in microseconds.
    pub starts_at_micros: u64,
    /// The machine that it comes to.
    #[serde(default)]
    pub host: usize,
    /// It leaves without dropping its references first.
    pub leaves_abruptly: bool,
    /// What it does, one thread each.
    #[serde(default)]
    pub items: Vec<Item>,
}

/// One use of a workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Item {
    /// Which workload.
    pub workload: String,
    /// Seeds its shape.
    #[serde(with = "text")]
    pub seed: u64,
}

impl Scenario {
    /// The scenario of a seed. Swarm testing: each seed leaves out kinds of faults and workloads.
    pub fn from_seed(seed: u64) -> Scenario {
        Scenario::on(seed, None)
    }

    /// The scenario of a seed on so many machines, whatever it would draw.
    pub fn on(seed: u64, hosts: Option<u64>) -> Scenario {
        let mut random = Random::new(seed);
        let mut cluster = draw_cluster(&mut random, hosts);
        let mut faults = draw_faults(&mut random, &cluster);
        let mut drivers = draw_drivers(&mut random, cluster.hosts.len());
        let items = || drivers.iter().flat_map(|driver| &driver.items);
        let has = |workload: &str| items().any(|item| item.workload == workload);
        if (has("gangs") || has("rivals")) && random.chance(500) {
            cluster.heal_at_micros = OUTAGE_MICROS;
            let any = random.draw() >> 32;
            let machine = if has("rivals") { HUB } else { any };
            faults.extend(draw_outage(&mut random, machine));
        }
        // As rarely as in a cluster of a thousand nodes.
        cluster.view_micros = *random.pick(&[100_000, 100_000, 100_000, 1_600_000]);
        // After everything else: what a seed drew before there were devices stays as it was.
        if random.chance(300) {
            draw_devices(&mut random, &mut cluster, &mut drivers);
        }
        // As where many nodes want a large object at once.
        if random.chance(300) {
            cluster.copying = (1, 1);
        }
        if cluster.hosts.len() > 1 && random.chance(200) {
            draw_drains(&mut random, &mut cluster, &mut faults, &mut drivers);
        }
        if cluster.durable && cluster.hosts.len() > 1 && random.chance(300) {
            draw_residence(&mut random, &mut cluster, &mut faults);
        }
        Scenario { seed, cluster, faults, drivers }
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let names: Vec<String> = self
            .drivers
            .iter()
            .map(|driver| {
                let items: Vec<&str> = driver.items.iter().map(|i| i.workload.as_str()).collect();
                items.join("+")
            })
            .collect();
        format!(
            "hosts={} cpus={:?} store={} clog={}‰ detour={}‰ faults={} drivers=[{}]",
            self.cluster.hosts.len(),
            self.cluster.hosts.iter().map(|host| host.cpus).collect::<Vec<_>>(),
            self.cluster.hosts.first().map_or(0, |host| host.store_bytes),
            self.cluster.delays.clog_per_mille,
            self.cluster.detour_per_mille,
            self.faults.len(),
            names.join(" | ")
        )
    }
}

fn draw_cluster(random: &mut Random, hosts: Option<u64>) -> Settings {
    let clogged = random.chance(300);
    let mut delays = |most: u64| Delays {
        least: Span::from_micros(random.between(0, 20)),
        most: Span::from_micros(most),
        clog_per_mille: if clogged { random.between(1, 50) } else { 0 },
        clog_most: Span::from_millis(*random.pick(&[10, 200, 2_000])),
    };
    let (delays, far) = (delays(50), delays(200));
    let mut settings = Settings {
        detour_per_mille: if random.chance(400) { random.between(10, 500) } else { 0 },
        step_micros: *random.pick(&[1, 20, 500]),
        fork_micros: *random.pick(&[1_000, 10_000, 300_000]),
        disk_micros: *random.pick(&[200, 5_000, 100_000]),
        log_micros: *random.pick(&[100, 3_000, 100_000]),
        reap_micros: *random.pick(&[100, 5_000, 500_000]),
        keepalive_micros: *random.pick(&[300_000, 1_000_000, 4_000_000]),
        redial_micros: *random.pick(&[1_000, 20_000, 400_000]),
        restart_micros: *random.pick(&[50_000, 1_000_000, 6_000_000]),
        bytes_per_micro: *random.pick(&[10, 100, 1_000]),
        acknowledge_frames: *random.pick(&[1, 16, 256]),
        session_bytes: *random.pick(&[4 << 10, 1 << 20, 16 << 20]),
        heal_at_micros: *random.pick(&[50_000, 1_000_000, 10_000_000]),
        delays,
        far,
        ..Settings::default()
    };
    settings.delays.most = Span::from_micros(*random.pick(&[50, 200, 2_000, 20_000]));
    settings.far.most = Span::from_micros(*random.pick(&[200, 2_000, 20_000]));
    let drawn = *random.pick(&[1, 1, 2, 3, 3, 4, 5, 5]);
    let count = hosts.unwrap_or(drawn).max(1);
    draw_hosts(random, count, &mut settings);
    settings.durable = random.chance(if count == 1 { 200 } else { 800 });
    if count > 1 {
        draw_distance(random, &mut settings);
    }
    settings
}

fn draw_hosts(random: &mut Random, count: u64, settings: &mut Settings) {
    let host = HostSettings {
        store_bytes: *random.pick(&[4 << 20, 16 << 20, 256 << 20]),
        disk_bytes: *random.pick(&[4 << 20, 64 << 20, 1 << 30]),
        ..HostSettings::default()
    };
    let skewed = count > 1 && random.chance(300);
    settings.hosts = (0..count)
        .map(|number| {
            let mut host = HostSettings { cpus: random.between(1, 4) as u32, ..host.clone() };
            if random.chance(300) {
                host.resources.push((String::from(SPECIAL), random.between(1, 3) as u32));
            }
            host.resources.push((String::from(ROOM), 8));
            let berths = if number == HUB { count - 1 } else { 1 };
            host.resources.push((String::from(BERTH), berths as u32));
            let zone = if number % 2 == 0 { "even" } else { "odd" };
            host.labels.push((String::from(ZONE), String::from(zone)));
            if skewed {
                host.clock_ahead_micros = random.skewed(1 << 40);
                host.clock_drift = random.between(0, 20_000) as i64 - 10_000;
            }
            host
        })
        .collect();
}

/// How long an outage lasts.
const OUTAGE_MICROS: u64 = 40_000_000;

/// A resource that only some machines have.
pub const SPECIAL: &str = "special";
/// A resource that every machine has, and that only detached placement groups ask for: what is left of
/// these when their driver is gone keeps nothing from others.
pub const ROOM: &str = "room";
/// A resource for groups that are to be in each other's way: one machine has as much as all others together.
pub const BERTH: &str = "berth";
/// That machine. Its [`ZONE`] is odd.
const HUB: u64 = 1;
/// A label that every machine has: `even` or `odd`.
pub const ZONE: &str = "zone";

/// Most machines get numbered devices, and most drivers work for them.
fn draw_devices(random: &mut Random, cluster: &mut Settings, drivers: &mut [Driver]) {
    for (number, host) in (0_u64..).zip(&mut cluster.hosts) {
        if number == 0 || random.chance(700) {
            host.resources.push((String::from(Resources::GPU), random.between(1, 3) as u32));
        }
    }
    for driver in drivers {
        if random.chance(700) {
            let (workload, seed) = (String::from(workloads::OF_DEVICES), random.draw());
            driver.items.push(Item { workload, seed });
        }
    }
}

/// Nodes are drained, in every other case without anything else that goes wrong.
fn draw_drains(random: &mut Random, cluster: &mut Settings, faults: &mut Vec<Fault>, drivers: &mut [Driver]) {
    let calm = random.chance(500);
    if calm {
        faults.clear();
        cluster.loss = Loss::default();
        cluster.heal_at_micros = OUTAGE_MICROS;
    }
    for _ in 0..random.between(1, 4) {
        let (at_micros, choice) = (random.below(cluster.heal_at_micros / 2), random.draw() >> 32);
        let longest = if calm { OUTAGE_MICROS } else { cluster.heal_at_micros / 2 };
        let (micros, ends) = (random.below(longest), random.chance(500));
        faults.push(Fault::Drain { at_micros, choice, micros, ends });
        // The head goes while it writes of the drain, or of its end.
        if !calm && random.chance(700) {
            let after = if random.chance(500) { 0 } else { micros };
            let at_micros = at_micros + after + random.below(cluster.log_micros + cluster.far.most.0 / 1_000);
            faults.push(Fault::HeadCrash { at_micros, log: LogFate::Kept, micros: 0 });
        }
    }
    for driver in drivers {
        if random.chance(700) {
            let (workload, seed) = (String::from(workloads::OF_DRAINS), random.draw());
            driver.items.push(Item { workload, seed });
        }
    }
}

/// Heads live in daemons, as they do in products, and often come and go.
fn draw_residence(random: &mut Random, cluster: &mut Settings, faults: &mut Vec<Fault>) {
    cluster.residence = *random.pick(&[Residence::Daemon, Residence::Elected]);
    if cluster.head_host >= cluster.hosts.len() {
        cluster.head_host = 0;
    }
    for _ in 0..random.below(4) {
        let at_micros = 1 + random.skewed(cluster.heal_at_micros);
        faults.push(if cluster.residence == Residence::Elected && random.chance(600) {
            let (choice, micros) = (random.draw() >> 32, random.skewed(10_000_000));
            Fault::SecondHead { at_micros, choice, micros }
        } else {
            Fault::HeadCrash { at_micros, log: LogFate::Kept, micros: 0 }
        });
    }
}

fn draw_distance(random: &mut Random, settings: &mut Settings) {
    if random.chance(300) {
        settings.head_host = settings.hosts.len();
    }
    if random.chance(200) {
        settings.loss = Loss {
            drop_per_mille: random.below(10),
            duplicate_per_mille: random.below(50),
            reorder_per_mille: random.below(10),
        };
    }
    settings.heal_at_micros = *random.pick(&[1_000_000, 10_000_000, 40_000_000]);
}

fn draw_faults(random: &mut Random, cluster: &Settings) -> Vec<Fault> {
    if random.chance(150) {
        return Vec::new();
    }
    let local = FaultKind::LOCAL.into_iter().filter(|_| cluster.hosts.len() == 1 || random.chance(500));
    let mut kinds: Vec<FaultKind> = local.collect();
    if cluster.hosts.len() > 1 {
        kinds.extend(FaultKind::CLUSTER);
    } else if cluster.durable {
        kinds.push(FaultKind::Head);
    }
    kinds.retain(|_| random.chance(400));
    if kinds.is_empty() {
        return Vec::new();
    }
    let count = random.between(1, 12);
    (0..count)
        .map(|_| {
            let kind = *random.pick(&kinds);
            // Most of the work is done early, so most timed faults are early too.
            let horizon = 1 + random.skewed(cluster.heal_at_micros);
            kind.draw(random, cluster.hosts.len(), horizon)
        })
        .collect()
}

/// A machine goes while groups are used, and comes back so late that these must do without it; often the head
/// goes, too, while they wait.
fn draw_outage(random: &mut Random, machine: u64) -> Vec<Fault> {
    let at_micros = random.between(500_000, 6_000_000);
    let gone = Fault::HostCrash { at_micros, choice: machine, micros: OUTAGE_MICROS };
    let at_micros = at_micros + random.between(2_000_000, 6_000_000);
    let head = Fault::HeadCrash { at_micros, log: LogFate::Kept, micros: 0 };
    if random.chance(500) { vec![gone, head] } else { vec![gone] }
}

fn draw_drivers(random: &mut Random, hosts: usize) -> Vec<Driver> {
    let usable: Vec<&str> = workloads::ALL
        .iter()
        .map(|w| w.name)
        .filter(|name| ![workloads::OF_DEVICES, workloads::OF_DRAINS].contains(name))
        // On one machine, nothing is far, and nothing can be spread; on two, only one group can be.
        .filter(|name| hosts > 1 || !["far_objects", "gangs"].contains(name))
        .filter(|name| hosts > 2 || *name != "rivals")
        .filter(|_| random.chance(500))
        .collect();
    let usable = if usable.is_empty() { vec![workloads::ALL[0].name] } else { usable };
    let drivers = if random.chance(300) { random.between(2, 3) } else { 1 };
    (0..drivers)
        .map(|_| Driver {
            starts_at_micros: random.skewed(100_000),
            host: random.below(hosts as u64) as usize,
            leaves_abruptly: random.chance(150),
            items: (0..random.between(1, 4))
                .map(|_| Item { workload: random.pick(&usable).to_string(), seed: random.draw() })
                .collect(),
        })
        .collect()
}

/// 64-bit numbers as text: TOML's integers are signed.
mod text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_survives_being_written_down() {
        for seed in 0..50 {
            let scenario = Scenario::from_seed(seed);
            let written = toml::to_string(&scenario).expect("writable");
            let read: Scenario = toml::from_str(&written).expect("readable");
            assert_eq!(format!("{scenario:?}"), format!("{read:?}"));
        }
    }
}
