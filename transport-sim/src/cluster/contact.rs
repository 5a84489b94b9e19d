//! How daemons find a head, are let in, and come back after a cut or to another head.

use shoal_core::ids::{NodeId, ProcessId};
use shoal_core::node;
use shoal_core::session::Acknowledging;

use super::daemon::Contact;
use super::{Cluster, Event, Fact, HeadProcess, HostState};
use crate::{Content, Way};

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

impl<C: Content> Cluster<C> {
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
        let head = self.head_at_home(host).unwrap_or_else(|| *self.random.pick(&reachable));
        let connection = self.next_greeting;
        self.next_greeting += 1;
        self.greetings.insert(connection, Greeting { host, life, head, node });
        let most = self.handshake_micros(host, head);
        self.schedule_in(most, Event::Greeted(connection));
    }

    /// The head in the daemon of this machine, which looks no further.
    fn head_at_home(&self, host: usize) -> Option<ProcessId> {
        let at_home = self.heads.iter().find(|(_, head)| head.host == host)?;
        (!self.settings.residence.is_apart()).then_some(*at_home.0)
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
            // Each head counts on from the one before: one that has not is not the next.
            if known.epoch >= process.epoch && known.address != head {
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
        // A head that has forgotten the node meanwhile has closed the connection.
        let forgotten = !self.has_end(Way { from: head, to: ProcessId::daemon(number) });
        if blocked || forgotten || !here {
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
                self.facts.push(Fact::NodeJoined { node: number, host });
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
        self.succeed_end(Way { from: way.from, to: before.address }, way);
        self.connect(way.from, way.to);
        self.count("a node changed to another head");
        self.tell_node(node, node::Input::HeadChanged { epoch: contact.epoch });
    }
}
