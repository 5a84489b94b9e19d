//! `cargo sim`: run seeds, replay one, shrink one. See `sim-tests/README.md`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use shoal_sim_tests::rare;
use shoal_sim_tests::run::{Report, Violation, run};
use shoal_sim_tests::scenario::Scenario;
use shoal_sim_tests::shrink::shrink;

/// So many seeds are named of those that failed in one way.
const SEEDS_SHOWN: usize = 8;

/// Run Shoal's machines under simulated faults.
#[derive(Parser)]
struct Arguments {
    /// A number, a commit hash, or a stored `.toml`; a random one without.
    seed: Option<String>,
    /// Run this many seeds, counting up from the first.
    #[arg(long)]
    seeds: Option<u64>,
    /// Run seeds for so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// So many machines, whatever the seed would draw.
    #[arg(long)]
    hosts: Option<u64>,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Run each seed twice and compare the traces.
    #[arg(long)]
    doublecheck: bool,
    /// Make a failing seed small and store it.
    #[arg(long)]
    shrink: bool,
    /// Print everything that happened.
    #[arg(long)]
    log: bool,
    /// Print how this task, object or process came to its state, as in `p1.1/7#0`.
    #[arg(long)]
    story: Option<String>,
    /// Put a known bug back in.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutant: Option<String>,
    /// Fail if a rare state was never reached by all these seeds.
    #[arg(long)]
    rare: bool,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let first = match first_scenario(arguments.seed.as_deref()) {
        Ok(first) => first,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    #[cfg(feature = "mutants")]
    if let Some(name) = &arguments.mutant {
        use shoal_sim_tests::ablation;
        let known = ablation::mutant(name);
        if known.is_none() {
            eprintln!("{name} is none of {:?}", ablation::mutants());
            return ExitCode::from(2);
        }
        shoal_core::mutants::activate(known);
    }
    // Failed assertions are reported like every other violation.
    std::panic::set_hook(Box::new(|info| {
        if std::env::var_os("SHOAL_SIM_BACKTRACE").is_some() {
            eprintln!("{info}\n{}", std::backtrace::Backtrace::force_capture());
        }
    }));
    match first {
        Start::Stored(scenario) => single(&scenario, &arguments),
        Start::Seed(seed) if arguments.seeds.is_some() || arguments.minutes.is_some() => {
            many(seed, &arguments)
        }
        Start::Seed(seed) => single(&Scenario::on(seed, arguments.hosts), &arguments),
    }
}

enum Start {
    Seed(u64),
    Stored(Box<Scenario>),
}

fn first_scenario(text: Option<&str>) -> Result<Start, String> {
    let Some(text) = text else {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        return Ok(Start::Seed(now.as_nanos() as u64));
    };
    if text.ends_with(".toml") {
        let written = std::fs::read_to_string(text).map_err(|error| format!("{text}: {error}"))?;
        let scenario = toml::from_str(&written).map_err(|error| format!("{text}: {error}"))?;
        return Ok(Start::Stored(Box::new(scenario)));
    }
    if let Ok(seed) = text.parse() {
        return Ok(Start::Seed(seed));
    }
    let is_hash = text.len() >= 7 && text.chars().all(|c| c.is_ascii_hexdigit());
    let digits = &text[..text.len().min(16)];
    match u64::from_str_radix(digits, 16) {
        Ok(seed) if is_hash => Ok(Start::Seed(seed)),
        _ => Err(format!("{text} is neither a number nor a commit hash nor a .toml file")),
    }
}

fn single(scenario: &Scenario, arguments: &Arguments) -> ExitCode {
    println!("SEED={} {}", scenario.seed, scenario.summary());
    let wants_text = arguments.log || arguments.story.is_some();
    let report = run(scenario, wants_text);
    if arguments.log {
        for line in report.trace.lines() {
            println!("{line}");
        }
    }
    if let Some(id) = &arguments.story {
        for line in report.trace.story(id) {
            println!("{line}");
        }
    }
    if arguments.doublecheck
        && let Err(difference) = doublecheck(scenario, &report)
    {
        let hosts = on_hosts(arguments);
        println!("{difference}\nreplay: cargo sim -- {} --doublecheck{hosts}", scenario.seed);
        return ExitCode::FAILURE;
    }
    let Some(violation) = &report.violation else {
        println!(
            "ok: {} events, {:.3} s of virtual time, trace {:016x}",
            report.trace.count(),
            report.virtual_time.0 as f64 / 1e9,
            report.trace.hash()
        );
        return ExitCode::SUCCESS;
    };
    println!("{}", describe(violation));
    if arguments.shrink {
        store_small(scenario, violation, arguments);
    } else {
        let name = arguments.seed.clone().unwrap_or_else(|| scenario.seed.to_string());
        println!("replay: cargo sim -- {name}{}", on_hosts(arguments));
    }
    ExitCode::FAILURE
}

fn on_hosts(arguments: &Arguments) -> String {
    arguments.hosts.map(|hosts| format!(" --hosts {hosts}")).unwrap_or_default()
}

fn describe(violation: &Violation) -> String {
    format!("VIOLATED {}: {}", violation.property, violation.detail)
}

fn store_small(scenario: &Scenario, violation: &Violation, arguments: &Arguments) {
    let Some((small, found)) = shrink(scenario, &violation.property) else {
        println!("it does not fail a second time");
        return;
    };
    println!("shrunk to: {}\n{}", small.summary(), describe(&found));
    let name = format!("{}-{}.toml", violation.property, scenario.seed);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let why: String = found.detail.lines().map(|line| format!("# {line}\n")).collect();
    match toml::to_string(&small) {
        Ok(written) => {
            let begin = begin(arguments);
            match std::fs::write(&path, format!("{begin}{} was violated:\n{why}\n{written}", found.property))
            {
                Ok(()) => println!("replay: cargo sim -- {}", path.display()),
                Err(error) => println!("{}: {error}", path.display()),
            }
        }
        Err(error) => println!("cannot be stored: {error}"),
    }
}

/// How a stored schedule begins: it names the bug that is to be found with it.
fn begin(arguments: &Arguments) -> String {
    #[cfg(feature = "mutants")]
    if let Some(name) = &arguments.mutant {
        return format!("{}{name}, ", shoal_sim_tests::ablation::KEPT_FOR);
    }
    let _ = arguments;
    String::from("# ")
}

/// Whether a second run is the same to the last detail.
fn doublecheck(scenario: &Scenario, first: &Report) -> Result<(), String> {
    let second = run(scenario, false);
    if first.trace.hash() == second.trace.hash() && first.trace.count() == second.trace.count() {
        return Ok(());
    }
    let (one, two) = (run(scenario, true), run(scenario, true));
    let Some(at) = one.trace.first_difference(&two.trace) else {
        return Err(String::from("NOT DETERMINISTIC, but not in the last two runs"));
    };
    let line = |report: &Report| report.trace.lines().get(at).map(ToString::to_string).unwrap_or_default();
    Err(format!("NOT DETERMINISTIC at event {at}\nfirst:  {}\nsecond: {}", line(&one), line(&two)))
}

/// What several threads add up.
#[derive(Default)]
struct Totals {
    counters: BTreeMap<&'static str, u64>,
    events: u64,
    virtual_seconds: f64,
    failures: Vec<(u64, String)>,
}

fn many(first: u64, arguments: &Arguments) -> ExitCode {
    println!(
        "SEED={first} seeds={:?} minutes={:?} doublecheck={}",
        arguments.seeds, arguments.minutes, arguments.doublecheck
    );
    let started = Instant::now();
    let limit = arguments.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if arguments.seeds.is_some_and(|seeds| number >= seeds)
                        || limit.is_some_and(|limit| started.elapsed() > limit)
                    {
                        break;
                    }
                    let seed = first.wrapping_add(number);
                    let failed = one_of_many(seed, arguments, &totals);
                    done.fetch_add(1, Ordering::Relaxed);
                    if failed && !arguments.keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap_or_default();
    summarise(&totals, done.load(Ordering::Relaxed), started.elapsed(), arguments)
}

fn one_of_many(seed: u64, arguments: &Arguments, totals: &Mutex<Totals>) -> bool {
    let scenario = Scenario::on(seed, arguments.hosts);
    let report = run(&scenario, false);
    let mut failure = report.violation.as_ref().map(describe);
    if arguments.doublecheck && failure.is_none() {
        failure = doublecheck(&scenario, &report).err();
    }
    let Ok(mut totals) = totals.lock() else { return true };
    for (what, count) in &report.counters {
        *totals.counters.entry(what).or_default() += count;
    }
    totals.events += report.trace.count();
    totals.virtual_seconds += report.virtual_time.0 as f64 / 1e9;
    let failed = failure.is_some();
    totals.failures.extend(failure.map(|failure| (seed, failure)));
    failed
}

fn summarise(totals: &Totals, done: u64, elapsed: Duration, arguments: &Arguments) -> ExitCode {
    for (what, count) in &totals.counters {
        println!("{count:>10}  {what}");
    }
    let seconds = elapsed.as_secs_f64();
    println!(
        "{done} seeds in {seconds:.1} s: {:.0} seeds/s, {:.0} events/s, virtual time {:.0} times real time",
        done as f64 / seconds,
        totals.events as f64 / seconds,
        totals.virtual_seconds / seconds
    );
    let mut kinds: BTreeMap<String, Vec<(u64, &str)>> = BTreeMap::new();
    for (seed, failure) in &totals.failures {
        let first = failure.lines().next().unwrap_or_default();
        let kind = first.chars().filter(|c| !c.is_ascii_digit()).take(90).collect();
        kinds.entry(kind).or_default().push((*seed, failure));
    }
    for failures in kinds.values() {
        let seeds: Vec<u64> = failures.iter().map(|(seed, _)| *seed).take(SEEDS_SHOWN).collect();
        println!("--- {} times, for example seeds {seeds:?}:\n{}", failures.len(), failures[0].1);
    }
    let Some((seed, _)) = totals.failures.first() else {
        let missing = if arguments.rare { rare::missing(&totals.counters) } else { Vec::new() };
        if missing.is_empty() {
            println!("all clean");
            return ExitCode::SUCCESS;
        }
        println!("no seed came to where {}", missing.join(", or to where "));
        return ExitCode::FAILURE;
    };
    println!("{} of {done} seeds failed", totals.failures.len());
    println!("replay: cargo sim -- {seed}{}", on_hosts(arguments));
    ExitCode::FAILURE
}
