//! The head as the daemons see it: in this one, or in another.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use shoal_core::ids::ProcessId;
use shoal_core::message::Message;
use shoal_core::node;
use shoal_core::session::{Acknowledging, Config};
use tokio::sync::mpsc;

use super::super::log;
use super::super::state::{Daemon, Shared, Task, with};
use super::gate;
use super::hosted::Hosted;
use super::peers::{Full, forwarded, frame_of, split};
use super::word::{Greeting, Reply, Wish, hear, say};
use crate::frame::Header;
use crate::transport::{Connection, PeerSession, TransportError};

/// The first pause between attempts to reach the head; it doubles up to the second one.
const DIAL_PAUSE: Duration = Duration::from_millis(20);
const DIAL_PAUSE_MAX: Duration = Duration::from_millis(500);
/// The head must answer a greeting within this time; it may have to write to its log before.
const REPLY_PATIENCE: Duration = Duration::from_secs(30);

/// Where the head lives.
pub(in super::super) enum HeadSide {
    /// In this daemon.
    Here(Box<Hosted>),
    /// In another one.
    There(Box<Away>),
}

/// A head in another daemon.
pub(in super::super) struct Away {
    /// Where it can be reached.
    address: SocketAddr,
    epoch: u64,
    session: PeerSession,
    /// Where frames of the session come in; there is none before the daemon serves.
    incoming: Option<(mpsc::Sender<Vec<Bytes>>, Task)>,
    /// Connects, and then carries the session.
    _dialler: Option<Task>,
    full: Full,
}

impl Away {
    /// A head that has just let this node in.
    pub(super) fn new(address: SocketAddr, epoch: u64) -> Away {
        Away { address, epoch, session: session(), incoming: None, _dialler: None, full: Full::default() }
    }
}

fn session() -> PeerSession {
    PeerSession::new(Config::default(), Acknowledging::OnReceipt)
}

/// Talk to the head from now on; it has let this node in over this connection.
pub(in super::super) fn serve(shared: &Shared, connection: Connection) {
    let incoming = gate::open(shared, |daemon, frame| {
        let taken = daemon.frame_from_head(frame);
        if let Err(fault) = &taken {
            log!("nothing more of the head is heard: {fault}");
        }
        taken.is_ok()
    });
    let mut daemon = shared.borrow_mut();
    let HeadSide::There(away) = &mut daemon.cluster.head else { return };
    away.incoming = Some(incoming);
    away._dialler = Some(Task::spawn(keep_connected(Rc::clone(shared), connection)));
}

/// Carry the session with the head, and connect again whenever the connection ends.
async fn keep_connected(shared: Shared, mut connection: Connection) {
    loop {
        let Some((session, frames)) = shared.borrow().head_session() else { return };
        let ended = session.drive(&mut connection.reader, &mut connection.writer, &frames).await;
        log!("the connection with the head has ended: {ended:?}");
        drop(connection);
        let mut pause = DIAL_PAUSE;
        connection = loop {
            if shared.borrow().stopping {
                return;
            }
            match reconnect(&shared).await {
                Ok(Some(connection)) => break connection,
                Ok(None) => return,
                Err(error) => log!("the head cannot be reached: {error}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(DIAL_PAUSE_MAX);
        };
    }
}

/// Connect to the head, and be let in again; `None` if it will never be.
async fn reconnect(shared: &Shared) -> Result<Option<Connection>, TransportError> {
    let (address, transport, node) = {
        let daemon = shared.borrow();
        let HeadSide::There(away) = &daemon.cluster.head else { return Ok(None) };
        (away.address, daemon.cluster.transport.clone(), daemon.id)
    };
    let Some(transport) = transport else { return Ok(None) };
    let mut connection = transport.connect(address).await?;
    say(&mut connection, &Greeting::new(Wish::Return { node })).await?;
    let reply = tokio::time::timeout(REPLY_PATIENCE, hear::<Reply>(&mut connection)).await;
    match reply.map_err(|_| TransportError::TimedOut)?? {
        Reply::Admitted { epoch, .. } => {
            with(shared, |daemon| daemon.head_found(epoch));
            Ok(Some(connection))
        }
        Reply::Refused { reason, fatal } => {
            if !fatal {
                return Err(TransportError::Closed(reason));
            }
            log!("the head refuses this node: {reason}");
            with(shared, Daemon::head_refuses);
            Ok(None)
        }
        Reply::Welcome => Err(TransportError::Malformed("an answer to another question")),
    }
}

impl Daemon {
    /// Whether the head lives in another daemon.
    pub(in super::super) fn is_head_elsewhere(&self) -> bool {
        matches!(self.cluster.head, HeadSide::There(_))
    }

    /// Send a message to a head that is elsewhere.
    pub(in super::super) fn send_to_head(&mut self, from: ProcessId, message: &Message) {
        if let Some(frame) = frame_of(ProcessId::HEAD, from, message) {
            self.send_frame_to_head(frame);
        }
    }

    /// Forward a frame of a local process to a head that is elsewhere.
    pub(in super::super) fn forward_to_head(&mut self, header: Header, body: &[u8]) {
        self.send_frame_to_head(forwarded(header, body));
    }

    fn send_frame_to_head(&mut self, frame: Bytes) {
        let HeadSide::There(away) = &mut self.cluster.head else { return };
        away.session.send(frame);
        if away.session.is_full() {
            let session = away.session.clone();
            self.pause_source(|daemon, source| {
                let room = Daemon::when_there_is_room(daemon.shared(), session, Daemon::fillers_of_head);
                if let Some(full) = daemon.fillers_of_head() {
                    full.add(source, room);
                }
            });
        }
    }

    fn fillers_of_head(&mut self) -> Option<&mut Full> {
        match &mut self.cluster.head {
            HeadSide::There(away) => Some(&mut away.full),
            HeadSide::Here(_) => None,
        }
    }

    fn head_session(&self) -> Option<(PeerSession, mpsc::Sender<Vec<Bytes>>)> {
        let HeadSide::There(away) = &self.cluster.head else { return None };
        let (frames, _) = away.incoming.as_ref()?;
        Some((away.session.clone(), frames.clone()))
    }

    /// The head goes on with this node.
    ///
    /// What a head of another epoch has not acknowledged is sent to this one: its log may lack it.
    fn head_found(&mut self, epoch: u64) {
        let HeadSide::There(away) = &mut self.cluster.head else { return };
        if away.epoch == epoch {
            return;
        }
        log!("another head acts: its epoch is {epoch}");
        away.epoch = epoch;
        let before = std::mem::replace(&mut away.session, session());
        for frame in before.unacknowledged() {
            away.session.send(frame);
        }
        self.tell_node(node::Input::HeadChanged { epoch });
    }

    fn frame_from_head(&mut self, frame: &[u8]) -> Result<(), String> {
        let (header, body) = split(frame)?;
        if header.from != ProcessId::HEAD {
            return Err(format!("{:?} speaks for the head", header.from));
        }
        self.frame_comes_in(header, body)
    }

    /// The head has declared this node dead.
    fn head_refuses(&mut self) {
        let fenced = node::Input::Received { from: ProcessId::HEAD, message: Message::Fenced };
        self.tell_node(fenced);
    }
}
