//! Sessions with other nodes: what is sent to their processes, and dialling them when they are not
//! connected.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_core::ids::{NodeId, ProcessId};
use shoal_core::message::Message;
use shoal_core::session::{Acknowledging, Config};
use shoal_core::wire;
use tokio::sync::mpsc;

use super::super::log;
use super::super::state::{Daemon, Shared, Source, Task, with};
use super::gate;
use super::word::{Greeting, Reply, Wish, hear, say};
use crate::control::Control;
use crate::frame::{self, HEADER_BYTES, Header, Kind};
use crate::transport::{Bulk, Connection, Ended, PeerSession, Transport, TransportError};

/// The first pause between attempts to reach a node; it doubles up to the second one.
const DIAL_PAUSE: Duration = Duration::from_millis(20);
const DIAL_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A node must answer a greeting within this time.
const REPLY_PATIENCE: Duration = Duration::from_secs(5);

/// With so much unacknowledged a node is slow.
const SLOW_BYTES: usize = 4 << 20;

/// Another node.
pub(super) struct Peer {
    session: PeerSession,
    frames: mpsc::Sender<Vec<Bytes>>,
    /// Connections that carry the session, the newest last; counted so that an end that comes late does
    /// not count for the one after it.
    connections: u64,
    is_connected: bool,
    /// Carries bytes of objects while there is a connection.
    bulk: Option<Arc<dyn Bulk>>,
    /// Tries to connect, and then carries the session.
    dialler: Option<Task>,
    full: Full,
    _gate: Task,
}

/// Those who are not read until a session has room again.
#[derive(Default)]
pub(super) struct Full {
    filled_by: Vec<Source>,
    waiting: Option<Task>,
}

impl Full {
    /// Who waits.
    pub(super) fn into_sources(self) -> Vec<Source> {
        self.filled_by
    }

    /// `source` is not read until `room` has ended.
    pub(super) fn add(&mut self, source: Source, room: impl Future<Output = ()> + 'static) {
        self.filled_by.push(source);
        self.waiting.get_or_insert_with(|| Task::spawn(room));
    }
}

impl Peer {
    fn new(shared: &Shared, node: NodeId) -> Peer {
        let take = move |daemon: &mut Daemon, frame: &Bytes| {
            let taken = daemon.frame_from_node(node, frame);
            if let Err(fault) = &taken {
                log!("nothing more of node {} is heard: {fault}", node.0);
            }
            taken.is_ok()
        };
        let (frames, gate) = gate::open(shared, take);
        Peer {
            session: PeerSession::new(Config::default(), Acknowledging::OnReceipt),
            frames,
            connections: 0,
            is_connected: false,
            bulk: None,
            dialler: None,
            full: Full::default(),
            _gate: gate,
        }
    }

    /// Whether this end is making a connection.
    pub(super) fn is_dialling(&self) -> bool {
        self.dialler.is_some() && !self.is_connected
    }
}

/// A message as a frame of a session.
pub(super) fn frame_of(to: ProcessId, from: ProcessId, message: &Message) -> Option<Bytes> {
    let mut buffer = Vec::new();
    match frame::append(&mut buffer, Kind::Message, to, from, message) {
        Ok(()) => Some(buffer.into()),
        Err(error) => {
            log!("a message from {from:?} to {to:?} is lost: {error}");
            None
        }
    }
}

/// A frame of a local process as one of a session.
pub(super) fn forwarded(header: Header, body: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&header.to_bytes());
    frame.extend_from_slice(body);
    frame.into()
}

/// Carry the session with a node over a connection until that ends.
pub(super) async fn drive(shared: &Shared, node: NodeId, mut connection: Connection) {
    let begun = with(shared, |daemon| daemon.peer_connected(node, &connection));
    let Some((session, frames, number)) = begun else { return };
    let ended = session.drive(&mut connection.reader, &mut connection.writer, &frames).await;
    if let Ended::Connection(error) = &ended {
        log!("the connection with node {} has ended: {error}", node.0);
    } else if ended != Ended::Replaced {
        log!("the connection with node {} has ended: {ended:?}", node.0);
    }
    with(shared, |daemon| daemon.peer_disconnected(node, number));
}

/// Connect to a node, again and again until it is dead or nothing waits for it.
async fn dial(shared: Shared, node: NodeId) {
    let mut pause = DIAL_PAUSE;
    loop {
        match connect(&shared, node).await {
            Ok(Some(connection)) => {
                drive(&shared, node, connection).await;
                pause = DIAL_PAUSE;
            }
            // Its address is not known yet.
            Ok(None) => {}
            Err(error) => log!("node {} cannot be reached: {error}", node.0),
        }
        if !shared.borrow().is_wanted(node) {
            break;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(DIAL_PAUSE_MAX);
    }
    if let Some(peer) = shared.borrow_mut().cluster.peers.get_mut(&node) {
        peer.dialler = None;
    }
}

async fn connect(shared: &Shared, node: NodeId) -> Result<Option<Connection>, TransportError> {
    let (address, transport, own) = {
        let daemon = shared.borrow();
        (daemon.address_of(node), daemon.cluster.transport.clone(), daemon.id)
    };
    let (Some(address), Some(transport)) = (address, transport) else { return Ok(None) };
    let mut connection = transport.connect(address).await?;
    say(&mut connection, &Greeting::new(Wish::Peer { node: own, to: node })).await?;
    let reply = tokio::time::timeout(REPLY_PATIENCE, hear::<Reply>(&mut connection)).await;
    match reply.map_err(|_| TransportError::TimedOut)?? {
        Reply::Welcome => Ok(Some(connection)),
        Reply::Refused { reason, .. } => Err(TransportError::Closed(reason)),
        Reply::Admitted { .. } => Err(TransportError::Malformed("an answer to another question")),
    }
}

impl Daemon {
    /// Send a message to a process of another node.
    pub(in super::super) fn send_to_other_node(&mut self, to: ProcessId, from: ProcessId, message: &Message) {
        if let Some(frame) = frame_of(to, from, message) {
            self.send_to_node(to.node(), frame);
        }
    }

    /// Send a control frame to a process of another node.
    pub(in super::super) fn send_control_to_node(&mut self, to: ProcessId, control: &Control) {
        let mut buffer = Vec::new();
        match frame::append(&mut buffer, Kind::Control, to, self.daemon_process(), control) {
            Ok(()) => self.send_to_node(to.node(), buffer.into()),
            Err(error) => log!("a control frame is lost: {error}"),
        }
    }

    /// Forward a frame of a local process.
    pub(in super::super) fn forward_to_node(&mut self, header: Header, body: &[u8]) {
        self.send_to_node(header.to.node(), forwarded(header, body));
    }

    /// Whether so much waits for a node that what is of less importance should be left out.
    pub(in super::super) fn is_slow_to(&self, node: NodeId) -> bool {
        self.cluster.peers.get(&node).is_some_and(|peer| peer.session.unacknowledged_bytes() > SLOW_BYTES)
    }

    fn send_to_node(&mut self, node: NodeId, frame: Bytes) {
        if self.cluster.dead.contains(&node) {
            return;
        }
        let peer = self.peer(node);
        peer.session.send(frame);
        let full = peer.session.is_full();
        if !peer.is_connected {
            self.dial_peer(node);
        }
        if full {
            let session = self.peer(node).session.clone();
            self.pause_source(|daemon, source| {
                let room = Daemon::when_there_is_room(daemon.shared(), session, move |daemon| {
                    daemon.cluster.peers.get_mut(&node).map(|peer| &mut peer.full)
                });
                daemon.peer(node).full.add(source, room);
            });
        }
    }

    /// Let those go on who have filled a session, once it has room.
    pub(super) async fn when_there_is_room(
        shared: Shared,
        session: PeerSession,
        full: impl Fn(&mut Daemon) -> Option<&mut Full>,
    ) {
        session.room().await;
        with(&shared, |daemon| {
            let sources = full(daemon).map(std::mem::take);
            daemon.resume(sources.map(|full| full.filled_by).unwrap_or_default());
        });
    }

    fn peer(&mut self, node: NodeId) -> &mut Peer {
        let shared = self.shared();
        self.cluster.peers.entry(node).or_insert_with(|| Peer::new(&shared, node))
    }

    fn dial_peer(&mut self, node: NodeId) {
        if self.stopping {
            return;
        }
        let shared = self.shared();
        let peer = self.peer(node);
        if peer.dialler.is_none() {
            peer.dialler = Some(Task::spawn(dial(Rc::clone(&shared), node)));
        }
    }

    /// Whether a connection with a node is worth having, and is not there.
    fn is_wanted(&self, node: NodeId) -> bool {
        let peer = self.cluster.peers.get(&node);
        peer.is_some_and(|peer| !peer.is_connected && peer.session.unacknowledged_bytes() > 0)
            && !self.stopping
    }

    fn peer_connected(
        &mut self,
        node: NodeId,
        connection: &Connection,
    ) -> Option<(PeerSession, mpsc::Sender<Vec<Bytes>>, u64)> {
        if self.cluster.dead.contains(&node) {
            return None;
        }
        let peer = self.peer(node);
        peer.connections += 1;
        peer.is_connected = true;
        peer.bulk = Some(Arc::clone(&connection.bulk));
        Some((peer.session.clone(), peer.frames.clone(), peer.connections))
    }

    fn peer_disconnected(&mut self, node: NodeId, connection: u64) {
        let Some(peer) = self.cluster.peers.get_mut(&node) else { return };
        if peer.connections == connection {
            peer.is_connected = false;
            peer.bulk = None;
            if peer.session.unacknowledged_bytes() > 0 {
                self.dial_peer(node);
            }
        }
    }

    /// The bulk side of the connection with a node; if there is none, one is made.
    pub(super) fn bulk_of(&mut self, node: NodeId) -> Option<Arc<dyn Bulk>> {
        if self.cluster.dead.contains(&node) {
            return None;
        }
        let bulk = self.peer(node).bulk.clone();
        if bulk.is_none() {
            self.dial_peer(node);
        }
        bulk
    }

    /// A frame that a process of another node has sent to one of this node.
    fn frame_from_node(&mut self, node: NodeId, frame: &[u8]) -> Result<(), String> {
        let (header, body) = split(frame)?;
        if header.from.node() != node || header.from == ProcessId::HEAD {
            return Err(format!("it speaks for {:?}", header.from));
        }
        self.frame_comes_in(header, body)
    }

    /// Give a frame from outside to the process or machine that it is for. One for a process that is
    /// gone is dropped.
    pub(super) fn frame_comes_in(&mut self, header: Header, body: &[u8]) -> Result<(), String> {
        if header.kind == Kind::Control {
            // The only control frame between nodes is what a driver's workers print elsewhere.
            let control = wire::decode(body).map_err(|error| error.to_string())?;
            if !matches!(control, Control::Output { .. }) || self.is_own(header.to) {
                return Err(String::from("a control frame came that is none of another node's business"));
            }
        }
        if self.is_own(header.to) {
            let message: Message = wire::decode(body).map_err(|error| error.to_string())?;
            if header.to != ProcessId::HEAD {
                self.deliver(header.to, header.from, message);
            }
        } else if let Some(link) = self.link_of(header.to) {
            self.queue_forward(link, header, body);
            self.asked = Some(link);
        }
        Ok(())
    }

    /// A node is dead: nothing of it is heard any more, and nothing is said to it.
    pub(in super::super) fn forget_node(&mut self, node: NodeId) {
        self.cluster.dead.insert(node);
        if let Some(peer) = self.cluster.peers.remove(&node) {
            self.resume(peer.full.filled_by);
        }
    }

    /// How a node is reached without the connection that there is, or will be.
    pub(super) fn way_to(&self, node: NodeId) -> Option<(Arc<dyn Transport>, SocketAddr)> {
        let address = self.address_of(node).filter(|_| !self.cluster.dead.contains(&node))?;
        Some((self.cluster.transport.clone()?, address))
    }

    /// Where the daemon of another node is reached, if the cluster's view says so.
    fn address_of(&self, node: NodeId) -> Option<SocketAddr> {
        self.address_text(node)?.parse().ok()
    }
}

/// The header and the body of a frame of a session.
pub(super) fn split(frame: &[u8]) -> Result<(Header, &[u8]), String> {
    let header = Header::parse(frame).map_err(|error| error.to_string())?;
    let header = header.ok_or_else(|| String::from("a frame is shorter than its header"))?;
    let body = &frame[HEADER_BYTES..];
    if body.len() != header.length {
        return Err(String::from("a frame is not as long as its header says"));
    }
    Ok((header, body))
}
