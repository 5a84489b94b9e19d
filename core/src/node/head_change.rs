//! Another head acts: it is told what no log can tell, and so are those who asked the former one.

use alloc::boxed::Box;

use super::Node;
use super::drain::Emptiness;
use super::outbox::Outbox;
use super::processes::Role;
use crate::ids::ProcessId;
use crate::message::{Message, NodeState};

impl Node {
    pub(super) fn head_changed(&mut self, epoch: u64, out: &mut Outbox) {
        if epoch <= self.head {
            // An older one, which does not know yet that it is not the head any more.
            return;
        }
        self.head = epoch;
        // If it is still to be emptied the new head says so.
        self.draining = None;
        self.emptiness = Emptiness::default();
        self.changed = true;
        self.reporter.ordered(0);
        let state = Box::new(self.state());
        out.send(ProcessId::HEAD, Message::NodeState { state });
        self.reported(out.now);
        self.register_again(out);
        for process in self.told_of_changes() {
            out.send(process, Message::HeadChanged { epoch });
        }
    }

    fn state(&self) -> NodeState {
        let drivers = self.processes.iter().filter_map(|(id, process)| match process.role {
            Role::Driver { .. } => Some((id, process.job)),
            Role::Worker(_) => None,
        });
        NodeState {
            epoch: self.head,
            report: self.summary(),
            actors: self.actors.iter().filter_map(|(id, actor)| self.presence(*id, actor)).collect(),
            bundles: self.ledger.set_aside(),
            drivers: drivers.collect(),
            jobs: self.jobs.iter().map(|(id, job)| (*id, job.ended)).collect(),
            dead: self.view.dead().collect(),
            draining: self.draining.is_some(),
        }
    }

    /// The former head may have given these drivers a job and died before it could say so.
    fn register_again(&self, out: &mut Outbox) {
        for (driver, process) in self.processes.iter() {
            if let Role::Driver { application: Some(application), .. } = &process.role {
                let (namespace, launch) = (application.namespace.clone(), application.launch.clone());
                out.send(ProcessId::HEAD, Message::RegisterJob { driver, namespace, launch });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{JobId, NodeId};
    use crate::message::ActorPresence;
    use crate::node::Input;
    use crate::node::harness::*;
    use alloc::vec::Vec;

    fn head_changed(node: &mut Harness, epoch: u64) -> Vec<crate::node::Effect> {
        node.input(Input::HeadChanged { epoch })
    }

    #[test]
    fn a_new_head_is_told_what_runs_here_and_an_old_one_nothing() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        node.view(&[summary(2, &[]), summary(3, &[])]);
        node.node_died(3);
        node.start_actor(&spec(actor(1), &[]));
        let process = node.fork_next().0;
        let constructed = Message::ActorConstructed { actor: actor(1), incarnation: 0, failed: None };
        node.receive(process, constructed);
        node.start_actor(&spec(actor(2), &[]));
        node.job_started(afar(2, 1));
        let effects = head_changed(&mut node, 3);
        let [Message::NodeState { state }] = &sent_to(ProcessId::HEAD, &effects)[..] else {
            panic!("{effects:?}")
        };
        let pid = 1_000 + process.number();
        let alive = ActorPresence { actor: actor(1), incarnation: 0, process: Some((process, pid)) };
        let waiting = ActorPresence { actor: actor(2), incarnation: 0, process: None };
        assert_eq!(state.actors, [alive, waiting]);
        assert_eq!(state.drivers, [(driver(), Some(JOB))]);
        assert_eq!((&state.jobs[..], &state.dead[..]), (&[(JOB, false)][..], &[NodeId(3)][..]));
        assert_eq!(state.report.free, resources(&[("CPU", 1.0)]));
        for process in [driver(), process, ProcessId::steward(NODE)] {
            assert_eq!(sent_to(process, &effects), [Message::HeadChanged { epoch: 3 }]);
        }
        assert_eq!(head_changed(&mut node, 3), []);
        assert_eq!(head_changed(&mut node, 2), []);
    }

    #[test]
    fn an_actor_of_which_the_end_was_reported_is_not_there() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        node.start_actor(&spec(actor(1), &[]));
        let process = node.fork_next().0;
        let failed = Some(crate::value::ActorDeath::Exited);
        node.receive(process, Message::ActorConstructed { actor: actor(1), incarnation: 0, failed });
        let effects = head_changed(&mut node, 1);
        let [Message::NodeState { state }] = &sent_to(ProcessId::HEAD, &effects)[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(state.actors, []);
    }

    #[test]
    fn a_driver_without_a_job_asks_the_new_head_for_one() {
        let mut node = Harness::new(config(&[("CPU", 1.0)]));
        let asked = node.connect(0);
        let effects = head_changed(&mut node, 1);
        assert_eq!(sent_to(ProcessId::HEAD, &effects)[1..], sent_to(ProcessId::HEAD, &asked));
        assert_eq!(sent_to(driver(), &effects), [], "it is not in yet");
        node.register(driver(), JobId(4));
        assert_eq!(node.register(driver(), JobId(4)), [], "both heads have answered");
        let effects = head_changed(&mut node, 2);
        assert_eq!(sent_to(ProcessId::HEAD, &effects).len(), 1);
    }
}
