//! Answers for people: what the machines say about themselves, as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shoal_core::actor::ActorSummary;
use shoal_core::ids::{NodeId, ProcessId, RequestId};
use shoal_core::message::{Answer, Drain, Message, NodeSummary, Query, StoreSummary, WorkerSummary};
use shoal_core::resources::Resources;

use super::links::LinkId;
use super::state::Daemon;
use crate::control::{Control, VERSION};

/// Every status consists of the answers to these.
const QUESTIONS: u64 = 5;

/// Numbers of questions that are no part of a status have this bit.
const DRAINS: u64 = 1 << 63;

/// What people wait for answers to, by number.
#[derive(Debug, Default)]
pub(super) struct StatusRequests {
    asked: u64,
    waiting: BTreeMap<u64, Status>,
    drains: BTreeMap<u64, LinkId>,
}

#[derive(Debug)]
struct Status {
    link: LinkId,
    nodes: Option<Vec<NodeSummary>>,
    actors: Option<Vec<ActorSummary>>,
    workers: Option<Vec<WorkerSummary>>,
    store: Option<StoreSummary>,
    draining: Option<Vec<(NodeId, Drain)>>,
}

impl Daemon {
    /// Somebody asks what is going on.
    pub(super) fn ask_status(&mut self, link: LinkId) {
        let number = self.statuses.asked;
        self.statuses.asked += 1;
        let (nodes, actors, workers, store, draining) = (None, None, None, None, None);
        let status = Status { link, nodes, actors, workers, store, draining };
        self.statuses.waiting.insert(number, status);
        let (head, node) = (ProcessId::HEAD, self.daemon_process());
        let questions: [_; QUESTIONS as usize] = [
            (head, Query::Nodes),
            (head, Query::Actors { dead: false }),
            (node, Query::Workers),
            (node, Query::Store),
            (head, Query::Draining),
        ];
        for (index, (to, query)) in (0..).zip(questions) {
            let request = RequestId(number * QUESTIONS + index);
            self.deliver(to, node, Message::Ask { request, query });
        }
    }

    /// Somebody wants a node to be emptied, or not any more.
    pub(super) fn ask_drain(&mut self, link: LinkId, node: NodeId, drain: Option<Drain>) {
        let number = self.statuses.asked;
        self.statuses.asked += 1;
        self.statuses.drains.insert(number, link);
        let (request, query) = (RequestId(DRAINS | number), Query::Drain { node, drain });
        self.deliver(ProcessId::HEAD, self.daemon_process(), Message::Ask { request, query });
    }

    fn drain_answered(&mut self, number: u64, answer: Answer) {
        let Some(link) = self.statuses.drains.remove(&number) else { return };
        let refusal = match answer {
            Answer::Changed(_) => None,
            Answer::DrainRefused { detail } => Some(detail),
            other => Some(format!("the head answers something else: {other:?}")),
        };
        self.queue_control(link, &Control::Drained { refusal }, Vec::new());
    }

    /// A machine has answered.
    pub(super) fn take_answer(&mut self, message: Message) {
        let Message::Answer { request, answer } = message else {
            return;
        };
        if request.0 & DRAINS != 0 {
            return self.drain_answered(request.0 & !DRAINS, answer);
        }
        let number = request.0 / QUESTIONS;
        let Some(status) = self.statuses.waiting.get_mut(&number) else {
            return;
        };
        match answer {
            Answer::Nodes(nodes) => status.nodes = Some(nodes),
            Answer::Actors(actors) => status.actors = Some(actors),
            Answer::Workers(workers) => status.workers = Some(workers),
            Answer::Store(store) => status.store = Some(store),
            Answer::Draining(draining) => status.draining = Some(draining),
            _ => return,
        }
        let Status {
            link,
            nodes: Some(nodes),
            actors: Some(actors),
            workers: Some(workers),
            store: Some(store),
            draining: Some(draining),
        } = status
        else {
            return;
        };
        let document = json!({
            "version": VERSION,
            "session": self.session,
            "pid": std::process::id(),
            "node": self.id.0,
            "drivers": self.processes.values().filter(|entry| entry.worker.is_none()).count(),
            "nodes": nodes.iter().map(|node| describe_node(node, draining)).collect::<Vec<_>>(),
            "actors": actors.iter().map(describe_actor).collect::<Vec<_>>(),
            "workers": workers.iter().map(describe_worker).collect::<Vec<_>>(),
            "store": describe_store(store),
        });
        let link = *link;
        self.statuses.waiting.remove(&number);
        self.queue_control(link, &Control::Status { json: document.to_string() }, Vec::new());
    }
}

fn describe_node(node: &NodeSummary, draining: &[(NodeId, Drain)]) -> Value {
    let drain = draining.iter().find(|(id, _)| *id == node.node).map(|(_, drain)| drain);
    json!({
        "draining": drain.map(describe_drain),
        "node": node.node.0,
        "alive": node.alive,
        "name": if node.name.is_empty() { &node.host } else { &node.name },
        "host": node.host,
        "total": amounts(&node.total),
        "free": amounts(&node.free),
        "labels": node.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
    })
}

fn describe_drain(drain: &Drain) -> Value {
    let seconds = drain.grace.map(|grace| grace.0 as f64 / 1e9);
    json!({ "deadline_seconds": seconds, "reason": drain.reason })
}

fn describe_actor(actor: &ActorSummary) -> Value {
    let state = format!("{:?}", actor.state);
    json!({
        "actor": format!("{:?}", actor.id),
        "job": actor.job.0,
        "class": &*actor.label,
        "name": actor.name,
        "namespace": actor.namespace,
        "incarnation": actor.incarnation,
        "state": state.split(' ').next(),
        "pid": actor.pid,
    })
}

fn describe_worker(worker: &WorkerSummary) -> Value {
    json!({
        "process": worker.process.0,
        "pid": worker.pid,
        "job": worker.job.0,
        "state": worker.state,
    })
}

fn describe_store(store: &StoreSummary) -> Value {
    json!({
        "capacity": store.capacity,
        "used": store.used,
        "pinned": store.pinned,
        "objects": store.objects,
        "spilled": store.spilled,
        "spilled_total": store.spilled_total,
        "restored_total": store.restored_total,
        "kept": store.kept,
    })
}

fn amounts(resources: &Resources) -> BTreeMap<&str, f64> {
    resources.0.iter().map(|(name, amount)| (&**name, amount.as_f64())).collect()
}
