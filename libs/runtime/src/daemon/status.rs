//! Answers for people: what the machines say about themselves, as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shoal_core::actor::ActorSummary;
use shoal_core::ids::{ProcessId, RequestId};
use shoal_core::message::{Answer, Message, NodeSummary, Query, StoreSummary, WorkerSummary};
use shoal_core::resources::Resources;

use super::links::LinkId;
use super::state::Daemon;
use crate::control::{Control, VERSION};

/// Every status consists of the answers to these.
const QUESTIONS: u64 = 4;

/// Statuses that wait for answers, by number.
#[derive(Debug, Default)]
pub(super) struct StatusRequests {
    asked: u64,
    waiting: BTreeMap<u64, Status>,
}

#[derive(Debug)]
struct Status {
    link: LinkId,
    nodes: Option<Vec<NodeSummary>>,
    actors: Option<Vec<ActorSummary>>,
    workers: Option<Vec<WorkerSummary>>,
    store: Option<StoreSummary>,
}

impl Daemon {
    /// Somebody asks what is going on.
    pub(super) fn ask_status(&mut self, link: LinkId) {
        let number = self.statuses.asked;
        self.statuses.asked += 1;
        let status = Status { link, nodes: None, actors: None, workers: None, store: None };
        self.statuses.waiting.insert(number, status);
        let (head, node) = (ProcessId::HEAD, self.daemon_process());
        let questions: [_; QUESTIONS as usize] = [
            (head, Query::Nodes),
            (head, Query::Actors { dead: false }),
            (node, Query::Workers),
            (node, Query::Store),
        ];
        for (index, (to, query)) in (0..).zip(questions) {
            let request = RequestId(number * QUESTIONS + index);
            self.deliver(to, node, Message::Ask { request, query });
        }
    }

    /// A machine has answered.
    pub(super) fn take_answer(&mut self, message: Message) {
        let Message::Answer { request, answer } = message else {
            return;
        };
        let number = request.0 / QUESTIONS;
        let Some(status) = self.statuses.waiting.get_mut(&number) else {
            return;
        };
        match answer {
            Answer::Nodes(nodes) => status.nodes = Some(nodes),
            Answer::Actors(actors) => status.actors = Some(actors),
            Answer::Workers(workers) => status.workers = Some(workers),
            Answer::Store(store) => status.store = Some(store),
            _ => return,
        }
        let Status {
            link,
            nodes: Some(nodes),
            actors: Some(actors),
            workers: Some(workers),
            store: Some(store),
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
            "nodes": nodes.iter().map(describe_node).collect::<Vec<_>>(),
            "actors": actors.iter().map(describe_actor).collect::<Vec<_>>(),
            "workers": workers.iter().map(describe_worker).collect::<Vec<_>>(),
            "store": describe_store(store),
        });
        let link = *link;
        self.statuses.waiting.remove(&number);
        self.queue_control(link, &Control::Status { json: document.to_string() }, Vec::new());
    }
}

fn describe_node(node: &NodeSummary) -> Value {
    json!({
        "node": node.node.0,
        "alive": node.alive,
        "host": node.host,
        "total": amounts(&node.total),
        "free": amounts(&node.free),
        "labels": node.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
    })
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
    })
}

fn amounts(resources: &Resources) -> BTreeMap<&str, f64> {
    resources.0.iter().map(|(name, amount)| (&**name, amount.as_f64())).collect()
}
