//! Two nodes whose real transports run over a simulated network, in virtual time.
//!
//! The client sends numbers over a session, the server sends them back, and beside that the client
//! fetches an object now and then: over a stream that carries nothing else where its transport has such, as nodes
//! do, and every other time over the connection. Meanwhile the network is cut, held up and repaired, or the server
//! crashes. In the end every number has come back once, in order; and a seed that runs twice has sent
//! the same at the same times.

#![allow(dead_code, reason = "each test uses a part of this")]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use shoal_core::session::{Acknowledging, Config};
use shoal_identity::{ClusterAuthority, Role, Validity};
use shoal_runtime::transport::{
    BoxFuture, Bulk, BulkError, BulkRefusal, BulkRequest, BulkSource, LocalNode, Peer, PeerSession, Priority,
    SILENCE_MAX, Transport, TransportError,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

pub(crate) const PORT: u16 = 6380;
pub(crate) const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);
const NUMBERS: u64 = 500;
const OBJECT_BYTES: usize = 200_000;
const FETCHES: usize = 10;
/// The simulated network does not send again what a cut has taken from a TCP stream, as a system does: a fetch that
/// hangs for so long is dropped, as a node drops one whose source is dead, and tried again.
const PATIENCE: Duration = SILENCE_MAX;
/// For how long certificates are good: the time in them is real.
const HOUR: Duration = Duration::from_secs(3600);

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

/// What happens in a run, and how long it takes.
#[derive(Clone, Copy)]
pub(crate) struct Course {
    /// To the network and the server.
    pub(crate) plan: Plan,
    /// Bytes come over streams of their own, too. Not where a host crashes: its streams end in no defined order then,
    /// and of several one seed would give several runs.
    pub(crate) streams: bool,
    /// Between two numbers.
    pub(crate) send_every: Duration,
    /// Virtual time after which a run has failed. Everything is healed long before.
    pub(crate) bound: Duration,
}

pub(crate) const SHORT: Course = Course {
    plan: &[],
    streams: true,
    send_every: Duration::from_millis(20),
    bound: Duration::from_secs(60),
};

pub(crate) const CUTS: Course = Course { plan: CUT, ..SHORT };
pub(crate) const CRASHES: Course = Course { plan: CRASH, streams: false, ..SHORT };

/// What happens, and at which virtual millisecond.
pub(crate) type Happening = (u64, fn(&mut turmoil::Sim<'_>));
pub(crate) type Plan = &'static [Happening];

const CUT: Plan = &[
    // Shorter than the silence that ends a connection, and longer.
    (1_000, |sim| sim.partition("client", "server")),
    (2_000, |sim| sim.repair("client", "server")),
    (4_000, |sim| sim.partition("client", "server")),
    (10_500, |sim| sim.repair("client", "server")),
    (12_000, |sim| sim.hold("client", "server")),
    (13_000, |sim| sim.release("client", "server")),
];

const CRASH: Plan = &[
    (1_500, |sim| sim.crash("server")),
    (2_500, |sim| sim.bounce("server")),
    (6_000, |sim| sim.crash("server")),
    (6_001, |sim| sim.bounce("server")),
];

/// The transports that carried the client's connections.
#[derive(Clone, Default)]
struct Carriers(Arc<Mutex<Vec<&'static str>>>);

pub(crate) struct Pattern(pub(crate) Bytes);

impl Pattern {
    pub(crate) fn new(bytes: usize) -> Pattern {
        Pattern((0..bytes).map(|index| (index * index / 7) as u8).collect())
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

/// What was seen of a run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Seen {
    hash: u64,
    /// How much was sent.
    pub(crate) sent: u64,
    /// What carried the client's connections, in turn.
    pub(crate) carriers: Vec<&'static str>,
}

/// Run a seed twice, and check that both runs were the same.
pub(crate) fn check(seed: u64, course: Course, bind: Bind) -> Seen {
    eprintln!("seed {seed}; again: SHOAL_SIM_SEED={seed} and the name of the test");
    let (first, second) = (run(seed, course, bind), run(seed, course, bind));
    assert_eq!(first, second, "seed {seed} gives two different runs");
    first
}

/// The seeds that a test runs: a few, or the one that is to be looked at.
pub(crate) fn seeds() -> Vec<u64> {
    match std::env::var("SHOAL_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..5).collect(),
    }
}

/// A simulated network.
pub(crate) fn simulation(seed: u64, bound: Duration) -> turmoil::Sim<'static> {
    turmoil::Builder::new()
        .rng_seed(seed)
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
        .simulation_duration(bound)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(30))
        .tcp_capacity(4096)
        .udp_capacity(4096)
        .enable_random_order()
        .build()
}

/// A node of that name, which has an object of so many bytes.
pub(crate) fn node(authority: &ClusterAuthority, name: &str, object_bytes: usize) -> LocalNode {
    let validity = Validity::starting_now(HOUR);
    LocalNode {
        credentials: authority.credentials(Role::Node, &name.parse().unwrap(), validity).unwrap(),
        authority: None,
        source: Arc::new(Pattern::new(object_bytes)),
        log: |_| {},
    }
}

/// Run until the client ends, while these things happen. Gives how many of them did.
pub(crate) fn play(sim: &mut turmoil::Sim<'_>, plan: &[Happening]) -> usize {
    let all = plan.len();
    let mut plan = plan.iter().peekable();
    loop {
        if let Some((_, happen)) = plan.next_if(|(at, _)| sim.elapsed() >= Duration::from_millis(*at)) {
            happen(sim);
        }
        if sim.step().expect("the client ends well, and in time") {
            break;
        }
    }
    all - plan.len()
}

fn run(seed: u64, course: Course, bind: Bind) -> Seen {
    let mut sim = simulation(seed, course.bound);
    let authority = ClusterAuthority::generate().unwrap();
    let (trace, durable) = (Trace::default(), Durable::default());
    let carriers = Carriers::default();
    let (server_node, server_trace, log) =
        (node(&authority, "server", OBJECT_BYTES), trace.clone(), durable.clone());
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
    let client_node = node(&authority, "client", OBJECT_BYTES);
    let (client_trace, seen) = (trace.clone(), carriers.clone());
    sim.client("client", async move {
        call(bind(client_node, seed * 100, client_trace).await, course, seen).await;
        Ok(())
    });

    play(&mut sim, course.plan);
    // What the server made durable is each number, once, in order.
    assert!(durable.0.lock().iter().copied().eq(0..NUMBERS), "{:?}", durable.0.lock());
    let (hash, sent) = trace.result();
    let carriers = carriers.0.lock().clone();
    Seen { hash, sent, carriers }
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

async fn call(transport: Arc<dyn Transport>, course: Course, carriers: Carriers) {
    let (deliver, mut received) = mpsc::channel::<Vec<Bytes>>(16);
    let (session, sessions) = watch::channel(PeerSession::new(Config::default(), Acknowledging::OnReceipt));
    let (bulk, bulks) = watch::channel(None);
    tokio::spawn(keep_connected(transport.clone(), Arc::new(session), bulk, deliver, carriers));
    let current = sessions.clone();
    tokio::spawn(async move {
        for number in 0..NUMBERS {
            let session = current.borrow().clone();
            session.room().await;
            current.borrow().send(Bytes::copy_from_slice(&number.to_le_bytes()));
            sleep(course.send_every).await;
        }
    });
    let fetching = tokio::spawn(fetch(transport, bulks, course));
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
    carriers: Carriers,
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
        carriers.0.lock().push(connection.peer.transport);
        bulk.send_replace(Some(connection.bulk.clone()));
        let driven = session.borrow().clone();
        driven.drive(&mut connection.reader, &mut connection.writer, &deliver).await;
        bulk.send_replace(None);
    }
}

/// All of the pattern.
pub(crate) fn request(bytes: usize) -> BulkRequest {
    BulkRequest {
        object: Bytes::from_static(b"pattern"),
        offset: 0,
        length: bytes as u64,
        priority: Priority::default(),
    }
}

/// Fetch the pattern from the server over a stream of the transport's own, if that has such.
pub(crate) async fn fetch_directly(
    transport: &dyn Transport,
    into: &mut [u8],
) -> Option<Result<(), BulkError>> {
    let server = SocketAddr::new(turmoil::lookup("server"), PORT);
    let fetching = transport.fetch(server, request(into.len()), into)?;
    Some(timeout(PATIENCE, fetching).await.unwrap_or(Err(TransportError::TimedOut.into())))
}

/// Fetch the object some times; what breaks costs an attempt.
async fn fetch(
    transport: Arc<dyn Transport>,
    mut bulks: watch::Receiver<Option<Arc<dyn Bulk>>>,
    course: Course,
) {
    let expected = Pattern::new(OBJECT_BYTES).0;
    let mut into = vec![0; OBJECT_BYTES];
    let every = course.send_every * NUMBERS as u32 / (FETCHES as u32 + 2);
    let mut fetched: usize = 0;
    while fetched < FETCHES {
        let directly = if course.streams && fetched.is_multiple_of(2) {
            fetch_directly(&*transport, &mut into).await
        } else {
            None
        };
        let done = match directly {
            Some(done) => done,
            None => {
                let bulk = bulks.wait_for(Option::is_some).await.expect("who connects holds it").clone();
                bulk.expect("it was waited for").fetch(request(OBJECT_BYTES), &mut into).await
            }
        };
        if done.is_ok() {
            assert!(into == expected);
            into.fill(0);
            fetched += 1;
        }
        sleep(every).await;
    }
}
