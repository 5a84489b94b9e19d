//! Ring 1: the real gRPC transport (tonic, HTTP/2, TLS, and streams of its own for bytes of objects) over a
//! simulated network.
//!
//! `cargo test -p shoal-sim-tests --test turmoil_grpc`; `SHOAL_SIM_SEED=7` runs one seed.

#![cfg(not(madsim))]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod simulated;
#[path = "simulated/tcp.rs"]
mod tcp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shoal_identity::join::{JoinError, join};
use shoal_identity::{ClusterAuthority, JoinSecret, Refusal};
use shoal_runtime::transport::{BoxFuture, BulkError, LocalNode, Transport};
use simulated::{
    CRASHES, CUTS, Happening, PORT, Pattern, Plan, Trace, check, fetch_directly, node, play, seeds,
    simulation,
};
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

#[test]
fn a_session_and_fetches_survive_cuts() {
    seeds().into_iter().for_each(|seed| assert!(check(seed, CUTS, bind).sent > 1000));
}

#[test]
fn what_a_crashed_server_had_not_handled_is_sent_again() {
    seeds().into_iter().for_each(|seed| assert!(check(seed, CRASHES, bind).sent > 1000));
}

fn bind(node: LocalNode, _: u64, trace: Trace) -> BoxFuture<'static, Arc<dyn Transport>> {
    Box::pin(async move { Arc::new(tcp::grpc(node, trace).await) as Arc<dyn Transport> })
}

/// It takes a few hundred milliseconds, so that what happens to the network happens while it comes.
const OBJECT_BYTES: usize = 4 << 20;
const FETCHES: usize = 12;

/// What became of fetches over streams that carry nothing else, one after the other.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Fetched {
    whole: usize,
    /// Some bytes had come, and then no more.
    begun: usize,
    /// Nothing had come.
    vain: usize,
}

fn fetches(seed: u64, plan: Plan) -> Fetched {
    eprintln!("seed {seed}; again: SHOAL_SIM_SEED={seed} and the name of the test");
    let mut sim = simulation(seed, Duration::from_secs(60));
    let authority = ClusterAuthority::generate().unwrap();
    let [server, client] = ["server", "client"].map(|name| node(&authority, name, OBJECT_BYTES));
    sim.host("server", move || {
        let server = server.clone();
        async move {
            let transport = tcp::grpc(server, Trace::default()).await;
            while transport.accept().await.is_some() {}
            Ok(())
        }
    });
    let fetched = Arc::new(Mutex::new(Fetched::default()));
    let counted = fetched.clone();
    sim.client("client", async move {
        let transport = tcp::grpc(client, Trace::default()).await;
        let expected = Pattern::new(OBJECT_BYTES).0;
        let mut into = vec![0; OBJECT_BYTES];
        while counted.lock().whole < FETCHES {
            into.fill(0);
            let done = fetch_directly(&transport, &mut into).await.expect("it has streams of its own");
            {
                let mut counted = counted.lock();
                match done {
                    Ok(()) => {
                        assert!(into == expected);
                        counted.whole += 1;
                    }
                    Err(BulkError::Connection(_)) if into.iter().any(|byte| *byte != 0) => {
                        assert!(into != expected);
                        counted.begun += 1;
                    }
                    Err(BulkError::Connection(_)) => counted.vain += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    });
    assert_eq!(play(&mut sim, plan), plan.len(), "it was over before all of that");
    fetched.lock().clone()
}

#[test]
fn bytes_that_a_cut_has_stopped_come_over_another_stream() {
    const CUT: Plan = &[
        (1_000, |sim| sim.partition("client", "server")),
        (3_000, |sim| sim.repair("client", "server")),
        (7_000, |sim| sim.partition_oneway("server", "client")),
        (7_500, |sim| sim.repair("client", "server")),
    ];
    for seed in seeds() {
        let fetched = fetches(seed, CUT);
        assert!(fetched.begun > 0, "no cut came while bytes did: {fetched:?}");
    }
}

#[test]
fn bytes_that_are_held_up_come_over_the_same_stream() {
    const HELD: Plan = &[
        (1_000, |sim| sim.hold("client", "server")),
        (3_000, |sim| sim.release("client", "server")),
        (3_500, |sim| sim.hold("client", "server")),
        (4_000, |sim| sim.release("client", "server")),
    ];
    for seed in seeds() {
        assert_eq!(fetches(seed, HELD), Fetched { whole: FETCHES, ..Fetched::default() });
    }
}

#[test]
fn bytes_that_a_crashed_node_was_giving_come_when_it_is_there_again() {
    const CRASH: Plan = &[(1_000, |sim| sim.crash("server")), (2_000, |sim| sim.bounce("server"))];
    for seed in seeds() {
        let fetched = fetches(seed, CRASH);
        assert!(fetched.begun + fetched.vain > 0, "{fetched:?}");
    }
}

/// By the secret alone, while the way to the cluster breaks; and then it is a member.
#[test]
fn a_node_joins_though_the_network_is_cut_meanwhile() {
    for seed in seeds() {
        eprintln!("seed {seed}; again: SHOAL_SIM_SEED={seed} and the name of the test");
        let mut sim = simulation(seed, Duration::from_secs(60));
        let authority = Arc::new(ClusterAuthority::generate().unwrap());
        let secret = authority.clone();
        let head = LocalNode { authority: Some(authority.clone()), ..node(&authority, "server", 100) };
        sim.host("server", move || {
            let head = head.clone();
            async move {
                let transport = tcp::grpc(head, Trace::default()).await;
                // Connections live as long as somebody holds them.
                let mut connections = Vec::new();
                while let Some(connection) = transport.accept().await {
                    assert_eq!(connection.peer.member.name, "newcomer".parse().unwrap());
                    connections.push(connection);
                }
                Ok(())
            }
        });
        let cut_short = Arc::new(Mutex::new(0));
        let counted = cut_short.clone();
        sim.client("newcomer", async move {
            let name = "newcomer".parse().unwrap();
            let dial = || TcpStream::connect(SocketAddr::new(turmoil::lookup("server"), PORT));
            let credentials = loop {
                let attempt =
                    async { join(dial().await.map_err(JoinError::from)?, secret.secret(), &name).await };
                match timeout(Duration::from_secs(2), attempt).await {
                    Ok(Ok(credentials)) => break credentials,
                    _ => *counted.lock() += 1,
                }
                sleep(Duration::from_millis(50)).await;
            };
            let wrong = JoinSecret::generate().unwrap();
            let refused = join(dial().await?, &wrong, &name).await;
            assert!(matches!(refused, Err(JoinError::Refused(Refusal::WrongSecret))), "{refused:?}");

            let local =
                LocalNode { credentials, ..node(&ClusterAuthority::generate().unwrap(), "newcomer", 0) };
            let transport = tcp::grpc(local, Trace::default()).await;
            let connection = transport.connect(SocketAddr::new(turmoil::lookup("server"), PORT)).await?;
            assert_eq!(connection.peer.member.name, "server".parse().unwrap());
            let mut into = vec![0; 100];
            fetch_directly(&transport, &mut into).await.expect("it has streams of its own")?;
            assert!(into == Pattern::new(100).0);
            Ok(())
        });
        // At another moment of joining in each seed; all of it takes longer than that.
        let cut_at = 2 + 12 * (seed % 5);
        let plan: [Happening; 2] = [
            (cut_at, |sim| sim.partition("newcomer", "server")),
            (3_000, |sim| sim.repair("newcomer", "server")),
        ];
        assert_eq!(play(&mut sim, &plan), plan.len(), "it had joined before the cut");
        assert!(*cut_short.lock() > 0, "no attempt was cut short");
    }
}
