//! Faults taking place.

use shoal_core::Time;
use shoal_core::ids::ProcessId;
use shoal_core::node;
use shoal_core::value::Death;
use shoal_transport_sim::Fault;

use super::{Event, World, micros};

impl World {
    pub(super) fn schedule_faults(&mut self) {
        for (number, fault) in self.scenario.faults.clone().into_iter().enumerate() {
            if let Some(at) = time_of(&fault) {
                self.schedule(Time(micros(at).0), Event::Fault(number));
            }
        }
        self.schedule(Time(micros(self.scenario.cluster.heal_at_micros).0), Event::Heal);
    }

    /// After how many effects this process crashes, if it does.
    pub(super) fn doom_of(&self, id: ProcessId) -> Option<u32> {
        let doom = |fault: &Fault| match fault {
            Fault::Crash { process, effects } if *process == id.number() => Some(*effects),
            _ => None,
        };
        self.scenario.faults.iter().find_map(doom)
    }

    pub(super) fn has_fault(&self, which: impl Fn(&Fault) -> bool) -> bool {
        !self.healed && self.scenario.faults.iter().any(which)
    }

    pub(super) fn timed_fault(&mut self, number: usize) {
        if self.healed {
            return;
        }
        let fault = self.scenario.faults[number].clone();
        let now = self.now();
        self.trace.record(now, ProcessId::HEAD, '!', &fault);
        match fault {
            Fault::Kill { choice, .. } => {
                if let Some(victim) = self.choose(choice, false) {
                    self.count("a worker was killed");
                    self.die(victim, Death::Signalled { signal: 9 }, true);
                }
            }
            Fault::DriverDies { choice, .. } => {
                if let Some(victim) = self.choose(choice, true) {
                    self.count("a driver was killed");
                    self.die(victim, Death::Signalled { signal: 9 }, true);
                }
            }
            Fault::Pause { choice, micros: length, .. } => {
                let until = now + micros(length);
                let all = self.processes.len() as u64 + 1;
                match self.processes.values_mut().nth((choice % all) as usize) {
                    Some(process) => process.paused_until = process.paused_until.max(until),
                    None => self.daemon.paused_until = self.daemon.paused_until.max(until),
                }
                self.count("a process was paused");
            }
            Fault::DiskFull { micros: length, .. } => self.daemon.disk_full_until = now + micros(length),
            Fault::MemoryPressure { .. } => self.memory_pressure(),
            _ => {}
        }
    }

    fn choose(&self, choice: u64, driver: bool) -> Option<ProcessId> {
        let fits: Vec<ProcessId> = self
            .processes
            .iter()
            .filter(|(_, process)| process.driver.is_some() == driver)
            .map(|(id, _)| *id)
            .collect();
        let index = choice.checked_rem(fits.len() as u64)?;
        fits.get(index as usize).copied()
    }

    fn memory_pressure(&mut self) {
        let ids: Vec<ProcessId> = self
            .processes
            .iter()
            .filter(|(_, process)| process.driver.is_none())
            .map(|(id, _)| *id)
            .collect();
        let workers = ids.into_iter().map(|id| (id, self.random.below(1 << 30))).collect();
        let detail = String::from("memory is 97% used");
        self.count("memory pressure");
        self.tell_node(node::Input::MemoryPressure { detail, workers });
    }

    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.network.heal();
    }
}

fn time_of(fault: &Fault) -> Option<u64> {
    match fault {
        Fault::Kill { at_micros, .. }
        | Fault::Pause { at_micros, .. }
        | Fault::DiskFull { at_micros, .. }
        | Fault::MemoryPressure { at_micros }
        | Fault::DriverDies { at_micros, .. } => Some(*at_micros),
        Fault::Crash { .. }
        | Fault::ForkFails { .. }
        | Fault::StartCrash { .. }
        | Fault::TornSpill { .. }
        | Fault::RestoreFails { .. }
        | Fault::ReserveFails { .. } => None,
    }
}
