//! What goes wrong, and when. A run's faults are a list that is drawn before it starts, so that a
//! failing one can be shrunk and stored.

use serde::{Deserialize, Serialize};

use crate::Random;

/// One fault.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// The process of that number on a machine dies after so many effects; what it had not sent is lost.
    Crash {
        /// The machine.
        #[serde(default)]
        host: usize,
        /// Its number on the node.
        process: u32,
        /// How many effects take place.
        effects: u32,
    },
    /// At that time some worker is killed from outside.
    Kill {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the worker.
        choice: u64,
    },
    /// Some process or daemon stops for a while.
    Pause {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the process.
        choice: u64,
        /// For how long.
        micros: u64,
    },
    /// The n-th worker is not started.
    ForkFails {
        /// The machine.
        #[serde(default)]
        host: usize,
        /// Counted from 0.
        nth: u32,
    },
    /// The n-th worker dies before it is up.
    StartCrash {
        /// The machine.
        #[serde(default)]
        host: usize,
        /// Counted from 0.
        nth: u32,
    },
    /// Nothing can be written to the disk for a while.
    DiskFull {
        /// Picks the node.
        #[serde(default)]
        choice: u64,
        /// Microseconds since the start.
        at_micros: u64,
        /// For how long.
        micros: u64,
    },
    /// The n-th spill is torn: one object cannot be read back.
    TornSpill {
        /// The machine.
        #[serde(default)]
        host: usize,
        /// Counted from 0.
        nth: u32,
    },
    /// The n-th restore fails.
    RestoreFails {
        /// The machine.
        #[serde(default)]
        host: usize,
        /// Counted from 0.
        nth: u32,
    },
    /// The n-th reservation of memory for the store fails.
    ReserveFails {
        /// The machine.
        #[serde(default)]
        host: usize,
        /// Counted from 0.
        nth: u32,
    },
    /// The node is short of memory.
    MemoryPressure {
        /// Picks the node.
        #[serde(default)]
        choice: u64,
        /// Microseconds since the start.
        at_micros: u64,
    },
    /// A driver is killed.
    DriverDies {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the driver.
        choice: u64,
    },
}

impl Fault {
    /// When it takes place, if that is a time and not an occasion.
    pub fn at_micros(&self) -> Option<u64> {
        match self {
            Fault::Kill { at_micros, .. }
            | Fault::Pause { at_micros, .. }
            | Fault::DiskFull { at_micros, .. }
            | Fault::MemoryPressure { at_micros, .. }
            | Fault::DriverDies { at_micros, .. } => Some(*at_micros),
            Fault::Crash { .. }
            | Fault::ForkFails { .. }
            | Fault::StartCrash { .. }
            | Fault::TornSpill { .. }
            | Fault::RestoreFails { .. }
            | Fault::ReserveFails { .. } => None,
        }
    }
}

/// A kind of fault that a seed may leave out.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// [`Fault::Crash`].
    Crash,
    /// [`Fault::Kill`].
    Kill,
    /// [`Fault::Pause`].
    Pause,
    /// [`Fault::ForkFails`] and [`Fault::StartCrash`].
    Start,
    /// [`Fault::DiskFull`], [`Fault::TornSpill`] and [`Fault::RestoreFails`].
    Disk,
    /// [`Fault::ReserveFails`].
    Reserve,
    /// [`Fault::MemoryPressure`].
    Memory,
    /// [`Fault::DriverDies`].
    Driver,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [FaultKind; 8] = [
        FaultKind::Crash,
        FaultKind::Kill,
        FaultKind::Pause,
        FaultKind::Start,
        FaultKind::Disk,
        FaultKind::Reserve,
        FaultKind::Memory,
        FaultKind::Driver,
    ];

    /// A fault of this kind somewhere in the first `horizon_micros`, on some of so many machines.
    pub fn draw(self, random: &mut Random, hosts: usize, horizon_micros: u64) -> Fault {
        let at_micros = random.below(horizon_micros.max(1));
        let choice = random.draw() >> 32;
        let nth = random.skewed(24) as u32;
        let host = random.below(hosts.max(1) as u64) as usize;
        match self {
            FaultKind::Crash => {
                let process = random.between(1, 14) as u32;
                Fault::Crash { host, process, effects: random.skewed(400) as u32 }
            }
            FaultKind::Kill => Fault::Kill { at_micros, choice },
            FaultKind::Pause => {
                let micros = random.skewed(3_000_000);
                Fault::Pause { at_micros, choice, micros }
            }
            FaultKind::Start if random.chance(500) => Fault::ForkFails { host, nth },
            FaultKind::Start => Fault::StartCrash { host, nth },
            FaultKind::Disk => match random.below(3) {
                0 => Fault::DiskFull { choice, at_micros, micros: random.below(2_000_000) },
                1 => Fault::TornSpill { host, nth },
                _ => Fault::RestoreFails { host, nth },
            },
            FaultKind::Reserve => Fault::ReserveFails { host, nth },
            FaultKind::Memory => Fault::MemoryPressure { choice, at_micros },
            FaultKind::Driver => Fault::DriverDies { at_micros, choice },
        }
    }
}
