//! Which check catches which bug: every known bug is put back in, and every check looks on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use shoal_core::mutants::{Mutant, activate};

use crate::properties;
use crate::run::{examine, run};
use crate::scenario::Scenario;

/// Around what [`replace_tables`] replaces.
const BEGIN: &str = "<!-- mutants: begin -->";
const END: &str = "<!-- mutants: end -->";

/// How a stored schedule begins that was kept for a mutant; its name and a comma follow.
pub const KEPT_FOR: &str = "# With the mutant ";

/// Checks that are no property of their own: that programs end, and that no machine panics.
const OF_RUNS: [&str; 2] = ["liveness", "assertions"];

/// How long to look for a mutant.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Seeds that are run in any case, from 0, so that more than one check has its chance.
    pub least: u64,
    /// Seeds after which a mutant that no check has seen has survived.
    pub most: u64,
    /// Threads.
    pub jobs: usize,
}

/// What the checks say of one mutant.
#[derive(Clone, Debug)]
pub struct Catch {
    /// The bug.
    pub mutant: Mutant,
    /// Seeds that were run.
    pub seeds: u64,
    /// The first seed that any check failed, and the check that failed first.
    pub first: Option<(u64, String)>,
    /// For each check that catches it the number of seeds in which it does.
    pub by: BTreeMap<String, u64>,
    /// The first seed fails without the bug, too: nothing is known of the bug.
    pub unsound: bool,
}

impl Catch {
    /// The check without which it would survive, if there is one.
    pub fn only_by(&self) -> Option<&str> {
        let mut checks = self.by.keys();
        checks.next().filter(|_| checks.next().is_none()).map(String::as_str)
    }
}

/// All mutants.
pub fn mutants() -> Vec<Mutant> {
    Mutant::ALL.into_iter().chain(Mutant::OF_CLUSTERS).collect()
}

/// The mutant of this name.
pub fn mutant(name: &str) -> Option<Mutant> {
    mutants().into_iter().find(|mutant| format!("{mutant:?}") == name)
}

/// All checks.
pub fn checks() -> Vec<&'static str> {
    properties::all().iter().map(|property| property.name()).chain(OF_RUNS).collect()
}

/// Run a mutant. The active one is that of the whole process, so one at a time.
pub fn catch(mutant: Mutant, search: Search) -> Catch {
    activate(Some(mutant));
    let next = AtomicU64::new(0);
    let caught = AtomicBool::new(false);
    let found: Mutex<BTreeMap<u64, Vec<String>>> = Mutex::default();
    let look = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= search.most || (seed >= search.least && caught.load(Ordering::Relaxed)) {
                break;
            }
            let violations = examine(&Scenario::from_seed(seed));
            if !violations.is_empty() {
                caught.store(true, Ordering::Relaxed);
                let checks = violations.into_iter().map(|violation| violation.property).collect();
                found.lock().expect("no check panics here").insert(seed, checks);
            }
        }
    };
    std::thread::scope(|scope| (0..search.jobs.max(1)).for_each(|_| drop(scope.spawn(look))));
    activate(None);
    let found = found.into_inner().expect("no check panics here");
    let first = found.iter().next().map(|(seed, checks)| (*seed, checks[0].clone()));
    let mut by: BTreeMap<String, u64> = BTreeMap::new();
    for checks in found.values() {
        for check in checks.iter().collect::<BTreeSet<_>>() {
            *by.entry(check.clone()).or_default() += 1;
        }
    }
    let fails_without =
        |(seed, _): &(u64, String)| run(&Scenario::from_seed(*seed), false).violation.is_some();
    let seeds = next.into_inner().min(search.most).max(search.least);
    Catch { mutant, seeds, unsound: first.as_ref().is_some_and(fails_without), first, by }
}

/// The stored schedules that were kept for a mutant and do not fail with it any more.
pub fn stale(folder: &Path) -> Result<Vec<String>, String> {
    let mut stale = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let problem = |problem: String| format!("{}: {problem}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|error| problem(error.to_string()))?;
        let Some((name, _)) = text.strip_prefix(KEPT_FOR).and_then(|rest| rest.split_once(',')) else {
            continue;
        };
        let known = mutant(name).ok_or_else(|| problem(format!("there is no mutant {name}")))?;
        let scenario: Scenario = toml::from_str(&text).map_err(|error| problem(error.to_string()))?;
        activate(Some(known));
        let fails = run(&scenario, false).violation.is_some();
        activate(None);
        if !fails {
            stale.push(format!("{} ({name})", path.display()));
        }
    }
    stale.sort_unstable();
    Ok(stale)
}

/// The tables of the README: what catches each mutant, and which mutants only one check catches.
pub fn tables(catches: &[Catch]) -> String {
    let mut text = String::from(
        "| mutant | seeds | caught first by | in how many of how many seeds by which check |\n|---|---|---|---|\n",
    );
    for catch in catches {
        let Catch { mutant, seeds, first, by, .. } = catch;
        let line = match first {
            Some((seed, check)) => {
                let by: Vec<String> = by.iter().map(|(check, count)| format!("{check} {count}")).collect();
                format!("| {mutant:?} | {} | {check} | {seeds}: {} |\n", seed + 1, by.join(", "))
            }
            None => format!("| {mutant:?} | more than {seeds} | | |\n"),
        };
        text.push_str(&line);
    }
    text.push_str("\n| check | without it these survive | it also catches |\n|---|---|---|\n");
    for check in checks() {
        let names = |alone: bool| -> String {
            let caught = catches.iter().filter(|catch| catch.by.contains_key(check));
            let of_kind = caught.filter(|catch| (catch.only_by() == Some(check)) == alone);
            of_kind.map(|catch| format!("{:?}", catch.mutant)).collect::<Vec<_>>().join(", ")
        };
        let alone = names(true);
        let alone = if alone.is_empty() { String::from("*none of its own*") } else { alone };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{check}` | {alone} | {} |", names(false));
    }
    text
}

/// The text with new tables between its marks; nothing if it has no marks.
pub fn replace_tables(text: &str, tables: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{tables}\n{END}{after}"))
}
