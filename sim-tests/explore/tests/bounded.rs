//! Every scenario in its small size: optimised to the last state, else as far as a short test gets.

use std::time::Duration;

use shoal_explore::scenarios::{self, Exploration};
use shoal_explore::search::{Limits, Report, Stop};

const OPTIMISED: bool = !cfg!(debug_assertions);
const STATES: usize = if OPTIMISED { 5_000_000 } else { 20_000 };
const LIMITS: Limits = Limits { states: STATES, depth: 100_000, time: Duration::from_secs(600) };

fn clean(exploration: &Exploration) -> Report {
    let report = exploration.explore(LIMITS);
    if let Some((violation, story)) = &report.found {
        panic!("{}\n{}: {violation:?}", story.join("\n"), exploration.name());
    }
    report
}

#[test]
fn every_small_scenario_is_clean() {
    for exploration in scenarios::all(false) {
        let report = clean(&exploration);
        if OPTIMISED {
            assert_eq!(report.stop, Stop::Complete, "{}", exploration.name());
            assert!(report.ends > 0, "{} comes to an end", exploration.name());
        }
    }
}

#[test]
fn an_exploration_is_the_same_each_time() {
    let numbers = || {
        let small = scenarios::all(false).into_iter().find(|exploration| exploration.name() == "nested");
        let report = clean(&small.expect("there is such a scenario"));
        (report.states, report.steps, report.depth, report.parts, report.ends)
    };
    assert_eq!(numbers(), numbers());
}

#[test]
#[ignore = "an owner that hears of a lender's death does not wait for what its borrowers register"]
fn a_borrower_keeps_what_a_dead_lender_lent() {
    clean(&scenarios::strict_lender());
}
