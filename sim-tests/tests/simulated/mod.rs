//! Two nodes whose real transports run over a simulated network, in virtual time.
//!
//! The client sends numbers over a session, the server sends them back, and beside that the client
//! fetches an object now and then. Meanwhile the network is cut, held up and repaired, or the server
//! crashes. In the end every number has come back once, in order; and a seed that runs twice has sent
//! the same at the same times.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use shoal_core::session::{Acknowledging, Config};
use shoal_identity::{ClusterAuthority, Role, Validity};
use shoal_runtime::transport::{
    BoxFuture, Bulk, BulkRefusal, BulkRequest, BulkSource, LocalNode, Peer, PeerSession, Priority, Transport,
};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

pub(crate) const PORT: u16 = 6380;
pub(crate) const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);
const NUMBERS: u64 = 500;
const SEND_EVERY: Duration = Duration::from_millis(20);
const OBJECT_BYTES: usize = 200_000;
const FETCHES: usize = 10;
/// Virtual time after which a run has failed. Everything is healed after a quarter of it.
const BOUND: Duration = Duration::from_secs(60);

/// Everything that was sent, as a hash: when, how much.
#[derive(Clone, Default)]
pub(crate) struct Trace(Arc<Mutex<Recorded>>);

#[derive(Clone, Default)]
struct Recorded {
    hash: DefaultHasher,
    count: u64,
}

impl Trace {
    pub(crate) fn note(&self, what: impl Hash) {
        let mut recorded = self.0.lock();
        (turmoil::sim_elapsed(), what).hash(&mut recorded.hash);
        recorded.count += 1;
    }

    fn result(&self) -> (u64, u64) {
        let recorded = self.0.lock();
        (recorded.hash.finish(), recorded.count)
    }
}

/// Makes a transport on a simulated host.
pub(crate) type Bind = fn(LocalNode, u64, Trace) -> BoxFuture<'static, Arc<dyn Transport>>;

/// What happens to the network and the server, and at which virtual millisecond.
pub(crate) type Plan = &'static [(u64, fn(&mut turmoil::Sim<'_>))];

pub(crate) const CUTS: Plan = &[
    // Shorter than the silence that ends a connection, and longer.
    (1_000, |sim| sim.partition("client", "server")),
    (2_000, |sim| sim.repair("client", "server")),
    (4_000, |sim| sim.partition("client", "server")),
    (10_500, |sim| sim.repair("client", "server")),
    (12_000, |sim| sim.hold("client", "server")),
    (13_000, |sim| sim.release("client", "server")),
];

pub(crate) const CRASHES: Plan = &[
    (1_500, |sim| sim.crash("server")),
    (2_500, |sim| sim.bounce("server")),
    (6_000, |sim| sim.crash("server")),
    (6_001, |sim| sim.bounce("server")),
];

struct Pattern(Bytes);

impl Pattern {
    fn new() -> Pattern {
        Pattern((0..OBJECT_BYTES).map(|index| (index * index / 7) as u8).collect())
    }
}

impl BulkSource for Pattern {
    fn open(&self, _: &Peer, request: &BulkRequest) -> Result<Bytes, BulkRefusal> {
        if request.object == "pattern" { Ok(self.0.clone()) } else { Err(BulkRefusal::NotOffered) }
    }
}

/// What survives a crash of the server, as a head's log does: the numbers that were handled.
#[derive(Clone, Default)]
struct Durable(Arc<Mutex<Vec<u64>>>);

/// Run a seed twice under a plan, and check that both runs were the same. Gives how much was sent.
pub(crate) fn check(seed: u64, plan: Plan, bind: Bind) -> u64 {
    eprintln!("seed {seed}; again: SHOAL_SIM_SEED={seed} and the name of the test");
    let (first, second) = (run(seed, plan, bind), run(seed, plan, bind));
    assert_eq!(first, second, "seed {seed} gives two different runs");
    first.1
}

/// The seeds that a test runs: a few, or the one that is to be looked at.
pub(crate) fn seeds() -> Vec<u64> {
    match std::env::var("SHOAL_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..5).collect(),
    }
}

fn run(seed: u64, plan: Plan, bind: Bind) -> (u64, u64) {
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
        .simulation_duration(BOUND)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(30))
        .tcp_capacity(4096)
        .udp_capacity(4096)
        .enable_random_order()
        .build();
    let authority = Rc::new(ClusterAuthority::generate().unwrap());
    let (trace, durable) = (Trace::default(), Durable::default());
    let node = move |name: &str| LocalNode {
        credentials: authority
            .credentials(Role::Node, &name.parse().unwrap(), Validity::starting_now(BOUND * 60))
            .unwrap(),
        authority: None,
        source: Arc::new(Pattern::new()),
        log: |_| {},
    };

    let (server_node, server_trace, log) = (node("server"), trace.clone(), durable.clone());
    let starts = Arc::new(Mutex::new(0));
    sim.host("server", move || {
        *starts.lock() += 1;
        let incarnation = *starts.lock();
        serve(
            bind(server_node.clone(), seed * 100 + incarnation, server_trace.clone()),
            log.clone(),
            incarnation,
        )
    });
    let client_node = node("client");
    let client_trace = trace.clone();
    sim.client("client", async move {
        call(bind(client_node, seed * 100, client_trace).await).await;
        Ok(())
    });

    let mut plan = plan.iter().peekable();
    loop {
        if let Some((at, happen)) = plan.next_if(|(at, _)| sim.elapsed() >= Duration::from_millis(*at)) {
            let _ = at;
            happen(&mut sim);
        }
        if sim.step().expect("the client ends well, and in time") {
            break;
        }
    }
    // What the server made durable is each number, once, in order.
    assert!(durable.0.lock().iter().copied().eq(0..NUMBERS), "{:?}", durable.0.lock());
    trace.result()
}

/// What the daemons say before a session: which life of the server it is with.
fn greeting(incarnation: u64) -> Bytes {
    Bytes::copy_from_slice(&incarnation.to_le_bytes())
}

fn number(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame.try_into().expect("all frames are numbers"))
}

async fn serve(
    transport: BoxFuture<'static, Arc<dyn Transport>>,
    durable: Durable,
    incarnation: u64,
) -> turmoil::Result {
    let transport = transport.await;
    let session = PeerSession::new(Config::default(), Acknowledging::WhenHandled);
    let (deliver, mut received) = mpsc::channel::<Vec<Bytes>>(16);
    let answering = session.clone();
    tokio::spawn(async move {
        while let Some(frames) = received.recv().await {
            for frame in frames {
                // The log takes a moment, and only then the frame is acknowledged.
                sleep(Duration::from_millis(1)).await;
                let mut handled = durable.0.lock();
                let next = handled.len() as u64;
                // What an earlier life has handled may come again: it must change nothing.
                assert!(number(&frame) <= next, "{} came before {next}", number(&frame));
                if number(&frame) == next {
                    handled.push(next);
                }
                answering.send(frame);
                answering.handled();
            }
        }
    });
    while let Some(mut connection) = transport.accept().await {
        let (session, deliver) = (session.clone(), deliver.clone());
        tokio::spawn(async move {
            if connection.writer.greet(greeting(incarnation)).await.is_ok() {
                session.drive(&mut connection.reader, &mut connection.writer, &deliver).await;
            }
        });
    }
    Ok(())
}

async fn call(transport: Arc<dyn Transport>) {
    let (deliver, mut received) = mpsc::channel::<Vec<Bytes>>(16);
    let (session, sessions) = watch::channel(PeerSession::new(Config::default(), Acknowledging::OnReceipt));
    let (bulk, bulks) = watch::channel(None);
    tokio::spawn(keep_connected(transport, Arc::new(session), bulk, deliver));
    let current = sessions.clone();
    tokio::spawn(async move {
        for number in 0..NUMBERS {
            let session = current.borrow().clone();
            session.room().await;
            current.borrow().send(Bytes::copy_from_slice(&number.to_le_bytes()));
            sleep(SEND_EVERY).await;
        }
    });
    let fetching = tokio::spawn(fetch(bulks));
    // A server that comes back is sent again what its predecessor had not handled, and may answer twice.
    let mut next = 0;
    while next < NUMBERS {
        for frame in received.recv().await.expect("it is held by who connects") {
            let number = number(&frame);
            assert!(number <= next, "{number} came before {next}");
            next = next.max(number + 1);
        }
    }
    fetching.await.expect("fetching does not fail");
}

/// Connect to the server, again and again, and drive the session; start another session with each life of
/// the server.
async fn keep_connected(
    transport: Arc<dyn Transport>,
    session: Arc<watch::Sender<PeerSession>>,
    bulk: watch::Sender<Option<Arc<dyn Bulk>>>,
    deliver: mpsc::Sender<Vec<Bytes>>,
) {
    let server = SocketAddr::new(turmoil::lookup("server"), PORT);
    let mut known = None;
    loop {
        sleep(Duration::from_millis(50)).await;
        let Ok(mut connection) = transport.connect(server).await else { continue };
        let Ok(incarnation) = connection.reader.greeting().await else { continue };
        if known.as_ref().is_some_and(|known| *known != incarnation) {
            let next = PeerSession::new(Config::default(), Acknowledging::OnReceipt);
            session.borrow().unacknowledged().into_iter().for_each(|frame| next.send(frame));
            session.send_replace(next);
        }
        known = Some(incarnation);
        bulk.send_replace(Some(connection.bulk.clone()));
        let driven = session.borrow().clone();
        driven.drive(&mut connection.reader, &mut connection.writer, &deliver).await;
        bulk.send_replace(None);
    }
}

/// Fetch the object some times; a connection that breaks costs an attempt.
async fn fetch(mut bulks: watch::Receiver<Option<Arc<dyn Bulk>>>) {
    let expected = Pattern::new().0;
    let mut into = vec![0; OBJECT_BYTES];
    let mut fetched = 0;
    while fetched < FETCHES {
        let bulk = bulks.wait_for(Option::is_some).await.expect("who connects holds it").clone();
        let request = BulkRequest {
            object: Bytes::from_static(b"pattern"),
            offset: 0,
            length: OBJECT_BYTES as u64,
            priority: Priority::default(),
        };
        let bulk = bulk.expect("it was waited for");
        if bulk.fetch(request, &mut into).await.is_ok() {
            assert!(into == expected);
            into.fill(0);
            fetched += 1;
        }
        sleep(Duration::from_millis(200)).await;
    }
}
