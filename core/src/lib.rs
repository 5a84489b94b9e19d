//! The deterministic heart of Shoal: every decision of the distributed runtime, and no I/O.
//!
//! Three roles implement [`Machine`]: [`head::Head`], [`node::Node`] and [`owner::Owner`]. Everything
//! else is plain data and functions that they use. See `docs/architecture.md`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod actor;
mod deadlines;
pub mod group;
pub mod head;
pub mod ids;
pub mod machine;
pub mod message;
pub mod mutants;
pub mod node;
pub mod owner;
mod placement;
pub mod record;
pub mod resources;
pub mod room;
pub mod search;
pub mod session;
pub mod strangers;
pub mod task;
pub mod term;
pub mod value;
mod views;
pub mod wire;

pub use machine::{Effects, Machine, Span, Time, Wakeup};

/// A map with a fast, seedless hash. Never iterated where order could reach an effect.
pub type Map<K, V> = hashbrown::HashMap<K, V, core::hash::BuildHasherDefault<rustc_hash::FxHasher>>;
/// A map that is iterated in insertion order.
pub type OrderedMap<K, V> = indexmap::IndexMap<K, V, core::hash::BuildHasherDefault<rustc_hash::FxHasher>>;
