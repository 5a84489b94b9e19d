//! Ring 1: nodes that prefer QUIC, use gRPC where UDP does not pass, and fetch bytes of objects over TCP streams
//! whatever carries their connection, as nodes do by default; over a simulated network.
//!
//! `cargo test -p shoal-sim-tests --test turmoil_fallback`; `SHOAL_SIM_SEED=7` runs one seed.

#![cfg(not(madsim))]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod simulated;
#[path = "simulated/tcp.rs"]
mod tcp;
#[path = "simulated/udp.rs"]
mod udp;

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use shoal_runtime::transport::{BoxFuture, Fallback, LocalNode, Transport};
use simulated::{Course, SHORT, Trace, check, seeds};

thread_local! {
    /// What nodes have said to people. A simulation runs in one thread.
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn note(line: fmt::Arguments<'_>) {
    LINES.with_borrow_mut(|lines| lines.push(line.to_string()));
}

fn bind(node: LocalNode, seed: u64, trace: Trace) -> BoxFuture<'static, Arc<dyn Transport>> {
    Box::pin(async move {
        let quic = Arc::new(udp::quic(node.clone(), seed, trace.clone()).await);
        let grpc = Arc::new(tcp::grpc(node, trace).await);
        // Long enough for a handshake of which the network has lost a packet.
        let both = Fallback::new(quic, grpc.clone(), note).with_patience(Duration::from_secs(3));
        let both = both.with_bulk(grpc);
        Arc::new(both) as Arc<dyn Transport>
    })
}

/// UDP does not pass at first, and then it does. When the connection breaks soon after, it is made by gRPC again, for
/// that UDP does not pass is believed for a minute; later by QUIC, until UDP is cut again.
const UDP_COMES_AND_GOES: Course = Course {
    plan: &[
        (0, |_| udp::pass(false)),
        (10_000, |_| udp::pass(true)),
        (12_000, |sim| sim.partition("client", "server")),
        (19_000, |sim| sim.repair("client", "server")),
        (75_000, |sim| sim.crash("server")),
        (75_001, |sim| sim.bounce("server")),
        (95_000, |_| udp::pass(false)),
        (115_000, |_| udp::pass(true)),
    ],
    streams: false,
    send_every: Duration::from_millis(250),
    bound: Duration::from_secs(180),
};

#[test]
fn a_session_goes_on_over_whichever_transport_passes() {
    for seed in seeds() {
        LINES.take();
        let seen = check(seed, UDP_COMES_AND_GOES, bind);
        assert_eq!(seen.carriers, ["gRPC", "gRPC", "QUIC", "gRPC"]);
        let lines = LINES.take();
        // Each time that it falls back, once, in both of the two runs.
        assert_eq!(lines.len(), 4, "{lines:?}");
        for line in lines {
            assert!(
                line.ends_with("cannot be reached by QUIC (no answer in time); gRPC is used instead"),
                "{line}"
            );
        }
    }
}

/// All of the network, once there was time for a handshake of which a packet is lost.
const LATE_CUTS: Course = Course {
    plan: &[
        (4_500, |sim| sim.partition("client", "server")),
        (11_000, |sim| sim.repair("client", "server")),
        (12_000, |sim| sim.hold("client", "server")),
        (13_000, |sim| sim.release("client", "server")),
    ],
    ..SHORT
};

#[test]
fn where_udp_passes_quic_carries_the_session_and_tcp_the_bytes() {
    for seed in seeds() {
        udp::pass(true);
        let seen = check(seed, LATE_CUTS, bind);
        assert_eq!(seen.carriers.first(), Some(&"QUIC"));
    }
}
