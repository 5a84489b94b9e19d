//! Drivers and their jobs: how a driver is let in, and what is left when it is gone.

use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

use super::leases::Lease;
use super::outbox::Outbox;
use super::pools::PoolId;
use super::processes::{Application, Process, Role};
use super::{Effect, Node};
use crate::ids::{JobId, ProcessId};
use crate::message::Message;
use crate::resources::Environment;

/// More workers than this are never started before they are asked for.
const PRESTART_MAX: u32 = 1_024;

/// What a node knows of a job.
#[derive(Clone, Debug, Default)]
pub(super) struct Job {
    /// Its driver is gone; only detached actors, and what they started, go on.
    pub(super) ended: bool,
    /// And so are they.
    over: bool,
    /// It may have processes or a template here.
    pub(super) present: bool,
    /// How its workers are started is known.
    pub(super) known: bool,
}

impl Node {
    /// A driver gets its number at once and its job from the head.
    pub(super) fn driver_connected(
        &mut self,
        connection: u64,
        pid: u32,
        namespace: String,
        prestart: u32,
        launch: Bytes,
        out: &mut Outbox,
    ) {
        let application = Application { connection, namespace: namespace.clone(), launch: launch.clone() };
        let role = Role::Driver { application: Some(application), prestart: prestart.min(PRESTART_MAX) };
        let driver = self.processes.add(pid, None, role);
        out.send(ProcessId::HEAD, Message::RegisterJob { driver, namespace, launch });
    }

    pub(super) fn job_registered(
        &mut self,
        driver: ProcessId,
        job: JobId,
        namespace: String,
        out: &mut Outbox,
    ) {
        let Some(process) = self.processes.get_mut(driver) else { return };
        let Role::Driver { application, prestart } = &mut process.role else { return };
        let Some(Application { connection, .. }) = application.take() else { return };
        let prestart = *prestart;
        process.job = Some(job);
        let known = Job { present: true, known: true, ..Job::default() };
        self.jobs.insert(job, known);
        self.changed = true;
        out.push(Effect::AcceptDriver { connection, process: driver, job, namespace });
        if prestart > 0 {
            let pool = self.pools.find(job, &Environment::default());
            self.pools.prestart(pool, prestart);
        }
    }

    /// There is a job whose workers may be wanted here, now or later.
    pub(super) fn job_started(
        &mut self,
        job: JobId,
        driver: ProcessId,
        namespace: String,
        launch: Bytes,
        out: &mut Outbox,
    ) {
        let entry = self.jobs.entry(job).or_default();
        if !core::mem::replace(&mut entry.known, true) {
            self.changed = true;
            out.push(Effect::RememberJob { job, driver, namespace, launch });
        }
    }

    /// Whether workers of the pool's job can be started.
    pub(super) fn is_known(&self, pool: PoolId) -> bool {
        self.jobs.get(&self.pools.get(pool).job).is_some_and(|job| job.known)
    }

    /// The head has recorded that the driver is gone. What it leased, and what that leased, is
    /// stopped by the deaths of the lessees; actors are stopped by the head.
    pub(super) fn job_ended(&mut self, job: JobId, out: &mut Outbox) {
        let Some(known) = self.jobs.get_mut(&job) else { return };
        known.ended = true;
        self.dismiss_driver(job, out);
        out.send(ProcessId::steward(self.config.node), Message::JobEnded { job });
        self.free_orphans(job, out);
        self.closing.insert(job);
    }

    /// A driver whose job has ended is still here: the head has begun again with a log that is older
    /// than the job. Nothing will be done for the driver any more, and it must not wait for that.
    fn dismiss_driver(&mut self, job: JobId, out: &mut Outbox) {
        let is_driver = |process: &Process| matches!(process.role, Role::Driver { .. });
        let left = self.processes.iter().find(|(_, process)| process.job == Some(job) && is_driver(process));
        let Some(driver) = left.map(|(id, _)| id) else { return };
        self.lessee_gone(driver, out);
        out.exit(driver, false, "the head does not know of its job: it has begun again with an older log");
    }

    /// Free what dead processes of an ended job owned.
    fn free_orphans(&mut self, job: JobId, out: &mut Outbox) {
        let dead = |owner: ProcessId| self.processes.is_dead(owner);
        self.store.orphaned(dead, &|of| of == job, out);
    }

    /// Nothing of the job will be started again.
    pub(super) fn job_forgotten(&mut self, job: JobId, out: &mut Outbox) {
        let Some(known) = self.jobs.get_mut(&job) else { return };
        (known.ended, known.over) = (true, true);
        if known.present {
            self.dismiss_driver(job, out);
            self.closing.insert(job);
        } else {
            self.forget_job(job, out);
        }
    }

    fn forget_job(&mut self, job: JobId, out: &mut Outbox) {
        self.jobs.remove(&job);
        out.push(Effect::ForgetJob { job });
    }

    /// Stop what is left of an ended job, unless something here keeps it going.
    pub(super) fn close_job(&mut self, job: JobId, out: &mut Outbox) {
        let Some(known) = self.jobs.get(&job) else { return };
        if !known.known && !self.claims().any(|(_, pool)| self.pools.get(pool).job == job) {
            // Others have spoken of it, and the head has not, or not any more.
            self.pools.forget(job);
            self.jobs.remove(&job);
            return;
        }
        if !known.ended || !known.present || self.is_rooted(job) {
            return;
        }
        let of_job = |id: &ProcessId| self.processes.get(*id).is_some_and(|p| p.job == Some(job));
        let left: Vec<ProcessId> = self.processes.iter().map(|(id, _)| id).filter(of_job).collect();
        for worker in &left {
            self.retire(*worker, "its job is over", out);
        }
        if !left.is_empty() {
            return;
        }
        self.free_orphans(job, out);
        self.pools.forget(job);
        out.push(Effect::StopTemplate { job });
        let Some(known) = self.jobs.get_mut(&job) else { return };
        known.present = false;
        if known.over {
            self.forget_job(job, out);
        }
    }

    /// Whether the job can still make use of an idle worker here.
    pub(super) fn job_goes_on(&self, job: JobId) -> bool {
        !self.has_ended(job) || self.is_rooted(job)
    }

    /// Whether the driver of a job is gone, as the head says.
    pub(super) fn has_ended(&self, job: JobId) -> bool {
        self.jobs.get(&job).is_some_and(|job| job.ended)
    }

    /// Whether an ended job goes on here: in an actor, for a process of another node, which is one or
    /// works for one, or for the steward, which makes again what such processes need.
    fn is_rooted(&self, job: JobId) -> bool {
        let elsewhere =
            |process: ProcessId| !process.is_daemon() && (process.is_steward() || !self.is_local(process));
        let of_job = |pool: PoolId| self.pools.get(pool).job == job;
        let leased = |lease: &Lease| {
            elsewhere(lease.lessee)
                && self.processes.get(lease.worker).is_some_and(|worker| worker.job == Some(job))
        };
        self.actors.values().any(|actor| actor.job == job)
            || self.leases.iter().any(|(_, lease)| leased(lease))
            || self.claims().any(|(party, pool)| elsewhere(party) && of_job(pool))
    }

    /// Something is over that may have kept ended jobs going here, or was all that is known of a job.
    pub(super) fn look_at_ended_jobs(&mut self) {
        let ended = self.jobs.iter().filter(|(_, job)| (job.ended || !job.known) && job.present);
        self.closing.extend(ended.map(|(id, _)| *id));
    }

    /// Who waits for a worker, and of which pool.
    pub(super) fn claims(&self) -> impl Iterator<Item = (ProcessId, PoolId)> {
        let starting = self.pools.iter().flat_map(|(_, pool)| pool.waiting.iter().map(|(claim, _)| claim));
        let claims = starting.chain(self.aside.claims());
        self.queue.parties().chain(claims.map(|claim| (claim.claimant.party(), claim.pool)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Span;
    use crate::message::{ActorEvent, Route};
    use crate::node::harness::*;
    use crate::value::{Death, Failure};

    fn job_ended(node: &mut Harness) -> Vec<Effect> {
        node.receive(ProcessId::HEAD, Message::JobEnded { job: JOB })
    }

    #[test]
    fn a_driver_is_let_in_once_it_has_a_job_and_finds_workers() {
        let mut node = Harness::new(config(&[("CPU", 2.0)]));
        let effects = node.connect(2);
        let namespace = String::new();
        let register = Message::RegisterJob { driver: driver(), namespace, launch: Bytes::new() };
        assert_eq!(effects, [send(ProcessId::HEAD, register)]);
        let effects = node.register(driver(), JOB);
        let namespace = String::from("tests");
        let accept = Effect::AcceptDriver { connection: 5, process: driver(), job: JOB, namespace };
        assert_eq!(effects, [accept]);
        assert_eq!(node.register(driver(), JOB), [], "once");
        assert_eq!(node.forks.len(), 2);
        // A lease takes one of those that are starting.
        let (_, effects) = node.request(driver(), &demand(&[("CPU", 1.0)]));
        assert_eq!((effects, node.forks.len()), (alloc::vec![], 2));
        let (_, effects) = node.fork_next();
        assert_eq!(granted(&effects).len(), 1);
        node.fork_next();
        assert!(node.forks.is_empty());
    }

    #[test]
    fn a_driver_that_leaves_before_it_is_let_in_leaves_nothing() {
        let mut node = Harness::new(config(&[("CPU", 2.0)]));
        node.connect(2);
        node.exited(driver(), Death::Exited { code: 0 });
        assert_eq!(node.register(driver(), JOB), []);
        assert!(node.forks.is_empty());
        assert_eq!(job_ended(&mut node), []);
    }

    #[test]
    fn the_end_of_a_job_ends_its_workers_and_its_template() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        let (lease, idle) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        let (_, busy) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        node.give_back(driver(), lease);
        let effects = node.exited(driver(), Death::Exited { code: 0 });
        assert_eq!(asked_to_exit(&effects), [busy]);
        let effects = job_ended(&mut node);
        assert_eq!(asked_to_exit(&effects), [idle]);
        node.exited(busy, KILLED);
        let effects = node.exited(idle, KILLED);
        assert_eq!(effects.last(), Some(&Effect::StopTemplate { job: JOB }));
        node.pass(Span::from_secs(1));
        assert_eq!(node.reports.last(), Some(&resources(&[("CPU", 2.0)])));
    }

    #[test]
    fn a_driver_whose_job_has_ended_is_told_and_gets_nothing_more() {
        let afterwards = [Message::JobEnded { job: JOB }, Message::JobForgotten { job: JOB }];
        for message in afterwards {
            let mut node = Harness::with_driver(&[("CPU", 2.0)]);
            let cpu = demand(&[("CPU", 1.0)]);
            let (_, worker) = node.lease(driver(), &cpu);
            node.request(driver(), &cpu);
            let effects = node.receive(ProcessId::HEAD, message);
            let [ended, told, starting] = asked_to_exit(&effects)[..] else { panic!("{effects:?}") };
            assert_eq!((ended, told), (worker, driver()));
            let (request, effects) = node.request(driver(), &cpu);
            let [Message::LeaseRefused { request: refused, failure: Failure::Unschedulable { .. } }] =
                &sent_to(driver(), &effects)[..]
            else {
                panic!("{effects:?}")
            };
            assert_eq!(*refused, request);
            assert_eq!(node.fork_next().0, starting);
            node.exited(worker, KILLED);
            node.exited(starting, KILLED);
            assert!(node.forks.is_empty(), "nothing follows");
            let effects = node.exited(driver(), Death::Exited { code: 1 });
            assert!(effects.contains(&Effect::StopTemplate { job: JOB }));
        }
    }

    #[test]
    fn a_job_that_is_over_leaves_nothing_that_grows() {
        let forgotten = |node: &mut Harness| {
            let effects = node.receive(ProcessId::HEAD, Message::JobForgotten { job: JOB });
            effects.contains(&Effect::ForgetJob { job: JOB })
        };
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let (_, worker) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        node.exited(driver(), Death::Exited { code: 0 });
        job_ended(&mut node);
        assert!(!forgotten(&mut node), "a worker of it is still here");
        let effects = node.exited(worker, KILLED);
        assert_eq!(
            effects[effects.len() - 2..],
            [Effect::StopTemplate { job: JOB }, Effect::ForgetJob { job: JOB }]
        );
        assert!(node.node.jobs.is_empty());
        assert!(!forgotten(&mut node), "told twice");
        // A job of another node of which nothing was ever here.
        node.job_started(afar(2, 1));
        job_ended(&mut node);
        assert!(forgotten(&mut node) && node.node.jobs.is_empty());
    }

    #[test]
    fn an_ended_job_goes_on_here_for_a_detached_actor_elsewhere() {
        let mut node = Harness::new(config(&[("CPU", 1.0)]));
        node.job_started(afar(2, 1));
        job_ended(&mut node);
        let lessee = afar(2, 7);
        let cpu = demand(&[("CPU", 1.0)]);
        node.request_by(lessee, &cpu, Route::IfFree, None);
        let (worker, effects) = node.fork_next();
        let (lease, _) = granted(&effects)[0];
        job_ended(&mut node);
        let effects = node.give_back(lessee, lease);
        assert_eq!(asked_to_exit(&effects), [worker], "nobody needs it any more");
        let effects = node.exited(worker, KILLED);
        assert_eq!(effects.last(), Some(&Effect::StopTemplate { job: JOB }));
    }

    #[test]
    fn a_detached_actor_goes_on_and_its_job_gets_workers_until_it_ends() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        node.start_actor(&spec(actor(1), &[]));
        let process = node.fork_next().0;
        let constructed = Message::ActorConstructed { actor: actor(1), incarnation: 0, failed: None };
        node.receive(process, constructed);
        node.exited(driver(), Death::Exited { code: 0 });
        let steward = ProcessId::steward(NODE);
        let told = Effect::Send { to: steward, message: Message::JobEnded { job: JOB } };
        assert_eq!(job_ended(&mut node), [told]);
        // It submits a task.
        let (_, worker) = node.lease(process, &demand(&[("CPU", 1.0)]));
        // It crashes, and is started again by the head.
        let effects = node.exited(process, KILLED);
        assert!(asked_to_exit(&effects).contains(&worker));
        let effects = node.exited(worker, KILLED);
        assert_eq!(effects.last(), Some(&Effect::StopTemplate { job: JOB }));
        node.start_actor(&spec(actor(1), &[]));
        let (process, effects) = node.fork_next();
        assert!(matches!(&sent_to(process, &effects)[..], [Message::BecomeActor { .. }]));
        let stop = Message::StopActor { actor: actor(1), incarnation: 0, graceful: false };
        node.receive(ProcessId::HEAD, stop);
        let effects = node.exited(process, KILLED);
        let reported = sent_to(ProcessId::HEAD, &effects);
        assert!(matches!(
            reported[0],
            Message::ActorReport { event: ActorEvent::Died { intended: true, .. }, .. }
        ));
        assert_eq!(effects.last(), Some(&Effect::StopTemplate { job: JOB }));
    }
}
