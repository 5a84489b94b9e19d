//! The world that Shoal's machines live in under simulation: one seed, one thread, virtual time.
//!
//! Nothing here reads a clock, a file or a socket. [`cluster::Cluster`] is a whole cluster; what runs in
//! its processes is up to whoever implements [`cluster::Programs`]. Below it, [`Heap`] is time,
//! [`Network`] carries frames in order along each way, [`Segment`] and [`Disk`] are what stores write to,
//! [`Fault`] says what goes wrong and when, and [`Trace`] notes everything that happens. All randomness
//! comes from a [`Random`] that the caller seeds.

#![forbid(unsafe_code)]

pub mod cluster;
mod disk;
mod fault;
mod heap;
mod network;
mod random;
mod segment;
mod trace;

pub use disk::{Disk, DiskError};
pub use fault::{Fault, FaultKind, LogFate};
pub use heap::Heap;
pub use network::{Delays, Network, Way};
pub use random::Random;
pub use segment::{Content, Segment};
pub use trace::{Line, Trace};
