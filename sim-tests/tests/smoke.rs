//! A fixed set of seeds is clean.

use shoal_sim_tests::run::run;
use shoal_sim_tests::scenario::Scenario;

/// Enough to notice a broken simulator; `cargo sim --seeds N` looks for bugs.
const SEEDS: u64 = 400;

#[test]
fn fixed_seeds_are_clean() {
    for seed in 0..SEEDS {
        let report = run(&Scenario::from_seed(seed), false);
        if let Some(violation) = report.violation {
            panic!("{}: {}\nreplay: cargo sim -- {seed}", violation.property, violation.detail);
        }
    }
}
