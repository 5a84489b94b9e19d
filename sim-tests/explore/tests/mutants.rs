//! The explorer catches bugs: each of these is found in the scenario that is meant for it.
#![cfg(feature = "mutants")]

use std::time::Duration;

use shoal_core::mutants::{Mutant, activate};
use shoal_explore::scenarios;
use shoal_explore::search::Limits;

const LIMITS: Limits = Limits { states: 1_000_000, depth: 100_000, time: Duration::from_secs(600) };

/// The bug, the scenario that finds it, and the property that does not hold then.
const FOUND: [(Mutant, &str, &str); 11] = [
    (Mutant::Canary, "leases", "attempts"),
    (Mutant::CallsBehindFailedOne, "failing", "leftovers"),
    (Mutant::ForgetHolders, "lender", "references"),
    (Mutant::KeepGrants, "lender", "leftovers"),
    (Mutant::RetryOutOfOrder, "restart", "actors"),
    (Mutant::BlameUnstarted, "take-back", "truth"),
    (Mutant::CancelledIsCrashed, "cancel", "attempts"),
    (Mutant::LeakLease, "leases", "assertions"),
    (Mutant::ForgetWorker, "nested", "leftovers"),
    (Mutant::SameIncarnation, "restart", "actors"),
    (Mutant::ForgetRescheduling, "repair", "assertions"),
];

/// One test, because the active bug is that of the whole process.
#[test]
fn mutants_are_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    println!("| mutant | scenario | depth | states | property |");
    for (mutant, name, expected) in FOUND {
        let all = scenarios::all(false);
        let exploration = all.iter().find(|exploration| exploration.name() == name);
        activate(Some(mutant));
        let report = exploration.expect("there is such a scenario").explore(LIMITS);
        activate(None);
        let property = report.found.as_ref().map(|(violation, _)| violation.property);
        println!("| {mutant:?} | {name} | {} | {} | {property:?} |", report.depth + 1, report.states);
        if property != Some(expected) {
            missed.push(mutant);
        }
    }
    let _ = std::panic::take_hook();
    assert_eq!(missed, [], "not found, or not as expected");
}
