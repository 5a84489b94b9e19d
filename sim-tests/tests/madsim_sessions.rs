//! Ring 2: the driver of sessions, whose tasks run in random order over a network that is cut.
//!
//! ```text
//! make test-schedules                              # many seeds, then one twice
//! RUSTFLAGS="--cfg madsim" MADSIM_TEST_SEED=7 cargo test -p shoal-sim-tests --test madsim_sessions
//! ```
//!
//! The stream is plain TCP: TLS draws from the system, which this simulator does not control. The
//! transports themselves run in ring 1 (`turmoil_*.rs`).

#![cfg(madsim)]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use madsim::net::NetSim;
use madsim::rand::{Rng, thread_rng};
use madsim::runtime::{Handle, NodeHandle};
use shoal_core::session::{Acknowledging, Config};
use shoal_runtime::transport::{ControlReader, ControlWriter, Ended, PeerSession};
use tokio::io::split;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

const NUMBERS: u64 = 400;
const CUTS: u64 = 12;
const BOUND: Duration = Duration::from_secs(120);
const SERVER: &str = "10.0.0.1:6380";

/// Little room, so that ends wait for each other often.
const CONFIG: Config = Config { unacknowledged_bytes_max: 2000, acknowledge_frames: 7, ..DEFAULT };
const DEFAULT: Config = Config {
    unacknowledged_bytes_max: 0,
    acknowledge_frames: 0,
    acknowledge_bytes: 1000,
    acknowledge_within: shoal_core::Span::from_millis(5),
};

/// One end of the session: what it has, and how far it is.
#[derive(Clone)]
struct End {
    session: PeerSession,
    deliver: mpsc::Sender<Vec<Bytes>>,
    received: Arc<AtomicU64>,
}

impl End {
    /// Sends all numbers when there is room, and checks what comes, taking its time.
    fn start(acknowledging: Acknowledging) -> End {
        let session = PeerSession::new(CONFIG, acknowledging);
        let (deliver, mut frames) = mpsc::channel::<Vec<Bytes>>(2);
        let end = End { session: session.clone(), deliver, received: Arc::default() };
        let (sender, received) = (session.clone(), end.received.clone());
        tokio::spawn(async move {
            for number in 0..NUMBERS {
                sender.room().await;
                sender.send(Bytes::copy_from_slice(&number.to_le_bytes()));
                assert!(sender.unacknowledged_bytes() < CONFIG.unacknowledged_bytes_max + 100);
                sleep(Duration::from_micros(thread_rng().gen_range(0..3000))).await;
            }
        });
        tokio::spawn(async move {
            while let Some(frames) = frames.recv().await {
                for frame in frames {
                    let expected = received.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(frame.as_ref(), expected.to_le_bytes());
                    sleep(Duration::from_micros(thread_rng().gen_range(0..2000))).await;
                    if acknowledging == Acknowledging::WhenHandled {
                        session.handled();
                    }
                }
            }
        });
        end
    }

    async fn drive(&self, stream: TcpStream) -> Ended {
        let (read, write) = split(stream);
        let (mut reader, mut writer) =
            (ControlReader::new(Box::new(read)), ControlWriter::new(Box::new(write)));
        self.session.drive(&mut reader, &mut writer, &self.deliver).await
    }

    fn is_done(&self) -> bool {
        self.received.load(Ordering::Relaxed) == NUMBERS && self.session.unacknowledged_bytes() == 0
    }

    async fn done(&self) {
        while !self.is_done() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Accepts connections; a newer one takes the session over from an older one.
async fn serve() {
    let listener = TcpListener::bind(SERVER).await.unwrap();
    let end = End::start(Acknowledging::WhenHandled);
    let accepting = end.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let end = accepting.clone();
            tokio::spawn(async move { end.drive(stream).await });
        }
    });
    end.done().await;
}

/// Connects, and after each end of a connection again; sometimes while the old one still lives.
async fn call() {
    let end = End::start(Acknowledging::OnReceipt);
    let connecting = end.clone();
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_millis(thread_rng().gen_range(1..20))).await;
            let server: SocketAddr = SERVER.parse().unwrap();
            let Ok(Ok(stream)) = timeout(Duration::from_secs(1), TcpStream::connect(server)).await else {
                continue;
            };
            let patience = Duration::from_millis(thread_rng().gen_range(50..400));
            let driven = connecting.clone();
            let task = tokio::spawn(async move { driven.drive(stream).await });
            // Nothing tells of a cut: whoever has waited for long connects anew.
            sleep(patience).await;
            if thread_rng().gen_bool(0.5) {
                task.abort();
            }
        }
    });
    end.done().await;
}

/// Cut the two nodes off from each other, now and then, and one way only, sometimes.
async fn cut(server: &NodeHandle, client: &NodeHandle) {
    let network = madsim::plugin::simulator::<NetSim>();
    for _ in 0..CUTS {
        sleep(Duration::from_millis(thread_rng().gen_range(10..200))).await;
        let (from, to) = if thread_rng().gen_bool(0.5) { (server, client) } else { (client, server) };
        let both = thread_rng().gen_bool(0.7);
        network.clog_link(from.id(), to.id());
        if both {
            network.clog_link(to.id(), from.id());
        }
        sleep(Duration::from_millis(thread_rng().gen_range(1..300))).await;
        network.unclog_link(from.id(), to.id());
        network.unclog_link(to.id(), from.id());
    }
}

#[madsim::test]
async fn each_frame_arrives_once_and_in_order_however_tasks_run_and_links_break() {
    let handle = Handle::current();
    let server = handle.create_node().name("server").ip("10.0.0.1".parse().unwrap()).build();
    let client = handle.create_node().name("client").ip("10.0.0.2".parse().unwrap()).build();
    let serving = server.spawn(serve());
    let calling = client.spawn(call());
    cut(&server, &client).await;
    let both = async {
        calling.await.unwrap();
        serving.await.unwrap();
    };
    timeout(BOUND, both).await.expect("after the last cut everything arrives");
}
