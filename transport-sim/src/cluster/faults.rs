//! Faults taking place.

use shoal_core::ids::{NodeId, ProcessId};
use shoal_core::node;
use shoal_core::value::Death;
use shoal_core::{Span, Time};

use super::{Cluster, Event, micros};
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
            Fault::MemoryPressure { choice, .. } => self.memory_pressure(choice),
            Fault::Crash { .. }
            | Fault::ForkFails { .. }
            | Fault::StartCrash { .. }
            | Fault::TornSpill { .. }
            | Fault::RestoreFails { .. }
            | Fault::ReserveFails { .. } => {}
        }
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
        let blocked: Vec<(usize, usize)> = self.blocked.keys().copied().collect();
        for (from, to) in blocked {
            self.unblock(from, to);
        }
    }
}
