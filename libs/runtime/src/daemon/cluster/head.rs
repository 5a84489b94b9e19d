//! The head as the daemons see it: in this one, or in another.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use shoal_core::ids::ProcessId;
use shoal_core::message::Message;
use shoal_core::node;
use shoal_core::session::{Acknowledging, Config};
use shoal_core::term::{Claim, Term};
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
    /// Which head it is.
    term: Term,
    session: PeerSession,
    /// Where frames of the session come in; there is none before the daemon serves.
    incoming: Option<(mpsc::Sender<Vec<Bytes>>, Task)>,
    /// Connects, and then carries the session.
    _dialler: Option<Task>,
    full: Full,
}

impl Away {
    /// A head that has just let this node in.
    pub(super) fn new(address: SocketAddr, term: Term) -> Away {
        Away { address, term, session: session(), incoming: None, _dialler: None, full: Full::default() }
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
    match ask_head(&mut connection, Wish::Return { node }).await? {
        Reply::Admitted { term, .. } => {
            with(shared, |daemon| daemon.head_found(term))?;
            Ok(Some(connection))
        }
        Reply::Refused { reason, fatal, term } => {
            if !fatal {
                return Err(TransportError::Closed(reason));
            }
            if let Some(term) = term {
                shared.borrow().judge_head(term)?;
            }
            log!("the head refuses this node: {reason}");
            with(shared, Daemon::head_refuses);
            Ok(None)
        }
        Reply::Welcome => Err(TransportError::Malformed("an answer to another question")),
    }
}

/// Ask whoever is at the other end for what only the head can give, and hear the answer. Every node of
/// the cluster can listen where the head is looked for, so its certificate must say that it may be one.
pub(super) async fn ask_head(connection: &mut Connection, wish: Wish) -> Result<Reply, TransportError> {
    let who = &connection.peer;
    if !who.member.role.may_act_as_head() {
        let reason = format!("{} at {} is a node, and may not act as head", who.member.name, who.address);
        return Err(TransportError::Closed(reason));
    }
    say(connection, &Greeting::new(wish)).await?;
    let reply = tokio::time::timeout(REPLY_PATIENCE, hear(connection)).await;
    reply.map_err(|_| TransportError::TimedOut)?
}

/// What a head is to who follows the one of term `followed`; an error if it is not obeyed.
fn judge(followed: Term, other: Term) -> Result<Claim, TransportError> {
    let claim = followed.judge(other);
    let fault = match claim {
        Claim::Same | Claim::Successor => return Ok(claim),
        Claim::Outdated => format!("its epoch is {}, and one of {} acts", other.epoch, followed.epoch),
        Claim::Rival => format!("it is not the head of epoch {} that acts, but another", other.epoch),
    };
    log!("a head is not obeyed: {fault}");
    Err(TransportError::Closed(fault))
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
    fn head_found(&mut self, term: Term) -> Result<(), TransportError> {
        let claim = self.judge_head(term)?;
        let HeadSide::There(away) = &mut self.cluster.head else { return Ok(()) };
        if claim == Claim::Same {
            return Ok(());
        }
        log!("another head acts: its epoch is {}", term.epoch);
        away.term = term;
        let before = std::mem::replace(&mut away.session, session());
        for frame in before.unacknowledged() {
            away.session.send(frame);
        }
        self.tell_node(node::Input::HeadChanged { epoch: term.epoch });
        Ok(())
    }

    fn judge_head(&self, term: Term) -> Result<Claim, TransportError> {
        match &self.cluster.head {
            HeadSide::There(away) => judge(away.term, term),
            HeadSide::Here(_) => Ok(Claim::Same),
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_core::ids::NodeId;
    use shoal_identity::{ClusterId, Member, Role};

    use super::*;
    use crate::transport::{BoxFuture, Bulk, BulkError, BulkRequest, ControlReader, ControlWriter, Peer};

    struct NoBulk;

    impl Bulk for NoBulk {
        fn fetch<'a>(&'a self, _: BulkRequest, _: &'a mut [u8]) -> BoxFuture<'a, Result<(), BulkError>> {
            unreachable!("nothing is fetched here")
        }
        fn close(&self, _: &str) {}
        fn closed(&self) -> BoxFuture<'_, TransportError> {
            Box::pin(std::future::pending())
        }
    }

    /// Both ends of a connection; at the other end of the first is a member of this role.
    fn connected_to(role: Role) -> (Connection, Connection) {
        let (one, other) = tokio::io::duplex(1 << 16);
        let end = |stream, role| {
            let (read, write) = tokio::io::split(stream);
            let name = "somebody".parse().expect("a name");
            let member = Member { cluster: ClusterId([7; 16]), role, name };
            let address = SocketAddr::from(([127, 0, 0, 1], 1));
            Connection {
                peer: Peer { member, address, transport: "test" },
                reader: ControlReader::new(Box::new(read)),
                writer: ControlWriter::new(Box::new(write)),
                bulk: Arc::new(NoBulk),
            }
        };
        (end(one, role), end(other, Role::Node))
    }

    const TERM: Term = Term { epoch: 3, life: 8 };

    async fn let_in(mut end: Connection) -> bool {
        let asked = hear::<Greeting>(&mut end).await.is_ok();
        if asked {
            let reply = Reply::Admitted { node: NodeId(2), head_node: NodeId(1), term: TERM };
            say(&mut end, &reply).await.expect("the other end listens");
        }
        asked
    }

    #[tokio::test]
    async fn only_who_may_be_head_is_asked_for_what_heads_give() {
        let (mut head, other_end) = connected_to(Role::Head);
        let asked = tokio::spawn(let_in(other_end));
        let reply = ask_head(&mut head, Wish::Return { node: NodeId(2) }).await;
        assert!(matches!(reply, Ok(Reply::Admitted { term: TERM, .. })), "{reply:?}");
        assert!(asked.await.expect("it ends"));

        let (mut node, other_end) = connected_to(Role::Node);
        let asked = tokio::spawn(let_in(other_end));
        let reply = ask_head(&mut node, Wish::Return { node: NodeId(2) }).await;
        let Err(TransportError::Closed(reason)) = reply else { panic!("{reply:?}") };
        assert!(reason.contains("may not act as head"), "{reason}");
        drop(node);
        assert!(!asked.await.expect("it ends"), "nothing was said to it");
    }

    #[test]
    fn heads_that_are_not_obeyed_are_told_apart() {
        assert_eq!(judge(TERM, TERM), Ok(Claim::Same));
        assert_eq!(judge(TERM, Term { epoch: 4, life: 1 }), Ok(Claim::Successor));
        for (other, text) in
            [(Term { epoch: 2, life: 8 }, "epoch is 2"), (Term { life: 9, ..TERM }, "another")]
        {
            let Err(TransportError::Closed(reason)) = judge(TERM, other) else { panic!("{other:?}") };
            assert!(reason.contains(text), "{reason}");
        }
    }
}
