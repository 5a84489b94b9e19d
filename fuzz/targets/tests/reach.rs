//! Arbitrary inputs get somewhere: what a machine can only do after a conversation, it does here, too.

use std::cell::RefCell;
use std::collections::BTreeSet;

use shoal_fuzz_targets::{Log, bounded, target};
use shoal_transport_sim::Random;

/// Which of these words occur in what happens over so many inputs.
fn reached(name: &str, inputs: u64, words: &[&'static str]) -> BTreeSet<&'static str> {
    let target = target(name).expect("a target");
    let mut random = Random::new(5);
    let seen = RefCell::new(BTreeSet::new());
    let listen = |kind: &str, thing: &dyn std::fmt::Debug| {
        if kind == ">" {
            let text = format!("{thing:?}");
            seen.borrow_mut().extend(words.iter().copied().filter(|word| text.contains(word)));
        }
    };
    for _ in 0..inputs {
        if seen.borrow().len() == words.len() {
            break;
        }
        let bytes = bounded::noise(&mut random, 4_096);
        (target.run)(&bytes, Log::to(&listen));
    }
    seen.into_inner()
}

fn reaches(name: &str, words: &[&'static str]) {
    let seen = reached(name, 3_000, words);
    let missing: Vec<_> = words.iter().filter(|word| !seen.contains(*word)).collect();
    assert!(missing.is_empty(), "{name} never gets to {missing:?}");
}

#[test]
fn a_node_grants_spills_restores_and_kills() {
    reaches(
        "node",
        &[
            "AcceptDriver",
            "ForkWorker",
            "LeaseGranted",
            "LeaseRefused",
            "LeaseEnded",
            "LeaseWanted",
            "BecomeActor",
            "ActorReport",
            "ExtentGranted",
            "ExtentRefused",
            "ReturnRoom",
            "Pinned",
            "PinFailed",
            "Spill {",
            "Restore {",
            "DeleteSpilled",
            "Kill {",
            "ProcessDied",
            "StopTemplate",
        ],
    );
}

#[test]
fn a_head_starts_restarts_and_buries() {
    reaches(
        "head",
        &[
            "JobRegistered",
            "JobEnded",
            "StartActor",
            "StopActor",
            "Alive {",
            "Restarting",
            "Dead {",
            "Nodes(",
        ],
    );
}

#[test]
fn an_owner_pushes_retries_rebuilds_and_borrows() {
    reaches(
        "owner",
        &[
            "RequestLease",
            "CancelLeaseRequest",
            "ReturnLease",
            "PushTask",
            "attempt: 1",
            "TakeBack",
            "TasksReturned",
            "TaskFinished",
            "GeneratorItem",
            "GeneratorConsumed",
            "Borrow {",
            "Borrowed",
            "ReturnGrants",
            "FetchObject",
            "ObjectContent",
            "FreeObject",
            "Pin {",
            "Unpin",
            "Construct {",
            "CreateActor",
            "ActorOutOfScope",
            "Interrupt",
            "Exit {",
        ],
    );
}
