//! What every transport must do, on real sockets of the loopback interface.
//!
//! One suite, run for each transport: `suite.rs` what a connection carries, `strangers.rs` who gets none,
//! `crowds.rs` who gets one however many of those there are,
//! `direct.rs` streams for objects alone,
//! `fallback.rs` the choice between two transports,
//! `presence.rs` processes that end without a word.

#![cfg(not(madsim))]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod crowds;
mod direct;
mod fallback;
mod presence;
mod strangers;
mod suite;
mod support;
