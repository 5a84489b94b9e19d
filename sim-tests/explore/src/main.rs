//! `cargo explore`: see `sim-tests/explore/README.md`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use shoal_explore::scenarios::{self, Exploration};
use shoal_explore::search::{Limits, Report, Stop};

/// Explore all interleavings of small clusters of Shoal's machines.
#[derive(Parser)]
struct Arguments {
    /// Only these scenarios; all without.
    scenarios: Vec<String>,
    /// The larger variants, which take minutes and gigabytes.
    #[arg(long)]
    deep: bool,
    /// Name the scenarios, and explore nothing.
    #[arg(long)]
    list: bool,
    /// Stop a scenario after so many distinct states.
    #[arg(long, default_value_t = 40_000_000)]
    states: usize,
    /// Stop a scenario after so many seconds.
    #[arg(long, default_value_t = 1_800)]
    seconds: u64,
    /// Stop a scenario at this depth.
    #[arg(long, default_value_t = 100_000)]
    depth: usize,
    /// Scenarios that are explored at the same time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Put a known bug back in.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutant: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut chosen = scenarios::all(arguments.deep);
    if let Some(unknown) =
        arguments.scenarios.iter().find(|name| !chosen.iter().any(|scenario| scenario.name() == **name))
    {
        eprintln!("there is no scenario {unknown}; --list names them");
        return ExitCode::from(2);
    }
    if !arguments.scenarios.is_empty() {
        chosen.retain(|scenario| arguments.scenarios.iter().any(|name| name == scenario.name()));
    }
    if arguments.list {
        for scenario in &chosen {
            println!("{:14} {}", scenario.name(), scenario.about());
        }
        return ExitCode::SUCCESS;
    }
    #[cfg(feature = "mutants")]
    if let Err(problem) = activate(arguments.mutant.as_deref()) {
        eprintln!("{problem}");
        return ExitCode::from(2);
    }
    // Assertions of machines are told as violations.
    std::panic::set_hook(Box::new(|info| {
        if std::env::var_os("SHOAL_SIM_BACKTRACE").is_some() {
            eprintln!("{info}\n{}", std::backtrace::Backtrace::force_capture());
        }
    }));
    let limits = Limits {
        states: arguments.states,
        depth: arguments.depth,
        time: Duration::from_secs(arguments.seconds),
    };
    if explore_all(&chosen, limits, arguments.jobs.max(1)) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[cfg(feature = "mutants")]
fn activate(name: Option<&str>) -> Result<(), String> {
    use shoal_core::mutants::{Mutant, activate};
    let Some(name) = name else { return Ok(()) };
    let known =
        Mutant::ALL.into_iter().chain(Mutant::OF_CLUSTERS).find(|mutant| format!("{mutant:?}") == name);
    activate(known);
    known.map(drop).ok_or_else(|| format!("{name} is none of {:?}", Mutant::ALL))
}

/// Says whether something is wrong.
fn explore_all(chosen: &[Exploration], limits: Limits, jobs: usize) -> bool {
    println!(
        "{:14} {:>10} {:>11} {:>5} {:>8} {:>7} {:>8}  bounded by",
        "scenario", "states", "steps", "depth", "parts", "ends", "seconds"
    );
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(false);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(exploration) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = exploration.explore(limits);
                    let mut wrong = wrong.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    *wrong |= report.found.is_some();
                    show(exploration, &report);
                }
            });
        }
    });
    wrong.into_inner().unwrap_or(true)
}

fn show(exploration: &Exploration, report: &Report) {
    let stop = match report.stop {
        Stop::Complete => String::new(),
        Stop::Found => String::from("; stopped by a violation"),
        Stop::States => format!("; not complete: {} states", report.states),
        Stop::Depth => String::from("; not complete: depth"),
        Stop::Time => String::from("; not complete: time"),
    };
    println!(
        "{:14} {:>10} {:>11} {:>5} {:>8} {:>7} {:>8.1}  {}{stop}",
        exploration.name(),
        report.states,
        report.steps,
        report.depth,
        report.parts,
        report.ends,
        report.took.as_secs_f64(),
        exploration.bounds(),
    );
    if let Some((violation, story)) = &report.found {
        for line in story {
            println!("{line}");
        }
        println!("VIOLATION of {}: {}", violation.property, violation.detail);
    }
}
