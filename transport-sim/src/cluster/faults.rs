//! Faults taking place.

use shoal_core::ids::{NodeId, ProcessId};
use shoal_core::node;
use shoal_core::value::Death;
use shoal_core::{Span, Time};

use super::{Cluster, Event, HostState, micros};
use crate::{Content, Fault};

impl<C: Content> Cluster<C> {
    pub(super) fn schedule_faults(&mut self) {
        for (number, fault) in self.faults.clone().into_iter().enumerate() {
            if let Some(at) = fault.at_micros() {
                self.schedule(Time(micros(at).0), Event::Fault(number));
            }
        }
        self.schedule(Time(micros(self.settings.heal_at_micros).0), Event::Heal);
    }

    pub(super) fn timed_fault(&mut self, number: usize) {
        if !self.healed {
            let fault = self.faults[number].clone();
            self.strike(&fault);
        }
    }

    /// Let a fault take place now.
    pub fn strike(&mut self, fault: &Fault) {
        let now = self.now();
        self.trace.record(now, ProcessId::HEAD, '!', fault);
        match *fault {
            Fault::Kill { choice, .. } => {
                if let Some(victim) = self.choose_process(choice, false) {
                    self.count("a worker was killed");
                    self.die(victim, Death::Signalled { signal: 9 }, true);
                }
            }
            Fault::DriverDies { choice, .. } => {
                if let Some(victim) = self.choose_process(choice, true) {
                    self.count("a driver was killed");
                    self.die(victim, Death::Signalled { signal: 9 }, true);
                }
            }
            Fault::Pause { choice, micros: length, .. } => self.pause(choice, micros(length)),
            Fault::DiskFull { choice, micros: length, .. } => {
                let until = now + micros(length);
                if let Some(node) = self.choose_node(choice)
                    && let Some(daemon) = self.nodes.get_mut(&node)
                {
                    daemon.disk_full_until = until;
                }
            }
            Fault::Unreadable { choice, micros: length, .. } => {
                let until = now + micros(length);
                if let Some(node) = self.choose_node(choice)
                    && let Some(daemon) = self.nodes.get_mut(&node)
                {
                    daemon.unreadable_until = until;
                }
            }
            Fault::MemoryPressure { choice, .. } => self.memory_pressure(choice),
            Fault::HostCrash { choice, micros: length, .. } => {
                let host = self.choose_host(choice);
                self.count("a machine lost power");
                self.hosts[host].down_until = now + micros(length);
                self.crash_host(host);
            }
            Fault::DaemonCrash { choice, .. } => {
                if let Some(node) = self.choose_node(choice) {
                    self.count("a daemon crashed");
                    self.crash_daemon(node);
                }
            }
            Fault::HostPause { choice, micros: length, .. } => self.pause_host(choice, micros(length)),
            Fault::Slow { choice, micros: length, by_micros, .. } => {
                let host = self.choose_host(choice);
                self.count("a machine was slow");
                self.hosts[host].slow_until = now + micros(length);
                self.hosts[host].slow_by = micros(by_micros);
            }
            Fault::Preempt { choice, micros: notice, .. } => {
                if let Some(node) = self.choose_node(choice) {
                    self.count("a node was preempted");
                    self.schedule(now + micros(notice), Event::NodeStops(node));
                }
            }
            Fault::Drain { choice, micros: length, ends, .. } => {
                if let Some(node) = self.choose_node(choice) {
                    self.drain(node, micros(length), ends);
                }
            }
            Fault::Shutdown { choice, .. } => {
                if let Some(node) = self.choose_node(choice) {
                    self.count("a node was shut down");
                    self.shut_down(node);
                }
            }
            Fault::HeadCrash { log, micros, .. } => self.replace_head(log, micros),
            Fault::HeadPause { micros: length, .. } => {
                self.count("the head was paused");
                for head in self.heads.values_mut() {
                    head.paused_until = head.paused_until.max(now + micros(length));
                }
            }
            Fault::SecondHead { choice, micros, .. } => self.second_head(choice, micros),
            Fault::Partition { choice, micros, one_way, .. } => self.partition(choice, micros, one_way),
            Fault::Cut { choice, .. } => self.cut_host(choice),
            Fault::Clog { choice, micros: length, by_micros, .. } => {
                let host = self.choose_host(choice);
                self.count("a machine was hard to reach");
                self.hosts[host].clogged_until = now + micros(length);
                self.hosts[host].clogged_by = micros(by_micros);
            }
            Fault::Crash { .. }
            | Fault::ForkFails { .. }
            | Fault::StartCrash { .. }
            | Fault::TornSpill { .. }
            | Fault::RestoreFails { .. }
            | Fault::ReserveFails { .. } => {}
        }
    }

    fn choose_host(&self, choice: u64) -> usize {
        (choice % self.hosts.len() as u64) as usize
    }

    fn choose_node(&self, choice: u64) -> Option<NodeId> {
        let index = choice.checked_rem(self.nodes.len() as u64)?;
        self.nodes.keys().nth(index as usize).copied()
    }

    fn choose_process(&self, choice: u64, driver: bool) -> Option<ProcessId> {
        let fits: Vec<ProcessId> = self
            .processes
            .iter()
            .filter(|(_, process)| process.driver.is_some() == driver)
            .map(|(id, _)| *id)
            .collect();
        let index = choice.checked_rem(fits.len() as u64)?;
        fits.get(index as usize).copied()
    }

    /// Some process or daemon stops for a while.
    fn pause(&mut self, choice: u64, length: Span) {
        let until = self.now() + length;
        let index = (choice % (self.processes.len() + self.nodes.len()).max(1) as u64) as usize;
        if let Some(process) = self.processes.values_mut().nth(index) {
            process.paused_until = process.paused_until.max(until);
        } else if let Some(daemon) = self.nodes.values_mut().nth(index - self.processes.len()) {
            daemon.paused_until = daemon.paused_until.max(until);
        }
        self.count("a process was paused");
    }

    fn pause_host(&mut self, choice: u64, length: Span) {
        let host = self.choose_host(choice);
        let until = self.now() + length;
        for process in self.processes.values_mut().filter(|process| process.host == host) {
            process.paused_until = process.paused_until.max(until);
        }
        for daemon in self.nodes.values_mut().filter(|daemon| daemon.host == host) {
            daemon.paused_until = daemon.paused_until.max(until);
        }
        for head in self.heads.values_mut().filter(|head| head.host == host) {
            head.paused_until = head.paused_until.max(until);
        }
        self.count("a machine was paused");
    }

    /// Some machines and the others cannot reach each other, or the some cannot reach the others.
    fn partition(&mut self, choice: u64, micros_long: u64, one_way: bool) {
        let alone = if choice.is_multiple_of(2) { Some(self.choose_host(choice >> 8)) } else { None };
        let inside = |host: usize| match alone {
            Some(alone) => host == alone,
            None => choice >> (8 + host % 24) & 1 == 1,
        };
        self.count(if one_way { "a partition in one direction" } else { "a partition" });
        for from in (0..self.hosts.len()).filter(|host| inside(*host)) {
            for to in (0..self.hosts.len()).filter(|host| !inside(*host)) {
                self.block(from, to, micros_long);
                if !one_way {
                    self.block(to, from, micros_long);
                }
            }
        }
    }

    fn memory_pressure(&mut self, choice: u64) {
        let Some(node) = self.choose_node(choice) else { return };
        let mut workers = self.processes_of(node);
        workers.retain(|id| self.processes[id].driver.is_none());
        let workers = workers.into_iter().map(|id| (id, self.random.below(1 << 30))).collect();
        let detail = String::from("memory is 97% used");
        self.count("memory pressure");
        self.tell_node(node, node::Input::MemoryPressure { detail, workers });
    }

    /// Nothing goes wrong any more.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.network.heal();
        self.heal_heads();
        self.heal_drains();
        for host in &mut self.hosts {
            host.slow_until = Time(0);
            host.clogged_until = Time(0);
        }
        for host in 0..self.hosts.len() {
            self.hosts[host].down_until = Time(0);
            if self.hosts[host].state == HostState::Down {
                self.boot_in(host, self.settings.restart_micros);
            }
        }
        for daemon in self.nodes.values_mut() {
            daemon.unreadable_until = Time(0);
        }
        self.unblock_all();
    }
}
