//! How messages find their way: within a machine, and through daemons between machines.

use shoal_core::ids::{NodeId, ProcessId};
use shoal_core::message::Message;
use shoal_core::{Span, Time, head, node, owner};

use super::{Cluster, Envelope, Event, Frame, micros};
use crate::{Content, Way};

impl<C: Content> Cluster<C> {
    /// A process sends: to its daemon, to another process of its node by a direct link or through the
    /// daemon, or to another machine, through the daemon.
    pub(super) fn send(&mut self, from: ProcessId, to: ProcessId, message: Message) {
        let daemon = ProcessId::daemon(from.node());
        let local = to.node() == from.node() && !to.is_daemon() && !to.is_steward();
        let envelope = Envelope { from, to, message };
        if !local {
            self.dispatch(Way { from, to: daemon }, Frame::Message(envelope));
            return;
        }
        let linked = self.direct.contains(&(from, to));
        let detour = if linked {
            self.random.chance(self.settings.detour_per_mille)
        } else {
            // Whether a first message waits for a link is the transport's business.
            self.random.chance(500)
        };
        if detour && !belongs_to_link(&envelope.message) {
            self.count("a message took a detour");
            self.dispatch(Way { from, to: daemon }, Frame::Message(envelope));
            return;
        }
        if !self.processes.contains_key(&to) {
            // There is no such process any more: the link is refused, which is a closed one.
            self.dispatch(Way { from: to, to: from }, Frame::Closed);
            return;
        }
        self.direct.insert((from, to));
        self.direct.insert((to, from));
        self.dispatch(Way { from, to }, Frame::Message(envelope));
    }

    /// Within a machine.
    pub(super) fn dispatch(&mut self, way: Way, frame: Frame) {
        let now = self.now();
        let at = self.network.send(now, way, frame, &self.settings.delays);
        self.schedule(at, Event::Arrive { way, quiet: false });
    }

    /// From inside a daemon: its own machine's word, or something that it forwards.
    pub(super) fn send_from_daemon(&mut self, node: NodeId, envelope: Envelope) {
        let to = envelope.to;
        if to == ProcessId::HEAD {
            self.send_to_head(node, envelope);
        } else if to.node() != node {
            self.send_to_node(node, envelope);
        } else {
            self.deliver(node, envelope);
        }
    }

    /// A message has come to the machine of the process that it is for.
    pub(super) fn deliver(&mut self, node: NodeId, envelope: Envelope) {
        let Envelope { from, to, message } = envelope;
        let daemon = ProcessId::daemon(node);
        if to == daemon {
            if from == daemon {
                self.broken = Some(format!("{from:?} sends {message:?} to itself"));
            }
            self.tell_node(node, node::Input::Received { from, message });
        } else if to.is_steward() {
            // After what the daemon is at: in order, and not within it.
            let now = self.now();
            self.schedule(now, Event::Steward(Box::new(Envelope { from, to, message })));
        } else if self.processes.contains_key(&to) {
            self.dispatch(Way { from: daemon, to }, Frame::Message(Envelope { from, to, message }));
        }
    }

    pub(super) fn arrive(&mut self, way: Way, quiet: bool) {
        let paused_until = self.paused_until(way.to);
        if paused_until > self.now() {
            self.schedule(paused_until, Event::Arrive { way, quiet });
            return;
        }
        if self.hold_if_blocked(way, quiet) {
            return;
        }
        if self.must_wait(way) {
            self.count("a process waited for a full session");
            self.schedule(self.now() + micros(1_000), Event::Arrive { way, quiet });
            return;
        }
        let Some(frame) = self.network.arrive(way) else {
            return;
        };
        self.slow_down(way.to);
        match frame {
            Frame::Packet { serial, packet } => self.packet_arrives(way, serial, packet),
            Frame::Message(envelope) if way.to.is_daemon() => {
                self.send_from_daemon(way.to.node(), envelope);
            }
            Frame::Message(Envelope { from, message, .. }) => {
                if self.processes.get(&way.to).is_some_and(|process| !process.is_ending()) {
                    self.tell(way.to, owner::Input::Received { from, message });
                }
            }
            Frame::Closed => {
                self.network.forget(way);
                if self.processes.get(&way.to).is_some_and(|process| !process.is_ending()) {
                    self.tell(way.to, owner::Input::LinkClosed { peer: way.from });
                }
            }
            Frame::Exited { death, last_started } => {
                self.network.forget(way);
                let process = way.from;
                let node = way.to.node();
                self.tell_node(node, node::Input::ProcessExited { process, death, last_started });
            }
        }
    }

    /// Something that came for a head through the session of a node.
    pub(super) fn deliver_to_head(&mut self, head: ProcessId, via: NodeId, envelope: Envelope) {
        let Envelope { from, message, .. } = envelope;
        self.tell_head(head, head::Input::Received { via, from, message });
    }

    /// A daemon does not take what it could only pile up: the process waits.
    fn must_wait(&self, way: Way) -> bool {
        match self.network.peek(way) {
            Some(Frame::Message(envelope)) if way.to.is_daemon() => {
                self.is_session_full(way.to.node(), envelope.to)
            }
            _ => false,
        }
    }

    /// On a slow machine, whoever gets something is busy with it for a while.
    fn slow_down(&mut self, id: ProcessId) {
        let now = self.now();
        let host = self.heads.get(&id).map(|head| head.host);
        let host = host.or_else(|| self.processes.get(&id).map(|process| process.host));
        let host = host.or_else(|| self.nodes.get(&id.node()).map(|daemon| daemon.host));
        let Some(host) = host.filter(|host| self.hosts[*host].slow_until > now) else { return };
        let until = now + self.random.span(Span(0), self.hosts[host].slow_by);
        if let Some(head) = self.heads.get_mut(&id) {
            head.paused_until = head.paused_until.max(until);
        } else if let Some(process) = self.processes.get_mut(&id) {
            process.paused_until = process.paused_until.max(until);
        } else if let Some(daemon) = self.nodes.get_mut(&id.node()) {
            daemon.paused_until = daemon.paused_until.max(until);
        }
    }

    fn paused_until(&self, id: ProcessId) -> Time {
        if let Some(head) = self.heads.get(&id) {
            return head.paused_until;
        }
        if id.is_daemon() {
            return self.nodes.get(&id.node()).map_or(Time(0), |daemon| daemon.paused_until);
        }
        self.processes.get(&id).map_or(Time(0), |process| process.paused_until)
    }
}

/// Messages about assigned tasks: they only make sense on the link that the task was pushed on.
fn belongs_to_link(message: &Message) -> bool {
    matches!(
        message,
        Message::PushTask(_)
            | Message::TakeBack { .. }
            | Message::TaskFinished(_)
            | Message::TasksReturned { .. }
            | Message::GeneratorItem { .. }
            | Message::GeneratorConsumed { .. }
    )
}
