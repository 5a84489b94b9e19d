//! Leases: a process asks for a worker, holds it while it has tasks for it, and returns it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Node;
use super::ledger::{Feasibility, Holding};
use super::outbox::Outbox;
use super::processes::{Process, Role, State};
use super::queue::{Claim, Claimant};
use crate::ids::{JobId, LeaseId, NodeId, ProcessId, RequestId};
use crate::machine::{Span, Time};
use crate::message::{ActorEvent, Message, Route};
use crate::mutants::Mutant;
use crate::resources::Demand;
use crate::value::Failure;

/// What a process asks for, and in which way. See [`Message::RequestLease`].
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) job: JobId,
    pub(super) demand: Arc<Demand>,
    pub(super) route: Route,
    pub(super) prefer: Option<NodeId>,
}

/// A lease that was granted and is not over.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) lessee: ProcessId,
    pub(super) worker: ProcessId,
    pub(super) demand: Arc<Demand>,
    pub(super) granted: Time,
}

/// What one process leases.
#[derive(Clone, Debug, Default)]
pub(super) struct Leased {
    pub(super) leases: BTreeSet<LeaseId>,
    /// It was told that others wait, and has returned nothing since.
    owes: bool,
    /// When it was told last.
    told: Option<Time>,
}

impl Leased {
    /// When it may be told again; `None` while it has not answered.
    pub(super) fn tellable(&self, pause: Span) -> Option<Time> {
        if self.owes { None } else { Some(self.told.map_or(Time(0), |told| told + pause)) }
    }
}

/// All leases of the node.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    node: NodeId,
    epoch: u32,
    last: u64,
    leases: BTreeMap<LeaseId, Lease>,
    lessees: BTreeMap<ProcessId, Leased>,
}

impl Leases {
    pub(super) fn new(node: NodeId, epoch: u32) -> Leases {
        Leases { node, epoch, last: 0, leases: BTreeMap::new(), lessees: BTreeMap::new() }
    }

    fn add(&mut self, lease: Lease) -> LeaseId {
        self.last += 1;
        let id = LeaseId { node: self.node, epoch: self.epoch, number: self.last };
        let leased = self.lessees.entry(lease.lessee).or_default();
        leased.leases.insert(id);
        self.leases.insert(id, lease);
        id
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    pub(super) fn remove(&mut self, id: LeaseId) -> Lease {
        let lease = self.leases.remove(&id).expect("leased workers have a lease");
        let leased = self.lessees.get_mut(&lease.lessee).expect("lessees of leases are known");
        leased.leases.remove(&id);
        leased.owes = false;
        if leased.leases.is_empty() {
            self.lessees.remove(&lease.lessee);
        }
        lease
    }

    fn ids_of(&self, lessee: ProcessId) -> Vec<LeaseId> {
        self.lessees.get(&lessee).into_iter().flat_map(|leased| &leased.leases).copied().collect()
    }

    /// The leases of a process.
    pub(super) fn of(&self, lessee: ProcessId) -> impl Iterator<Item = &Lease> {
        let leased = self.lessees.get(&lessee);
        leased.into_iter().flat_map(|leased| leased.leases.iter().map(|id| &self.leases[id]))
    }

    pub(super) fn lessees(&self) -> impl Iterator<Item = (ProcessId, &Leased)> {
        self.lessees.iter().map(|(id, leased)| (*id, leased))
    }

    /// How many leases a process has.
    pub(super) fn count(&self, lessee: ProcessId) -> usize {
        self.lessees.get(&lessee).map_or(0, |leased| leased.leases.len())
    }

    /// A process was told that others wait.
    pub(super) fn told(&mut self, lessee: ProcessId, now: Time) {
        if let Some(leased) = self.lessees.get_mut(&lessee) {
            leased.told = Some(now);
            leased.owes = true;
        }
    }
    /// Nobody waits any more.
    pub(super) fn nobody_waits(&mut self) {
        for leased in self.lessees.values_mut() {
            leased.owes = false;
        }
    }
}

impl Node {
    pub(super) fn request_lease(
        &mut self,
        from: ProcessId,
        request: RequestId,
        wanted: Wanted,
        out: &mut Outbox,
    ) {
        let Wanted { job, demand, route, prefer } = wanted;
        if !self.may_lease(from, job) {
            let detail = format!("job {} has ended, or is not the one that asks", job.0);
            let failure = Failure::Unschedulable { detail };
            return out.send(from, Message::LeaseRefused { request, failure });
        }
        if !self.is_local(from) {
            // Its leases must not outlive it.
            self.watch(ProcessId::daemon(self.config.node), from, out);
        }
        self.jobs.entry(job).or_default().present = true;
        let pool = self.pools.find(job, &demand.environment);
        let claim = Claim { claimant: Claimant::Lessee { process: from, request }, pool, demand };
        self.route(claim, route, prefer, out);
        if !self.is_known(pool) {
            self.look_at_ended_jobs();
        }
    }

    /// A process gets workers of its own job, a driver as long as that goes on. Stewards own what
    /// processes of any job have left; what a process of another node is, its node knows.
    fn may_lease(&self, from: ProcessId, job: JobId) -> bool {
        match self.processes.get(from) {
            Some(Process { role: Role::Driver { .. }, .. }) if self.has_ended(job) => false,
            Some(process) => process.job == Some(job),
            None => !self.is_local(from) || from.is_steward() && self.jobs.contains_key(&job),
        }
    }

    /// Queue the claim of an actor, or put it aside when this node can never meet it.
    pub(super) fn enqueue_actor(&mut self, claim: Claim, out: &mut Outbox) {
        match self.feasibility(&claim.demand) {
            Feasibility::Never(detail) => self.refuse_claim(&claim, detail, out),
            _ => {
                if let Some(claim) = self.try_place(claim, out) {
                    self.put_aside(claim, out);
                }
            }
        }
    }

    pub(super) fn refuse_claim(&mut self, claim: &Claim, detail: String, out: &mut Outbox) {
        match claim.claimant {
            Claimant::Lessee { process, request } => {
                let failure = Failure::Unschedulable { detail };
                out.send(process, Message::LeaseRefused { request, failure });
            }
            Claimant::Actor { actor, .. } => self.end_actor(actor, ActorEvent::Unplaceable { detail }, out),
        }
    }

    pub(super) fn cancel_lease_request(&mut self, from: ProcessId, cancelled: RequestId) {
        self.drop_claims(from, |claimant| {
            *claimant == Claimant::Lessee { process: from, request: cancelled }
        });
        self.outsider_gone(from);
    }

    /// A process that kept ended jobs going here does so less than before.
    fn outsider_gone(&mut self, process: ProcessId) {
        if process.is_steward() || !self.is_local(process) {
            self.look_at_ended_jobs();
        }
    }

    /// Drop the claims of a party that `unwanted` picks, wherever they wait.
    pub(super) fn drop_claims(&mut self, party: ProcessId, unwanted: impl Fn(&Claimant) -> bool) {
        self.queue.remove(party, &unwanted);
        self.aside.remove(&unwanted);
        for (_, mut holding) in self.pools.remove_waiting(|claim, _| unwanted(&claim.claimant)) {
            if Mutant::KeepDevices.is_active() {
                holding.lose_devices();
            }
            self.ledger.give_back(holding);
        }
    }

    pub(super) fn grant(&mut self, claim: Claim, holding: Holding, worker: ProcessId, out: &mut Outbox) {
        let Claimant::Lessee { process: lessee, request } = claim.claimant else {
            unreachable!("actors do not lease")
        };
        let devices = holding.devices().clone();
        let lease = self.leases.add(Lease { lessee, worker, demand: claim.demand, granted: out.now });
        self.worker_state(worker, State::Leased(lease));
        self.processes.worker_mut(worker).expect("granted workers live").holding = Some(holding);
        out.send(lessee, Message::LeaseGranted { request, lease, worker, devices });
    }

    pub(super) fn return_lease(&mut self, from: ProcessId, id: LeaseId, reusable: bool, out: &mut Outbox) {
        let Some(lease) = self.leases.get(id) else { return };
        if lease.lessee != from {
            return;
        }
        let worker = lease.worker;
        self.leases.remove(id);
        self.outsider_gone(from);
        self.prove(worker);
        self.worker_state(worker, State::Retired);
        let exiting = self.processes.worker(worker).is_some_and(|worker| worker.exit.is_some());
        if reusable && !exiting {
            let worker_entry = self.processes.worker_mut(worker).expect("leased workers live");
            let holding = worker_entry.holding.take().expect("leased workers hold resources");
            if !Mutant::LeakLease.is_active() {
                self.ledger.give_back(holding);
            }
            self.make_idle(worker, out);
        } else {
            self.retire(worker, "its lease is over", out);
        }
    }

    /// A process is gone: it needs no workers any more. What its workers run has nobody to report
    /// to, so they end too, whether or not they had started a task: only their lessee knew.
    pub(super) fn lessee_gone(&mut self, lessee: ProcessId, out: &mut Outbox) {
        if !Mutant::StaleGrant.is_active() || self.is_local(lessee) {
            self.drop_claims(lessee, |claimant| claimant.party() == lessee);
        }
        self.outsider_gone(lessee);
        for id in self.leases.ids_of(lessee) {
            let worker = self.leases.remove(id).worker;
            self.worker_state(worker, State::Retired);
            if Mutant::HastyDevices.is_active()
                && let Some(entry) = self.processes.worker_mut(worker)
                && let Some(holding) = entry.holding.take_if(|holding| !holding.devices().0.is_empty())
            {
                self.ledger.give_back(holding);
            }
            if !Mutant::ForgetWorker.is_active() {
                self.retire(worker, "the process that leased it is gone", out);
            }
        }
    }

    pub(super) fn blocked(&mut self, from: ProcessId) {
        self.prove(from);
        self.store.urge(from);
        let Some(worker) = self.processes.worker_mut(from) else { return };
        if let Some(holding) = &mut worker.holding {
            self.ledger.block(holding);
        }
    }

    pub(super) fn unblocked(&mut self, from: ProcessId) {
        let Some(worker) = self.processes.worker_mut(from) else { return };
        if let Some(holding) = &mut worker.holding {
            self.ledger.unblock(holding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::harness::*;
    use crate::node::{Effect, WorkResult};
    use crate::resources::{Environment, Strategy};
    use crate::value::Death;

    #[test]
    fn a_lease_is_granted_when_a_worker_is_up_and_reused_when_it_is_returned() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let (request, effects) = node.request(driver(), &demand(&[("CPU", 1.0)]));
        assert_eq!(effects, []);
        assert_eq!(node.forks.len(), 1);
        let (worker, effects) = node.fork_next();
        let (lease, _) = granted(&effects)[0];
        let devices = crate::resources::Devices::default();
        let grant = Message::LeaseGranted { request, lease, worker, devices };
        assert_eq!(effects, [send(driver(), grant)]);

        assert_eq!(node.give_back(driver(), lease), []);
        assert_eq!(node.give_back(driver(), lease), [], "a second return changes nothing");
        let (again, same) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        assert_eq!(same, worker);
        assert!(again > lease);
    }

    #[test]
    fn nested_gets_never_run_out_of_cpus() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let cpu = demand(&[("CPU", 1.0)]);
        let mut chain = Vec::new();
        let mut lessee = driver();
        for _ in 0..20 {
            let (lease, worker) = node.lease(lessee, &cpu);
            chain.push((lessee, lease, worker));
            node.receive(worker, Message::Blocked);
            lessee = worker;
        }
        for (lessee, lease, worker) in chain.into_iter().rev() {
            node.receive(worker, Message::Unblocked);
            node.give_back(lessee, lease);
        }
        node.pass(Span::from_secs(1));
        assert_eq!(node.reports.last(), Some(&resources(&[("CPU", 1.0)])));
    }

    #[test]
    fn only_the_lessee_returns_a_lease_and_only_its_own_job_gets_workers() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let (lease, worker) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        node.give_back(worker, lease);
        let (_, effects) = node.request(driver(), &demand(&[("CPU", 1.0)]));
        assert_eq!(effects, [], "the lease still holds the CPU");
        let request = RequestId(99);
        let message = Message::RequestLease {
            request,
            job: JobId(2),
            demand: Arc::new(Demand::default()),
            route: Route::Fresh,
            prefer: None,
        };
        let effects = node.receive(driver(), message);
        assert!(matches!(&sent_to(driver(), &effects)[..], [Message::LeaseRefused { .. }]));
    }

    #[test]
    fn a_cancelled_request_is_never_granted() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let cpu = demand(&[("CPU", 1.0)]);
        let (request, _) = node.request(driver(), &cpu);
        node.receive(driver(), Message::CancelLeaseRequest { request });
        let (worker, effects) = node.fork_next();
        assert_eq!(effects, [], "the worker idles");
        let (lease, same) = node.lease(driver(), &cpu);
        assert_eq!(same, worker);
        let (request, _) = node.request(driver(), &cpu);
        node.receive(driver(), Message::CancelLeaseRequest { request });
        assert_eq!(node.give_back(driver(), lease), []);
    }

    #[test]
    fn a_dead_worker_ends_its_lease_and_frees_its_resources() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let cpu = demand(&[("CPU", 1.0)]);
        let (lease, worker) = node.lease(driver(), &cpu);
        node.request(driver(), &cpu);
        let effects = node.exited(worker, KILLED);
        let ended = Message::LeaseEnded { lease, death: KILLED, last_started: None };
        assert_eq!(sent_to(driver(), &effects), [ended]);
        let head = sent_to(ProcessId::HEAD, &effects);
        assert_eq!(head, [Message::ProcessEnded { process: worker, death: KILLED }]);
        let (_, effects) = node.fork_next();
        assert_eq!(granted(&effects).len(), 1);
    }

    #[test]
    fn a_dead_lessee_takes_its_workers_along_and_their_resources_return_with_their_end() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        let cpu = demand(&[("CPU", 1.0)]);
        let (_, outer) = node.lease(driver(), &cpu);
        let (_, inner) = node.lease(outer, &cpu);
        let (pending, _) = node.request(outer, &cpu);
        let effects = node.exited(outer, KILLED);
        assert_eq!(asked_to_exit(&effects), [inner]);
        let (request, effects) = node.request(driver(), &demand(&[("CPU", 2.0)]));
        assert_eq!(effects, [], "the inner worker still has its CPU");
        assert_ne!(request, pending);
        let effects = node.pass(Span::from_secs(5));
        let reason = alloc::string::String::from("it did not exit in time when asked to");
        let death = Death::Killed { reason };
        assert_eq!(effects, [Effect::Kill { process: inner, death: death.clone() }]);
        let effects = node.exited(inner, KILLED);
        let ended = Message::ProcessEnded { process: inner, death };
        assert_eq!(sent_to(ProcessId::HEAD, &effects), [ended], "the node's word counts");
        assert_eq!(granted(&node.fork_next().1).len(), 1);
    }

    #[test]
    fn a_lease_that_is_not_reusable_ends_its_worker() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let (lease, worker) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        let effects = node.receive(driver(), Message::ReturnLease { lease, reusable: false });
        assert_eq!(asked_to_exit(&effects), [worker]);
        let effects = node.exited(worker, Death::Exited { code: 0 });
        assert_eq!(sent_to(driver(), &effects), [], "the lease was over before");
    }

    #[test]
    fn what_this_node_can_never_meet_is_refused_after_a_grace_with_the_reason() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        let (request, effects) = node.request(driver(), &demand(&[("CPU", 3.0)]));
        assert_eq!(effects, []);
        assert_eq!(node.pass(Span::from_secs(9)), []);
        let effects = node.pass(Span::from_secs(1));
        let [Message::LeaseRefused { request: refused, failure: Failure::Unschedulable { detail } }] =
            &sent_to(driver(), &effects)[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!(*refused, request);
        assert!(detail.contains("3 of CPU") && detail.contains("CPU: 2"), "{detail}");

        let mut negative = Demand::default();
        negative.resources.set("CPU", crate::resources::Quantity(-5));
        let (_, effects) = node.request(driver(), &negative);
        assert!(matches!(&sent_to(driver(), &effects)[..], [Message::LeaseRefused { .. }]));
        let elsewhere =
            Demand { strategy: Strategy::bound(crate::ids::NodeId(7), false), ..Demand::default() };
        let (request, _) = node.request(driver(), &elsewhere);
        node.receive(driver(), Message::CancelLeaseRequest { request });
        assert_eq!(node.pass(Span::from_secs(20)), [], "a cancelled request is not refused");
    }

    #[test]
    fn environments_do_not_share_workers() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        let (lease, first) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        node.give_back(driver(), lease);
        let variables = alloc::vec![("A".into(), "1".into())];
        let other = Demand { environment: Environment { variables }, ..demand(&[("CPU", 1.0)]) };
        let (_, second) = node.lease(driver(), &other);
        assert_ne!(first, second);
        assert!(node.forks.is_empty());
    }

    #[test]
    fn gpus_are_named_in_the_grant_and_stay_with_a_blocked_worker() {
        let mut node = Harness::with_driver(&[("CPU", 4.0), ("GPU", 1.0)]);
        let gpu = demand(&[("CPU", 1.0), ("GPU", 1.0)]);
        let (request, _) = node.request(driver(), &gpu);
        let (worker, effects) = node.fork_next();
        let sent = sent_to(driver(), &effects);
        let [Message::LeaseGranted { request: answered, devices, .. }] = &sent[..] else {
            panic!("{sent:?}")
        };
        assert_eq!(*answered, request);
        assert_eq!(devices.0, [(Arc::from("GPU"), alloc::vec![(0, crate::resources::Quantity::ONE)])]);
        node.receive(worker, Message::Blocked);
        node.request(driver(), &gpu);
        assert!(node.forks.is_empty(), "the GPU is not lent");
    }

    #[test]
    fn a_worker_that_never_comes_up_is_not_started_for_ever() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let (request, _) = node.request(driver(), &demand(&[("CPU", 1.0)]));
        let mut refused = Vec::new();
        for _ in 0..2 {
            let (_, process, _) = node.forks.remove(0);
            refused.extend(sent_to(driver(), &node.exited(process, Death::Exited { code: 3 })));
            node.pass(Span::from_millis(100));
        }
        assert_eq!(refused, []);
        let (operation, _, _) = node.forks.remove(0);
        let detail = alloc::string::String::from("no such interpreter");
        let effects = node.finished(operation, WorkResult::Failed(Failure::EnvironmentSetup { detail }));
        let [Message::LeaseRefused { request: answered, failure: Failure::EnvironmentSetup { detail } }] =
            &sent_to(driver(), &effects)[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!(*answered, request);
        assert!(detail.contains("no such interpreter"), "{detail}");
        node.pass(Span::from_secs(60));
        assert!(node.forks.is_empty());
        // The next request tries again.
        node.request(driver(), &demand(&[("CPU", 1.0)]));
        assert_eq!(node.forks.len(), 1);
    }
}
