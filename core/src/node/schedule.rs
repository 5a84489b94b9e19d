//! Who gets what is free: claims in turns, workers for claims, and a fair share for those who wait.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Node;
use super::leases::Leased;
use super::ledger::{is_light, light_running_max};
use super::outbox::Outbox;
use super::processes::State;
use super::queue::{Claim, Claimant};
use crate::ids::ProcessId;
use crate::machine::{Span, Time, Wakeup};
use crate::message::Message;
use crate::resources::{Demand, Resources};

/// A lease is not asked back for others before it was held for so long.
const TIME_SLICE: Span = Span::from_millis(20);
/// While light claims wait, the cap rises by one each time this has passed: those that run may be
/// waiting for those that cannot start.
const CAP_RISES_AFTER: Span = Span::from_secs(1);

/// What scheduling remembers besides the queue.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Claims that this node can never meet, in the order of their deadlines.
    pub(super) unschedulable: VecDeque<Unschedulable>,
    /// How far the cap of light leases was raised.
    raised: u32,
}

/// A claim that this node can never meet.
#[derive(Debug)]
pub(super) struct Unschedulable {
    pub(super) claim: Claim,
    pub(super) deadline: Time,
    pub(super) detail: String,
}

impl Node {
    pub(super) fn schedule(&mut self, out: &mut Outbox) {
        self.admit();
        while let Some((claim, holding, worker)) = self.pools.next_match() {
            match claim.claimant {
                Claimant::Lessee { .. } => self.grant(claim, holding, worker, out),
                Claimant::Actor { actor, .. } => self.become_actor(actor, holding, worker, out),
            }
        }
        self.start_workers(out);
        self.watch_idle_workers(out.now);
        self.share_leases(out);
        self.watch_cap(out.now);
    }

    /// Give free resources to claims, in turns.
    fn admit(&mut self) {
        let cap = light_running_max(self.ledger.cpus()).saturating_add(self.shares.raised);
        while !self.queue.is_empty() {
            let ledger = &mut self.ledger;
            let mut holding = None;
            let claim = self.queue.take(|claimant, demand| {
                let counted = claimant.is_counted();
                if counted && is_light(&demand.resources) && ledger.light_running() >= cap {
                    return false;
                }
                holding = ledger.take(&demand.resources, counted);
                holding.is_some()
            });
            let (Some(claim), Some(holding)) = (claim, holding) else { return };
            self.pools.wait(claim, holding);
        }
    }

    /// Tell those who hold what others wait for, once their leases have had a time slice.
    fn share_leases(&mut self, out: &mut Outbox) {
        if self.queue.is_empty() {
            self.leases.nobody_waits();
            return;
        }
        let waiting: Vec<(ProcessId, Arc<Demand>, Vec<Arc<str>>)> = self
            .queue
            .demands()
            .map(|(party, demand)| (party, demand.clone(), self.ledger.lacking(&demand.resources)))
            .collect();
        let mut told = Vec::new();
        for (lessee, leased) in self.leases.lessees().filter(|(_, leased)| !leased.told) {
            let Some(due) = self.earliest_conflict(lessee, leased, &waiting) else { continue };
            if due <= out.now {
                out.send(lessee, Message::LeaseWanted);
                told.push(lessee);
            } else {
                self.deadlines.arm(Wakeup::ShareLeases, due);
            }
        }
        for lessee in told {
            self.leases.told(lessee);
        }
    }

    /// When the first of these leases that keeps somebody waiting has had its time slice.
    fn earliest_conflict(
        &self,
        lessee: ProcessId,
        leased: &Leased,
        waiting: &[(ProcessId, Arc<Demand>, Vec<Arc<str>>)],
    ) -> Option<Time> {
        let leases = leased.leases.iter().filter_map(|id| self.leases.get(*id));
        let conflicts = leases.filter(|lease| {
            waiting.iter().any(|(party, demand, lacking)| {
                let other = *party != lessee || *demand != lease.demand;
                let held = &lease.demand.resources;
                other && (lacking.iter().any(|name| held.get(name).0 > 0) || self.caps(held, demand, lacking))
            })
        });
        conflicts.map(|lease| lease.granted + TIME_SLICE).min()
    }

    /// Whether a demand only waits for the cap of light leases, and a lease like that fills it.
    fn caps(&self, held: &Resources, demand: &Demand, lacking: &[Arc<str>]) -> bool {
        lacking.is_empty() && is_light(&demand.resources) && is_light(held)
    }

    /// Raise the cap in time if light claims wait for nothing but it.
    fn watch_cap(&mut self, now: Time) {
        let capped = self.queue.demands().any(|(_, demand)| {
            is_light(&demand.resources) && self.ledger.lacking(&demand.resources).is_empty()
        });
        if !capped {
            self.deadlines.disarm(Wakeup::RaiseCap);
            if self.queue.is_empty() {
                self.shares.raised = 0;
            }
        } else if !self.deadlines.is_armed(Wakeup::RaiseCap) {
            self.deadlines.arm(Wakeup::RaiseCap, now + CAP_RISES_AFTER);
        }
    }

    pub(super) fn raise_cap(&mut self) {
        self.shares.raised = self.shares.raised.saturating_add(1);
    }

    pub(super) fn refuse_unschedulable(&mut self, out: &mut Outbox) {
        while let Some(first) = self.shares.unschedulable.front() {
            if first.deadline > out.now {
                self.deadlines.arm(Wakeup::Unschedulable, first.deadline);
                return;
            }
            let entry = self.shares.unschedulable.pop_front().expect("it has a first one");
            self.refuse_claim(&entry.claim, entry.detail, out);
        }
    }

    /// Leases, workers, actors and pools must tell the same story.
    pub(super) fn check_roles(&self) {
        for (id, lease) in self.leases.iter() {
            let worker = self.processes.worker(lease.worker).expect("leased workers live");
            assert_eq!(worker.state, State::Leased(id));
            assert!(self.processes.get(lease.lessee).is_some(), "lessees live");
        }
        for (id, _, worker) in self.processes.workers() {
            let pool = self.pools.get(worker.pool);
            match &worker.state {
                State::Idle { .. } => assert!(pool.idle.contains(&id) && worker.exit.is_none()),
                State::Leased(lease) => assert!(self.leases.get(*lease).is_some()),
                State::Actor(actor) => assert!(self.actors.contains_key(actor)),
                State::Starting | State::Retired => {}
            }
            if matches!(worker.state, State::Leased(_) | State::Actor(_)) {
                assert!(worker.holding.is_some(), "{id:?} holds what it was given");
            }
        }
    }
}
