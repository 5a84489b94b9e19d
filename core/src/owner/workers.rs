//! Leased workers that are given up, taken back from, or dead.

use alloc::vec::Vec;

use super::leases::{End, Started};
use super::{Out, Owner};
use crate::ids::{LeaseId, NodeId, ProcessId, TaskId};
use crate::machine::Time;
use crate::message::Message;
use crate::mutants::Mutant;
use crate::value::Death;

impl Owner {
    /// Others wait on a node: give up idle leases there now, and one busy one when its tasks have ended.
    pub(super) fn lease_wanted(&mut self, now: Time, node: NodeId, out: Out<'_>) {
        let workers = self.leases.workers.iter().filter(|(_, worker)| worker.lease.node == node);
        let idle: Vec<ProcessId> =
            workers.filter(|(_, worker)| worker.in_flight.is_empty()).map(|(id, _)| *id).collect();
        for worker in &idle {
            self.return_lease(*worker, out);
        }
        let busy = || self.leases.workers.iter().filter(|(_, worker)| worker.lease.node == node);
        if idle.is_empty() && !busy().any(|(_, worker)| worker.leaving) {
            let least = busy().min_by_key(|(_, worker)| worker.load);
            if let Some(worker) = least.map(|(id, _)| *id) {
                self.leases.workers[&worker].leaving = true;
                self.leases.rank(worker);
                self.take_back(worker, out);
            }
        }
        self.leases.check_by(now + self.config.take_back_after);
    }

    /// Ask for everything but the first of the tasks in flight.
    fn take_back(&mut self, id: ProcessId, out: Out<'_>) {
        let Some(worker) = self.leases.workers.get(&id) else {
            return;
        };
        let tasks: Vec<TaskId> = worker.in_flight.iter().skip(1).map(|(task, _)| *task).collect();
        if !tasks.is_empty() {
            self.send(id, Message::TakeBack { tasks }, out);
        }
    }

    /// Give up a lease. Nobody else can use a worker that has closed its link or said that it ends.
    pub(super) fn return_lease(&mut self, id: ProcessId, out: Out<'_>) {
        let Some(worker) = self.leases.remove(id) else { return };
        let reusable = !worker.closed;
        let to = ProcessId::daemon(worker.lease.node);
        self.send(to, Message::ReturnLease { lease: worker.lease, reusable }, out);
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
        worker.ended = Some(End { death, started: Started::UpTo(last_started) });
        if !self.has_link(id) {
            // Its own words came on the same way, before.
            self.leases.workers[&id].closed = true;
        }
        self.leases.rank(id);
        self.settle_worker(now, id, out);
    }

    /// The link to a worker is closed: nothing that it sent is missing any more.
    pub(super) fn worker_closed(&mut self, now: Time, id: ProcessId, out: Out<'_>) {
        if let Some(worker) = self.leases.workers.get_mut(&id) {
            worker.closed = true;
            self.leases.rank(id);
            self.settle_worker(now, id, out);
        }
    }

    /// A node died, and its workers with it. What they had started nobody can tell any more.
    pub(super) fn workers_of_dead_node(&mut self, now: Time, node: NodeId, out: Out<'_>) {
        let workers = self.leases.workers.keys().filter(|id| id.node() == node);
        let workers: Vec<ProcessId> = workers.copied().collect();
        for id in workers {
            let worker = &mut self.leases.workers[&id];
            let death = Death::NodeDied { node };
            worker.ended = Some(End { death, started: Started::Any });
            worker.closed = true;
            self.leases.rank(id);
            self.settle_worker(now, id, out);
        }
    }

    /// Whether a dead process may have said something on its link that was not read yet.
    pub(super) fn is_link_unread(&self, peer: ProcessId) -> bool {
        let worker = self.leases.workers.get(&peer);
        self.has_link(peer)
            && (worker.is_some_and(|worker| worker.contacted && !worker.closed) || self.is_called(peer))
    }

    /// With the node's word and everything that the worker had said: see which tasks had started.
    fn settle_worker(&mut self, now: Time, id: ProcessId, out: Out<'_>) {
        let Some(worker) = self.leases.workers.get(&id) else {
            return;
        };
        if worker.ended.is_none() || (worker.contacted && !worker.closed) {
            return;
        }
        let Some(worker) = self.leases.remove(id) else { return };
        let Some(End { death, started }) = worker.ended else {
            return;
        };
        let place = |last: TaskId| worker.in_flight.iter().position(|(task, _)| *task == last);
        let started = match started {
            Started::Any => worker.in_flight.len(),
            Started::UpTo(_) if Mutant::BlameUnstarted.is_active() => worker.in_flight.len(),
            Started::UpTo(last) => last.and_then(place).map_or(0, |at| at + 1),
        };
        for (task, _) in worker.in_flight.iter().skip(started).rev() {
            self.push_elsewhere(now, *task, out);
        }
        for (task, _) in worker.in_flight.iter().take(started) {
            self.attempt_lost(now, *task, id, &death, out);
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
            self.return_lease(worker, out);
        }
        for worker in slow {
            self.worker_stalled(worker);
            self.take_back(worker, out);
        }
        self.cancel_idle_requests(out);
    }
}
