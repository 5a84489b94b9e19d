//! Connections between daemons and to the head, the sessions above them, and what goes wrong below.

use shoal_core::Time;
use shoal_core::ids::{NodeId, ProcessId};
use shoal_core::message::Message;
use shoal_core::session::{self, Acknowledging, Packet, Session};

use super::{Cluster, Envelope, Event, Frame};
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

    /// A session with another peer begins, which gets what the one before has not acknowledged.
    pub(super) fn succeed_end(&mut self, before: Way, after: Way) {
        let mut end = self.new_end(Acknowledging::OnReceipt);
        if let Some(old) = self.ends.remove(&before) {
            for envelope in old.session.into_unacknowledged() {
                end.session.send(envelope);
            }
        }
        self.ends.insert(after, end);
    }

    /// The connections that work between two machines, with their serial numbers.
    pub(super) fn connections_between(&self, one: usize, other: usize) -> Vec<((ProcessId, ProcessId), u64)> {
        let wanted = (one.min(other), one.max(other));
        let is_between = |link: &(ProcessId, ProcessId)| {
            let hosts = self.host_of(link.0).zip(self.host_of(link.1));
            hosts.is_some_and(|(a, b)| (a.min(b), a.max(b)) == wanted)
        };
        let up = self.connections.iter().filter(|(_, connection)| connection.up);
        up.filter(|(link, _)| is_between(link)).map(|(link, connection)| (*link, connection.serial)).collect()
    }

    /// The machine at an address.
    pub(super) fn host_of(&self, address: ProcessId) -> Option<usize> {
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

    /// Whether the session that a message from this node would take is full.
    pub(super) fn is_session_full(&self, from: NodeId, to: ProcessId) -> bool {
        let Some(daemon) = self.nodes.get(&from) else { return false };
        let peer = if to == ProcessId::HEAD { daemon.head.address } else { ProcessId::daemon(to.node()) };
        let way = Way { from: ProcessId::daemon(from), to: peer };
        self.ends.get(&way).is_some_and(|end| end.session.is_full())
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
    pub(super) fn connect(&mut self, one: ProcessId, other: ProcessId) {
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
