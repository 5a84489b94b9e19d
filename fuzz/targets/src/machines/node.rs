//! A node that hears anything from anybody while its work ends in any order and any way.

use shoal_core::ids::{JobId, NodeId, OperationId, ProcessId};
use shoal_core::message::Message;
use shoal_core::node::{Config, Effect, Input, Node, SpillLocation, Work, WorkResult};

use super::{NODE, Stage, amounts, check_message, take};
use crate::Log;
use crate::entropy::Entropy;
use crate::generate::generate;
use crate::tree::Dictionary;

/// What nodes listen to.
const HEARD: &[&str] = &[
    "RequestLease",
    "RequestLease",
    "CancelLeaseRequest",
    "ReturnLease",
    "WorkerReady",
    "Blocked",
    "Unblocked",
    "WatchProcess",
    "ActorConstructed",
    "ActorExits",
    "RequestExtent",
    "RequestExtent",
    "ReturnExtent",
    "Seal",
    "Seal",
    "Seal",
    "Pin",
    "Pin",
    "Unpin",
    "FreeObject",
    "CopyMissing",
    "StartActor",
    "StopActor",
    "JobRegistered",
    "JobStarted",
    "JobEnded",
    "View",
    "NodeDied",
    "PullObject",
    "PullReady",
    "PullFailed",
    "PullElsewhere",
    "PullEnded",
    "Draining",
    "KeepObject",
    "ObjectKept",
    "ReserveBundles",
    "CommitBundles",
    "SuspendBundles",
    "ReturnBundles",
];

/// The first byte says how large the store is, and whether there is a driver; the others, what happens to the node.
pub fn run(bytes: &[u8], log: Log<'_>) {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let config = Config {
        resources: amounts(&[("CPU", 2.0), ("GPU", 2.0), ("slot", 1.0)]),
        store_start: 4_096,
        store_capacity: [1 << 20, 1 << 16, 64 << 20, 0][usize::from(*first % 4)],
        ..Config::new(NODE)
    };
    let mut stage = Stage::new(Node::new(config), Node::check, rest, log);
    stage.dictionary.prefer("Input", &["Received"]);
    stage.dictionary.prefer("Message", HEARD);
    let mut work: Vec<(OperationId, Work)> = Vec::new();
    if *first < 240 {
        greet(&mut stage);
    }
    while !stage.entropy.is_spent() {
        let effects = match stage.entropy.byte() % 16 {
            0 | 1 => stage.pass(),
            2..7 => match take(&mut stage.entropy, &mut work) {
                Some((operation, work)) => finish(&mut stage, operation, &work),
                None => continue,
            },
            _ => match generate(&mut stage.entropy, &stage.dictionary) {
                // Only what was started ends.
                Input::Finished { .. } => continue,
                // A session is one with a node, and 0 is none.
                Input::Received { from, .. } if from.node() == NodeId(0) && from != ProcessId::HEAD => {
                    continue;
                }
                input => stage.tell(input),
            },
        };
        for effect in effects {
            match effect {
                Effect::Send { message, .. } => check_message(&message),
                Effect::Start { operation, work: started } => work.push((operation, started)),
                _ => {}
            }
        }
    }
}

/// Work ends, mostly as it should; a worker that was forked mostly says that it is up.
fn finish(stage: &mut Stage<'_, Node>, operation: OperationId, work: &Work) -> Vec<Effect> {
    let result = result(&mut stage.entropy, &stage.dictionary, work);
    let forked = matches!(result, WorkResult::Forked { .. });
    let mut effects = stage.tell(Input::Finished { operation, result });
    if let Work::ForkWorker { process, .. } = work
        && forked
        && !stage.entropy.chance(64)
    {
        effects.extend(stage.tell(Input::Received { from: *process, message: Message::WorkerReady }));
    }
    effects
}

fn result(entropy: &mut Entropy<'_>, dictionary: &Dictionary, work: &Work) -> WorkResult {
    if entropy.chance(64) {
        return generate(entropy, dictionary);
    }
    match work {
        Work::ForkWorker { .. } => WorkResult::Forked { pid: 1 },
        Work::Spill { objects } => {
            let file = u64::from(entropy.byte());
            let place = |(index, (_, _, size)): (usize, &(_, u64, u64))| SpillLocation {
                file,
                offset: index as u64 * 4_096,
                size: *size,
            };
            WorkResult::Spilled(objects.iter().enumerate().map(place).collect())
        }
        _ => WorkResult::Done,
    }
}

/// What starts most stories: a driver comes, and the head lets it in.
fn greet(stage: &mut Stage<'_, Node>) {
    let input = Input::DriverConnected {
        connection: 1,
        pid: 1,
        namespace: String::new(),
        prestart: 1,
        launch: Default::default(),
    };
    for effect in stage.tell(input) {
        if let Effect::Send { message: Message::RegisterJob { driver, .. }, .. } = effect {
            let message = Message::JobRegistered { driver, job: JobId(1), namespace: String::new() };
            stage.tell(Input::Received { from: ProcessId::HEAD, message });
        }
    }
}
