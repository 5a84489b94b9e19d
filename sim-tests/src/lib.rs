//! Shoal's machines under simulation. See `README.md`.

#![forbid(unsafe_code)]

#[cfg(feature = "mutants")]
pub mod ablation;
pub mod observation;
pub mod program;
pub mod properties;
pub mod rare;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod workloads;
pub mod world;
