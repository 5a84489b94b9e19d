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
    /// Nothing can be read back from the disk for a while.
    Unreadable {
        /// Picks the node.
        choice: u64,
        /// Microseconds since the start.
        at_micros: u64,
        /// For how long.
        micros: u64,
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
    /// A machine loses power, and what was in its memory; it starts again later.
    HostCrash {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the machine.
        choice: u64,
        /// So long it does not start again for sure.
        #[serde(default)]
        micros: u64,
    },
    /// A daemon crashes; its processes are still there for a moment.
    DaemonCrash {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the node.
        choice: u64,
    },
    /// A machine with everything on it stops for a while.
    HostPause {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the machine.
        choice: u64,
        /// For how long.
        micros: u64,
    },
    /// Everything on a machine is slow for a while, and goes on.
    Slow {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the machine.
        choice: u64,
        /// For how long.
        micros: u64,
        /// So much does whatever happens there take at most.
        by_micros: u64,
    },
    /// A node is told that it will be taken away, and then it is.
    Preempt {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the node.
        choice: u64,
        /// How long after the notice.
        micros: u64,
    },
    /// A node is to be emptied.
    Drain {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the node.
        choice: u64,
        /// For how long.
        micros: u64,
        /// Then it ends; otherwise the drain is called off.
        ends: bool,
    },
    /// A daemon ends in an orderly way, with its processes.
    Shutdown {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the node.
        choice: u64,
    },
    /// The head crashes, and another one starts.
    HeadCrash {
        /// Microseconds since the start.
        at_micros: u64,
        /// What the next one finds of the log.
        log: LogFate,
        /// How long a head with an old log is there before the right one is.
        micros: u64,
    },
    /// The head stops for a while.
    HeadPause {
        /// Microseconds since the start.
        at_micros: u64,
        /// For how long.
        micros: u64,
    },
    /// A second head starts while the first one is still there.
    SecondHead {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks its machine.
        choice: u64,
        /// When the first one ends if it has not noticed.
        micros: u64,
    },
    /// Some machines cannot reach the others for a while.
    Partition {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the machines.
        choice: u64,
        /// For how long.
        micros: u64,
        /// The others can reach them.
        one_way: bool,
    },
    /// The connections of a machine break.
    Cut {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the machine.
        choice: u64,
    },
    /// What goes to a machine takes long for a while.
    Clog {
        /// Microseconds since the start.
        at_micros: u64,
        /// Picks the machine.
        choice: u64,
        /// For how long.
        micros: u64,
        /// How long packets take at most.
        by_micros: u64,
    },
}

/// What a head finds of the log of the one before.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFate {
    /// Everything that was acknowledged, and maybe more.
    Kept,
    /// A copy from some time ago. Nodes know better, until the right log is back.
    Old,
    /// Nothing: it is the head of another cluster.
    Lost,
}

impl Fault {
    /// Whether it has a node emptied.
    pub fn is_drain(&self) -> bool {
        matches!(self, Fault::Drain { .. })
    }

    /// When it takes place, if that is a time and not an occasion.
    pub fn at_micros(&self) -> Option<u64> {
        match self {
            Fault::Kill { at_micros, .. }
            | Fault::Pause { at_micros, .. }
            | Fault::DiskFull { at_micros, .. }
            | Fault::Unreadable { at_micros, .. }
            | Fault::MemoryPressure { at_micros, .. }
            | Fault::HostCrash { at_micros, .. }
            | Fault::DaemonCrash { at_micros, .. }
            | Fault::HostPause { at_micros, .. }
            | Fault::Slow { at_micros, .. }
            | Fault::Preempt { at_micros, .. }
            | Fault::Drain { at_micros, .. }
            | Fault::Shutdown { at_micros, .. }
            | Fault::HeadCrash { at_micros, .. }
            | Fault::HeadPause { at_micros, .. }
            | Fault::SecondHead { at_micros, .. }
            | Fault::Partition { at_micros, .. }
            | Fault::Cut { at_micros, .. }
            | Fault::Clog { at_micros, .. }
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
    /// [`Fault::DiskFull`], [`Fault::Unreadable`], [`Fault::TornSpill`] and [`Fault::RestoreFails`].
    Disk,
    /// [`Fault::ReserveFails`].
    Reserve,
    /// [`Fault::MemoryPressure`].
    Memory,
    /// [`Fault::DriverDies`].
    Driver,
    /// [`Fault::HostCrash`], [`Fault::DaemonCrash`], [`Fault::Preempt`] and [`Fault::Shutdown`].
    Host,
    /// [`Fault::HostPause`] and [`Fault::Slow`].
    Slow,
    /// [`Fault::HeadCrash`] and [`Fault::HeadPause`].
    Head,
    /// [`Fault::SecondHead`].
    SecondHead,
    /// [`Fault::Partition`].
    Partition,
    /// [`Fault::Cut`] and [`Fault::Clog`].
    Link,
}

impl FaultKind {
    /// Those of one machine.
    pub const LOCAL: [FaultKind; 8] = [
        FaultKind::Crash,
        FaultKind::Kill,
        FaultKind::Pause,
        FaultKind::Start,
        FaultKind::Disk,
        FaultKind::Reserve,
        FaultKind::Memory,
        FaultKind::Driver,
    ];

    /// Those of several machines.
    pub const CLUSTER: [FaultKind; 6] = [
        FaultKind::Host,
        FaultKind::Slow,
        FaultKind::Head,
        FaultKind::SecondHead,
        FaultKind::Partition,
        FaultKind::Link,
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
            FaultKind::Pause => Fault::Pause { at_micros, choice, micros: random.skewed(3_000_000) },
            FaultKind::Start if random.chance(500) => Fault::ForkFails { host, nth },
            FaultKind::Start => Fault::StartCrash { host, nth },
            FaultKind::Disk => match random.below(4) {
                0 => Fault::DiskFull { choice, at_micros, micros: random.below(2_000_000) },
                3 => Fault::Unreadable { choice, at_micros, micros: random.below(8_000_000) },
                1 => Fault::TornSpill { host, nth },
                _ => Fault::RestoreFails { host, nth },
            },
            FaultKind::Reserve => Fault::ReserveFails { host, nth },
            FaultKind::Memory => Fault::MemoryPressure { choice, at_micros },
            FaultKind::Driver => Fault::DriverDies { at_micros, choice },
            _ => self.draw_of_cluster(random, at_micros, choice),
        }
    }

    fn draw_of_cluster(self, random: &mut Random, at_micros: u64, choice: u64) -> Fault {
        // Long enough for a node to be declared dead, now and then.
        let micros = random.skewed(30_000_000);
        let by_micros = random.skewed(200_000);
        match self {
            FaultKind::Host => match random.below(5) {
                0 => Fault::DaemonCrash { at_micros, choice },
                1 => Fault::Preempt { at_micros, choice, micros },
                2 => Fault::Shutdown { at_micros, choice },
                3 => Fault::HostCrash { at_micros, choice, micros: 0 },
                _ => Fault::HostCrash { at_micros, choice, micros: random.below(40_000_000) },
            },
            FaultKind::Slow if random.chance(500) => Fault::HostPause { at_micros, choice, micros },
            FaultKind::Slow => Fault::Slow { at_micros, choice, micros, by_micros },
            FaultKind::Head if random.chance(300) => Fault::HeadPause { at_micros, micros },
            FaultKind::Head => {
                let log = *random.pick(&[LogFate::Kept, LogFate::Kept, LogFate::Kept, LogFate::Old]);
                let log = if random.chance(50) { LogFate::Lost } else { log };
                Fault::HeadCrash { at_micros, log, micros }
            }
            FaultKind::SecondHead => Fault::SecondHead { at_micros, choice, micros },
            FaultKind::Partition => {
                Fault::Partition { at_micros, choice, micros, one_way: random.chance(300) }
            }
            _ if random.chance(500) => Fault::Cut { at_micros, choice },
            _ => Fault::Clog { at_micros, choice, micros, by_micros },
        }
    }
}
