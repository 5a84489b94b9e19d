//! Machines: what starts on them and how it ends.

use shoal_core::ids::{NodeId, ProcessId};
use shoal_core::value::Death;
use shoal_core::{Span, Time};

use super::clock::Clock;
use super::{Cluster, Event, HostSettings};
use crate::Content;

/// A machine.
#[derive(Debug)]
pub struct Host {
    /// What it has.
    pub settings: HostSettings,
    /// How far its daemon is.
    pub state: HostState,
    /// A daemon runs here, when all is well.
    pub(super) has_daemon: bool,
    pub(super) clock: Clock,
    /// Counts the daemons that ran here.
    pub(super) life: u32,
    /// Until then, whatever happens here takes up to so long.
    pub(super) slow_until: Time,
    pub(super) slow_by: Span,
    /// Until then, packets take up to so long to come here.
    pub(super) clogged_until: Time,
    pub(super) clogged_by: Span,
    /// Until then nothing starts here.
    pub(super) down_until: Time,
}

/// How far a machine's daemon is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HostState {
    /// There is none.
    Down,
    /// It wants to be let into the cluster.
    Joining,
    /// It is a member, or was when it heard of the head last.
    Member(NodeId),
}

impl Host {
    pub(super) fn new(settings: &HostSettings) -> Host {
        Host {
            settings: settings.clone(),
            state: HostState::Down,
            has_daemon: true,
            clock: Clock::new(settings),
            life: 0,
            slow_until: Time(0),
            slow_by: Span(0),
            clogged_until: Time(0),
            clogged_by: Span(0),
            down_until: Time(0),
        }
    }
}

impl<C: Content> Cluster<C> {
    pub(super) fn boot_in(&mut self, host: usize, most_micros: u64) {
        if self.hosts[host].has_daemon {
            let life = self.hosts[host].life;
            self.schedule_in(most_micros, Event::Boot { host, life });
        }
    }

    pub(super) fn daemon_boots(&mut self, host: usize, life: u32) {
        let now = self.now();
        let machine = &mut self.hosts[host];
        if machine.life != life || machine.state != HostState::Down {
            return;
        }
        if machine.down_until > now {
            let at = machine.down_until;
            return self.schedule(at, Event::Boot { host, life });
        }
        machine.life += 1;
        machine.state = HostState::Joining;
        let life = machine.life;
        self.greet(host, life);
    }

    /// Whether a daemon starts on the machine when there is none; one that runs is left alone.
    pub fn set_daemon(&mut self, host: usize, runs: bool) {
        self.hosts[host].has_daemon = runs;
        if runs && self.hosts[host].state == HostState::Down {
            self.boot_in(host, self.settings.restart_micros);
        }
    }

    /// The member that a machine is.
    pub fn node_of(&self, host: usize) -> Option<NodeId> {
        match self.hosts.get(host)?.state {
            HostState::Member(node) => Some(node),
            HostState::Down | HostState::Joining => None,
        }
    }

    /// The processes of a node.
    pub fn processes_of(&self, node: NodeId) -> Vec<ProcessId> {
        let range = ProcessId::new(node, 1)..=ProcessId::new(node, u32::MAX);
        self.processes.range(range).map(|(id, _)| *id).collect()
    }

    /// A daemon ends itself: it was declared dead, or its cluster is gone. It ends its processes first.
    pub(super) fn node_stops(&mut self, node: NodeId) {
        self.crash_node(node);
    }

    /// A machine loses power: everything on it is gone at once, and nobody is told.
    pub fn crash_host(&mut self, host: usize) {
        self.crash_heads_on(host);
        self.crash_what_is_up(host);
    }

    fn crash_what_is_up(&mut self, host: usize) {
        match self.hosts[host].state {
            HostState::Member(node) => self.crash_node(node),
            HostState::Joining => self.daemon_is_down(host),
            HostState::Down => {}
        }
    }

    /// A daemon and all processes of its node are gone at once.
    fn crash_node(&mut self, node: NodeId) {
        let Some(daemon) = self.daemon_ends(node) else { return };
        for process in self.processes_of(node) {
            self.vanish(process, Death::NodeDied { node });
        }
        self.drop_ends(ProcessId::daemon(node));
        self.daemon_is_down(daemon.host);
    }

    /// A daemon crashes; its processes find their links closed, and end.
    pub fn crash_daemon(&mut self, node: NodeId) {
        let Some(daemon) = self.daemon_ends(node) else { return };
        for process in self.processes_of(node) {
            self.schedule_in(self.settings.reap_micros, Event::Ends { process, code: 1 });
        }
        self.drop_ends(ProcessId::daemon(node));
        self.daemon_is_down(daemon.host);
    }

    /// A daemon ends its processes and then itself. The head finds that its connection is gone.
    pub fn shut_down(&mut self, node: NodeId) {
        for process in self.processes_of(node) {
            self.die(process, Death::Exited { code: 0 }, false);
        }
        self.schedule_in(2 * self.settings.reap_micros, Event::NodeStops(node));
    }

    fn daemon_is_down(&mut self, host: usize) {
        self.hosts[host].state = HostState::Down;
        self.hosts[host].life += 1;
        self.boot_in(host, self.settings.restart_micros);
        if !self.settings.residence.is_apart() {
            self.crash_heads_on(host);
        }
    }

    fn crash_heads_on(&mut self, host: usize) {
        let on_it = self.heads.iter().filter(|(_, head)| head.host == host);
        let heads: Vec<ProcessId> = on_it.map(|(address, _)| *address).collect();
        heads.into_iter().for_each(|head| self.crash_head(head));
    }

    /// The daemon that a head lives in ends with it.
    pub(super) fn crash_home(&mut self, host: usize) {
        if !self.settings.residence.is_apart() {
            self.crash_what_is_up(host);
        }
    }
}
