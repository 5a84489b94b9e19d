//! The end of a process: everything that it held, owed or waited for.

use super::Node;
use super::outbox::Outbox;
use super::processes::{Process, Role, State, Worker};
use crate::ids::{ProcessId, TaskId};
use crate::message::{ActorEvent, Message};
use crate::value::Death;

impl Node {
    pub(super) fn process_exited(
        &mut self,
        id: ProcessId,
        death: Death,
        last_started: Option<TaskId>,
        out: &mut Outbox,
    ) {
        let by_node = self.processes.worker(id).and_then(|worker| worker.exit.clone());
        let death = by_node.as_ref().and_then(|exit| exit.death.clone()).unwrap_or(death);
        let Some(process) = self.processes.remove(id, &death, out) else { return };
        let Process { job, role, .. } = process;
        if let Role::Worker(worker) = role {
            let unforced = by_node.is_none() || matches!(death, Death::NotStarted { .. });
            self.worker_gone(id, worker, &death, last_started, unforced, out);
        }
        self.lessee_gone(id, out);
        self.store.process_gone(id, out);
        self.owners_died(|owner| owner == id, self.config.node, out);
        out.send(ProcessId::HEAD, Message::ProcessEnded { process: id, death });
        self.closing.extend(job);
    }

    fn worker_gone(
        &mut self,
        id: ProcessId,
        worker: Worker,
        death: &Death,
        last_started: Option<TaskId>,
        unforced: bool,
        out: &mut Outbox,
    ) {
        let Worker { pool, state, holding, proven, .. } = worker;
        if let Some(holding) = holding {
            self.ledger.give_back(holding);
        }
        let came_up = !matches!(state, State::Starting { .. });
        match state {
            State::Starting { .. } => self.pools.remove_starting(pool),
            State::Idle { .. } => self.pools.remove_idle(pool, id),
            State::Leased(lease) => {
                let lessee = self.leases.remove(lease).lessee;
                let death = death.clone();
                out.send(lessee, Message::LeaseEnded { lease, death, last_started });
            }
            State::Actor(actor) => {
                let intended = self.actors.get(&actor).is_some_and(|actor| actor.intended);
                let death = death.clone();
                self.end_actor(actor, ActorEvent::Died { death, intended }, out);
            }
            State::Retired => {}
        }
        if last_started.is_some() {
            self.pools.get_mut(pool).starts.was_of_use();
        } else if unforced && !proven {
            self.start_ended(pool, came_up, death, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::harness::*;

    #[test]
    fn deaths_are_told_to_those_who_watch_then_or_later() {
        let mut node = Harness::with_driver(&[("CPU", 3.0)]);
        let cpu = demand(&[("CPU", 1.0)]);
        let (_, watched) = node.lease(driver(), &cpu);
        let (_, watcher) = node.lease(driver(), &cpu);
        for _ in 0..2 {
            let watch = Message::WatchProcess { process: watched };
            assert_eq!(node.receive(watcher, watch), []);
        }
        let died = Message::ProcessDied { process: watched, death: KILLED };
        assert_eq!(sent_to(watcher, &node.exited(watched, KILLED)), core::slice::from_ref(&died));
        let effects = node.receive(driver(), Message::WatchProcess { process: watched });
        assert_eq!(effects, [send(driver(), died)]);
        assert_eq!(node.exited(watched, KILLED), [], "nobody dies twice");
        // A number that was never given is nobody's.
        assert_eq!(node.receive(driver(), Message::WatchProcess { process: process(999) }), []);
        // A watcher that is gone is not told.
        node.receive(watcher, Message::WatchProcess { process: driver() });
        node.exited(watcher, KILLED);
        let effects = node.exited(driver(), KILLED);
        assert_eq!(sent_to(watcher, &effects), []);
    }

    #[test]
    fn the_dead_do_not_speak() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let (_, worker) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        node.exited(worker, KILLED);
        assert!(node.forks.is_empty());
        let (_, effects) = node.request(worker, &demand(&[("CPU", 1.0)]));
        assert_eq!(effects, []);
        assert!(node.forks.is_empty());
    }
}
