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
    pub(super) fn memory_pressure(&mut self, detail: &str, workers: &[(ProcessId, u64)], out: &mut Outbox) {
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
            State::Starting { .. } | State::Retired => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Span;
    use crate::message::Message;
    use crate::node::Effect;
    use crate::node::harness::*;
    use core::cmp::Reverse;

    #[test]
    fn victims_are_those_whose_loss_costs_least() {
        let task = |granted| Cost::Task { granted: Reverse(Time(granted)) };
        // Bytes and cost of each worker, the victims.
        type Case<'a> = (&'a [(u64, Cost)], &'a [u32]);
        let cases: [Case; 8] = [
            (&[], &[]),
            (&[(100, Cost::Actor)], &[1]),
            (&[(100, Cost::Actor), (5, Cost::RestartableActor)], &[2]),
            (&[(100, Cost::RestartableActor), (5, task(1))], &[2]),
            (&[(100, task(1)), (5, task(2))], &[2]),
            // The larger one of two that are equally new.
            (&[(5, task(2)), (100, task(2))], &[2]),
            // Idle workers that hold enough.
            (&[(100, task(1)), (50, Cost::Idle), (5, Cost::Idle)], &[2, 3]),
            // Idle workers that hold next to nothing.
            (&[(100, task(1)), (2, Cost::Idle)], &[2, 1]),
        ];
        for (index, (workers, expected)) in cases.into_iter().enumerate() {
            let candidates: Vec<Candidate> = (1..)
                .zip(workers)
                .map(|(number, (bytes, cost))| Candidate {
                    process: process(number),
                    bytes: *bytes,
                    cost: *cost,
                })
                .collect();
            let chosen: Vec<u32> = victims(&candidates).into_iter().map(ProcessId::number).collect();
            assert_eq!(chosen, expected, "case {index}");
        }
    }

    #[test]
    fn the_newest_task_goes_and_its_lessee_learns_why() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        let cpu = demand(&[("CPU", 1.0)]);
        let (_, old) = node.lease(driver(), &cpu);
        node.pass(Span::from_millis(5));
        let (lease, new) = node.lease(driver(), &cpu);
        let pressure = crate::node::Input::MemoryPressure {
            detail: "97 % of 8 GiB used".into(),
            workers: [(old, 5 << 30), (new, 1 << 30), (process(99), 1)].into(),
        };
        let effects = node.input(pressure.clone());
        let [Effect::Kill { process, death: Death::OutOfMemory { detail } }] = &effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(*process, new);
        assert!(detail.contains("97 %") && detail.contains("1024 MiB"), "{detail}");
        let death = Death::OutOfMemory { detail: detail.clone() };
        assert_eq!(node.input(pressure), [], "one at a time");
        let effects = node.exited(new, KILLED);
        let ended = Message::LeaseEnded { lease, death, last_started: None };
        assert_eq!(sent_to(driver(), &effects), [ended]);
    }

    proptest::proptest! {
        #[test]
        fn at_most_one_busy_worker_goes_and_no_other_would_cost_less(
            workers in proptest::collection::vec((0u64..200, 0u8..4, 0u64..5), 0..8),
        ) {
            let cost = |kind: u8, granted: u64| match kind {
                0 => Cost::Idle,
                1 => Cost::Task { granted: Reverse(Time(granted)) },
                2 => Cost::RestartableActor,
                _ => Cost::Actor,
            };
            let candidates: Vec<Candidate> = (1..)
                .zip(workers)
                .map(|(number, (bytes, kind, granted))| Candidate {
                    process: process(number),
                    bytes,
                    cost: cost(kind, granted),
                })
                .collect();
            let chosen = victims(&candidates);
            let gone = |candidate: &&Candidate| chosen.contains(&candidate.process);
            assert_eq!(chosen.len(), candidates.iter().filter(gone).count(), "nobody twice, nobody else");
            assert_eq!(chosen.is_empty(), candidates.is_empty());
            assert!(candidates.iter().all(|candidate| candidate.cost != Cost::Idle || gone(&candidate)));
            let busy: Vec<&Candidate> = candidates.iter().filter(|c| c.cost != Cost::Idle).collect();
            let lost: Vec<&&Candidate> = busy.iter().filter(|candidate| gone(candidate)).collect();
            assert!(lost.len() <= 1);
            for lost in lost {
                assert!(busy.iter().all(|other| lost.cost <= other.cost), "{lost:?} costs more than others");
            }
        }
    }
}
