//! Leased workers and the tasks that wait for them: which task goes to which worker, and when.
//! [`super::requests`] asks for workers, [`super::workers`] gives them back and buries them.
//!
//! Tasks of equal demand share leases. Small tasks are pushed ahead of need, as far as their measured
//! durations say that a worker has less than [`super::Config::ahead`] of work; a task that was never
//! measured is never pushed behind another one, nor is anything pushed behind it. Tasks that end up
//! behind a slow one are taken back.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::ready::{Rank, Ready};
use super::tasks::{Stage, Task};
use super::{Out, Owner};
use crate::ids::{FunctionId, JobId, LeaseId, NodeId, ProcessId, RequestId, TaskId};
use crate::machine::{Time, Wakeup};
use crate::resources::{Demand, Devices};
use crate::task::{Callee, Target};
use crate::value::{Death, Outcome, Payload};
use crate::{Map, OrderedMap};

/// Stored arguments of a task that are smaller than this together do not say where it should run.
const ARGUMENTS_MATTER: u64 = 1 << 20;

/// All demands, workers, and what was measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    /// Indexed by class number. There are few, but for those of placement groups, whose numbers are used
    /// again when the group is gone.
    pub(super) classes: Vec<Class>,
    /// Classes of groups that are gone.
    pub(super) retired: BTreeSet<usize>,
    by_demand: BTreeMap<JobId, BTreeMap<Arc<Demand>, usize>>,
    /// Whoever changes one says so: [`Leases::rank`].
    pub(super) workers: OrderedMap<ProcessId, Worker>,
    /// How many workers were ever leased.
    pub(super) turns: u64,
    /// Lease requests without an answer.
    pub(super) requests: BTreeMap<RequestId, Request>,
    pub(super) next_request: u64,
    /// Microseconds that calls of a function take, a moving average.
    durations: Map<FunctionId, u32>,
    /// When idle leases and slow tasks are looked at again.
    pub(super) next_check: Option<Time>,
}

/// One demand of one job.
#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) job: JobId,
    pub(super) demand: Arc<Demand>,
    /// Numbers of tasks that are ready to be pushed.
    pub(super) queue: VecDeque<TaskId>,
    pub(super) workers: Vec<ProcessId>,
    /// Those of them that take tasks.
    pub(super) ready: Ready,
    pub(super) requested: usize,
}

impl Class {
    pub(super) fn is_unused(&self) -> bool {
        self.queue.is_empty() && self.is_unasked()
    }

    /// No node was asked for a worker yet.
    fn is_unasked(&self) -> bool {
        self.workers.is_empty() && self.requested == 0
    }
}

/// An open request for a lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) class: usize,
    /// The node whose daemon has it now.
    pub(super) at: NodeId,
    /// How often a node that was said to have room had none.
    pub(super) rejections: u32,
}

/// One leased worker.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) lease: LeaseId,
    pub(super) class: usize,
    pub(super) devices: Devices,
    /// Tasks pushed and not reported, in the order pushed, with their expected microseconds.
    pub(super) in_flight: VecDeque<(TaskId, u32)>,
    /// Sum of the expected microseconds.
    pub(super) load: u32,
    /// Functions whose code this worker has.
    pub(super) functions: Vec<FunctionId>,
    /// Since when it has nothing to do, or has been at its first task.
    pub(super) since: Time,
    /// Nothing was taken back since `since`.
    pub(super) watched: bool,
    /// Its running task waits or is slow: push nothing behind it.
    pub(super) stalled: bool,
    /// Return the lease as soon as nothing is in flight.
    pub(super) leaving: bool,
    /// Something was pushed, so there is or was a link.
    pub(super) contacted: bool,
    /// The link is closed, or the worker has said that it ends: push nothing any more.
    pub(super) closed: bool,
    pub(super) ended: Option<End>,
    /// Which one it is, of all that were ever leased.
    pub(super) turn: u64,
    /// Where its class has it.
    pub(super) ranked: Option<Rank>,
}

/// How a worker ended, as the authority told it.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) death: Death,
    pub(super) started: Started,
}

/// Which of the tasks in flight a dead worker may have started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Started {
    /// Those up to this one; none if it started none.
    UpTo(Option<TaskId>),
    /// Nobody can tell: any of them.
    Any,
}

impl Leases {
    fn class_of(&mut self, job: JobId, demand: &Arc<Demand>) -> usize {
        if let Some(class) = self.by_demand.get(&job).and_then(|classes| classes.get(demand)) {
            return *class;
        }
        let (queue, workers) = (VecDeque::new(), Vec::new());
        let ready = Ready::default();
        let fresh = Class { job, demand: demand.clone(), queue, workers, ready, requested: 0 };
        let unused = self.retired.iter().copied().find(|class| self.classes[*class].is_unused());
        let class = match unused {
            Some(class) => {
                self.retired.remove(&class);
                let before = core::mem::replace(&mut self.classes[class], fresh);
                if let Some(by_demand) = self.by_demand.get_mut(&before.job) {
                    by_demand.remove(&before.demand);
                }
                class
            }
            None => {
                self.classes.push(fresh);
                self.classes.len() - 1
            }
        };
        self.by_demand.entry(job).or_default().insert(demand.clone(), class);
        class
    }

    /// For [`Owner::inspect`].
    pub(super) fn views(&self) -> Vec<super::LeaseView> {
        let view = |(id, worker): (&ProcessId, &Worker)| super::LeaseView {
            id: worker.lease,
            worker: *id,
            in_flight: worker.in_flight.iter().map(|(task, _)| *task).collect(),
        };
        self.workers.iter().map(view).collect()
    }

    /// For [`Owner::inspect`].
    pub(super) fn open_requests(&self) -> usize {
        self.requests.len()
    }

    /// For [`Owner::check`]: how often a task is queued.
    pub(super) fn queued(&self, task: TaskId) -> usize {
        let queues = self.classes.iter().flat_map(|class| &class.queue);
        queues.filter(|queued| **queued == task).count()
    }

    /// For [`Owner::check`].
    pub(super) fn check(&self, tasks: &Map<TaskId, Task>) {
        for (index, class) in self.classes.iter().enumerate() {
            let requested = self.requests.values().filter(|request| request.class == index).count();
            assert_eq!(class.requested, requested, "open requests of {:?}", class.demand);
            for worker in &class.workers {
                let known = self.workers.get(worker).is_some_and(|worker| worker.class == index);
                assert!(known, "{worker:?} is no worker of {:?}", class.demand);
            }
            class.ready.check(self);
        }
        for (id, worker) in &self.workers {
            let listed = self.classes[worker.class].workers.iter().filter(|other| *other == id).count();
            assert_eq!(listed, 1, "{id:?} is listed so often");
            assert_eq!(worker.ranked, worker.rank(), "{id:?} was changed");
            let load = worker.in_flight.iter().fold(0u32, |sum, (_, micros)| sum.saturating_add(*micros));
            assert!(worker.load <= load, "{id:?} has less to do than {}", worker.load);
            for (task, _) in &worker.in_flight {
                let there = tasks.get(task).is_some_and(|task| task.stage == (Stage::Pushed { to: *id }));
                assert!(there, "{task:?} is not with {id:?}");
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<(Time, Wakeup)> {
        self.next_check.map(|due| (due, Wakeup::ReturnIdleLeases))
    }

    pub(super) fn check_by(&mut self, due: Time) {
        self.next_check = Some(self.next_check.map_or(due, |next| next.min(due)));
    }
}

/// What to expect of a function that was expected to take `average` microseconds and took `micros`. Grows
/// at once, shrinks slowly: a wrong guess costs more when tasks are long.
fn expect(average: u32, micros: u32) -> u32 {
    if micros > average { micros } else { average - (average - micros).div_ceil(8) }
}

impl Owner {
    /// Put a task into its demand's queue, at the front if it has been there before.
    pub(super) fn queue_task(&mut self, now: Time, id: TaskId, front: bool, out: Out<'_>) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let Target::Function(definition) = &task.submission.target else {
            return;
        };
        let (job, demand) = (task.job, definition.demand.clone());
        if let Some(group) = demand.group {
            self.watch_group(group, out);
        }
        let class = self.leases.class_of(job, &demand);
        let queue = &mut self.leases.classes[class].queue;
        if front {
            queue.push_front(id);
        } else {
            queue.push_back(id);
        }
        self.dispatch(now, class, out);
    }

    /// Take a task that is not pushed out of its queue.
    pub(super) fn unqueue_task(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let Target::Function(definition) = &task.submission.target else {
            return;
        };
        let class = self.leases.class_of(task.job, &definition.demand);
        let queue = &mut self.leases.classes[class].queue;
        queue.retain(|queued| *queued != id);
        if queue.is_empty() && self.leases.classes[class].requested > 0 {
            // Requests that nobody needs any more are cancelled then.
            self.leases.check_by(self.now + self.config.lease_idle);
        }
        self.delayed.retain(|(_, delayed), ()| *delayed != id);
    }

    pub(super) fn dispatch_all(&mut self, now: Time, out: Out<'_>) {
        for class in 0..self.leases.classes.len() {
            self.dispatch(now, class, out);
        }
    }

    /// Push what can be pushed; ask for more workers if something is left.
    pub(super) fn dispatch(&mut self, now: Time, class: usize, out: Out<'_>) {
        if let Some(group) = self.removed_group(class) {
            return self.refuse_tasks_of(class, group, out);
        }
        while let Some(&id) = self.leases.classes[class].queue.front() {
            let Some(function) = self.function_of(id) else {
                // Cancelled or failed meanwhile.
                self.leases.classes[class].queue.pop_front();
                continue;
            };
            if self.lacks_dependency(id) {
                self.leases.classes[class].queue.pop_front();
                self.await_dependencies(now, id, out);
                continue;
            }
            let expected = self.leases.durations.get(&function).copied();
            let Some(worker) = self.pick_worker(class, id, expected) else {
                let first = self.leases.classes[class].is_unasked();
                if first && let Some(failure) = self.misfit(class) {
                    return self.refuse_tasks(class, &failure, out);
                }
                self.request_leases(class, out);
                return;
            };
            self.leases.classes[class].queue.pop_front();
            self.push_to(now, worker, id, function, expected, out);
        }
    }

    fn function_of(&self, id: TaskId) -> Option<FunctionId> {
        let task = self.tasks.get(&id)?;
        match &task.submission.target {
            Target::Function(definition) if task.stage == Stage::Queued => Some(definition.function),
            _ => None,
        }
    }

    /// The least loaded worker of the class that takes the task, one near its arguments before others.
    fn pick_worker(&self, class: usize, id: TaskId, expected: Option<u32>) -> Option<ProcessId> {
        let ready = &self.leases.classes[class].ready;
        let near = self.node_of_arguments(id).and_then(|node| ready.on(node, expected, self.config.ahead));
        near.or_else(|| ready.least_loaded(expected, self.config.ahead))
    }

    /// The node that has most bytes of the task's stored arguments, if they are many.
    pub(super) fn node_of_arguments(&self, id: TaskId) -> Option<NodeId> {
        let dependencies = &self.tasks.get(&id)?.submission.dependencies;
        let mut bytes: BTreeMap<NodeId, u64> = BTreeMap::new();
        for object in dependencies {
            if let Some(Outcome::Value(value)) = self.outcome(*object)
                && let Payload::Stored { size, .. } = value.payload
            {
                for node in self.locations(*object) {
                    let sum = bytes.entry(node).or_default();
                    *sum = sum.saturating_add(size);
                }
            }
        }
        let here = self.node();
        let most = bytes.into_iter().max_by_key(|(node, bytes)| (*bytes, *node == here));
        most.filter(|(_, bytes)| *bytes >= ARGUMENTS_MATTER).map(|(node, _)| node)
    }

    fn push_to(
        &mut self,
        now: Time,
        to: ProcessId,
        id: TaskId,
        function: FunctionId,
        expected: Option<u32>,
        out: Out<'_>,
    ) {
        let Some(worker) = self.leases.workers.get_mut(&to) else {
            return;
        };
        let code = match self.tasks.get(&id).map(|task| &task.submission.target) {
            Some(Target::Function(definition)) if !worker.functions.contains(&function) => {
                worker.functions.push(function);
                Some(definition.clone())
            }
            _ => None,
        };
        let calls_max = match self.tasks.get(&id).map(|task| &task.submission.target) {
            Some(Target::Function(definition)) => definition.calls_max,
            _ => 0,
        };
        let class = &self.leases.classes[worker.class];
        let demand = (!worker.contacted).then(|| class.demand.clone());
        let callee = Callee::Function {
            function,
            code: code.map(|definition| definition.code.clone()),
            lease: worker.lease,
            devices: worker.devices.clone(),
            demand,
            calls_max,
        };
        // What was never measured counts as filling the worker.
        let micros = expected.unwrap_or((self.config.ahead.0 / 1_000) as u32);
        if worker.in_flight.is_empty() {
            worker.since = now;
            worker.watched = false;
        }
        worker.contacted = true;
        worker.in_flight.push_back((id, micros));
        worker.load = worker.load.saturating_add(micros);
        let behind = worker.in_flight.len() > 1 && !worker.watched;
        if behind {
            worker.watched = true;
            self.leases.check_by(now + self.config.take_back_after);
        }
        self.leases.rank(to);
        if let Some(assignment) = self.assignment(id, to.node(), callee) {
            self.pushed(id, to, assignment, out);
        }
    }

    /// A worker reported the end of a task: measure it, and give the worker more.
    pub(super) fn leave_process(
        &mut self,
        now: Time,
        from: ProcessId,
        id: TaskId,
        micros: u32,
        exiting: bool,
        out: Out<'_>,
    ) {
        if !self.forget_in_flight(from, id) {
            return;
        }
        if let Some(Target::Function(definition)) = self.tasks.get(&id).map(|task| &task.submission.target) {
            let average = self.leases.durations.entry(definition.function).or_insert(micros);
            *average = expect(*average, micros);
        }
        let Some(worker) = self.leases.workers.get_mut(&from) else {
            return;
        };
        worker.stalled = false;
        worker.watched = worker.in_flight.len() > 1;
        worker.since = now;
        worker.leaving |= exiting;
        worker.closed |= exiting;
        let class = worker.class;
        if worker.watched {
            self.leases.check_by(now + self.config.take_back_after);
        }
        self.leases.rank(from);
        self.worker_emptied(now, from, out);
        self.dispatch(now, class, out);
    }

    /// If nothing is in flight to a worker any more, its lease goes back: now or once it was idle.
    pub(super) fn worker_emptied(&mut self, now: Time, id: ProcessId, out: Out<'_>) {
        let Some(worker) = self.leases.workers.get_mut(&id) else {
            return;
        };
        if !worker.in_flight.is_empty() {
            return;
        }
        if worker.leaving {
            self.return_lease(id, out);
        } else {
            worker.since = now;
            self.leases.check_by(now + self.config.lease_idle);
        }
    }

    /// Whether the worker had the task.
    pub(super) fn forget_in_flight(&mut self, from: ProcessId, id: TaskId) -> bool {
        let Some(worker) = self.leases.workers.get_mut(&from) else {
            return false;
        };
        let Some(at) = worker.in_flight.iter().position(|(task, _)| *task == id) else {
            return false;
        };
        if let Some((_, micros)) = worker.in_flight.remove(at) {
            worker.load = worker.load.saturating_sub(micros);
        }
        self.leases.rank(from);
        true
    }

    pub(super) fn worker_stalled(&mut self, id: ProcessId) {
        if let Some(worker) = self.leases.workers.get_mut(&id) {
            worker.stalled = true;
            self.leases.rank(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::expect;

    #[test]
    fn expectations_grow_at_once_and_shrink_slowly_however_long_tasks_take() {
        assert_eq!(expect(10, 80), 80);
        assert_eq!(expect(80, 0), 70);
        assert_eq!(expect(5, 4), 4);
        let hour = 3_600_000_000;
        assert_eq!(expect(hour, 0), hour / 8 * 7);
        assert_eq!(expect(u32::MAX, u32::MAX), u32::MAX);
    }
}
