//! Leased workers: asking for them, keeping them busy, giving them back.
//!
//! Tasks of equal demand share leases. Small tasks are pushed ahead of need, as far as their measured
//! durations say that a worker has less than [`super::Config::ahead`] of work; a task that was never
//! measured is never pushed behind another one, nor is anything pushed behind it. Tasks that end up
//! behind a slow one are taken back.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::tasks::Stage;
use super::{Out, Owner};
use crate::ids::{FunctionId, LeaseId, ProcessId, RequestId, TaskId};
use crate::machine::{Span, Time, Wakeup};
use crate::message::{Message, Route};
use crate::mutants::Mutant;
use crate::resources::{Demand, Devices};
use crate::task::{Callee, Target};
use crate::value::{Death, Failure, Outcome};
use crate::{Map, OrderedMap};

/// At most this many tasks are on their way to one worker.
const IN_FLIGHT_MAX: usize = 256;

/// All demands, workers, and what was measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    /// Indexed by class number; classes are never forgotten, there are few.
    classes: Vec<Class>,
    by_demand: BTreeMap<Arc<Demand>, usize>,
    workers: OrderedMap<ProcessId, Worker>,
    /// Open lease requests, and the class each is for.
    requests: BTreeMap<RequestId, usize>,
    next_request: u64,
    /// Microseconds that calls of a function take, a moving average.
    durations: Map<FunctionId, u32>,
    /// When idle leases and slow tasks are looked at again.
    next_check: Option<Time>,
}

/// One demand.
#[derive(Clone, Debug)]
struct Class {
    demand: Arc<Demand>,
    /// Numbers of tasks that are ready to be pushed.
    queue: VecDeque<u64>,
    workers: Vec<ProcessId>,
    requested: usize,
}

/// One leased worker.
#[derive(Clone, Debug)]
struct Worker {
    lease: LeaseId,
    class: usize,
    devices: Devices,
    /// Tasks pushed and not reported, in the order pushed, with their expected microseconds.
    in_flight: VecDeque<(u64, u32)>,
    /// Sum of the expected microseconds.
    load: u32,
    /// Functions whose code this worker has.
    functions: Vec<FunctionId>,
    /// Since when it has nothing to do, or has been at its first task.
    since: Time,
    /// Nothing was taken back since `since`.
    watched: bool,
    /// Its running task waits or is slow: push nothing behind it.
    stalled: bool,
    /// Return the lease as soon as nothing is in flight.
    leaving: bool,
    /// Something was pushed, so there is or was a link.
    contacted: bool,
    closed: bool,
    ended: Option<(Death, Option<TaskId>)>,
}

impl Leases {
    fn class_of(&mut self, demand: &Arc<Demand>) -> usize {
        if let Some(class) = self.by_demand.get(demand) {
            return *class;
        }
        let class = self.classes.len();
        self.by_demand.insert(demand.clone(), class);
        self.classes.push(Class {
            demand: demand.clone(),
            queue: VecDeque::new(),
            workers: Vec::new(),
            requested: 0,
        });
        class
    }

    /// For [`Owner::inspect`].
    pub(super) fn views(&self, owner: ProcessId) -> Vec<super::LeaseView> {
        let view = |(id, worker): (&ProcessId, &Worker)| super::LeaseView {
            id: worker.lease,
            worker: *id,
            in_flight: worker.in_flight.iter().map(|(number, _)| TaskId { owner, number: *number }).collect(),
        };
        self.workers.iter().map(view).collect()
    }

    /// For [`Owner::inspect`].
    pub(super) fn open_requests(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn deadline(&self) -> Option<(Time, Wakeup)> {
        self.next_check.map(|due| (due, Wakeup::ReturnIdleLeases))
    }

    fn check_by(&mut self, due: Time) {
        self.next_check = Some(self.next_check.map_or(due, |next| next.min(due)));
    }
}

impl Worker {
    /// Whether a task of this expected duration may be pushed now.
    fn takes(&self, expected: Option<u32>, ahead: Span) -> bool {
        if self.leaving || self.closed || self.ended.is_some() {
            return false;
        }
        if self.in_flight.is_empty() {
            return true;
        }
        let Some(expected) = expected else {
            return false;
        };
        let room = (ahead.0 / 1_000) as u32;
        !self.stalled && self.in_flight.len() < IN_FLIGHT_MAX && self.load.saturating_add(expected) <= room
    }
}

impl Owner {
    /// Put a task into its demand's queue, at the front if it has been there before.
    pub(super) fn queue_task(&mut self, now: Time, number: u64, front: bool, out: Out<'_>) {
        let Some(task) = self.tasks.get(&number) else {
            return;
        };
        let Target::Function(definition) = &task.submission.target else {
            return;
        };
        let class = self.leases.class_of(&definition.demand);
        let queue = &mut self.leases.classes[class].queue;
        if front {
            queue.push_front(number);
        } else {
            queue.push_back(number);
        }
        self.dispatch(now, class, out);
    }

    /// Take a task that is not pushed out of its queue.
    pub(super) fn unqueue_task(&mut self, number: u64) {
        let Some(task) = self.tasks.get(&number) else {
            return;
        };
        let Target::Function(definition) = &task.submission.target else {
            return;
        };
        let class = self.leases.class_of(&definition.demand);
        self.leases.classes[class].queue.retain(|queued| *queued != number);
        self.delayed.retain(|(_, delayed), ()| *delayed != number);
    }

    pub(super) fn dispatch_all(&mut self, now: Time, out: Out<'_>) {
        for class in 0..self.leases.classes.len() {
            self.dispatch(now, class, out);
        }
    }

    /// Push what can be pushed; ask for more workers if something is left.
    fn dispatch(&mut self, now: Time, class: usize, out: Out<'_>) {
        while let Some(&number) = self.leases.classes[class].queue.front() {
            let Some(function) = self.function_of(number) else {
                // Cancelled or failed meanwhile.
                self.leases.classes[class].queue.pop_front();
                continue;
            };
            if self.lacks_dependency(number) {
                self.leases.classes[class].queue.pop_front();
                self.await_dependencies(now, number, out);
                continue;
            }
            let expected = self.leases.durations.get(&function).copied();
            let Some(worker) = self.pick_worker(class, expected) else {
                self.request_leases(class, out);
                return;
            };
            self.leases.classes[class].queue.pop_front();
            self.push_to(now, worker, number, function, expected, out);
        }
    }

    fn function_of(&self, number: u64) -> Option<FunctionId> {
        let task = self.tasks.get(&number)?;
        match &task.submission.target {
            Target::Function(definition) if task.stage == Stage::Queued => Some(definition.function),
            _ => None,
        }
    }

    /// The least loaded worker of the class that takes the task.
    fn pick_worker(&self, class: usize, expected: Option<u32>) -> Option<ProcessId> {
        let workers = self.leases.classes[class].workers.iter();
        workers
            .filter_map(|id| self.leases.workers.get(id).map(|worker| (*id, worker)))
            .filter(|(_, worker)| worker.takes(expected, self.config.ahead))
            .min_by_key(|(_, worker)| (worker.in_flight.len(), worker.load))
            .map(|(id, _)| id)
    }

    fn request_leases(&mut self, class: usize, out: Out<'_>) {
        let daemon = self.daemon();
        let wanted = self.leases.classes[class].queue.len().min(self.config.cpus as usize);
        while self.leases.classes[class].requested < wanted {
            self.leases.next_request += 1;
            // Requests for leases have numbers of their own, above those of the program's questions.
            let request = RequestId(1 << 62 | self.leases.next_request);
            self.leases.requests.insert(request, class);
            self.leases.classes[class].requested += 1;
            let demand = self.leases.classes[class].demand.clone();
            let job = self.config.job;
            self.send(
                daemon,
                Message::RequestLease { request, job, demand, route: Route::Fresh, prefer: None },
                out,
            );
        }
    }

    fn push_to(
        &mut self,
        now: Time,
        to: ProcessId,
        number: u64,
        function: FunctionId,
        expected: Option<u32>,
        out: Out<'_>,
    ) {
        let Some(worker) = self.leases.workers.get_mut(&to) else {
            return;
        };
        let code = match self.tasks.get(&number).map(|task| &task.submission.target) {
            Some(Target::Function(definition)) if !worker.functions.contains(&function) => {
                worker.functions.push(function);
                Some(definition.clone())
            }
            _ => None,
        };
        let calls_max = match self.tasks.get(&number).map(|task| &task.submission.target) {
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
        worker.in_flight.push_back((number, micros));
        worker.load = worker.load.saturating_add(micros);
        let behind = worker.in_flight.len() > 1 && !worker.watched;
        if behind {
            worker.watched = true;
            self.leases.check_by(now + self.config.take_back_after);
        }
        if let Some(assignment) = self.assignment(number, callee) {
            self.pushed(number, to, assignment, out);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one per field of the message")]
    pub(super) fn lease_granted(
        &mut self,
        now: Time,
        from: ProcessId,
        request: RequestId,
        lease: LeaseId,
        worker: ProcessId,
        devices: Devices,
        out: Out<'_>,
    ) {
        let Some(class) = self.leases.requests.remove(&request) else {
            // Cancelled meanwhile.
            self.send(from, Message::ReturnLease { lease, reusable: true }, out);
            return;
        };
        self.leases.classes[class].requested -= 1;
        self.leases.classes[class].workers.push(worker);
        self.leases.workers.insert(
            worker,
            Worker {
                lease,
                class,
                devices,
                in_flight: VecDeque::new(),
                load: 0,
                functions: Vec::new(),
                since: now,
                watched: false,
                stalled: false,
                leaving: false,
                contacted: false,
                closed: false,
                ended: None,
            },
        );
        self.leases.check_by(now + self.config.lease_idle);
        self.dispatch(now, class, out);
    }

    pub(super) fn lease_refused(&mut self, now: Time, request: RequestId, failure: Failure, out: Out<'_>) {
        let Some(class) = self.leases.requests.remove(&request) else {
            return;
        };
        self.leases.classes[class].requested -= 1;
        if matches!(failure, Failure::Unschedulable { .. } | Failure::EnvironmentSetup { .. }) {
            // It holds for every task of this demand.
            for number in core::mem::take(&mut self.leases.classes[class].queue) {
                self.fail(now, number, Outcome::Failure(failure.clone().into()), out);
            }
        } else {
            self.dispatch(now, class, out);
        }
    }

    /// Others wait: give up idle leases now, and one busy one when its tasks have ended.
    pub(super) fn lease_wanted(&mut self, now: Time, out: Out<'_>) {
        let workers = self.leases.workers.iter();
        let idle: Vec<ProcessId> =
            workers.filter(|(_, worker)| worker.in_flight.is_empty()).map(|(id, _)| *id).collect();
        for worker in &idle {
            self.return_lease(*worker, true, out);
        }
        if idle.is_empty() && !self.leases.workers.values().any(|worker| worker.leaving) {
            let least = self.leases.workers.iter().min_by_key(|(_, worker)| worker.load);
            if let Some(worker) = least.map(|(id, _)| *id) {
                self.leases.workers[&worker].leaving = true;
                self.take_back(worker, out);
            }
        }
        self.leases.check_by(now + self.config.take_back_after);
    }

    /// Ask for everything but the first of the tasks in flight.
    fn take_back(&mut self, id: ProcessId, out: Out<'_>) {
        let me = self.me();
        let Some(worker) = self.leases.workers.get(&id) else {
            return;
        };
        let task = |number: &(u64, u32)| TaskId { owner: me, number: number.0 };
        let tasks: Vec<TaskId> = worker.in_flight.iter().skip(1).map(task).collect();
        if !tasks.is_empty() {
            self.send(id, Message::TakeBack { tasks }, out);
        }
    }

    fn return_lease(&mut self, id: ProcessId, reusable: bool, out: Out<'_>) {
        let Some(worker) = self.leases.workers.shift_remove(&id) else {
            return;
        };
        self.leases.classes[worker.class].workers.retain(|other| *other != id);
        let to = ProcessId::daemon(worker.lease.node);
        self.send(to, Message::ReturnLease { lease: worker.lease, reusable }, out);
    }

    /// A worker reported the end of a task: measure it, and give the worker more.
    pub(super) fn leave_process(
        &mut self,
        now: Time,
        from: ProcessId,
        number: u64,
        micros: u32,
        exiting: bool,
        out: Out<'_>,
    ) {
        if !self.forget_in_flight(from, number) {
            return;
        }
        if let Some(Target::Function(definition)) =
            self.tasks.get(&number).map(|task| &task.submission.target)
        {
            let average = self.leases.durations.entry(definition.function).or_insert(micros);
            // Grows at once, shrinks slowly: a wrong guess costs more when tasks are long.
            *average = if micros > *average { micros } else { (*average * 7 + micros) / 8 };
        }
        let Some(worker) = self.leases.workers.get_mut(&from) else {
            return;
        };
        worker.stalled = false;
        worker.watched = worker.in_flight.len() > 1;
        worker.since = now;
        let class = worker.class;
        if worker.watched {
            self.leases.check_by(now + self.config.take_back_after);
        }
        let Some(worker) = self.leases.workers.get_mut(&from) else {
            return;
        };
        if exiting {
            worker.leaving = true;
            worker.closed = true;
        }
        self.worker_emptied(now, from, !exiting, out);
        self.dispatch(now, class, out);
    }

    /// If nothing is in flight to a worker any more, its lease goes back: now or once it was idle.
    pub(super) fn worker_emptied(&mut self, now: Time, id: ProcessId, reusable: bool, out: Out<'_>) {
        let Some(worker) = self.leases.workers.get_mut(&id) else {
            return;
        };
        if !worker.in_flight.is_empty() {
            return;
        }
        if worker.leaving {
            self.return_lease(id, reusable, out);
        } else {
            worker.since = now;
            self.leases.check_by(now + self.config.lease_idle);
        }
    }

    /// Whether the worker had the task.
    pub(super) fn forget_in_flight(&mut self, worker: ProcessId, number: u64) -> bool {
        let Some(worker) = self.leases.workers.get_mut(&worker) else {
            return false;
        };
        let Some(at) = worker.in_flight.iter().position(|(task, _)| *task == number) else {
            return false;
        };
        if let Some((_, micros)) = worker.in_flight.remove(at) {
            worker.load = worker.load.saturating_sub(micros);
        }
        true
    }

    pub(super) fn worker_stalled(&mut self, worker: ProcessId) {
        if let Some(worker) = self.leases.workers.get_mut(&worker) {
            worker.stalled = true;
        }
    }

    /// The node says that the worker died.
    pub(super) fn lease_ended(
        &mut self,
        now: Time,
        lease: LeaseId,
        death: Death,
        last_started: Option<TaskId>,
        out: Out<'_>,
    ) {
        let found = self.leases.workers.iter_mut().find(|(_, worker)| worker.lease == lease);
        let Some((id, worker)) = found else { return };
        let id = *id;
        worker.ended = Some((death, last_started));
        self.settle_worker(now, id, out);
    }

    /// The link to a worker is closed: nothing that it sent is missing any more.
    pub(super) fn worker_closed(&mut self, now: Time, id: ProcessId, out: Out<'_>) {
        if let Some(worker) = self.leases.workers.get_mut(&id) {
            worker.closed = true;
            self.settle_worker(now, id, out);
        }
    }

    /// With the node's word and everything that the worker had said: see which tasks had started.
    fn settle_worker(&mut self, now: Time, id: ProcessId, out: Out<'_>) {
        let Some(worker) = self.leases.workers.get(&id) else {
            return;
        };
        if worker.ended.is_none() || (worker.contacted && !worker.closed) {
            return;
        }
        let Some(worker) = self.leases.workers.shift_remove(&id) else {
            return;
        };
        self.leases.classes[worker.class].workers.retain(|other| *other != id);
        let Some((death, last_started)) = worker.ended else {
            return;
        };
        let me = self.me();
        let started = last_started
            .filter(|task| task.owner == me)
            .and_then(|task| worker.in_flight.iter().position(|(number, _)| *number == task.number));
        let blamed = if Mutant::BlameUnstarted.is_active() { worker.in_flight.len() } else { 0 };
        let started = started.map_or(blamed, |at| at + 1);
        for (number, _) in worker.in_flight.iter().skip(started).rev() {
            self.push_elsewhere(now, *number, out);
        }
        for (number, _) in worker.in_flight.iter().take(started) {
            self.attempt_lost(now, *number, id, &death, out);
        }
        self.dispatch(now, worker.class, out);
    }

    /// Return idle leases, take back tasks behind slow ones, cancel requests that nobody needs.
    pub(super) fn leases_due(&mut self, now: Time, out: Out<'_>) {
        if self.leases.next_check.is_none_or(|due| due > now) {
            return;
        }
        self.leases.next_check = None;
        let mut idle = Vec::new();
        let mut slow = Vec::new();
        for (id, worker) in &mut self.leases.workers {
            let (list, due) = if worker.in_flight.is_empty() {
                (&mut idle, worker.since + self.config.lease_idle)
            } else if worker.watched {
                (&mut slow, worker.since + self.config.take_back_after)
            } else {
                continue;
            };
            if due <= now {
                worker.watched = false;
                list.push(*id);
            } else {
                self.leases.next_check = Some(self.leases.next_check.map_or(due, |next: Time| next.min(due)));
            }
        }
        for worker in idle {
            self.return_lease(worker, true, out);
        }
        for worker in slow {
            self.worker_stalled(worker);
            self.take_back(worker, out);
        }
        self.cancel_idle_requests(out);
    }

    fn cancel_idle_requests(&mut self, out: Out<'_>) {
        let classes = &self.leases.classes;
        let unneeded = |(_, class): &(&RequestId, &usize)| classes[**class].queue.is_empty();
        let requests: Vec<RequestId> =
            self.leases.requests.iter().filter(unneeded).map(|(request, _)| *request).collect();
        for request in requests {
            if let Some(class) = self.leases.requests.remove(&request) {
                self.leases.classes[class].requested -= 1;
                self.send(self.daemon(), Message::CancelLeaseRequest { request }, out);
            }
        }
    }
}
