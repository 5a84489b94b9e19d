//! The world that Shoal's machines live in under simulation: one seed, one thread, virtual time.
//!
//! Nothing here reads a clock, a file or a socket. [`Heap`] is time, [`Network`] carries frames in
//! order along each way, [`Segment`] and [`Disk`] are what the store writes to, [`Fault`] says what
//! goes wrong and when. All randomness comes from a [`Random`] that the caller seeds.

#![forbid(unsafe_code)]

mod disk;
mod fault;
mod heap;
mod network;
mod random;
mod segment;

pub use disk::{Disk, DiskError};
pub use fault::{Fault, FaultKind};
pub use heap::Heap;
pub use network::{Delays, Network, Way};
pub use random::Random;
pub use segment::{Content, Segment};
