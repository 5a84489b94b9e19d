//! How a daemon becomes a node: it gets its number from the head, its own or another one.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shoal_core::head;
use shoal_core::ids::NodeId;
use shoal_core::message::NodeSummary;
use shoal_core::node::Config;
use shoal_core::search::Search;
use shoal_core::term::Term;
use shoal_identity::join::JoinError;
use shoal_identity::{
    AuthorityError, ClusterAuthority, Credentials, InvalidName, JoinSecret, NodeName, Role, Validity, join,
};
use shoal_state::{Etcd, EtcdLocation, FileLog, Log, Standing, Tenure};
use tokio::net::TcpStream;

use super::super::state::Shared;
use super::super::{log, session};
use super::head::{Away, ask_head, connect};
use super::word::{Reply, Wish};
use super::{HeadError, HeadSide, Hosted};
use crate::transport::{BoxFuture, BulkSource, Connection, Transport, TransportError};

/// How often, and how long apart, a node asks a head that is not there yet to let it in.
const ATTEMPTS: u32 = 100;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);
/// How long after a failed attempt to have a certificate renewed the next one follows.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);

/// Which cluster a daemon belongs to.
#[derive(Debug)]
pub enum Membership {
    /// One of its own, which nobody can join and which ends with the daemon.
    Alone,
    /// One whose head lives in this daemon.
    Head {
        /// Where other daemons reach it. Port 0 takes one that is free.
        address: SocketAddr,
        /// If that port is taken, another one will do.
        or_any_port: bool,
        /// Where the cluster's authority and the head's log are. A cluster that is there already goes on.
        state: PathBuf,
        /// Keep them when the daemon is stopped in order, too.
        keep: bool,
        /// What lets nodes join [default: what the cluster has; for a new one, a new secret].
        secret: Option<JoinSecret>,
        /// Where the head's log is instead, and where heads are elected: this one becomes a standby if another
        /// one acts. The directory holds the authority only, and is always kept.
        etcd: Option<EtcdLocation>,
    },
    /// One whose head lives elsewhere.
    Member {
        /// Where the head is reached, or standbys of it; at least one address.
        heads: Vec<SocketAddr>,
        /// Where other daemons reach this one. Port 0 takes one that is free.
        address: SocketAddr,
        /// What lets nodes join.
        secret: JoinSecret,
    },
}

/// Binds a transport; the transports themselves are crates that this one knows nothing of.
pub trait Network: Send {
    /// Listen at an address as the member that `credentials` speak for. With an authority, those who prove
    /// the cluster's secret are given a certificate. `source` has the bytes that peers ask for.
    fn bind(
        &self,
        address: SocketAddr,
        credentials: Credentials,
        authority: Option<Arc<ClusterAuthority>>,
        source: Arc<dyn BulkSource>,
    ) -> BoxFuture<'_, Result<Arc<dyn Transport>, TransportError>>;
}

/// Why a daemon is no node.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The head.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The cluster's authority.
    #[error("the cluster's authority: {0}")]
    Authority(#[from] AuthorityError),
    /// Its name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The head cannot be reached.
    #[error("the head at {address} cannot be reached: {source}. Is it running, and is the address right?")]
    Unreachable {
        /// Where it should be.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The head does not know this daemon.
    #[error("the cluster at {address} does not take this node in: {source}")]
    Join {
        /// Where the head is.
        address: SocketAddr,
        /// Why not.
        source: JoinError,
    },
    /// The transport.
    #[error("other daemons cannot be reached: {0}")]
    Transport(#[from] TransportError),
    /// The head says no.
    #[error("the head of the cluster refused this node: {0}")]
    Refused(String),
    /// A standby needs what the cluster's first head has made.
    #[error(
        "there is a cluster in that etcd already, and {} does not hold its authority. A standby head needs a copy of \
         the authority.pem of the cluster's first head, in its state directory (--state-dir)", state.display()
    )]
    NoAuthority {
        /// The directory.
        state: PathBuf,
    },
    /// No transport was given.
    #[error("this daemon has no transport, so it can have no other nodes")]
    NoNetwork,
}

/// What a daemon has once it is a node.
pub(in super::super) struct Entered {
    pub(in super::super) node: NodeId,
    pub(in super::super) head: HeadSide,
    pub(in super::super) transport: Option<Arc<dyn Transport>>,
    /// The connection over which a head elsewhere has let it in.
    pub(in super::super) connection: Option<Connection>,
    /// Where the head is reached, if others can join.
    pub(in super::super) cluster: Option<SocketAddr>,
    /// What is to be removed when the daemon has been stopped in order.
    pub(in super::super) state: Option<PathBuf>,
    /// What it shows to others.
    pub(in super::super) credentials: Option<Credentials>,
    /// Where it stands for election as head while another one acts, if it does.
    pub(in super::super) candidacy: Option<Etcd>,
}

/// Become a node. Sets the address in `config`.
pub(in super::super) async fn enter(
    membership: Membership,
    network: Option<&dyn Network>,
    source: Arc<dyn BulkSource>,
    config: &mut Config,
) -> Result<Entered, EnterError> {
    match membership {
        Membership::Alone => {
            let (hosted, node) = Hosted::start(head::Config::new(config.seed), None, None, summary(config))?;
            let head = HeadSide::Here(Box::new(hosted));
            Ok(Entered {
                node,
                head,
                transport: None,
                connection: None,
                cluster: None,
                state: None,
                credentials: None,
                candidacy: None,
            })
        }
        Membership::Head { address, or_any_port, state, keep, secret, etcd } => {
            let network = network.ok_or(EnterError::NoNetwork)?;
            let place = (address, or_any_port);
            if let Some(etcd) = etcd {
                return stand_or_follow(network, source, config, place, (&state, secret), &etcd).await;
            }
            let entered = found(network, source, config, place, (&state, secret)).await?;
            Ok(Entered { state: (!keep).then_some(state), ..entered })
        }
        Membership::Member { heads, address, secret } => {
            let network = network.ok_or(EnterError::NoNetwork)?;
            let credentials = prove(&heads, &secret, &name(config)?).await?;
            let transport = network.bind(address, credentials.clone(), None, source).await?;
            config.address = transport.local_address().to_string();
            follow(transport, credentials, Search::new(heads), config).await
        }
    }
}

/// Join the cluster of a head that is looked for.
async fn follow(
    transport: Arc<dyn Transport>,
    credentials: Credentials,
    mut search: Search<SocketAddr>,
    config: &Config,
) -> Result<Entered, EnterError> {
    let (connection, node, term) = apply(transport.as_ref(), &mut search, config).await?;
    Ok(Entered {
        node,
        cluster: search.place().copied(),
        head: HeadSide::There(Box::new(Away::new(search, term))),
        transport: Some(transport),
        connection: Some(connection),
        state: None,
        credentials: Some(credentials),
        candidacy: None,
    })
}

/// Be the head of a cluster whose log is in etcd, or a node of it that can become the head.
async fn stand_or_follow(
    network: &dyn Network,
    source: Arc<dyn BulkSource>,
    config: &mut Config,
    place: (SocketAddr, bool),
    (state, secret): (&Path, Option<JoinSecret>),
    location: &EtcdLocation,
) -> Result<Entered, EnterError> {
    let etcd = Etcd::new(location).map_err(HeadError::Log)?;
    let authority = match open_authority(state, secret.as_ref())? {
        Some(authority) => authority,
        None => match etcd.cluster().await.map_err(HeadError::Log)? {
            None => ClusterAuthority::create(state, secret)?,
            Some(_) => return Err(EnterError::NoAuthority { state: state.to_owned() }),
        },
    };
    etcd.claim(&authority.cluster().to_string()).await.map_err(HeadError::Log)?;
    let (transport, credentials) = bind_as_head(network, source, config, place, authority).await?;
    let address = transport.local_address();
    let mut attempt = 1;
    loop {
        let acting = match etcd.stand(address).await.map_err(HeadError::Log)? {
            Standing::Elected(log) => {
                let tenure = Some(log.tenure().clone());
                let entered = act(transport, credentials, (Box::new(log), tenure), config)?;
                return Ok(Entered { candidacy: Some(etcd), ..entered });
            }
            Standing::Acting(acting) => acting,
        };
        let search = Search::new([acting.address]);
        match follow(Arc::clone(&transport), credentials.clone(), search, config).await {
            Ok(entered) => return Ok(Entered { candidacy: Some(etcd), ..entered }),
            // It may have ended, and etcd does not know it yet.
            Err(EnterError::Transport(error)) if attempt < ATTEMPTS => {
                log!("the head at {} cannot be reached: {error}", acting.address);
            }
            Err(error) => return Err(error),
        }
        attempt += 1;
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    }
}

/// Be the head of a cluster: of the one that the state directory tells of, or of a new one.
async fn found(
    network: &dyn Network,
    source: Arc<dyn BulkSource>,
    config: &mut Config,
    place: (SocketAddr, bool),
    (state, secret): (&Path, Option<JoinSecret>),
) -> Result<Entered, EnterError> {
    // The log first: it is the lock that keeps two heads apart.
    let file = FileLog::open(state).map_err(HeadError::Log)?;
    let authority = match open_authority(state, secret.as_ref())? {
        Some(authority) => authority,
        None => ClusterAuthority::create(state, secret)?,
    };
    let (transport, credentials) = bind_as_head(network, source, config, place, authority).await?;
    if let Err(error) = session::remember_head_port(state, transport.local_address().port()) {
        log!("the head's port cannot be remembered: {error}");
    }
    act(transport, credentials, (Box::new(file), None), config)
}

/// The authority of the cluster that is there, if one is. A secret that was given must be its own.
fn open_authority(
    state: &Path,
    secret: Option<&JoinSecret>,
) -> Result<Option<ClusterAuthority>, AuthorityError> {
    match ClusterAuthority::open(state) {
        Ok(authority) if secret.is_none_or(|given| given == authority.secret()) => Ok(Some(authority)),
        Ok(_) => Err(AuthorityError::OtherSecret(state.to_owned())),
        Err(AuthorityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Listen as one who may be the head.
async fn bind_as_head(
    network: &dyn Network,
    source: Arc<dyn BulkSource>,
    config: &mut Config,
    (address, or_any_port): (SocketAddr, bool),
    authority: ClusterAuthority,
) -> Result<(Arc<dyn Transport>, Credentials), EnterError> {
    let validity = Validity::starting_now(Validity::NODE_LIFETIME);
    let credentials = authority.credentials(Role::Head, &name(config)?, validity)?;
    let authority = Some(Arc::new(authority));
    let bound = network.bind(address, credentials.clone(), authority.clone(), Arc::clone(&source)).await;
    let transport = match bound {
        Err(TransportError::Listen(_)) if or_any_port => {
            let any = SocketAddr::new(address.ip(), 0);
            network.bind(any, credentials.clone(), authority, source).await?
        }
        bound => bound?,
    };
    config.address = transport.local_address().to_string();
    Ok((transport, credentials))
}

/// Be the head.
fn act(
    transport: Arc<dyn Transport>,
    credentials: Credentials,
    (log, tenure): (Box<dyn Log>, Option<Tenure>),
    config: &Config,
) -> Result<Entered, EnterError> {
    let settings =
        head::Config { durable: true, elected: tenure.is_some(), ..head::Config::new(config.seed) };
    let (hosted, node) = Hosted::start(settings, Some(log), tenure, summary(config))?;
    Ok(Entered {
        node,
        head: HeadSide::Here(Box::new(hosted)),
        cluster: Some(transport.local_address()),
        transport: Some(transport),
        connection: None,
        state: None,
        credentials: Some(credentials),
        candidacy: None,
    })
}

/// Show the head that this daemon knows the cluster's secret, and be given a certificate.
async fn prove(
    heads: &[SocketAddr],
    secret: &JoinSecret,
    name: &NodeName,
) -> Result<Credentials, EnterError> {
    let mut attempt = 1;
    let (stream, address) = loop {
        // Standbys have the authority, too.
        match TcpStream::connect(heads).await {
            Ok(stream) => break (stream, heads[0]),
            Err(source) if attempt >= ATTEMPTS => {
                return Err(EnterError::Unreachable { address: heads[0], source });
            }
            Err(_) => tokio::time::sleep(ATTEMPT_PAUSE).await,
        }
        attempt += 1;
    };
    let address = stream.peer_addr().unwrap_or(address);
    let joined = join::join(stream, secret, name).await;
    joined.map_err(|source| EnterError::Join { address, source })
}

/// Ask the head for a number.
async fn apply(
    transport: &dyn Transport,
    search: &mut Search<SocketAddr>,
    config: &Config,
) -> Result<(Connection, NodeId, Term), EnterError> {
    let mut attempt = 1;
    loop {
        let place = *search.place().expect("it begins with addresses that were given");
        let mut connection = match connect(transport, place, search.has_choice()).await {
            Ok(connection) => connection,
            Err(error) if attempt >= ATTEMPTS || !search.has_choice() => return Err(error.into()),
            Err(_) => {
                attempt += 1;
                sleep(search, None).await;
                continue;
            }
        };
        let wish = Wish::Join { summary: Box::new(summary(config)) };
        match ask_head(&mut connection, wish).await? {
            Reply::Admitted { node, term, .. } => {
                search.found();
                return Ok((connection, node, term));
            }
            Reply::Refused { reason, fatal, .. } if fatal || attempt >= ATTEMPTS => {
                return Err(EnterError::Refused(reason));
            }
            Reply::Refused { reason, head, .. } => {
                log!("the head does not let this node in yet: {reason}");
                sleep(search, head).await;
            }
            Reply::Welcome => return Err(TransportError::Malformed("an answer to another question").into()),
        }
        attempt += 1;
    }
}

/// Wait before looking in the next place.
async fn sleep(search: &mut Search<SocketAddr>, said: Option<SocketAddr>) {
    let pause = Duration::from_nanos(search.failed(said).0);
    if !pause.is_zero() {
        tokio::time::sleep(pause.max(ATTEMPT_PAUSE)).await;
    }
}

/// Have the certificate replaced, long before it ends, by the authority at the head's address.
pub(in super::super) async fn keep_certified(shared: Shared, credentials: Credentials) {
    loop {
        tokio::time::sleep(Validity::NODE_LIFETIME / 3).await;
        loop {
            let head = shared.borrow().head_place();
            let renewed = match head {
                Some(head) => renew(head, &credentials).await,
                None => Err(String::from("it is not known where the head is")),
            };
            match renewed {
                Ok(()) => break,
                Err(error) => log!("the certificate is not renewed: {error}"),
            }
            tokio::time::sleep(RENEWAL_PAUSE).await;
        }
    }
}

async fn renew(head: SocketAddr, credentials: &Credentials) -> Result<(), String> {
    let stream = TcpStream::connect(head).await.map_err(|error| error.to_string())?;
    join::renew(stream, credentials).await.map_err(|error| error.to_string())
}

/// How certificates call this daemon.
fn name(config: &Config) -> Result<NodeName, InvalidName> {
    // Host names may hold more than names of nodes may.
    let host = config.host.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '-');
    let host: String = host.take(40).collect();
    format!("{host}-{}", std::process::id()).parse()
}

/// What the head is told of a daemon that wants to be a node.
fn summary(config: &Config) -> NodeSummary {
    NodeSummary {
        node: NodeId::default(),
        alive: true,
        name: config.name.clone(),
        host: config.host.clone(),
        address: config.address.clone(),
        total: config.resources.clone(),
        free: config.resources.clone(),
        labels: config.labels.clone(),
    }
}
