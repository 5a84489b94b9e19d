//! The head in this daemon: its machine, its log, and its sessions with the nodes.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::rc::Rc;
use std::sync::mpsc;

use bytes::Bytes;
use shoal_core::head::{self, Head, Key, Row, WriteResult};
use shoal_core::ids::{NodeId, OperationId, ProcessId};
use shoal_core::message::{Message, NodeSummary};
use shoal_core::session::{Acknowledging, Config};
use shoal_core::term::Term;
use shoal_core::wire;
use shoal_core::{Effects, Machine, Time};
use shoal_state::{Changes, Log, StateError, Tenure};
use tokio::sync::{oneshot, watch};

use super::super::log;
use super::super::state::{Daemon, Shared, Task, with};
use super::accepting::Verdict;
use super::calling::Calls;
use super::gate;
use super::head::HeadSide;
use super::peers::{frame_of, split};
use super::standing;
use crate::transport::{Connection, PeerSession};

/// The connection under which the head's own node joins.
pub(super) const OWN_CONNECTION: u64 = 0;

/// Why a head cannot act.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// Its log.
    #[error(transparent)]
    Log(#[from] StateError),
    /// Another one acts.
    #[error("another head has taken over: its epoch is newer than what this one has read")]
    Fenced,
    /// It does not let its own node in.
    #[error("the head did not let its own node in: {0}")]
    Refused(String),
    /// The thread of its log cannot be started.
    #[error("the thread of the head's log cannot be started: {0}")]
    Thread(io::Error),
}

/// See the module's text.
pub(in super::super) struct Hosted {
    pub(in super::super) head: Head,
    pub(in super::super) effects: Effects<head::Effect>,
    /// Sends writes to the thread of the log; there is none if nothing must survive.
    writer: Option<mpsc::Sender<Write>>,
    log: Option<Box<dyn Log>>,
    nodes: HashMap<NodeId, Member>,
    /// Those who wait for the head to let them in.
    applicants: HashMap<u64, oneshot::Sender<Verdict>>,
    applications: u64,
    /// Tells this head from others of its epoch: see [`Term::life`].
    life: u64,
    /// How long it is the head, if it was elected.
    pub(super) tenure: Option<Tenure>,
    /// Which head this node follows: this one, once its epoch is written, and before that the last one.
    followed: Option<Term>,
    /// What this node had sent to the head before it became the head itself.
    pub(super) unacknowledged: Vec<Bytes>,
    /// What this node and its processes have told the head, and it has not dealt with for good. Only an elected
    /// head needs to know.
    unhandled: VecDeque<(ProcessId, Message)>,
    /// Connections of nodes end with it.
    office: watch::Sender<()>,
    /// Hear of writes, and of the end of the tenure.
    listeners: Vec<Task>,
    pub(super) calls: Calls,
}

/// A node that the head talks to.
struct Member {
    session: PeerSession,
    frames: tokio::sync::mpsc::Sender<Vec<Bytes>>,
    /// How many connections have carried the session.
    connections: u64,
    _gate: Task,
}

/// A connection with such a node: what it carries, which one of that node it is, and until when.
struct Line {
    session: PeerSession,
    frames: tokio::sync::mpsc::Sender<Vec<Bytes>>,
    number: u64,
    office: watch::Receiver<()>,
}

/// A write that the thread of the log carries out.
struct Write {
    operation: OperationId,
    epoch: u64,
    rows: Changes,
}

impl Hosted {
    /// Make a head act, and have it let its own node in. Gives the node's number.
    pub(in super::super) fn start(
        config: head::Config,
        mut log: Option<Box<dyn Log>>,
        tenure: Option<Tenure>,
        summary: NodeSummary,
    ) -> Result<(Hosted, NodeId), HeadError> {
        let rows = match &mut log {
            Some(log) => log.load()?.rows,
            None => Vec::new(),
        };
        let mut head = Head::new(config, rows);
        let mut effects = Effects::new();
        let input = head::Input::NodeJoins { connection: OWN_CONNECTION, summary: Box::new(summary) };
        if head.poll_timeout().is_some_and(|(due, _)| due == Time(0)) {
            head.handle_timeout(Time(0), &mut effects);
        }
        head.handle(Time(0), input, &mut effects);
        let mut calls = Vec::new();
        loop {
            let mut answers = Vec::new();
            let mut asked: VecDeque<head::Effect> = effects.drain().collect();
            while let Some(effect) = asked.pop_front() {
                match effect {
                    head::Effect::Write { operation, epoch, rows } => {
                        let result = match &mut log {
                            Some(log) => log.write(epoch, &rows)?,
                            None => WriteResult::Done,
                        };
                        answers.push(head::Input::Finished { operation, result });
                    }
                    head::Effect::Admit { connection: OWN_CONNECTION, node, .. } => {
                        // What it says to its node is carried out once that is there.
                        let mut effects = Effects::new();
                        calls.into_iter().chain(asked).for_each(|effect| effects.push(effect));
                        head.handle(Time(0), head::Input::Hosted { node }, &mut effects);
                        let mut hosted = Hosted::new(head, effects, log, tenure);
                        hosted.is_followed();
                        return Ok((hosted, node));
                    }
                    head::Effect::Refuse { reason, .. } => return Err(HeadError::Refused(reason)),
                    head::Effect::StepDown => return Err(HeadError::Fenced),
                    call @ head::Effect::Call { .. } => calls.push(call),
                    // Nobody else is connected yet.
                    _ => {}
                }
            }
            if answers.is_empty() {
                return Err(HeadError::Refused(String::from("it waits for something else")));
            }
            for answer in answers {
                head.handle(Time(0), answer, &mut effects);
            }
        }
    }

    /// A head in the daemon of a node that was elected; `unacknowledged` is what that node had sent to the
    /// head before.
    pub(super) fn elected(
        config: head::Config,
        log: Box<dyn Log>,
        rows: Vec<(Key, Row)>,
        tenure: Tenure,
        (followed, unacknowledged): (Term, Vec<Bytes>),
    ) -> Hosted {
        let head = Head::new(config, rows);
        let hosted = Hosted::new(head, Effects::new(), Some(log), Some(tenure));
        Hosted { followed: Some(followed), unacknowledged, ..hosted }
    }

    fn new(
        head: Head,
        effects: Effects<head::Effect>,
        log: Option<Box<dyn Log>>,
        tenure: Option<Tenure>,
    ) -> Hosted {
        Hosted {
            head,
            effects,
            writer: None,
            log,
            nodes: HashMap::new(),
            applicants: HashMap::new(),
            applications: OWN_CONNECTION,
            life: RandomState::new().hash_one(std::process::id()),
            tenure,
            followed: None,
            unacknowledged: Vec::new(),
            unhandled: VecDeque::new(),
            office: watch::Sender::new(()),
            listeners: Vec::new(),
            calls: Calls::default(),
        }
    }

    /// Have writes done on a thread of their own from now on.
    pub(in super::super) fn serve(&mut self, shared: &Shared) -> Result<(), HeadError> {
        if let Some(tenure) = &self.tenure {
            self.listeners.push(standing::watch(shared, tenure.clone()));
        }
        let Some(mut log) = self.log.take() else { return Ok(()) };
        let (writer, writes) = mpsc::channel::<Write>();
        let (done, mut results) = tokio::sync::mpsc::unbounded_channel();
        let work = move || {
            for Write { operation, epoch, rows } in writes {
                let result = log.write(epoch, &rows);
                if done.send((operation, result)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name(String::from("head-log")).spawn(work).map_err(HeadError::Thread)?;
        let shared = Rc::clone(shared);
        self.listeners.push(Task::spawn(async move {
            while let Some((operation, result)) = results.recv().await {
                with(&shared, |daemon| daemon.head_wrote(operation, result));
            }
        }));
        self.writer = Some(writer);
        Ok(())
    }

    fn term(&self, epoch: u64) -> Term {
        Term { epoch, life: self.life }
    }

    /// Which head it is.
    pub(super) fn present_term(&self) -> Term {
        self.term(self.head.epoch())
    }

    /// Its own node follows it from now on.
    pub(super) fn is_followed(&mut self) {
        self.followed = Some(self.present_term());
    }

    /// Have the head handle something, if it is still the head; `home` is its own node.
    pub(in super::super) fn handle(&mut self, now: Time, home: NodeId, input: head::Input) {
        if let head::Input::Received { via, from, message } = &input
            && *via == home
            && self.tenure.is_some()
        {
            self.unhandled.push_back((*from, message.clone()));
        }
        let input = if self.is_over() { head::Input::TenureEnds } else { input };
        self.head.handle(now, input, &mut self.effects);
    }

    /// Give up an office that it was elected into: how long that was to last, which head its node follows, and what
    /// the next one is to be told first.
    pub(super) fn leave(&mut self) -> Option<(Tenure, Term, Vec<Bytes>)> {
        let (tenure, followed) = self.tenure.take().zip(self.followed)?;
        let mut unheard = std::mem::take(&mut self.unacknowledged);
        let unhandled = std::mem::take(&mut self.unhandled).into_iter();
        unheard.extend(unhandled.filter_map(|(from, message)| frame_of(ProcessId::HEAD, from, &message)));
        Some((tenure, followed, unheard))
    }

    /// Whether a node has been let in by this head.
    pub(super) fn has_come(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Whether another head may act by now.
    pub(in super::super) fn is_over(&self) -> bool {
        self.tenure.as_ref().is_some_and(Tenure::is_over)
    }

    /// Number somebody who wants to be let in, and who waits for the answer.
    pub(super) fn add_applicant(&mut self) -> (u64, oneshot::Receiver<Verdict>) {
        let (sender, receiver) = oneshot::channel();
        self.applications += 1;
        self.applicants.insert(self.applications, sender);
        (self.applications, receiver)
    }

    /// Answer somebody who wanted to be let in. Whether they still wait for it.
    fn answer(&mut self, connection: u64, verdict: Verdict) -> bool {
        self.applicants.remove(&connection).is_some_and(|applicant| applicant.send(verdict).is_ok())
    }
}

/// Carry the head's session with a node over a connection until that ends.
pub(super) async fn drive(shared: &Shared, node: NodeId, mut connection: Connection) {
    let Some(mut line) = shared.borrow_mut().member_connected(node) else { return };
    let driven = line.session.drive(&mut connection.reader, &mut connection.writer, &line.frames);
    let ended = tokio::select! {
        biased;
        // Nothing is ever sent: the head has stepped down.
        _ = line.office.changed() => return,
        ended = driven => ended,
    };
    log!("the head's connection with node {} has ended: {ended:?}", node.0);
    with(shared, |daemon| daemon.member_disconnected(node, line.number));
}

impl Daemon {
    /// Carry out what the head has asked for.
    pub(in super::super) fn apply_head(&mut self) {
        let HeadSide::Here(hosted) = &mut self.cluster.head else { return };
        let mut effects = std::mem::take(&mut hosted.effects);
        for effect in effects.drain() {
            self.apply_head_effect(effect);
        }
        if let HeadSide::Here(hosted) = &mut self.cluster.head {
            hosted.effects = effects;
        }
    }

    fn apply_head_effect(&mut self, effect: head::Effect) {
        match effect {
            head::Effect::Send { to, message } if to.node() == self.id => {
                self.send(to, ProcessId::HEAD, message);
            }
            head::Effect::Send { to, message } => self.send_from_head(to, &message),
            head::Effect::Write { operation, epoch, rows } => {
                self.write_head_rows(Write { operation, epoch, rows });
            }
            head::Effect::Resume { connection: OWN_CONNECTION, epoch, .. } => self.own_node_resumed(epoch),
            head::Effect::Refuse { connection: OWN_CONNECTION, .. } => self.head_refuses(),
            head::Effect::Call { node, address } => self.call_node(node, &address),
            head::Effect::Admit { connection, node, epoch }
            | head::Effect::Resume { connection, node, epoch } => {
                self.let_in(connection, node, epoch);
            }
            head::Effect::Refuse { connection, reason } => {
                if let HeadSide::Here(hosted) = &mut self.cluster.head {
                    let term = hosted.present_term();
                    hosted.answer(connection, Verdict::Refused { reason, term });
                }
            }
            head::Effect::Handled { node } => self.head_handled(node),
            head::Effect::Forget { node } => {
                if let HeadSide::Here(hosted) = &mut self.cluster.head {
                    hosted.nodes.remove(&node);
                }
                self.forget_node(node);
            }
            head::Effect::StepDown => self.step_down(),
        }
    }

    /// No other head will follow the one in this daemon.
    pub(in super::super) fn end_cluster(&mut self) {
        self.tell_head(head::Input::ClusterEnds);
    }

    /// Whether every node that the head still talks to has got everything that it was told.
    pub(in super::super) fn has_told_nodes(&self) -> bool {
        let HeadSide::Here(hosted) = &self.cluster.head else { return true };
        hosted.nodes.values().all(|member| member.session.unacknowledged_bytes() == 0)
    }

    fn write_head_rows(&mut self, write: Write) {
        let HeadSide::Here(hosted) = &mut self.cluster.head else { return };
        let operation = write.operation;
        let sent = hosted.writer.as_ref().map(|writer| writer.send(write));
        if !matches!(sent, Some(Ok(()))) {
            self.has_failed = true;
            self.request_stop("the thread of the head's log has ended");
            log!("{operation:?} of the head's log was not carried out");
        }
    }

    fn head_wrote(&mut self, operation: OperationId, result: Result<WriteResult, StateError>) {
        match result {
            Ok(result) => self.tell_head(head::Input::Finished { operation, result }),
            // Whether it was written is unknown, so nothing may be said that depends on it.
            Err(error) => {
                log!("the head's log cannot be written: {error}");
                let result = WriteResult::Unknown;
                self.tell_head(head::Input::Finished { operation, result });
            }
        }
    }

    /// The head lets a node in, or in again. What it says to it goes to the session from now on, though
    /// the node has still to be told.
    fn let_in(&mut self, connection: u64, node: NodeId, epoch: u64) {
        let shared = self.shared();
        let HeadSide::Here(hosted) = &mut self.cluster.head else { return };
        hosted.nodes.entry(node).or_insert_with(|| {
            let (frames, gate) = gate::open(&shared, move |daemon, frame| {
                let taken = daemon.frame_for_head(node, frame);
                if let Err(fault) = &taken {
                    log!("nothing more of node {} is heard by the head: {fault}", node.0);
                }
                taken.is_ok()
            });
            let session = PeerSession::new(Config::default(), Acknowledging::WhenHandled);
            Member { session, frames, connections: 0, _gate: gate }
        });
        let term = hosted.term(epoch);
        if !hosted.answer(connection, Verdict::Admitted { node, term }) {
            // Its connection is gone already.
            self.tell_head(head::Input::NodeLost { node });
        }
    }

    fn member_connected(&mut self, node: NodeId) -> Option<Line> {
        let HeadSide::Here(hosted) = &mut self.cluster.head else { return None };
        let member = hosted.nodes.get_mut(&node)?;
        member.connections += 1;
        Some(Line {
            session: member.session.clone(),
            frames: member.frames.clone(),
            number: member.connections,
            office: hosted.office.subscribe(),
        })
    }

    fn member_disconnected(&mut self, node: NodeId, connection: u64) {
        let HeadSide::Here(hosted) = &mut self.cluster.head else { return };
        if hosted.nodes.get(&node).is_some_and(|member| member.connections == connection) {
            self.tell_head(head::Input::NodeLost { node });
        }
    }

    fn send_from_head(&mut self, to: ProcessId, message: &Message) {
        let Some(frame) = frame_of(to, ProcessId::HEAD, message) else { return };
        if let HeadSide::Here(hosted) = &mut self.cluster.head
            && let Some(member) = hosted.nodes.get(&to.node())
        {
            member.session.send(frame);
        }
    }

    fn head_handled(&mut self, node: NodeId) {
        let HeadSide::Here(hosted) = &mut self.cluster.head else { return };
        if let Some(member) = hosted.nodes.get(&node) {
            member.session.handled();
        } else if node == self.id {
            // Its own node's messages go without a session.
            hosted.unhandled.pop_front();
        }
    }

    /// A frame of a node for the head.
    pub(super) fn frame_for_head(&mut self, node: NodeId, frame: &[u8]) -> Result<(), String> {
        let (header, body) = split(frame)?;
        if header.from.node() != node || header.from == ProcessId::HEAD {
            return Err(format!("it speaks for {:?}", header.from));
        }
        let message: Message = wire::decode(body).map_err(|error| error.to_string())?;
        self.tell_head(head::Input::Received { via: node, from: header.from, message });
        Ok(())
    }
}
