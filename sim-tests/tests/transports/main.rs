//! What every transport must do, on real sockets of the loopback interface.
//!
//! One suite, run for each transport: `suite.rs` what a connection carries, `strangers.rs` who gets none,
//! `fallback.rs` the choice between two.

#![cfg(not(madsim))]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod fallback;
mod strangers;
mod suite;
mod support;
