//! A head that hears anything from anybody, and that dies and comes back with what its log holds.

use std::collections::BTreeMap;

use shoal_core::head::{Config, Effect, Head, Input, Key, Row, WriteResult};
use shoal_core::ids::{NodeId, OperationId, ProcessId};
use shoal_core::message::{Message, NodeSummary};

use super::{NODE, Stage, amounts, check_message, take};
use crate::Log;
use crate::entropy::Entropy;
use crate::generate::generate;

/// A write to the log under way: its changes are there when it has ended.
type Write = (OperationId, Vec<(Key, Option<Row>)>);

/// What heads listen to.
const HEARD: &[&str] = &[
    "RegisterJob",
    "NodeReport",
    "NodeState",
    "Emptied",
    "ProcessEnded",
    "ActorReport",
    "CreateActor",
    "SubscribeActor",
    "KillActor",
    "ActorUnmade",
    "ActorOutOfScope",
    "Ask",
    "CreateGroup",
    "RemoveGroup",
    "SubscribeGroup",
    "BundlesReserved",
    "BundlesRefused",
    "Mourned",
];

/// The first byte says whether the head keeps a log and has a node; the others, what happens to it.
pub fn run(bytes: &[u8], log: Log<'_>) {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let config = Config { durable: first.is_multiple_of(2), ..Config::new(7) };
    let mut stage = Stage::new(Head::new(config.clone(), Vec::new()), Head::check, rest, log);
    stage.dictionary.prefer("Input", &["Received"]);
    stage.dictionary.prefer("Message", HEARD);
    if *first < 240 {
        greet(&mut stage);
    }
    let mut writes: Vec<Write> = Vec::new();
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    while !stage.entropy.is_spent() {
        let effects = match stage.entropy.byte() % 16 {
            0 | 1 => stage.pass(),
            2..5 => match take(&mut stage.entropy, &mut writes) {
                Some((operation, changes)) => {
                    let result =
                        if stage.entropy.chance(8) { WriteResult::Fenced } else { WriteResult::Done };
                    if result == WriteResult::Done {
                        apply(&mut rows, changes);
                    }
                    stage.tell(Input::Finished { operation, result })
                }
                None => continue,
            },
            5 if stage.entropy.chance(32) => {
                // What was not finished may have reached the log, or not.
                for (_, changes) in writes.drain(..) {
                    if stage.entropy.chance(128) {
                        apply(&mut rows, changes);
                    }
                }
                let kept = rows.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
                stage.log.line("again with", &rows);
                stage.machine = Head::new(config.clone(), kept);
                continue;
            }
            _ => match generate(&mut stage.entropy, &stage.dictionary) {
                // Only what was started ends.
                Input::Finished { .. } => continue,
                Input::Received { mut via, mut from, mut message } => {
                    if !stage.entropy.chance(16) {
                        (via, from) = conform(&mut stage.entropy, (via, from), &mut message);
                    }
                    // A head numbers nodes itself, one by one; when the numbers are used up it says so.
                    if via.0 > 1 << 16 {
                        continue;
                    }
                    stage.tell(Input::Received { via, from, message })
                }
                input => stage.tell(input),
            },
        };
        for effect in effects {
            match effect {
                Effect::Send { message, .. } => check_message(&message),
                Effect::Write { operation, rows, .. } => writes.push((operation, rows)),
                _ => {}
            }
        }
    }
}

/// Who sends what, and over whose session: heads refuse at the door what does not fit together.
fn conform(
    entropy: &mut Entropy<'_>,
    (mut via, mut from): (NodeId, ProcessId),
    message: &mut Message,
) -> (NodeId, ProcessId) {
    if entropy.chance(128) {
        via = NODE;
    }
    match message {
        Message::RegisterJob { driver, .. } => {
            (via, from) = (driver.node(), ProcessId::daemon(driver.node()))
        }
        Message::ProcessEnded { process, .. } => {
            (via, from) = (process.node(), ProcessId::daemon(process.node()));
        }
        Message::NodeReport { report, .. } => {
            (report.node, from) = (via, ProcessId::daemon(via));
        }
        Message::NodeState { state } => {
            (state.report.node, from) = (via, ProcessId::daemon(via));
        }
        Message::ActorReport { .. } | Message::BundlesReserved { .. } | Message::BundlesRefused { .. } => {
            from = ProcessId::daemon(via);
        }
        Message::CreateActor { spec, .. } => (via, from) = (spec.id.creator().node(), spec.id.creator()),
        Message::CreateGroup { spec, .. } => (via, from) = (spec.id.creator().node(), spec.id.creator()),
        _ => via = from.node(),
    }
    (via, from)
}

/// What starts most stories: a node joins.
fn greet(stage: &mut Stage<'_, Head>) {
    let mut summary: NodeSummary = generate(&mut Entropy::new(&[]), &stage.dictionary);
    (summary.total, summary.alive) = (amounts(&[("CPU", 4.0), ("GPU", 1.0)]), true);
    summary.free = summary.total.clone();
    stage.tell(Input::NodeJoins { connection: 1, summary: Box::new(summary.clone()) });
    summary.node = NODE;
    let message = Message::NodeReport { report: Box::new(summary), order: 0 };
    stage.tell(Input::Received { via: NODE, from: ProcessId::daemon(NODE), message });
}

fn apply(rows: &mut BTreeMap<Key, Row>, changes: Vec<(Key, Option<Row>)>) {
    for (key, row) in changes {
        match row {
            Some(row) => drop(rows.insert(key, row)),
            None => drop(rows.remove(&key)),
        }
    }
}
