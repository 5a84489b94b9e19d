//! Which workers can take which work: one pool for each job and environment.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use super::ledger::Holding;
use super::queue::Claim;
use crate::ids::{JobId, ProcessId};
use crate::machine::{Span, Time};
use crate::resources::Environment;

/// After so many failed starts in a row, what waits for a worker is refused.
const FAILED_STARTS_MAX: u32 = 3;
/// After so many workers in a row that ended before they were of use, likewise.
const USELESS_STARTS_MAX: u32 = 10;

/// Names a pool.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct PoolId(u32);

/// The workers of one job in one environment.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub(super) job: JobId,
    pub(super) environment: Environment,
    /// Free workers; the last one was used last and is used first.
    pub(super) idle: Vec<ProcessId>,
    /// How many are starting.
    pub(super) starting: u32,
    /// Claims that have their resources and lack a worker.
    pub(super) waiting: VecDeque<(Claim, Holding)>,
    /// How many to have before they are asked for.
    pub(super) prestart: u32,
    pub(super) starts: Starts,
}

/// How the latest starts of a pool went.
#[derive(Clone, Debug, Default)]
pub(super) struct Starts {
    /// Failed in a row.
    failed: u32,
    /// Ended in a row without having been of use.
    useless: u32,
    /// No start before this.
    pub(super) not_before: Time,
}

impl Starts {
    /// A worker came up.
    pub(super) fn came_up(&mut self) {
        self.failed = 0;
    }

    /// A worker was of use.
    pub(super) fn was_of_use(&mut self) {
        *self = Starts::default();
    }

    /// A worker ended before it was of use, by itself. Says whether to give up.
    pub(super) fn ended_useless(&mut self, now: Time, came_up: bool) -> bool {
        self.failed += u32::from(!came_up);
        self.useless += 1;
        self.not_before = now + start_delay(self.useless);
        let give_up = self.failed >= FAILED_STARTS_MAX || self.useless >= USELESS_STARTS_MAX;
        if give_up {
            self.failed = 0;
            self.useless = 0;
        }
        give_up
    }
}

/// How long after the `useless`-th useless start in a row the next one may follow.
fn start_delay(useless: u32) -> Span {
    match useless {
        0 | 1 => Span(0),
        more => Span::from_millis((10 << (more - 2).min(9)).min(5_000)),
    }
}

impl Pool {
    /// How many starting workers the pool should have.
    fn wanted(&self) -> usize {
        self.waiting.len().max(self.prestart as usize)
    }

    /// Whether another worker must be started.
    pub(super) fn lacks_workers(&self) -> bool {
        (self.starting as usize) < self.wanted()
    }
}

/// All pools.
#[derive(Clone, Debug, Default)]
pub(super) struct Pools {
    ids: BTreeMap<(JobId, Environment), PoolId>,
    pools: BTreeMap<PoolId, Pool>,
    /// Pools that may lack workers.
    needy: BTreeSet<PoolId>,
    last: u32,
    idle: usize,
    starting: u32,
}

impl Pools {
    /// The pool of that job and environment; it is made if need be.
    pub(super) fn find(&mut self, job: JobId, environment: &Environment) -> PoolId {
        let key = (job, environment.clone());
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        self.last += 1;
        let id = PoolId(self.last);
        let pool = Pool {
            job,
            environment: environment.clone(),
            idle: Vec::new(),
            starting: 0,
            waiting: VecDeque::new(),
            prestart: 0,
            starts: Starts::default(),
        };
        self.ids.insert(key, id);
        self.pools.insert(id, pool);
        id
    }

    pub(super) fn get(&self, id: PoolId) -> &Pool {
        self.pools.get(&id).expect("pools live as long as what refers to them")
    }
    pub(super) fn get_mut(&mut self, id: PoolId) -> &mut Pool {
        self.pools.get_mut(&id).expect("pools live as long as what refers to them")
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = (PoolId, &Pool)> {
        self.pools.iter().map(|(id, pool)| (*id, pool))
    }
    /// Idle workers of all pools.
    pub(super) fn idle_count(&self) -> usize {
        self.idle
    }
    /// Starting workers of all pools.
    pub(super) fn starting_count(&self) -> u32 {
        self.starting
    }

    /// Start this many workers before they are asked for.
    pub(super) fn prestart(&mut self, id: PoolId, count: u32) {
        self.get_mut(id).prestart = count;
        self.needy.insert(id);
    }

    /// A claim has its resources and needs a worker.
    pub(super) fn wait(&mut self, claim: Claim, holding: Holding) {
        self.needy.insert(claim.pool);
        self.get_mut(claim.pool).waiting.push_back((claim, holding));
    }

    /// Take out a claim that has a worker now.
    pub(super) fn next_match(&mut self) -> Option<(Claim, Holding, ProcessId)> {
        let ready = |id: &&PoolId| {
            let pool = &self.pools[*id];
            !pool.idle.is_empty() && !pool.waiting.is_empty()
        };
        let id = *self.needy.iter().find(ready)?;
        let pool = self.get_mut(id);
        let worker = pool.idle.pop().expect("it has an idle worker");
        let (claim, holding) = pool.waiting.pop_front().expect("it has a waiting claim");
        self.idle -= 1;
        Some((claim, holding, worker))
    }

    /// Pools that lack workers, those that may not start one yet included.
    pub(super) fn lacking_workers(&mut self) -> Vec<PoolId> {
        let pools = &self.pools;
        self.needy.retain(|id| {
            let pool = &pools[id];
            pool.prestart > 0 || !pool.waiting.is_empty()
        });
        self.needy.iter().copied().filter(|id| pools[id].lacks_workers()).collect()
    }

    pub(super) fn add_starting(&mut self, id: PoolId) {
        self.get_mut(id).starting += 1;
        self.starting += 1;
    }

    /// A starting worker came up or ended.
    pub(super) fn remove_starting(&mut self, id: PoolId) {
        let pool = self.get_mut(id);
        pool.starting = pool.starting.checked_sub(1).expect("starting workers are counted");
        pool.prestart = pool.prestart.saturating_sub(1);
        self.starting -= 1;
    }

    pub(super) fn add_idle(&mut self, id: PoolId, worker: ProcessId) {
        self.get_mut(id).idle.push(worker);
        self.idle += 1;
    }

    pub(super) fn remove_idle(&mut self, id: PoolId, worker: ProcessId) {
        let idle = &mut self.get_mut(id).idle;
        let before = idle.len();
        idle.retain(|other| *other != worker);
        assert_eq!(before, idle.len() + 1, "an idle worker is in its pool");
        self.idle -= 1;
    }

    /// Take out the waiting claims that `unwanted` picks.
    pub(super) fn remove_waiting(
        &mut self,
        mut unwanted: impl FnMut(&Claim, &Holding) -> bool,
    ) -> Vec<(Claim, Holding)> {
        let mut removed = Vec::new();
        for id in &self.needy {
            let waiting = &mut self.pools.get_mut(id).expect("needy pools exist").waiting;
            let mut index = 0;
            while index < waiting.len() {
                if unwanted(&waiting[index].0, &waiting[index].1) {
                    removed.extend(waiting.remove(index));
                } else {
                    index += 1;
                }
            }
        }
        removed
    }

    /// Forget the pools of a job that has no process here.
    pub(super) fn forget(&mut self, job: JobId) {
        let Pools { ids, pools, needy, .. } = self;
        ids.retain(|(of, _), id| {
            let pool = &pools[id];
            let keep = *of != job || !pool.waiting.is_empty() || pool.starting > 0 || !pool.idle.is_empty();
            if !keep {
                pools.remove(id);
                needy.remove(id);
            }
            keep
        });
    }

    /// What the tables say of themselves must be true.
    pub(super) fn check(&self) {
        assert_eq!(self.idle, self.pools.values().map(|pool| pool.idle.len()).sum::<usize>());
        assert_eq!(self.starting, self.pools.values().map(|pool| pool.starting).sum::<u32>());
        for (id, pool) in &self.pools {
            assert!(pool.waiting.is_empty() || self.needy.contains(id), "waiting pools are needy");
        }
    }
}

/// What to tell those who wait for a worker that cannot be started.
pub(super) fn start_failure(reason: &str) -> String {
    alloc::format!("no worker could be started: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_slow_down_and_give_up_after_failures_in_a_row() {
        let delays: Vec<u64> = (0..14).map(|useless| start_delay(useless).0 / 1_000_000).collect();
        assert_eq!(delays, [0, 0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000, 5000]);

        let mut starts = Starts::default();
        assert!(!starts.ended_useless(Time(0), false));
        starts.came_up();
        assert!(!starts.ended_useless(Time(0), false));
        assert!(!starts.ended_useless(Time(0), false));
        assert!(starts.ended_useless(Time(0), false), "the third failure in a row");
        assert!(starts.not_before > Time(0));

        let mut starts = Starts::default();
        for _ in 0..9 {
            assert!(!starts.ended_useless(Time(0), true));
        }
        assert!(starts.ended_useless(Time(0), true), "the tenth useless worker in a row");
        starts.was_of_use();
        assert_eq!(starts.not_before, Time(0));
    }
}
