//! Worker processes: how they start, idle and stop.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::outbox::Outbox;
use super::pools::{PoolId, start_failure};
use super::processes::{Exit, Role, State, Worker};
use super::queue::{Claim, Claimant};
use super::{Node, Work, WorkResult};
use crate::ids::ProcessId;
use crate::machine::{Span, Time, Wakeup};
use crate::message::{ActorEvent, Message};
use crate::value::{Death, Failure};

impl Node {
    /// Start workers for claims that lack one, a few at a time.
    pub(super) fn start_workers(&mut self, out: &mut Outbox) {
        while self.pools.starting_count() < self.config.starting_max {
            let mut started = false;
            for id in self.pools.lacking_workers() {
                let not_before = self.pools.get(id).starts.not_before;
                if not_before > out.now {
                    self.deadlines.arm(Wakeup::StartWorker, not_before);
                } else if self.pools.starting_count() < self.config.starting_max {
                    self.start_worker(id, out);
                    started = true;
                }
            }
            if !started {
                return;
            }
        }
    }

    fn start_worker(&mut self, id: PoolId, out: &mut Outbox) {
        let pool = self.pools.get(id);
        let (job, environment) = (pool.job, pool.environment.clone());
        let deadline = out.now + self.config.start_grace;
        let process = self.processes.add(0, Some(job), Role::Worker(Worker::new(id, deadline)));
        self.deadlines.arm(Wakeup::KillAfterGrace, deadline);
        self.pools.add_starting(id);
        let operation = out.start(Work::ForkWorker { process, job, environment });
        self.forks.insert(operation, process);
    }

    pub(super) fn fork_finished(&mut self, process: ProcessId, result: WorkResult, out: &mut Outbox) {
        match result {
            WorkResult::Forked { pid } => {
                if let Some(process) = self.processes.get_mut(process) {
                    process.pid = pid;
                }
            }
            WorkResult::Failed(Failure::EnvironmentSetup { detail }) => {
                self.process_exited(process, Death::NotStarted { reason: detail }, None, out);
            }
            other => {
                let reason = format!("the fork ended in {other:?}");
                self.process_exited(process, Death::NotStarted { reason }, None, out);
            }
        }
    }

    pub(super) fn worker_ready(&mut self, id: ProcessId, out: &mut Outbox) {
        let Some(worker) = self.processes.worker(id) else { return };
        if !matches!(worker.state, State::Starting { .. }) {
            return;
        }
        let (pool, exiting) = (worker.pool, worker.exit.is_some());
        self.pools.remove_starting(pool);
        self.pools.get_mut(pool).starts.came_up();
        if exiting {
            self.worker_state(id, State::Retired);
        } else {
            self.make_idle(id, out);
        }
    }

    /// A worker is free: the next claim may have it.
    pub(super) fn make_idle(&mut self, id: ProcessId, out: &mut Outbox) {
        self.worker_state(id, State::Idle { since: out.now });
        let Some(worker) = self.processes.worker(id) else { return };
        let pool = worker.pool;
        self.pools.add_idle(pool, id);
        if !self.job_goes_on(self.pools.get(pool).job) {
            self.retire(id, "its job is over", out);
        }
    }

    /// A worker that serves nobody any more ends; its resources are free when it is gone.
    pub(super) fn retire(&mut self, id: ProcessId, reason: &str, out: &mut Outbox) {
        self.stop_process(id, false, self.config.exit_grace, reason, out);
    }

    /// Ask a worker to end, and kill it if it has not after a grace period.
    pub(super) fn stop_process(
        &mut self,
        id: ProcessId,
        graceful: bool,
        grace: Span,
        reason: &str,
        out: &mut Outbox,
    ) {
        self.leave_pool(id);
        let Some(worker) = self.processes.worker_mut(id) else { return };
        let deadline = out.now + grace;
        match &mut worker.exit {
            // Being killed, or asked to end sooner.
            Some(Exit { deadline: None, .. }) => return,
            Some(Exit { deadline: Some(earlier), .. }) if *earlier <= deadline => return,
            _ => worker.exit = Some(Exit { deadline: Some(deadline), death: None }),
        }
        self.deadlines.arm(Wakeup::KillAfterGrace, deadline);
        out.exit(id, graceful, reason);
    }

    /// Kill a worker at once.
    pub(super) fn kill_process(&mut self, id: ProcessId, death: Death, out: &mut Outbox) {
        self.leave_pool(id);
        let Some(worker) = self.processes.worker_mut(id) else { return };
        if matches!(worker.exit, Some(Exit { deadline: None, .. })) {
            return;
        }
        worker.exit = Some(Exit { deadline: None, death: Some(death.clone()) });
        out.kill(id, death);
    }

    /// A worker that will end is nobody's to take.
    fn leave_pool(&mut self, id: ProcessId) {
        let Some(worker) = self.processes.worker_mut(id) else { return };
        if let State::Idle { .. } = worker.state {
            let pool = worker.pool;
            worker.state = State::Retired;
            self.pools.remove_idle(pool, id);
        }
    }

    pub(super) fn worker_state(&mut self, id: ProcessId, state: State) {
        self.processes.worker_mut(id).expect("the worker was just looked up").state = state;
    }

    /// The worker has been of use, so workers of its kind are worth starting.
    pub(super) fn prove(&mut self, id: ProcessId) {
        let Some(worker) = self.processes.worker_mut(id) else { return };
        if !worker.proven {
            worker.proven = true;
            let pool = worker.pool;
            self.pools.get_mut(pool).starts.was_of_use();
        }
    }

    pub(super) fn stop_idle_workers(&mut self, out: &mut Outbox) {
        let mut idle: Vec<(Time, ProcessId)> = Vec::new();
        for (id, _, worker) in self.processes.workers() {
            if let State::Idle { since } = worker.state {
                idle.push((since, id));
            }
        }
        idle.sort_unstable();
        let surplus = idle.len().saturating_sub(self.ledger.cpus() as usize);
        for (since, id) in idle.into_iter().take(surplus) {
            if since + self.config.idle_worker_keep <= out.now {
                self.retire(id, "it was idle", out);
            }
        }
    }

    /// Arm the timer for idle workers if there are more than are kept.
    pub(super) fn watch_idle_workers(&mut self, now: Time) {
        let surplus = self.pools.idle_count() > self.ledger.cpus() as usize;
        if surplus && !self.deadlines.is_armed(Wakeup::StopIdleWorkers) {
            self.deadlines.arm(Wakeup::StopIdleWorkers, now + self.config.idle_worker_keep);
        }
    }

    pub(super) fn kill_after_grace(&mut self, out: &mut Outbox) {
        let mut late = Vec::new();
        for (id, _, worker) in self.processes.workers() {
            match worker.exit {
                Some(Exit { deadline: Some(deadline), .. }) if deadline <= out.now => late.push(id),
                Some(Exit { deadline: Some(deadline), .. }) => {
                    self.deadlines.arm(Wakeup::KillAfterGrace, deadline);
                }
                _ => {}
            }
        }
        for id in late {
            let reason = String::from("it did not exit in time when asked to");
            self.kill_process(id, Death::Killed { reason }, out);
        }
    }

    /// A worker that hangs while it starts would keep a claim waiting for ever.
    pub(super) fn kill_late_starters(&mut self, out: &mut Outbox) {
        let mut late = Vec::new();
        for (id, _, worker) in self.processes.workers() {
            match worker.state {
                State::Starting { deadline } if worker.exit.is_none() && deadline <= out.now => late.push(id),
                State::Starting { deadline } if worker.exit.is_none() => {
                    self.deadlines.arm(Wakeup::KillAfterGrace, deadline);
                }
                _ => {}
            }
        }
        for id in late {
            let seconds = self.config.start_grace.0 / 1_000_000_000;
            let reason = format!("the worker did not come up within {seconds} s");
            self.kill_process(id, Death::NotStarted { reason }, out);
        }
    }

    /// A worker ended before it was of use: those who wait for one like it learn of it in the end.
    pub(super) fn start_ended(&mut self, id: PoolId, came_up: bool, death: &Death, out: &mut Outbox) {
        if !self.pools.get_mut(id).starts.ended_useless(out.now, came_up) {
            return;
        }
        let reason = describe(death);
        self.pools.get_mut(id).prestart = 0;
        let waiting = core::mem::take(&mut self.pools.get_mut(id).waiting);
        for (claim, holding) in waiting {
            self.ledger.give_back(holding);
            self.refuse_start(claim, &reason, out);
        }
        for claim in self.queue.drain(|pool, _| pool == id) {
            self.refuse_start(claim, &reason, out);
        }
    }

    fn refuse_start(&mut self, claim: Claim, reason: &str, out: &mut Outbox) {
        match claim.claimant {
            Claimant::Lessee { process, request } => {
                let failure = Failure::EnvironmentSetup { detail: start_failure(reason) };
                out.send(process, Message::LeaseRefused { request, failure });
            }
            Claimant::Actor { actor, .. } => {
                let death = Death::NotStarted { reason: String::from(reason) };
                self.end_actor(actor, ActorEvent::Died { death, intended: false }, out);
            }
        }
    }
}

/// A death in words.
pub(super) fn describe(death: &Death) -> String {
    match death {
        Death::Exited { code } => format!("it exited with code {code}"),
        Death::Signalled { signal } => format!("signal {signal} ended it"),
        Death::OutOfMemory { detail } => format!("it was killed for memory: {detail}"),
        Death::Killed { reason } => format!("it was killed: {reason}"),
        Death::NotStarted { reason } => reason.clone(),
        Death::NodeDied { node } => format!("node {} died", node.0),
        Death::GroupRemoved { group } => format!("{group:?} was removed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Answer, Query};
    use crate::node::Effect;
    use crate::node::harness::*;

    #[test]
    fn idle_workers_beyond_the_cpus_are_stopped_oldest_first() {
        let mut node = Harness::with_driver(&[("CPU", 1.0), ("slot", 4.0)]);
        let slot = demand(&[("slot", 1.0)]);
        let leases: Vec<_> = (0..3).map(|_| node.lease(driver(), &slot)).collect();
        for (lease, _) in &leases {
            node.pass(Span::from_millis(100));
            node.give_back(driver(), *lease);
        }
        let effects = node.pass(Span::from_secs(2));
        assert_eq!(asked_to_exit(&effects), [leases[0].1, leases[1].1]);
        // One of them does not react.
        node.exited(leases[0].1, Death::Exited { code: 0 });
        let effects = node.pass(Span::from_secs(5));
        assert!(matches!(effects[..], [Effect::Kill { process, .. }] if process == leases[1].1));
        node.exited(leases[1].1, KILLED);
        assert_eq!(node.pass(Span::from_secs(60)), [], "one is kept");
    }

    #[test]
    fn workers_that_end_before_they_are_of_use_are_started_less_and_less_often() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let cpu = demand(&[("CPU", 1.0)]);
        let mut refused = 0;
        let mut forked = 0;
        node.request(driver(), &cpu);
        // The lessee asks again whenever its worker dies, as it does for tasks that did not start.
        for _ in 0..1_000 {
            while !node.forks.is_empty() {
                forked += 1;
                let (worker, _) = node.fork_next();
                let effects = node.exited(worker, KILLED);
                for message in sent_to(driver(), &effects) {
                    match message {
                        Message::LeaseEnded { .. } => drop(node.request(driver(), &cpu)),
                        Message::LeaseRefused { .. } => refused += 1,
                        other => panic!("{other:?}"),
                    }
                }
            }
            node.pass(Span::from_millis(10));
        }
        assert!((5..60).contains(&forked), "{forked} forks in ten seconds");
        assert_eq!(refused, 0, "there was always another start to try");
    }

    #[test]
    fn a_worker_that_is_killed_while_it_starts_is_replaced() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        node.request(driver(), &demand(&[("CPU", 1.0)]));
        let (_, first, _) = node.forks.remove(0);
        node.exited(first, KILLED);
        let (_, effects) = node.fork_next();
        assert_eq!(granted(&effects).len(), 1);
    }

    #[test]
    fn a_worker_that_hangs_while_it_starts_is_killed_and_counts_as_failed() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let (request, _) = node.request(driver(), &demand(&[("CPU", 1.0)]));
        let mut last = Vec::new();
        for _ in 0..3 {
            let (_, process, _) = node.forks.remove(0);
            let effects = node.pass(Span::from_secs(60));
            assert!(matches!(effects[..], [Effect::Kill { process: killed, .. }] if killed == process));
            last = sent_to(driver(), &node.exited(process, KILLED));
            node.pass(Span::from_millis(100));
        }
        let [Message::LeaseRefused { request: refused, failure: Failure::EnvironmentSetup { detail } }] =
            &last[..]
        else {
            panic!("{last:?}")
        };
        assert_eq!(*refused, request);
        assert!(detail.contains("did not come up within 60 s"), "{detail}");
    }

    #[test]
    fn an_actor_whose_worker_cannot_be_started_dies_so() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        node.start_actor(&spec(actor(1), &[]));
        let mut reports = Vec::new();
        for _ in 0..3 {
            let (_, process, _) = node.forks.remove(0);
            reports.extend(sent_to(ProcessId::HEAD, &node.exited(process, Death::Exited { code: 9 })));
            node.pass(Span::from_millis(100));
        }
        let died = reports.iter().find_map(|message| match message {
            Message::ActorReport { event: ActorEvent::Died { death, intended }, .. } => {
                Some((death.clone(), *intended))
            }
            _ => None,
        });
        let reason = String::from("it exited with code 9");
        assert_eq!(died, Some((Death::NotStarted { reason }, false)));
        assert!(node.forks.is_empty());
    }

    #[test]
    fn the_list_of_workers_tells_what_they_do() {
        let mut node = Harness::with_driver(&[("CPU", 3.0)]);
        let cpu = demand(&[("CPU", 1.0)]);
        let (lease, _) = node.lease(driver(), &cpu);
        let (_, blocked) = node.lease(driver(), &cpu);
        node.lease(driver(), &cpu);
        node.give_back(driver(), lease);
        node.receive(blocked, Message::Blocked);
        node.start_actor(&spec(actor(1), &[]));
        node.request(driver(), &cpu);
        let request = crate::ids::RequestId(3);
        let effects = node.receive(driver(), Message::Ask { request, query: Query::Workers });
        let [Effect::Send { message: Message::Answer { answer: Answer::Workers(workers), .. }, .. }] =
            &effects[..]
        else {
            panic!("{effects:?}")
        };
        let states: Vec<&str> = workers.iter().map(|worker| worker.state.as_str()).collect();
        assert_eq!(states, ["actor", "blocked", "leased", "starting"]);
    }
}
