//! Making a failing scenario small: drop faults, then work, then make the cluster plain, for as long
//! as the same property fails.

use crate::run::{Violation, run};
use crate::scenario::Scenario;
use shoal_core::Span;

/// The smallest scenario found that breaks the same property, and how it breaks it.
pub fn shrink(scenario: &Scenario, property: &str) -> Option<(Scenario, Violation)> {
    let mut best = scenario.clone();
    let mut violation = fails(&best, property)?;
    loop {
        let mut smaller = false;
        for candidate in candidates(&best) {
            if let Some(found) = fails(&candidate, property) {
                best = candidate;
                violation = found;
                smaller = true;
                break;
            }
        }
        if !smaller {
            return Some((best, violation));
        }
    }
}

fn fails(scenario: &Scenario, property: &str) -> Option<Violation> {
    run(scenario, false).violation.filter(|violation| violation.property == property)
}

/// Everything that is one step smaller, the biggest steps first.
fn candidates(scenario: &Scenario) -> Vec<Scenario> {
    let mut list = Vec::new();
    let mut add = |change: &dyn Fn(&mut Scenario)| {
        let mut smaller = scenario.clone();
        change(&mut smaller);
        if format!("{smaller:?}") != format!("{scenario:?}") {
            list.push(smaller);
        }
    };
    if scenario.faults.len() > 2 {
        let half = scenario.faults.len() / 2;
        add(&|s| s.faults.truncate(half));
        add(&|s| drop(s.faults.drain(..half)));
    }
    for at in 0..scenario.drivers.len() {
        add(&|s| drop(s.drivers.remove(at)));
    }
    for driver in 0..scenario.drivers.len() {
        for item in 0..scenario.drivers[driver].items.len() {
            add(&|s| drop(s.drivers[driver].items.remove(item)));
        }
        add(&|s| s.drivers[driver].leaves_abruptly = false);
        add(&|s| s.drivers[driver].starts_at_micros = 0);
    }
    for at in 0..scenario.faults.len() {
        add(&|s| {
            s.faults.remove(at);
        });
    }
    add(&|s| s.cluster.delays.clog_per_mille = 0);
    add(&|s| s.cluster.detour_per_mille = 0);
    add(&|s| s.cluster.delays.most = s.cluster.delays.least.max(Span::from_micros(50)));
    for host in 0..scenario.cluster.hosts.len() {
        add(&|s| s.cluster.hosts[host].cpus = 1);
    }
    list
}
