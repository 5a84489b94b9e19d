//! The end of a process: what it made, and what it wanted to know.

use alloc::vec::Vec;

use super::{Head, Outbox};
use crate::actor::{ActorState, ActorSummary};
use crate::ids::{ActorId, ProcessId};
use crate::message::Message;
use crate::mutants::Mutant;
use crate::value::ActorDeath;

impl Head {
    /// Actors die with their creator unless they are detached; what those made follows as the nodes
    /// report the ends of their processes.
    pub(super) fn process_ended(&mut self, process: ProcessId, out: &mut Outbox) {
        self.actors.unsubscribe(process);
        self.values.forget(process, out);
        for id in self.actors.made_by(process) {
            self.stop(id, false, out);
            self.actors.bury(id, ActorDeath::CreatorDied, out);
        }
        let never_made: Vec<ActorId> =
            self.actors.awaited.keys().filter(|id| id.creator() == process).copied().collect();
        for id in never_made {
            let announced = self.actors.awaited.get_mut(&id).and_then(|awaited| awaited.announced.take());
            match announced {
                Some(summary) => {
                    let state = ActorState::Dead { cause: ActorDeath::CreatorDied };
                    self.actors.never_made(ActorSummary { state, ..*summary }, None, out);
                }
                None => self.actors.give_up(id, out),
            }
        }
        if Mutant::EndJobTwice.is_active() {
            assert!(!self.jobs.has_ended(process), "the job of {process:?} has ended already");
        }
        self.group_process_ended(process, out);
        if let Some(job) = self.jobs.end(process, out) {
            self.remove_groups_of_job(job, out);
            self.nodes.tell_all(&Message::JobEnded { job }, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::ActorSpec;
    use crate::head::harness::*;
    use crate::ids::JobId;
    use crate::message::ActorEvent;
    use crate::value::Death;
    use alloc::string::String;
    use bytes::Bytes;

    const EXIT: Death = Death::Exited { code: 0 };

    fn ended(head: &mut Harness, number: u32) -> Vec<(ProcessId, Message)> {
        head.receive(DAEMON, Message::ProcessEnded { process: process(number), death: EXIT })
    }

    #[test]
    fn what_a_process_made_dies_with_it_but_for_detached_actors() {
        let mut head = Harness::with_node();
        let (mortal, detached) = (actor(1, 1), actor(1, 2));
        head.create(&spec(mortal));
        head.create(&ActorSpec { detached: true, ..spec(detached) });
        head.receive(process(9), Message::SubscribeActor { actor: mortal });
        let state = ActorState::Dead { cause: ActorDeath::CreatorDied };
        let update = Message::ActorUpdate { actor: mortal, incarnation: 0, state, restarts_left: 0 };
        let stop = Message::StopActor { actor: mortal, incarnation: 0, graceful: false };
        assert_eq!(ended(&mut head, 1), [(DAEMON, stop), (process(9), update)]);
        assert_eq!(ended(&mut head, 1), []);
    }

    #[test]
    fn a_job_ends_with_its_driver_and_detached_actors_restart_without_it() {
        let mut head = Harness::with_node();
        let register =
            Message::RegisterJob { driver: process(1), namespace: String::new(), launch: Bytes::new() };
        head.receive(DAEMON, register);
        let id = actor(1, 1);
        head.create(&ActorSpec { detached: true, restarts_max: 1, ..spec(id) });
        let alive = ActorEvent::Alive { process: process(2), pid: 1 };
        head.report(id, 0, alive);
        assert_eq!(ended(&mut head, 1), [(DAEMON, Message::JobEnded { job: JobId(1) })]);
        let crashed = ActorEvent::Died { death: EXIT, intended: false };
        let effects = head.report(id, 0, crashed.clone());
        assert!(matches!(effects[0].1, Message::StartActor { incarnation: 1, .. }), "{effects:?}");
        assert_eq!(head.report(id, 1, crashed), [(DAEMON, Message::JobForgotten { job: JobId(1) })]);
    }

    #[test]
    fn the_dead_are_not_told_anything() {
        let mut head = Harness::with_node();
        let id = actor(1, 1);
        head.create(&spec(id));
        head.receive(process(9), Message::SubscribeActor { actor: id });
        ended(&mut head, 9);
        let alive = ActorEvent::Alive { process: process(2), pid: 1 };
        assert_eq!(head.report(id, 0, alive), []);
    }
}
