//! Ring 1: the real QUIC transport (quinn, TLS) over a simulated network that also loses packets.
//!
//! `cargo test -p shoal-sim-tests --test turmoil_quic`; `SHOAL_SIM_SEED=7` runs one seed.

#![cfg(not(madsim))]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod simulated;
#[path = "simulated/udp.rs"]
mod udp;

use std::sync::Arc;

use quinn::EndpointConfig;
use shoal_runtime::transport::{BoxFuture, LocalNode, Transport};
use simulated::{CRASHES, CUTS, Trace, check, seeds};

#[test]
fn a_session_and_fetches_survive_cuts() {
    seeds().into_iter().for_each(|seed| assert!(check(seed, CUTS, bind).sent > 1000));
}

#[test]
fn what_a_crashed_server_had_not_handled_is_sent_again() {
    seeds().into_iter().for_each(|seed| assert!(check(seed, CRASHES, bind).sent > 1000));
}

/// The canary: without the seed quinn draws from the system, and that must be noticed.
#[test]
#[should_panic(expected = "gives two different runs")]
fn a_run_that_does_not_follow_its_seed_is_found_out() {
    check(0, CUTS, |node, seed, trace| {
        Box::pin(async move {
            Arc::new(udp::quic_with(node, EndpointConfig::default(), seed, trace).await) as Arc<dyn Transport>
        })
    });
}

fn bind(node: LocalNode, seed: u64, trace: Trace) -> BoxFuture<'static, Arc<dyn Transport>> {
    Box::pin(async move { Arc::new(udp::quic(node, seed, trace).await) as Arc<dyn Transport> })
}
