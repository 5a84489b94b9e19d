//! The node daemon: it carries out what the [`Node`](shoal_core::node::Node) and
//! [`Head`](shoal_core::head::Head) machines decide.
//!
//! Everything happens on one thread. Tasks wait for descriptors to become ready and call into one
//! `state::Daemon`; what they cause is gathered there and written once everything that was ready has
//! been looked at. No decision is made here: a process that misbehaves is cut off, and that is all.
//!
//! | file | does |
//! |---|---|
//! | `session` `leftovers` | the directory, its lock, and what dead daemons left |
//! | `resources` `memory` `monitor` | what the machine has, and how much of it is left |
//! | `state` | drives the machines |
//! | `watched` `links` `frames` `broker` | sockets, what comes over them, and links between processes |
//! | `drivers` `templates` `workers` `output` | processes, from start to end |
//! | `work` | the store's slow work, on other threads |
//! | `status` `client` | answers for people, and how the command line asks |
//! | `stop` | the end of it all |

mod broker;
pub mod client;
mod cluster;
mod drivers;
mod frames;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod leftovers;
mod links;
mod memory;
mod monitor;
mod output;
mod reaper;
mod resources;
pub mod session;
mod state;
mod status;
mod stop;
mod templates;
#[cfg(test)]
mod testing;
mod watched;
mod work;
mod workers;

use std::cell::RefCell;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shoal_core::ids::NodeId;
use shoal_core::node::Config;
use shoal_store::{Backing, FIRST_OFFSET, Segment, SpillDirectory, StoreError};
use tokio::task::LocalSet;

pub use cluster::{EnterError, HeadError, Membership, Network};
pub use resources::Wanted;
pub use shoal_state::{EtcdLocation, EtcdTls, EtcdUser, InvalidLocation, InvalidUser};

use crate::control::VERSION;
use crate::transport::Connection;
use memory::MemoryReader;
use session::{DEFAULT_TEMP_DIRECTORY, Description, Session};
use state::{Daemon, Parts};
use work::Store;

/// Write a line to the daemon's log.
macro_rules! log {
    ($($argument:tt)*) => { $crate::daemon::write_log(format_args!($($argument)*)) };
}
pub(crate) use log;

/// The share of the disk that may be full after spilling.
const SPILL_DISK_SHARE: f64 = 0.95;

/// How a daemon is to run.
pub struct Options {
    /// Where sessions are.
    pub temp_directory: PathBuf,
    /// What the node offers.
    pub wanted: Wanted,
    /// The node's name. `None`: its host's.
    pub name: Option<String>,
    /// The node's labels.
    pub labels: Vec<(String, String)>,
    /// Which cluster the node belongs to.
    pub membership: Membership,
    /// Reaches other daemons; not needed by a node that is alone.
    pub network: Option<Box<dyn Network>>,
    /// Where spilled objects go, instead of into the session's directory.
    pub spill_directory: Option<PathBuf>,
    /// Stop after this time without any process. `None`: never.
    pub idle_exit: Option<Duration>,
    /// The read end of a pipe that the owner holds: the daemon stops when the owner closes it, or when
    /// the process that started the daemon ends.
    pub owner: Option<OwnedFd>,
    /// Gets one line of JSON: a [`Description`] once the node is up, or `{"error": ..}`.
    pub ready: Option<OwnedFd>,
    /// Send standard output and error to the session's log.
    pub redirect: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            temp_directory: PathBuf::from(DEFAULT_TEMP_DIRECTORY),
            wanted: Wanted::default(),
            name: None,
            labels: Vec::new(),
            membership: Membership::Alone,
            network: None,
            spill_directory: None,
            idle_exit: None,
            owner: None,
            ready: None,
            redirect: false,
        }
    }
}

/// Why a daemon did not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The options make no sense.
    #[error("{0}")]
    Options(String),
    /// It cannot become a node of its cluster.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// The object store cannot be made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl DaemonError {
    fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> DaemonError {
        let doing = doing.into();
        move |source| DaemonError::System { doing, source }
    }
}

/// Run a node until it is told to stop: by a signal, by the command line, by its owner's end, or by
/// idleness. Nothing of it is left when this returns.
///
/// The process must have nothing else to do: its children are reaped and, at the end, killed, its
/// signals are handled, and templates end with the thread that calls this.
pub fn run(mut options: Options) -> Result<(), DaemonError> {
    let mut ready = options.ready.take().map(File::from);
    let started = Node::start(&mut options);
    match started {
        Ok(node) => node.run(options, ready),
        Err(error) => {
            if let Some(ready) = &mut ready {
                report(ready, &error);
            }
            Err(error)
        }
    }
}

/// What exists before the first process can connect.
struct Node {
    session: Session,
    listener: UnixListener,
    config: Config,
    store: Store,
    memory: MemoryReader,
    memory_threshold: f64,
    files_before: Rlimit,
}

impl Node {
    fn start(options: &mut Options) -> Result<Node, DaemonError> {
        let memory = MemoryReader::new();
        let usage = memory.read().ok_or_else(|| {
            DaemonError::Options(String::from("the size of the machine's memory cannot be read"))
        })?;
        let offer = resources::offer(&options.wanted, resources::Found::here(usage))?;
        let session = Session::create(&options.temp_directory, options.spill_directory.as_deref())
            .map_err(DaemonError::system("the session cannot be made"))?;
        // What workers leave behind becomes this process's children, so that it can be found.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let files_before = raise_file_limit();
        // Early, because making the segment may fork.
        let segment = Segment::create(offer.store_bytes + FIRST_OFFSET, Backing::Auto)?;
        if let Some(reason) = segment.fallback_reason() {
            log!("the store goes without huge pages: {reason}");
        }
        let spill = SpillDirectory::open(session.spill(), SPILL_DISK_SHARE)?;
        let listener = listen(&session.socket())?;
        // The head gives it its number.
        let mut config = Config::new(NodeId::default());
        config.host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        config.name = options.name.take().unwrap_or_default();
        config.labels = std::mem::take(&mut options.labels);
        config.store_start = FIRST_OFFSET;
        config.store_capacity = segment.capacity() - FIRST_OFFSET;
        let cpus = offer.resources.get(shoal_core::resources::Resources::CPU).as_f64().ceil() as u32;
        config.starting_max = cpus.max(config.starting_max);
        config.resources = offer.resources;
        config.seed = u64::from(std::process::id());
        let store = Store::new(segment, spill)?;
        let memory_threshold = monitor::threshold()?;
        // Last, so that whoever starts the daemon sees why it does not start.
        if options.redirect {
            redirect(&session.logs()).map_err(DaemonError::system("the log cannot be written"))?;
        }
        Ok(Node { session, listener, config, store, memory, memory_threshold, files_before })
    }

    fn run(self, mut options: Options, mut ready: Option<File>) -> Result<(), DaemonError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(DaemonError::system("the event loop cannot be made"))?;
        let Node { session, listener, mut config, store, memory, memory_threshold, files_before } = self;
        let offers = Arc::new(cluster::Offers::new(store.memory()));
        let session = Rc::new(session);
        let local = LocalSet::new();
        let result = local.block_on(&runtime, async {
            let membership = std::mem::replace(&mut options.membership, Membership::Alone);
            let network = options.network.as_deref();
            let entered = cluster::enter(membership, network, Arc::clone(&offers) as _, &mut config).await?;
            config.node = entered.node;
            let description = Description {
                session: session.directory().to_owned(),
                socket: session.socket(),
                spill: session.spill().to_owned(),
                node: config.node.0,
                pid: std::process::id(),
                version: String::from(VERSION),
                owned: options.owner.is_some(),
                cluster: entered.cluster,
                address: entered.transport.as_ref().map(|transport| transport.local_address()),
            };
            let cpus = config.resources.get(shoal_core::resources::Resources::CPU).as_f64().ceil();
            let parts = Parts {
                config,
                head: entered.head,
                candidacy: entered.candidacy,
                transport: entered.transport,
                offers,
                store,
                memory,
                memory_threshold,
                files_before,
                session: session.directory().to_owned(),
                logs: session.logs(),
                cpus: cpus as u32,
                idle_exit: options.idle_exit,
            };
            let shared: Rc<RefCell<Daemon>> = Daemon::new(parts);
            serve_cluster(&shared, entered.connection)?;
            if let Some(credentials) = entered.credentials {
                tokio::task::spawn_local(cluster::keep_certified(Rc::clone(&shared), credentials));
            }
            cluster::stand(&shared);
            publish_changes(&shared, &session, &description);
            state::spawn_driving(&shared);
            serve(&shared, listener, options.owner.take())
                .and_then(|()| session.publish(&description))
                .map_err(DaemonError::system("the node cannot be served"))?;
            log!("node {} serves {}", description.node, description.socket.display());
            if let Some(ready) = &mut ready {
                // A starter that does not wait for the line does no harm.
                let _ = serde_json::to_string(&description).map(|line| writeln!(ready, "{line}"));
            }
            stop::wait_and_stop(&shared, entered.state.is_some()).await;
            let tenure = shared.borrow().tenure();
            if let Some(tenure) = tenure {
                tenure.resign().await;
            }
            if let Some(state) = entered.state.filter(|_| !shared.borrow().has_failed) {
                // The cluster ends with its head: nothing of it must come back.
                let _ = std::fs::remove_dir_all(state);
            }
            Ok(())
        });
        drop(local);
        // Work that has begun on other threads ends by itself; the segment lives until then.
        runtime.shutdown_timeout(Duration::from_secs(2));
        drop(session);
        if let (Err(error), Some(ready)) = (&result, &mut ready) {
            report(ready, error);
        }
        result
    }
}

/// Say in the session where the head is, whenever that changes.
fn publish_changes(shared: &Rc<RefCell<Daemon>>, session: &Rc<Session>, description: &Description) {
    let mut places = shared.borrow().head_places.subscribe();
    let (session, mut description) = (Rc::clone(session), description.clone());
    tokio::task::spawn_local(async move {
        while places.changed().await.is_ok() {
            description.cluster = *places.borrow_and_update();
            if let Err(error) = session.describe(&description) {
                log!("it cannot be published where the head is: {error}");
            }
        }
    });
}

/// Talk to other daemons, if this one is not alone.
fn serve_cluster(shared: &Rc<RefCell<Daemon>>, connection: Option<Connection>) -> Result<(), EnterError> {
    if let cluster::HeadSide::Here(hosted) = &mut shared.borrow_mut().cluster.head {
        hosted.serve(shared)?;
    }
    if let Some(connection) = connection {
        cluster::serve(shared, connection);
    }
    cluster::listen(shared);
    Ok(())
}

/// Serve local processes.
fn serve(shared: &Rc<RefCell<Daemon>>, listener: UnixListener, owner: Option<OwnedFd>) -> io::Result<()> {
    links::listen(shared, listener)?;
    stop::listen(shared, owner)?;
    reaper::listen(shared)
}

/// Tell whoever has started the daemon why it does not run.
fn report(ready: &mut File, error: &DaemonError) {
    let _ = writeln!(ready, "{}", serde_json::json!({ "error": error.to_string() }));
}

fn listen(path: &Path) -> Result<UnixListener, DaemonError> {
    let listener = UnixListener::bind(path).map_err(DaemonError::system(format!(
        "the socket {} cannot be made (a path may have 107 bytes; see --temp-dir)",
        path.display()
    )))?;
    // Nobody else can enter the directory either, so the moment before this line is no gap.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .and_then(|()| listener.set_nonblocking(true))
        .map_err(DaemonError::system("the socket's permissions cannot be set"))?;
    Ok(listener)
}

fn redirect(logs: &Path) -> io::Result<()> {
    let log = File::options().create(true).append(true).open(logs.join("daemon.log"))?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(())
}

/// Each worker takes a few descriptors. Templates get the old limit back.
fn raise_file_limit() -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    before
}

/// Write a line to the daemon's log, which is its standard error.
pub fn write_log(text: std::fmt::Arguments<'_>) {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // A log that cannot be written must not end the daemon, as `eprintln` would.
    let _ = writeln!(io::stderr(), "{}.{:03} {text}", since_epoch.as_secs(), since_epoch.subsec_millis());
}
