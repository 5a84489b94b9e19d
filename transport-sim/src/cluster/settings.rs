//! What a simulated cluster consists of, and how long things take in it.

use serde::{Deserialize, Serialize};
use shoal_core::Span;
use shoal_core::resources::{Quantity, Resources};

use crate::Delays;

/// A cluster and its timing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The machine that the first head runs on. It may be one of `hosts` or one beyond them, on which no
    /// daemon runs.
    pub head_host: usize,
    /// Where heads live.
    #[serde(skip_serializing_if = "Residence::is_apart")]
    pub residence: Residence,
    /// The head keeps a log; otherwise it lives and dies with its machine.
    pub durable: bool,
    /// What dead processes owned is inherited by stewards; otherwise it is lost.
    pub stewards: bool,
    /// So many of 1000 messages between processes with a direct link go through the daemon all the same.
    pub detour_per_mille: u64,
    /// A program takes up to this long from one step to the next.
    pub step_micros: u64,
    /// Forking a worker takes up to this long.
    pub fork_micros: u64,
    /// A disk operation takes up to this long.
    pub disk_micros: u64,
    /// A write to the head's log takes up to this long.
    pub log_micros: u64,
    /// A death is noticed after up to this long.
    pub reap_micros: u64,
    /// A connection on which nothing gets through is given up after this long.
    pub keepalive_micros: u64,
    /// A connection is tried again after up to this long.
    pub redial_micros: u64,
    /// A daemon or head that ended starts again after up to this long.
    pub restart_micros: u64,
    /// Bytes per microsecond between the stores of two machines.
    pub bytes_per_micro: u64,
    /// Nodes are told of each other at most once in this time.
    pub view_micros: u64,
    /// So many nodes copy an object from one at a time, if it has so many bytes; others are sent to these.
    pub copying: (usize, u64),
    /// Sessions acknowledge so many frames together at most.
    pub acknowledge_frames: u64,
    /// A session with so many unacknowledged bytes is full.
    pub session_bytes: usize,
    /// Faults happen before this; then everything is healed.
    pub heal_at_micros: u64,
    /// Within a machine.
    pub delays: Delays,
    /// Between machines.
    pub far: Delays,
    /// What goes wrong with packets between machines.
    pub loss: Loss,
    /// The machines with a daemon.
    pub hosts: Vec<HostSettings>,
}

impl Default for Settings {
    fn default() -> Settings {
        let delays = |least, most| Delays {
            least: Span::from_micros(least),
            most: Span::from_micros(most),
            clog_per_mille: 0,
            clog_most: Span(0),
        };
        Settings {
            head_host: 0,
            residence: Residence::Apart,
            durable: false,
            stewards: true,
            detour_per_mille: 0,
            step_micros: 20,
            fork_micros: 10_000,
            disk_micros: 5_000,
            log_micros: 2_000,
            reap_micros: 1_000,
            keepalive_micros: 1_000_000,
            redial_micros: 50_000,
            restart_micros: 500_000,
            bytes_per_micro: 1_000,
            view_micros: 100_000,
            copying: (3, 1 << 20),
            acknowledge_frames: 16,
            session_bytes: 16 << 20,
            heal_at_micros: 1_000_000,
            delays: delays(5, 50),
            far: delays(50, 500),
            loss: Loss::default(),
            hosts: vec![HostSettings::default()],
        }
    }
}

/// Where heads live. Without a log there is nothing to go on from, and it makes no difference.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Residence {
    /// In processes of their own: what becomes of nodes is no matter of theirs.
    #[default]
    Apart,
    /// In the daemon of a node, and both end together. The next one comes to the same machine.
    Daemon,
    /// Likewise, and heads are elected: any daemon may be the next one's, and one that is not the head any more
    /// goes on as a node.
    Elected,
}

impl Residence {
    /// Whether heads have processes of their own.
    pub fn is_apart(&self) -> bool {
        *self == Residence::Apart
    }
}

/// What goes wrong with packets between machines, of 1000 each. No transport loses or reorders what is on
/// one connection and goes on, so each of these ends in a cut.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Loss {
    /// Lost.
    pub drop_per_mille: u64,
    /// Delivered twice.
    pub duplicate_per_mille: u64,
    /// Overtaken by the packet behind it.
    pub reorder_per_mille: u64,
}

impl Loss {
    /// Whether nothing goes wrong.
    pub fn is_none(self) -> bool {
        self == Loss::default()
    }
}

/// A machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSettings {
    /// CPUs.
    pub cpus: u32,
    /// Bytes of the store.
    pub store_bytes: u64,
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// How far its clock is ahead, in microseconds.
    pub clock_ahead_micros: u64,
    /// How much faster than true time its clock runs, in millionths.
    pub clock_drift: i64,
    /// Other resources, in whole units.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<(String, u32)>,
    /// Labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(String, String)>,
}

impl Default for HostSettings {
    fn default() -> HostSettings {
        HostSettings {
            cpus: 4,
            store_bytes: 256 << 20,
            disk_bytes: 1 << 30,
            clock_ahead_micros: 0,
            clock_drift: 0,
            resources: Vec::new(),
            labels: Vec::new(),
        }
    }
}

impl HostSettings {
    /// Everything that its node has to offer.
    pub fn amounts(&self) -> Resources {
        let mut resources = Resources::default();
        let whole = |count: u32| Quantity(i64::from(count) * Quantity::ONE.0);
        resources.set(Resources::CPU, whole(self.cpus));
        for (name, count) in &self.resources {
            resources.set(name, whole(*count));
        }
        resources
    }
}
