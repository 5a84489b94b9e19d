//! Connections between daemons and to the head, the sessions above them, and what goes wrong below.

use shoal_core::ids::{NodeId, ProcessId};
use shoal_core::message::Message;
use shoal_core::session::{self, Acknowledging, Packet, Session};
use shoal_core::{Time, node};

use super::daemon::Contact;
use super::{Cluster, Envelope, Event, Frame, HeadProcess, HostState, micros};
use crate::{Content, Way};

/// What a session counts for any message.
const MESSAGE_BYTES: usize = 256;

impl session::Frame for Envelope {
    fn bytes(&self) -> usize {
        MESSAGE_BYTES
    }
}

/// One end of a session.
#[derive(Debug)]
pub(super) struct End {
    session: Session<Envelope>,
    /// The connection that it believes to have.
    serial: Option<u64>,
    timer: Option<Time>,
}

/// Two daemons, or a head and a daemon.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// The latest connection between them.
    serial: u64,
    /// It works, as far as somebody who sees both ends can say.
    up: bool,
    dialing: bool,
}

/// A daemon that has found a head and waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeting {
    pub(super) host: usize,
    pub(super) life: u32,
    pub(super) head: ProcessId,
    /// Its number, if it has one.
    pub(super) node: Option<NodeId>,
}

/// What the head has answered.
#[derive(Debug)]
pub(super) struct Welcome {
    pub(super) greeting: Greeting,
    /// Number and epoch; nothing if the daemon was turned away.
    pub(super) admitted: Option<(NodeId, u64)>,
}

fn sorted(one: ProcessId, other: ProcessId) -> (ProcessId, ProcessId) {
    (one.min(other), one.max(other))
}

impl<C: Content> Cluster<C> {
    fn new_end(&self, acknowledging: Acknowledging) -> End {
        let config = session::Config {
            unacknowledged_bytes_max: self.settings.session_bytes,
            acknowledge_frames: self.settings.acknowledge_frames,
            ..session::Config::default()
        };
        End { session: Session::new(config, acknowledging), serial: None, timer: None }
    }

    pub(super) fn has_end(&self, way: Way) -> bool {
        self.ends.contains_key(&way)
    }

    pub(super) fn add_end(&mut self, way: Way, acknowledging: Acknowledging) {
        let end = self.new_end(acknowledging);
        self.ends.insert(way, end);
    }

    /// The machine at an address.
    fn host_of(&self, address: ProcessId) -> Option<usize> {
        if let Some(head) = self.heads.get(&address) {
            return Some(head.host);
        }
        self.nodes.get(&address.node()).map(|daemon| daemon.host)
    }

    /// Bytes that the sessions of this end keep, at most for one.
    pub fn unacknowledged_bytes(&self, address: ProcessId) -> usize {
        let first = Way { from: address, to: ProcessId(0) };
        let last = Way { from: address, to: ProcessId(u64::MAX) };
        let bytes = |(_, end): (&Way, &End)| end.session.unacknowledged_bytes();
        self.ends.range(first..=last).map(bytes).max().unwrap_or(0)
    }

    // --- Sending ---------------------------------------------------------------------------------

    pub(super) fn send_to_node(&mut self, from: NodeId, envelope: Envelope) {
        let to = envelope.to.node();
        let Some(daemon) = self.nodes.get(&from) else { return };
        if daemon.has_forgotten(to) {
            return;
        }
        let way = Way { from: ProcessId::daemon(from), to: ProcessId::daemon(to) };
        if !self.ends.contains_key(&way) {
            self.add_end(way, Acknowledging::OnReceipt);
            self.dial_in(way.from, way.to);
        }
        self.send_on(way, envelope);
    }

    pub(super) fn send_to_head(&mut self, from: NodeId, envelope: Envelope) {
        let Some(daemon) = self.nodes.get(&from) else { return };
        self.send_on(Way { from: ProcessId::daemon(from), to: daemon.head.address }, envelope);
    }

    pub(super) fn send_on(&mut self, way: Way, envelope: Envelope) {
        if let Some(end) = self.ends.get_mut(&way) {
            end.session.send(envelope);
            self.pump(way);
        }
    }

    /// Write what the session of an end has to say.
    fn pump(&mut self, way: Way) {
        while let Some(end) = self.ends.get_mut(&way)
            && let Some(serial) = end.serial
            && let Some(packet) = end.session.next_packet()
        {
            self.write_packet(way, serial, packet);
        }
        let Some(end) = self.ends.get_mut(&way) else { return };
        if let Some(due) = end.session.poll_timeout()
            && end.timer.is_none_or(|armed| due < armed)
        {
            end.timer = Some(due);
            self.heap.schedule(due, Event::SessionTimer(way));
        }
    }

    pub(super) fn session_timer(&mut self, way: Way) {
        let now = self.now();
        let Some(end) = self.ends.get_mut(&way) else { return };
        if end.timer.is_none_or(|due| due > now) {
            return;
        }
        end.timer = None;
        end.session.handle_timeout(now);
        self.pump(way);
    }

    fn write_packet(&mut self, way: Way, serial: u64, packet: Packet<Envelope>) {
        let (Some(from), Some(to)) = (self.host_of(way.from), self.host_of(way.to)) else { return };
        let quiet = is_quiet(&packet);
        let mut delays = if from == to { self.settings.delays } else { self.settings.far };
        if self.hosts[to].clogged_until > self.now() {
            delays.most = delays.most.max(self.hosts[to].clogged_by);
        }
        let loss = self.settings.loss;
        let lossy = !self.healed && from != to && !loss.is_none();
        if lossy && self.random.chance(loss.drop_per_mille) {
            self.count("a packet was lost");
            return self.spoil(way, serial);
        }
        let twice = lossy && self.random.chance(loss.duplicate_per_mille);
        let copy = twice.then(|| packet.clone());
        let now = self.now();
        let at = self.network.send(now, way, Frame::Packet { serial, packet }, &delays);
        self.schedule(at, Event::Arrive { way, quiet });
        if let Some(packet) = copy {
            self.count("a packet came twice");
            let at = self.network.send(now, way, Frame::Packet { serial, packet }, &delays);
            self.schedule(at, Event::Arrive { way, quiet });
        }
        if lossy && self.random.chance(loss.reorder_per_mille) {
            self.count("a packet was overtaken");
            self.network.swap_last(way);
            self.spoil(way, serial);
        }
    }

    /// No connection goes on without what it has lost: this one ends before long.
    fn spoil(&mut self, way: Way, serial: u64) {
        let link = sorted(way.from, way.to);
        self.schedule_in(self.settings.keepalive_micros, Event::Keepalive { link, serial });
    }

    // --- Receiving -------------------------------------------------------------------------------

    pub(super) fn packet_arrives(&mut self, way: Way, serial: u64, packet: Packet<Envelope>) {
        let now = self.now();
        let back = way.back();
        let Some(end) = self.ends.get_mut(&back) else { return };
        if end.serial != Some(serial) {
            return;
        }
        match end.session.receive(now, packet) {
            Ok(frame) => {
                self.pump(back);
                if let Some(envelope) = frame {
                    self.envelope_arrives(way, envelope);
                }
            }
            Err(fault) => {
                self.count("a session found that something was missing");
                if fault.ends_session() {
                    self.broken = Some(format!("{way:?}: {fault}"));
                }
                self.end_is_cut(back);
                self.cut(way.from, way.to);
            }
        }
    }

    fn envelope_arrives(&mut self, way: Way, envelope: Envelope) {
        if self.heads.contains_key(&way.to) {
            return self.deliver_to_head(way.to, way.from.node(), envelope);
        }
        let node = way.to.node();
        if !self.heads.contains_key(&way.from) && envelope.from.node() != way.from.node() {
            self.broken = Some(format!("{:?} forwards what {:?} says", way.from, envelope.from));
        }
        self.deliver(node, envelope);
    }

    /// A head has dealt with the next message of a node.
    pub(super) fn handled(&mut self, head: ProcessId, node: NodeId) {
        let now = self.now();
        let way = Way { from: head, to: ProcessId::daemon(node) };
        if let Some(end) = self.ends.get_mut(&way) {
            end.session.handled(now);
            self.pump(way);
        }
    }

    // --- Cuts ------------------------------------------------------------------------------------

    /// The connection between two ends breaks; each notices in its own time.
    pub(super) fn cut(&mut self, one: ProcessId, other: ProcessId) {
        let Some(connection) = self.connections.get_mut(&sorted(one, other)) else { return };
        if !std::mem::take(&mut connection.up) {
            return;
        }
        let serial = connection.serial;
        for way in [Way { from: one, to: other }, Way { from: other, to: one }] {
            self.network.lose_end(way);
            self.schedule_in(self.settings.redial_micros, Event::CutNoticed { way, serial });
        }
    }

    /// All connections of a machine break.
    pub(super) fn cut_host(&mut self, choice: u64) {
        let host = (choice % self.hosts.len() as u64) as usize;
        self.count("the connections of a machine broke");
        let of_host = |address: ProcessId| self.host_of(address) == Some(host);
        let links: Vec<(ProcessId, ProcessId)> = self
            .connections
            .keys()
            .copied()
            .filter(|(one, other)| of_host(*one) || of_host(*other))
            .collect();
        for (one, other) in links {
            self.cut(one, other);
        }
    }

    pub(super) fn cut_noticed(&mut self, way: Way, serial: u64) {
        if self.ends.get(&way).is_some_and(|end| end.serial == Some(serial)) {
            self.end_is_cut(way);
        }
    }

    fn end_is_cut(&mut self, way: Way) {
        let Some(end) = self.ends.get_mut(&way) else { return };
        end.serial = None;
        end.timer = None;
        end.session.cut();
        if self.heads.contains_key(&way.from) {
            self.head_lost_node(way.from, way.to.node());
        } else if let Some(daemon) = self.nodes.get_mut(&way.from.node())
            && daemon.head.address == way.to
        {
            daemon.head.connected = false;
            let host = daemon.host;
            self.greet_in(host);
        } else {
            self.dial_in(way.from, way.to);
        }
    }

    pub(super) fn keepalive_ends(&mut self, link: (ProcessId, ProcessId), serial: u64) {
        if self.connections.get(&link).is_some_and(|connection| connection.serial == serial) {
            self.cut(link.0, link.1);
        }
    }

    /// Whoever was here is gone: its connections break.
    pub(super) fn drop_ends(&mut self, address: ProcessId) {
        let first = Way { from: address, to: ProcessId(0) };
        let last = Way { from: address, to: ProcessId(u64::MAX) };
        let peers: Vec<ProcessId> = self.ends.range(first..=last).map(|(way, _)| way.to).collect();
        for peer in peers {
            self.ends.remove(&Way { from: address, to: peer });
            self.network.lose_end(Way { from: address, to: peer });
            self.cut(address, peer);
        }
        self.network.forget_receiver(address);
    }

    /// A daemon hears nothing of that node any more.
    pub(super) fn forget_node(&mut self, id: NodeId, dead: NodeId) {
        if let Some(daemon) = self.nodes.get_mut(&id) {
            daemon.forgotten.insert(dead);
            daemon.offers.retain(|(to, _), _| *to != dead);
        }
        let way = Way { from: ProcessId::daemon(id), to: ProcessId::daemon(dead) };
        self.cut(way.from, way.to);
        self.ends.remove(&way);
    }

    /// A head hears nothing of that node any more.
    pub(super) fn head_forgets(&mut self, head: ProcessId, dead: NodeId) {
        let way = Way { from: head, to: ProcessId::daemon(dead) };
        self.cut(way.from, way.to);
        self.ends.remove(&way);
    }

    // --- Between daemons -------------------------------------------------------------------------

    fn dial_in(&mut self, one: ProcessId, other: ProcessId) {
        let (one, other) = sorted(one, other);
        let connection = self.connections.entry((one, other)).or_default();
        if !std::mem::replace(&mut connection.dialing, true) {
            self.schedule_in(self.settings.redial_micros, Event::Dial(one, other));
        }
    }

    pub(super) fn dial(&mut self, one: ProcessId, other: ProcessId) {
        if let Some(connection) = self.connections.get_mut(&(one, other)) {
            connection.dialing = false;
        }
        let ways = [Way { from: one, to: other }, Way { from: other, to: one }];
        if !ways.iter().any(|way| self.ends.get(way).is_some_and(|end| end.serial.is_none())) {
            return;
        }
        let hosts = self.host_of(one).zip(self.host_of(other));
        let knows = |id: ProcessId, peer: ProcessId| {
            self.nodes.get(&id.node()).is_some_and(|daemon| !daemon.has_forgotten(peer.node()))
        };
        let through = hosts.is_some_and(|(a, b)| !self.is_blocked(a, b) && !self.is_blocked(b, a));
        if !through || !knows(one, other) || !knows(other, one) {
            return self.dial_in(one, other);
        }
        for way in ways {
            if !self.ends.contains_key(&way) {
                self.add_end(way, Acknowledging::OnReceipt);
            }
        }
        self.connect(one, other);
    }

    /// There is a new connection between two ends, and both know it.
    fn connect(&mut self, one: ProcessId, other: ProcessId) {
        let serial = self.next_serial;
        self.next_serial += 1;
        let connection = self.connections.entry(sorted(one, other)).or_default();
        connection.serial = serial;
        connection.up = true;
        let ways = [Way { from: one, to: other }, Way { from: other, to: one }];
        for way in ways {
            if let Some(end) = self.ends.get_mut(&way) {
                end.serial = Some(serial);
                end.timer = None;
                end.session.connected();
            }
        }
        for way in ways {
            self.pump(way);
        }
    }

    // --- To the head -----------------------------------------------------------------------------

    pub(super) fn greet_in(&mut self, host: usize) {
        let life = self.hosts[host].life;
        self.schedule_in(self.settings.redial_micros, Event::Greet { host, life });
    }

    pub(super) fn greet(&mut self, host: usize, life: u32) {
        if self.hosts[host].life != life {
            return;
        }
        let node = match self.hosts[host].state {
            HostState::Down => return,
            HostState::Joining => None,
            HostState::Member(node) => Some(node),
        };
        if node.is_some_and(|node| self.nodes.get(&node).is_none_or(|daemon| daemon.head.connected)) {
            return;
        }
        // A machine that has never been a member cannot tell that a head is the wrong one; nobody adds
        // machines while that is so.
        let right = |head: &HeadProcess| node.is_some() || !head.has_old_log();
        let reachable: Vec<ProcessId> = self
            .heads
            .iter()
            .filter(|(_, head)| right(head))
            .filter(|(_, head)| !self.is_blocked(host, head.host) && !self.is_blocked(head.host, host))
            .map(|(address, _)| *address)
            .collect();
        if reachable.is_empty() {
            return self.greet_in(host);
        }
        let head = *self.random.pick(&reachable);
        let connection = self.next_greeting;
        self.next_greeting += 1;
        self.greetings.insert(connection, Greeting { host, life, head, node });
        let most = self.handshake_micros(host, head);
        self.schedule_in(most, Event::Greeted(connection));
    }

    /// How long one half of a handshake takes at most.
    pub(super) fn handshake_micros(&self, host: usize, head: ProcessId) -> u64 {
        let far = self.heads.get(&head).is_some_and(|head| head.host != host);
        if far { self.settings.far.most.0 / 1_000 } else { 1 }
    }

    pub(super) fn greeted(&mut self, connection: u64) {
        let Some(greeting) = self.greetings.get(&connection).copied() else { return };
        let Greeting { host, life, head, node } = greeting;
        let known = node.and_then(|node| self.nodes.get(&node)).map(|daemon| daemon.head);
        let Some(process) = self.heads.get(&head).filter(|_| self.hosts[host].life == life) else {
            self.greetings.remove(&connection);
            if self.hosts[host].life == life {
                self.greet_in(host);
            }
            return;
        };
        if process.paused_until > self.now() {
            let at = process.paused_until;
            return self.schedule(at, Event::Greeted(connection));
        }
        if let Some(known) = known {
            if known.cluster != process.cluster {
                self.greetings.remove(&connection);
                self.count("a node found that its cluster is gone");
                return self.node_stops(node.expect("members have numbers"));
            }
            if known.epoch > process.epoch {
                self.greetings.remove(&connection);
                self.count("a node refused an old head");
                return self.greet_in(host);
            }
        }
        self.head_is_greeted(head, connection, greeting);
    }

    /// The head's answer has come to the daemon.
    pub(super) fn welcome(&mut self, welcome: Welcome) {
        let Welcome { greeting, admitted } = welcome;
        let Greeting { host, life, head, node } = greeting;
        let here = self.hosts[host].life == life;
        let Some((number, epoch)) = admitted else {
            match node {
                Some(node) if here => {
                    self.count("a node was turned away");
                    self.node_stops(node);
                }
                None if here => self.greet_in(host),
                _ => {}
            }
            return;
        };
        let blocked = self
            .heads
            .get(&head)
            .is_none_or(|head| self.is_blocked(host, head.host) || self.is_blocked(head.host, host));
        if blocked || !here {
            // The connection was gone before the answer came.
            if here {
                self.greet_in(host);
            }
            return self.head_lost_node(head, number);
        }
        let cluster = self.heads.get(&head).map_or(0, |head| head.cluster);
        let contact = Contact { address: head, epoch, cluster, connected: true };
        let way = Way { from: ProcessId::daemon(number), to: head };
        match node {
            None => {
                self.hosts[host].state = HostState::Member(number);
                self.facts.push(super::Fact::NodeJoined { node: number, host });
                self.add_end(way, Acknowledging::OnReceipt);
                self.daemon_begins(host, number, contact);
                self.connect(way.from, head);
            }
            Some(_) => self.head_is_back(number, contact, way),
        }
    }

    /// A member has a head again: the same one, or its successor, which gets what the other one has not
    /// acknowledged.
    fn head_is_back(&mut self, node: NodeId, contact: Contact, way: Way) {
        let Some(daemon) = self.nodes.get_mut(&node) else { return };
        let before = std::mem::replace(&mut daemon.head, contact);
        if before.address == contact.address {
            self.connect(way.from, way.to);
            return;
        }
        let old = self.ends.remove(&Way { from: way.from, to: before.address });
        let mut end = self.new_end(Acknowledging::OnReceipt);
        if let Some(old) = old {
            for envelope in old.session.into_unacknowledged() {
                end.session.send(envelope);
            }
        }
        self.ends.insert(way, end);
        self.connect(way.from, way.to);
        self.count("a node changed to another head");
        self.tell_node(node, node::Input::HeadChanged { epoch: contact.epoch });
    }

    // --- Partitions ------------------------------------------------------------------------------

    /// Whether nothing comes through from one machine to another.
    pub(super) fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.contains_key(&(from, to))
    }

    /// Nothing comes through from one machine to another for so long.
    pub fn block(&mut self, from: usize, to: usize, micros_long: u64) {
        if from == to || self.blocked.contains_key(&(from, to)) {
            return;
        }
        self.blocked.insert((from, to), Vec::new());
        let now = self.now();
        self.schedule(now + micros(micros_long), Event::Unblock { from, to });
        let links: Vec<(ProcessId, ProcessId)> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.up)
            .map(|(link, _)| *link)
            .filter(|(one, other)| {
                let hosts = (self.host_of(*one), self.host_of(*other));
                hosts == (Some(from), Some(to)) || hosts == (Some(to), Some(from))
            })
            .collect();
        if micros_long < self.settings.keepalive_micros {
            return;
        }
        for link in links {
            let serial = self.connections[&link].serial;
            let at = now + micros(self.settings.keepalive_micros);
            self.schedule(at, Event::Keepalive { link, serial });
        }
    }

    pub(super) fn unblock(&mut self, from: usize, to: usize) {
        for event in self.blocked.remove(&(from, to)).unwrap_or_default() {
            self.schedule_in(1_000, event);
        }
    }

    /// Keep what comes on a way that is blocked until it is not.
    pub(super) fn hold_if_blocked(&mut self, way: Way, quiet: bool) -> bool {
        if self.blocked.is_empty() {
            return false;
        }
        let (Some(from), Some(to)) = (self.host_of(way.from), self.host_of(way.to)) else { return false };
        match self.blocked.get_mut(&(from, to)) {
            Some(held) => {
                held.push(Event::Arrive { way, quiet });
                true
            }
            None => false,
        }
    }
}

/// Whether nothing that programs wait for can depend on a packet.
fn is_quiet(packet: &Packet<Envelope>) -> bool {
    match packet {
        Packet::Frame { frame, .. } => {
            matches!(frame.message, Message::Heartbeat | Message::NodeReport { .. } | Message::View { .. })
        }
        Packet::Resume { .. } | Packet::Acknowledge { .. } => true,
    }
}
