//! The net catches fish: every bug that can be put back in is found within so many seeds.
#![cfg(feature = "mutants")]

use shoal_core::mutants::{Mutant, activate};
use shoal_sim_tests::run::run;
use shoal_sim_tests::scenario::Scenario;

/// The rarest of them took fewer.
const SEEDS_MAX: u64 = 30_000;

/// One test, because the active bug is that of the whole process.
#[test]
fn every_mutant_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL.into_iter().chain(Mutant::OF_CLUSTERS) {
        activate(Some(mutant));
        let found = (0..SEEDS_MAX).find_map(|seed| {
            let violation = run(&Scenario::from_seed(seed), false).violation?;
            Some((seed, violation.property))
        });
        match found {
            Some((seed, property)) => {
                activate(None);
                let clean = run(&Scenario::from_seed(seed), false).violation;
                assert_eq!(clean, None, "seed {seed} fails without {mutant:?}, too");
                println!("| {mutant:?} | {} | {property} |", seed + 1);
            }
            None => survivors.push(mutant),
        }
    }
    activate(None);
    let _ = std::panic::take_hook();
    assert!(survivors.is_empty(), "not found in {SEEDS_MAX} seeds: {survivors:?}");
}
