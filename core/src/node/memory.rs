//! Memory pressure: which worker's loss costs least.

use alloc::format;
use alloc::vec::Vec;

use super::Node;
use super::outbox::Outbox;
use super::processes::State;
use crate::ids::ProcessId;
use crate::machine::Time;
use crate::value::Death;

/// What the choice of a victim looks at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Candidate {
    process: ProcessId,
    bytes: u64,
    cost: Cost,
}

/// What the loss of a worker costs, cheapest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Cost {
    /// Nothing.
    Idle,
    /// What its task did since the lease was granted: the newest has done least.
    Task { granted: core::cmp::Reverse<Time> },
    /// The state of an actor that can be started again.
    RestartableActor,
    /// An actor, for good.
    Actor,
}

/// Idle workers go together, and one busy worker with them if they hold less than a tenth.
fn victims(candidates: &[Candidate]) -> Vec<ProcessId> {
    let total: u64 = candidates.iter().fold(0, |sum, candidate| sum.saturating_add(candidate.bytes));
    let idle = || candidates.iter().filter(|candidate| candidate.cost == Cost::Idle);
    let idle_bytes: u64 = idle().fold(0, |sum, candidate| sum.saturating_add(candidate.bytes));
    let mut victims: Vec<ProcessId> = idle().map(|candidate| candidate.process).collect();
    if idle_bytes < total / 10 || victims.is_empty() {
        let busy = candidates.iter().filter(|candidate| candidate.cost != Cost::Idle);
        let cheapest = busy.min_by_key(|candidate| {
            (candidate.cost, core::cmp::Reverse((candidate.bytes, candidate.process)))
        });
        victims.extend(cheapest.map(|candidate| candidate.process));
    }
    victims
}

impl Node {
    pub(super) fn memory_pressure(
        &mut self,
        detail: &str,
        workers: &[(ProcessId, u64)],
        out: &mut Outbox,
    ) {
        let dying = |id: &ProcessId| self.processes.worker(*id).is_some_and(|worker| worker.exit.is_some());
        if workers.iter().any(|(id, _)| dying(id)) {
            // What is on its way out may be enough.
            return;
        }
        let candidates: Vec<Candidate> = workers
            .iter()
            .filter_map(|(id, bytes)| Some(Candidate { process: *id, bytes: *bytes, cost: self.cost(*id)? }))
            .collect();
        for victim in victims(&candidates) {
            let bytes = candidates.iter().find(|c| c.process == victim).map_or(0, |c| c.bytes);
            let detail = format!("{detail}; the worker had {} MiB resident", bytes >> 20);
            self.kill_process(victim, Death::OutOfMemory { detail }, out);
        }
    }

    fn cost(&self, id: ProcessId) -> Option<Cost> {
        match &self.processes.worker(id)?.state {
            State::Idle { .. } => Some(Cost::Idle),
            State::Leased(lease) => {
                let granted = core::cmp::Reverse(self.leases.get(*lease)?.granted);
                Some(Cost::Task { granted })
            }
            State::Actor(actor) if self.actors.get(actor)?.restartable => Some(Cost::RestartableActor),
            State::Actor(_) => Some(Cost::Actor),
            State::Starting | State::Retired => None,
        }
    }
}
