//! The head as the daemons see it: in this one, or in another.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use shoal_core::ids::ProcessId;
use shoal_core::message::Message;
use shoal_core::node;
use shoal_core::search::Search;
use shoal_core::session::{Acknowledging, Config};
use shoal_core::term::{Claim, Term};
use tokio::sync::{Notify, mpsc};

use super::super::log;
use super::super::state::{Daemon, Shared, Source, Task, with};
use super::gate;
use super::hosted::Hosted;
use super::peers::{Full, forwarded, frame_of, split};
use super::word::{Greeting, Reply, Wish, hear, say};
use crate::frame::Header;
use crate::transport::{Connection, PeerSession, Transport, TransportError};

/// How long one place may keep a node busy that can look in others.
const PLACE_PATIENCE: Duration = Duration::from_secs(2);
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
    /// Where it is, or may be.
    search: Search<SocketAddr>,
    /// There is reason to look for it now.
    called: Rc<Notify>,
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
    pub(super) fn new(search: Search<SocketAddr>, term: Term) -> Away {
        let (called, session, full) = (Rc::default(), session(), Full::default());
        Away { search, called, term, session, incoming: None, _dialler: None, full }
    }

    /// A head that nobody knows yet, after the one of this term; `unheard` is what it is to be told first.
    pub(super) fn unknown(term: Term, unheard: impl IntoIterator<Item = Bytes>) -> Away {
        let away = Away::new(Search::nowhere(), term);
        unheard.into_iter().for_each(|frame| away.session.send(frame));
        away
    }

    /// Which head is followed.
    pub(super) fn term(&self) -> Term {
        self.term
    }

    /// The head itself says where it is.
    pub(super) fn called(&mut self, address: SocketAddr) {
        self.search.called(address);
        self.called.notify_one();
    }

    /// Somebody else says where it is.
    pub(super) fn hint(&mut self, address: SocketAddr) {
        if self.search.hint(address) {
            self.called.notify_one();
        }
    }

    /// Give up the session: what was not acknowledged, and who waits for room in it.
    pub(super) fn leave(&mut self) -> (Vec<Bytes>, Vec<Source>) {
        (self.session.unacknowledged(), std::mem::take(&mut self.full).into_sources())
    }
}

fn session() -> PeerSession {
    PeerSession::new(Config::default(), Acknowledging::OnReceipt)
}

/// Talk to the head from now on; it has let this node in over this connection.
pub(in super::super) fn serve(shared: &Shared, connection: Connection) {
    shared.borrow_mut().follow_head(Some(connection));
}

/// Carry the session with the head, and connect again whenever there is no connection, or another head calls.
async fn keep_connected(shared: Shared, mut connection: Option<Connection>) {
    loop {
        let Some((session, frames, called)) = shared.borrow().head_session() else { return };
        if let Some(mut connection) = connection.take() {
            tokio::select! {
                biased;
                () = called.notified() => log!("another head calls"),
                ended = session.drive(&mut connection.reader, &mut connection.writer, &frames) => {
                    log!("the connection with the head has ended: {ended:?}");
                }
            }
        }
        connection = look_for_head(&shared, &called).await;
        if connection.is_none() {
            return;
        }
    }
}

/// Find the head, and be let in again; `None` if that will never be.
async fn look_for_head(shared: &Shared, called: &Notify) -> Option<Connection> {
    loop {
        if shared.borrow().stopping {
            return None;
        }
        let found = tokio::select! {
            biased;
            () = called.notified() => continue,
            found = reconnect(shared) => found,
        };
        let said = match found {
            Ok(Found::Head(connection)) => return Some(*connection),
            Ok(Found::Never) => return None,
            Ok(Found::NotHere { reason, head }) => {
                log!("the head is not there: {reason}");
                head
            }
            Err(error) => {
                log!("the head cannot be reached: {error}");
                None
            }
        };
        let pause = shared.borrow_mut().head_not_found(said);
        let _ = tokio::time::timeout(pause, called.notified()).await;
    }
}

/// What is where the head may be.
enum Found {
    /// It has let this node in again.
    Head(Box<Connection>),
    /// It will never let this node in.
    Never,
    /// Somebody else.
    NotHere {
        reason: String,
        /// Where they say that it is.
        head: Option<SocketAddr>,
    },
}

/// Connect to where the head may be, and be let in again.
async fn reconnect(shared: &Shared) -> Result<Found, TransportError> {
    let (address, has_choice, transport, node) = {
        let daemon = shared.borrow();
        let HeadSide::There(away) = &daemon.cluster.head else { return Ok(Found::Never) };
        let place = away.search.place().copied();
        (place, away.search.has_choice(), daemon.cluster.transport.clone(), daemon.id)
    };
    let Some(transport) = transport else { return Ok(Found::Never) };
    // Until somebody says where it is, who then calls.
    let Some(address) = address else { return std::future::pending().await };
    let mut connection = connect(transport.as_ref(), address, has_choice).await?;
    match ask_head(&mut connection, Wish::Return { node }).await? {
        Reply::Admitted { term, .. } => {
            with(shared, |daemon| daemon.head_found(term))?;
            Ok(Found::Head(Box::new(connection)))
        }
        Reply::Refused { reason, fatal, term, head } => {
            if !fatal {
                return Ok(Found::NotHere { reason, head });
            }
            if let Some(term) = term {
                shared.borrow().judge_head(term)?;
            }
            log!("the head refuses this node: {reason}");
            with(shared, Daemon::head_refuses);
            Ok(Found::Never)
        }
        Reply::Welcome => Err(TransportError::Malformed("an answer to another question")),
    }
}

/// Connect to where the head may be. Who has the choice does not wait there for long.
pub(super) async fn connect(
    transport: &dyn Transport,
    address: SocketAddr,
    has_choice: bool,
) -> Result<Connection, TransportError> {
    let connection = transport.connect(address);
    if !has_choice {
        return connection.await;
    }
    let connection = tokio::time::timeout(PLACE_PATIENCE, connection).await;
    connection.map_err(|_| TransportError::TimedOut)?
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

    /// Talk to the head that is elsewhere from now on, over this connection; without one it is looked for.
    pub(super) fn follow_head(&mut self, connection: Option<Connection>) {
        let shared = self.shared();
        let HeadSide::There(away) = &mut self.cluster.head else { return };
        let incoming = gate::open(&shared, |daemon, frame| {
            let taken = daemon.frame_from_head(frame);
            if let Err(fault) = &taken {
                log!("nothing more of the head is heard: {fault}");
            }
            taken.is_ok()
        });
        away.incoming = Some(incoming);
        away._dialler = Some(Task::spawn(keep_connected(shared, connection)));
    }

    fn head_session(&self) -> Option<(PeerSession, mpsc::Sender<Vec<Bytes>>, Rc<Notify>)> {
        let HeadSide::There(away) = &self.cluster.head else { return None };
        let (frames, _) = away.incoming.as_ref()?;
        Some((away.session.clone(), frames.clone(), Rc::clone(&away.called)))
    }

    /// Where the head is, as far as this node knows.
    pub(in super::super) fn head_place(&self) -> Option<SocketAddr> {
        match &self.cluster.head {
            HeadSide::There(away) => away.search.place().copied(),
            HeadSide::Here(_) => self.cluster.transport.as_ref().map(|transport| transport.local_address()),
        }
    }

    /// It is not where it was looked for, but perhaps where somebody there says. How long to wait.
    fn head_not_found(&mut self, said: Option<SocketAddr>) -> Duration {
        match &mut self.cluster.head {
            HeadSide::There(away) => Duration::from_nanos(away.search.failed(said).0),
            HeadSide::Here(_) => Duration::ZERO,
        }
    }

    /// The head goes on with this node.
    ///
    /// What a head of another epoch has not acknowledged is sent to this one: its log may lack it.
    fn head_found(&mut self, term: Term) -> Result<(), TransportError> {
        let claim = self.judge_head(term)?;
        let HeadSide::There(away) = &mut self.cluster.head else { return Ok(()) };
        away.search.found();
        let place = away.search.place().copied();
        self.head_places.send_if_modified(|known| std::mem::replace(known, place) != place);
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
    pub(super) fn head_refuses(&mut self) {
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
