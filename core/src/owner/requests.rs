//! Asking for leases, over nodes.
//!
//! A request goes to the own node first, under a number that it keeps. A node that sees no room of its own
//! redirects it to another one, which grants it, queues it, or rejects it; rejected, it goes back to the
//! own node. At any time exactly one node has it, and only that node's answer counts.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::leases::{Request, Worker};
use super::{Out, Owner};
use crate::ids::{LeaseId, NodeId, ProcessId, RequestId};
use crate::machine::Time;
use crate::message::{Message, Route};
use crate::resources::Devices;
use crate::value::Failure;

impl Owner {
    pub(super) fn request_leases(&mut self, class: usize, out: Out<'_>) {
        let at = self.node();
        let wanted = self.leases.classes[class].queue.len().min(self.config.cpus as usize);
        while self.leases.classes[class].requested < wanted {
            self.leases.next_request += 1;
            // Requests for leases have numbers of their own, above those of the program's questions.
            let request = RequestId(1 << 62 | self.leases.next_request);
            self.leases.requests.insert(request, Request { class, at, rejections: 0 });
            self.leases.classes[class].requested += 1;
            self.ask_for_lease(request, at, Route::Fresh, out);
        }
    }

    /// Hand an open request to a node.
    fn ask_for_lease(&mut self, request: RequestId, node: NodeId, route: Route, out: Out<'_>) {
        let Some(open) = self.leases.requests.get_mut(&request) else {
            return;
        };
        open.at = node;
        let class = &self.leases.classes[open.class];
        let demand = class.demand.clone();
        let prefer = class.queue.front().and_then(|id| self.node_of_arguments(*id));
        let job = class.job;
        let message = Message::RequestLease { request, job, demand, route, prefer };
        self.send(ProcessId::daemon(node), message, out);
    }

    /// The request found no room there.
    fn ask_at_home(&mut self, request: RequestId, by: NodeId, out: Out<'_>) {
        let Some(open) = self.leases.requests.get_mut(&request) else {
            return;
        };
        open.rejections += 1;
        let route = Route::Rejected { by, times: open.rejections };
        self.ask_for_lease(request, self.node(), route, out);
    }

    /// Whether `from` is the daemon that has this request now.
    fn has_request(&self, from: ProcessId, request: RequestId) -> bool {
        self.leases.requests.get(&request).is_some_and(|open| ProcessId::daemon(open.at) == from)
    }

    /// The node that has the request knows a better one.
    pub(super) fn lease_redirected(
        &mut self,
        from: ProcessId,
        request: RequestId,
        to: NodeId,
        route: Route,
        out: Out<'_>,
    ) {
        if !self.has_request(from, request) {
            return;
        }
        if self.heirs.contains_key(&to) {
            self.ask_at_home(request, to, out);
        } else {
            self.ask_for_lease(request, to, route, out);
        }
    }

    /// The node that was said to have room has none.
    pub(super) fn lease_rejected(&mut self, from: ProcessId, request: RequestId, out: Out<'_>) {
        if self.has_request(from, request) {
            self.ask_at_home(request, from.node(), out);
        }
    }

    /// A node died: ask at home for what was asked there.
    pub(super) fn requests_of_dead_node(&mut self, node: NodeId, out: Out<'_>) {
        let requests = self.leases.requests.iter().filter(|(_, open)| open.at == node);
        let requests: Vec<RequestId> = requests.map(|(request, _)| *request).collect();
        for request in requests {
            self.ask_for_lease(request, self.node(), Route::Fresh, out);
        }
    }

    /// The request has its answer, if it is the answer of the node that has it.
    fn close_request(&mut self, from: ProcessId, request: RequestId) -> Option<usize> {
        if !self.has_request(from, request) {
            return None;
        }
        let class = self.leases.requests.remove(&request)?.class;
        self.leases.classes[class].requested -= 1;
        Some(class)
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
        if worker.node() != from.node() || self.leases.workers.contains_key(&worker) {
            // Nobody can grant workers of another node, or one twice.
            return;
        }
        let Some(class) = self.close_request(from, request) else {
            // Cancelled meanwhile.
            self.send(from, Message::ReturnLease { lease, reusable: true }, out);
            return;
        };
        self.leases.classes[class].workers.push(worker);
        self.leases.turns += 1;
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
                turn: self.leases.turns,
                ranked: None,
            },
        );
        self.leases.rank(worker);
        self.leases.check_by(now + self.config.lease_idle);
        self.dispatch(now, class, out);
    }

    pub(super) fn lease_refused(
        &mut self,
        now: Time,
        from: ProcessId,
        request: RequestId,
        failure: Failure,
        out: Out<'_>,
    ) {
        let Some(class) = self.close_request(from, request) else {
            return;
        };
        let of_demand = matches!(
            failure,
            Failure::Unschedulable { .. } | Failure::EnvironmentSetup { .. } | Failure::GroupRemoved { .. }
        );
        if of_demand {
            // It holds for every task of this demand.
            self.refuse_tasks(class, &failure, out);
        } else {
            self.dispatch(now, class, out);
        }
    }

    pub(super) fn cancel_idle_requests(&mut self, out: Out<'_>) {
        let classes = &self.leases.classes;
        let unneeded = |(_, open): &(&RequestId, &Request)| classes[open.class].queue.is_empty();
        let requests: Vec<(RequestId, NodeId)> =
            self.leases.requests.iter().filter(unneeded).map(|(request, open)| (*request, open.at)).collect();
        for (request, at) in requests {
            let daemon = ProcessId::daemon(at);
            if self.close_request(daemon, request).is_some() {
                self.send(daemon, Message::CancelLeaseRequest { request }, out);
            }
        }
    }
}
