//! Exhaustive exploration of small clusters of Shoal's real machines. See `README.md`.
//!
//! The explorer is our own, and not `stateright`, for three reasons. A state of a cluster is a handful of
//! numbers that stand for parts (see [`part`]): each step of each part is computed once, so a step of a
//! cluster costs a look-up in most cases, where a general model checker clones and hashes whole machines
//! for each. What may go wrong is bounded by budgets that are part of the state. And a violation must be
//! told as a story. The search itself (see [`search`]) is a hundred lines.

#![forbid(unsafe_code)]

pub mod fingerprint;
pub mod history;
mod moves;
pub mod part;
pub mod placement;
pub mod process;
pub mod program;
pub mod scenario;
pub mod scenarios;
pub mod search;
pub mod state;
pub mod world;
