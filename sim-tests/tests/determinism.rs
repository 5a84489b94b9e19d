//! The same seed gives the same run, in this process and in another one.

use std::process::Command;

use shoal_sim_tests::run::run;
use shoal_sim_tests::scenario::Scenario;

fn hash(seed: u64) -> u64 {
    run(&Scenario::from_seed(seed), false).trace.hash()
}

#[test]
fn a_seed_gives_one_trace() {
    let hashes: Vec<u64> = (0..60).map(hash).collect();
    let again: Vec<u64> = (0..60).map(hash).collect();
    assert_eq!(hashes, again);
    let mut distinct = hashes.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 50, "different seeds give different runs");
}

#[test]
fn another_process_gives_the_same_trace() {
    for seed in 0..8 {
        let output = Command::new(env!("CARGO_BIN_EXE_sim"))
            .arg(seed.to_string())
            .output()
            .expect("the simulator starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = format!("trace {:016x}", hash(seed));
        assert!(text.contains(&expected), "seed {seed}: no {expected} in {text}");
    }
}
