//! What scheduling a task costs in clusters of 10 to 10,000 nodes: `cargo run --release -p shoal-benches --bin scaling`.
//!
//! Arguments are numbers of nodes; `--tasks N` sets the number of tasks of each run.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use shoal_benches::many_nodes::{Outcome, Plan, play};
use shoal_core::Span;

const USAGE: &str = "usage: scaling [--tasks N] [NODES]...";

fn main() -> ExitCode {
    let mut tasks = 1_000_000;
    let mut sizes = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let number = if argument == "--tasks" { arguments.next() } else { Some(argument.clone()) };
        match number.and_then(|number| number.parse::<u64>().ok()) {
            Some(number) if argument == "--tasks" => tasks = number,
            Some(number @ 1..=100_000) => sizes.push(number as u32),
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::FAILURE;
            }
        }
    }
    if sizes.is_empty() {
        sizes = vec![10, 100, 1_000, 10_000];
    }
    println!("{tasks} tasks of a second each; 4 CPUs on each node, a driver on every tenth, at most 100");
    println!(
        "{:>7} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8} {:>9} {:>7} {:>12}",
        "nodes",
        "us/task",
        "head",
        "nodes",
        "owners",
        "vs first",
        "busy",
        "CPUs used",
        "wall s",
        "join us/node"
    );
    let mut first = None;
    for nodes in sizes {
        let plan =
            Plan { nodes, cpus: 4, drivers: (nodes / 10).clamp(1, 100), tasks, task: Span::from_secs(1) };
        let outcome = play(plan);
        let cost = micros(outcome.working.total(), tasks);
        let first = *first.get_or_insert(cost);
        report(plan, &outcome, cost / first);
    }
    ExitCode::SUCCESS
}

fn micros(time: Duration, by: u64) -> f64 {
    time.as_secs_f64() * 1e6 / by as f64
}

fn report(plan: Plan, outcome: &Outcome, ratio: f64) {
    let ideal = plan.task.0 as f64 * plan.tasks as f64 / f64::from(plan.nodes * plan.cpus);
    println!(
        "{:>7} {:>10.2} {:>10.2} {:>10.2} {:>10.2} {:>9.2}x {:>8} {:>8.0}% {:>7.1} {:>12.1}",
        plan.nodes,
        micros(outcome.working.total(), plan.tasks),
        micros(outcome.working.head, plan.tasks),
        micros(outcome.working.nodes, plan.tasks),
        micros(outcome.working.owners, plan.tasks),
        ratio,
        outcome.busy_nodes,
        100.0 * ideal / outcome.makespan.0 as f64,
        outcome.wall.as_secs_f64(),
        micros(outcome.joining.total(), u64::from(plan.nodes)),
    );
}
