//! Claims that wait for resources: first come, first served for each demand; between those who ask,
//! who has least comes first, and equals take turns.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::pools::PoolId;
use crate::ids::{ActorId, ProcessId, RequestId};
use crate::machine::Time;
use crate::resources::Demand;

/// Who needs a worker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Claimant {
    /// A process that asked for a lease.
    Lessee { process: ProcessId, request: RequestId },
    /// An actor that the head placed here.
    Actor { actor: ActorId, incarnation: u32 },
}

impl Claimant {
    /// With whom it takes turns.
    pub(super) fn party(&self) -> ProcessId {
        match self {
            Claimant::Lessee { process, .. } => *process,
            Claimant::Actor { .. } => ProcessId::HEAD,
        }
    }

    /// Whether the cap of light leases applies. Actors are as many as the program makes.
    pub(super) fn is_counted(&self) -> bool {
        matches!(self, Claimant::Lessee { .. })
    }
}

/// A need of one worker and of what the work holds.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) claimant: Claimant,
    pub(super) pool: PoolId,
    pub(super) demand: Arc<Demand>,
}

/// Claims of one party that only differ in their claimants.
#[derive(Clone, Debug)]
struct Group {
    pool: PoolId,
    demand: Arc<Demand>,
    claims: VecDeque<Claimant>,
    /// When one of them got what it waited for, or the first of them came.
    since: Time,
}

/// Some who wait for the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter<'a> {
    pub(super) demand: &'a Arc<Demand>,
    /// Since when none of them has got it.
    pub(super) since: Time,
}

/// All claims that wait for resources.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    parties: BTreeMap<ProcessId, VecDeque<Group>>,
    /// Whose turn is next.
    turns: VecDeque<ProcessId>,
    length: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn push(&mut self, claim: Claim, now: Time) {
        let party = claim.claimant.party();
        let groups = self.parties.entry(party).or_insert_with(|| {
            self.turns.push_back(party);
            VecDeque::new()
        });
        self.length += 1;
        let same = |group: &&mut Group| group.pool == claim.pool && group.demand == claim.demand;
        if let Some(group) = groups.iter_mut().find(same) {
            group.claims.push_back(claim.claimant);
            return;
        }
        let claims = VecDeque::from([claim.claimant]);
        groups.push_back(Group { pool: claim.pool, demand: claim.demand, claims, since: now });
    }

    /// Take out the next claim that `fits`, and put its party and its group last. `has` tells how much
    /// a party has already.
    pub(super) fn take(
        &mut self,
        now: Time,
        has: impl Fn(ProcessId) -> usize,
        mut fits: impl FnMut(&Claimant, &Demand) -> bool,
    ) -> Option<Claim> {
        let mut order: Vec<usize> = (0..self.turns.len()).collect();
        order.sort_by_key(|turn| has(self.turns[*turn]));
        for turn in order {
            let party = self.turns[turn];
            let groups = self.parties.get_mut(&party).expect("parties with turns have claims");
            let fitting = groups.iter().position(|group| fits(&group.claims[0], &group.demand));
            let Some(index) = fitting else { continue };
            let mut group = groups.remove(index).expect("the index was just found");
            let claimant = group.claims.pop_front().expect("groups are never empty");
            let claim = Claim { claimant, pool: group.pool, demand: group.demand.clone() };
            if !group.claims.is_empty() {
                group.since = now;
                groups.push_back(group);
            }
            self.length -= 1;
            self.turns.remove(turn);
            if groups.is_empty() {
                self.parties.remove(&party);
            } else {
                self.turns.push_back(party);
            }
            return Some(claim);
        }
        None
    }

    /// Take out claims for as long as `picks` takes the first of its group, in the order of turns.
    pub(super) fn take_all(&mut self, mut picks: impl FnMut(&Claimant, &Demand) -> bool) -> Vec<Claim> {
        let mut taken = Vec::new();
        for party in &self.turns {
            let groups = self.parties.get_mut(party).expect("parties with turns have claims");
            for group in groups.iter_mut() {
                while let Some(claimant) = group.claims.front().copied() {
                    if !picks(&claimant, &group.demand) {
                        break;
                    }
                    group.claims.pop_front();
                    taken.push(Claim { claimant, pool: group.pool, demand: group.demand.clone() });
                }
            }
            groups.retain(|group| !group.claims.is_empty());
        }
        self.parties.retain(|_, groups| !groups.is_empty());
        self.turns.retain(|party| self.parties.contains_key(party));
        self.length -= taken.len();
        taken
    }

    /// Who waits for what, and since when.
    pub(super) fn waiters(&self) -> impl Iterator<Item = Waiter<'_>> {
        let groups = self.parties.values().flatten();
        groups.map(|group| Waiter { demand: &group.demand, since: group.since })
    }

    /// Who waits, and of which pools they want a worker.
    pub(super) fn parties(&self) -> impl Iterator<Item = (ProcessId, PoolId)> {
        self.parties.iter().flat_map(|(party, groups)| groups.iter().map(|group| (*party, group.pool)))
    }

    /// Drop the claims that `unwanted` picks. Says how many.
    pub(super) fn remove(&mut self, party: ProcessId, mut unwanted: impl FnMut(&Claimant) -> bool) -> usize {
        let Some(groups) = self.parties.get_mut(&party) else { return 0 };
        let mut removed = 0;
        groups.retain_mut(|group| {
            let before = group.claims.len();
            group.claims.retain(|claimant| !unwanted(claimant));
            removed += before - group.claims.len();
            !group.claims.is_empty()
        });
        if groups.is_empty() {
            self.parties.remove(&party);
            self.turns.retain(|other| *other != party);
        }
        self.length -= removed;
        removed
    }

    /// Every (party, demand) that waits, in the order of turns.
    pub(super) fn demands(&self) -> impl Iterator<Item = (ProcessId, &Arc<Demand>)> {
        self.turns.iter().flat_map(|party| self.parties[party].iter().map(|group| (*party, &group.demand)))
    }

    /// All claims of pools and demands that `picks`, taken out.
    pub(super) fn drain(&mut self, mut picks: impl FnMut(PoolId, &Demand) -> bool) -> Vec<Claim> {
        let mut drained = Vec::new();
        self.parties.retain(|_, groups| {
            groups.retain_mut(|group| {
                let keep = !picks(group.pool, &group.demand);
                if !keep {
                    drained.extend(group.claims.drain(..).map(|claimant| Claim {
                        claimant,
                        pool: group.pool,
                        demand: group.demand.clone(),
                    }));
                }
                keep
            });
            !groups.is_empty()
        });
        self.turns.retain(|party| self.parties.contains_key(party));
        self.length -= drained.len();
        drained
    }

    /// What the table says of itself must be true.
    pub(super) fn check(&self) {
        let groups = || self.parties.values().flatten();
        assert_eq!(self.length, groups().map(|group| group.claims.len()).sum::<usize>());
        assert!(groups().all(|group| !group.claims.is_empty()), "groups are never empty");
        assert_eq!(self.turns.len(), self.parties.len(), "each party has one turn");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::JobId;
    use crate::node::harness::{demand, process};
    use crate::node::pools::Pools;
    use crate::resources::Environment;

    fn queue(claims: &[(u32, f64)]) -> Queue {
        let pool = Pools::default().find(JobId(1), &Environment::default());
        let mut queue = Queue::default();
        for (number, (party, cpus)) in (0..).zip(claims) {
            let claimant = Claimant::Lessee { process: process(*party), request: RequestId(number) };
            let claim = Claim { claimant, pool, demand: Arc::new(demand(&[("CPU", *cpus)])) };
            queue.push(claim, Time(0));
        }
        queue
    }

    fn order(mut queue: Queue, has: impl Fn(ProcessId) -> usize, cpus_max: f64) -> Vec<u64> {
        let most = crate::resources::Quantity::from_f64(cpus_max);
        let mut order = Vec::new();
        while let Some(claim) = queue.take(Time(0), &has, |_, demand| demand.resources.get("CPU") <= most) {
            queue.check();
            if let Claimant::Lessee { request, .. } = claim.claimant {
                order.push(request.0);
            }
        }
        order
    }

    #[test]
    fn parties_take_turns_and_so_do_demands_within_them() {
        let claims = [(1, 1.0), (1, 1.0), (1, 2.0), (2, 1.0), (1, 1.0), (2, 1.0)];
        assert_eq!(order(queue(&claims), |_| 0, 2.0), [0, 3, 2, 5, 1, 4]);
        assert_eq!(order(queue(&claims), |_| 0, 1.0), [0, 3, 1, 5, 4], "what does not fit is passed by");
    }

    #[test]
    fn who_has_least_comes_first() {
        let claims = [(1, 1.0), (1, 1.0), (2, 1.0)];
        let has = |party: ProcessId| if party == process(1) { 3 } else { 1 };
        assert_eq!(order(queue(&claims), has, 1.0), [2, 0, 1]);
    }

    #[test]
    fn removed_claims_are_gone() {
        let mut queue = queue(&[(1, 1.0), (1, 2.0), (2, 1.0)]);
        assert_eq!(queue.remove(process(1), |claimant| claimant.party() == process(1)), 2);
        assert_eq!(queue.remove(process(3), |_| true), 0);
        queue.check();
        assert_eq!(order(queue, |_| 0, 9.0), [2]);
    }
}
