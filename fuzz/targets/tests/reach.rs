//! Arbitrary inputs get somewhere: what a machine can only do after a conversation, it does here, too.

use std::cell::RefCell;
use std::collections::BTreeSet;

use shoal_fuzz_targets::{Log, bounded, target};
use shoal_transport_sim::Random;

/// Inputs of one search; most words are reached within some hundred.
const INPUTS: u64 = 4_000;

/// Searches before a word counts as out of reach. One that has followed the wrong inputs begins anew.
const SEARCHES: u64 = 8;

/// Bytes of an input.
const BYTES: u64 = 4_096;

/// Which of these words occur in what happens. Inputs that got to a new one are followed for a while and
/// then left, as a fuzzer does: what takes a long conversation is not reached by noise alone.
fn reached(name: &str, words: &[&'static str]) -> BTreeSet<&'static str> {
    let seen = RefCell::new(BTreeSet::new());
    for seed in 0..SEARCHES {
        search(name, words, seed, &seen);
    }
    seen.into_inner()
}

/// One search, which adds the words that it gets to.
fn search(name: &str, words: &[&'static str], seed: u64, seen: &RefCell<BTreeSet<&'static str>>) {
    let target = target(name).expect("a target");
    let mut random = Random::new(seed);
    let mut promising: Vec<Vec<u8>> = Vec::new();
    let listen = |kind: &str, thing: &dyn std::fmt::Debug| {
        if kind == ">" {
            let text = format!("{thing:?}");
            seen.borrow_mut().extend(words.iter().copied().filter(|word| text.contains(word)));
        }
    };
    for _ in 0..INPUTS {
        let before = seen.borrow().len();
        if before == words.len() {
            break;
        }
        let mut bytes = bounded::noise(&mut random, BYTES);
        if let Some(latest) = promising.last()
            && random.chance(850)
        {
            let followed = if random.chance(500) { latest } else { random.pick(&promising) };
            let kept = random.below(BYTES) as usize;
            bytes[..kept].copy_from_slice(&followed[..kept]);
        }
        (target.run)(&bytes, Log::to(&listen));
        if seen.borrow().len() > before {
            promising.push(bytes);
        }
    }
}

fn reaches(name: &str, words: &[&'static str]) {
    let seen = reached(name, words);
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
            "LeaseRedirected",
            "BundlesReserved",
            "PullObject",
            "PullReady",
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
            "ReserveBundles",
            "CommitBundles",
            "Draining",
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
