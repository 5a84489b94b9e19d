//! Every target over its corpus and over inputs that a seed determines.
//!
//! `SHOAL_FUZZ_SEED` and `SHOAL_FUZZ_INPUTS` ask for others, and for more.

use shoal_fuzz_targets::{bounded, target};

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
        Err(_) => otherwise,
    }
}

fn holds(name: &str, inputs: u64) {
    let target = target(name).expect("a target");
    let (seed, inputs) = (number("SHOAL_FUZZ_SEED", 1), number("SHOAL_FUZZ_INPUTS", inputs));
    let Some(finding) = bounded::run(target, seed, inputs).expect("the corpus can be read") else {
        return;
    };
    let path = std::env::temp_dir().join(format!("shoal-fuzz-{name}-{}", std::process::id()));
    std::fs::write(&path, &finding.bytes).expect("the finding can be kept");
    panic!(
        "{}\n{} bytes break {name}; to see what happens:\n    cargo run -p shoal-fuzz-targets -- {name} {}",
        finding.message,
        finding.bytes.len(),
        path.display()
    );
}

#[test]
fn messages() {
    holds("messages", 20_000);
}

#[test]
fn frames() {
    holds("frames", 10_000);
}

#[test]
fn packets() {
    holds("packets", 10_000);
}

#[test]
fn join() {
    holds("join", 2_000);
}

#[test]
fn bulk() {
    holds("bulk", 2_000);
}

#[test]
fn rows() {
    holds("rows", 5_000);
}

#[test]
fn texts() {
    holds("texts", 20_000);
}

#[test]
fn spill() {
    holds("spill", 40);
}

#[test]
fn process_table() {
    holds("process_table", 2_000);
}

#[test]
fn head() {
    holds("head", 2_000);
}

#[test]
fn node() {
    holds("node", 2_000);
}

#[test]
fn session() {
    holds("session", 6_000);
}

#[test]
fn owner() {
    holds("owner", 2_000);
}
