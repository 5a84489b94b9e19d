//! `make mutants`: put every known bug back in, one at a time, and see which check catches it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use shoal_sim_tests::ablation::{self, Catch, Search};

/// Put known bugs back in, and see which check of the simulation catches each.
#[derive(Parser)]
struct Arguments {
    /// These mutants; all without.
    mutants: Vec<String>,
    /// Seeds that are run in any case, so that more than one check has its chance.
    #[arg(long, default_value_t = 500)]
    least: u64,
    /// Seeds after which a mutant has survived.
    #[arg(long, default_value_t = 20_000)]
    most: u64,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Put the tables into this file, between its marks.
    #[arg(long)]
    write: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut mutants = Vec::new();
    for name in &arguments.mutants {
        match ablation::mutant(name) {
            Some(mutant) => mutants.push(mutant),
            None => {
                eprintln!("{name} is none of {:?}", ablation::mutants());
                return ExitCode::from(2);
            }
        }
    }
    if mutants.is_empty() {
        mutants = ablation::mutants();
    }
    // A failed assertion is a way to be caught.
    std::panic::set_hook(Box::new(|_| {}));
    let search = Search { least: arguments.least, most: arguments.most, jobs: arguments.jobs };
    let catches: Vec<Catch> =
        mutants.into_iter().map(|mutant| report(ablation::catch(mutant, search))).collect();
    let stale = match ablation::stale(&Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")) {
        Ok(stale) => stale,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let tables = ablation::tables(&catches);
    println!("\n{tables}");
    if let Some(path) = &arguments.write
        && let Err(problem) = write(path, &tables)
    {
        eprintln!("{}: {problem}", path.display());
        return ExitCode::from(2);
    }
    verdict(&catches, &stale)
}

fn report(catch: Catch) -> Catch {
    let Catch { mutant, seeds, first, by, .. } = &catch;
    match first {
        Some((seed, check)) => println!("{mutant:?}: seed {seed} by {check}; in {seeds} seeds: {by:?}"),
        None => println!("{mutant:?}: survives {seeds} seeds"),
    }
    catch
}

fn write(path: &Path, tables: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let text = ablation::replace_tables(&text, tables).ok_or("it has no marks for the tables")?;
    std::fs::write(path, text).map_err(|error| error.to_string())
}

/// Every mutant must be caught, by a seed that is clean without it, and by the schedules that are stored for it.
fn verdict(catches: &[Catch], stale: &[String]) -> ExitCode {
    let name = |catch: &Catch| format!("{:?}", catch.mutant);
    let survivors: Vec<String> = catches.iter().filter(|catch| catch.first.is_none()).map(name).collect();
    let unsound: Vec<String> = catches.iter().filter(|catch| catch.unsound).map(name).collect();
    if !unsound.is_empty() {
        println!("the seed that caught it fails without it, too: {}", unsound.join(", "));
    }
    if !survivors.is_empty() {
        println!("not caught: {}", survivors.join(", "));
    }
    if !stale.is_empty() {
        println!("stored for a mutant, and clean with it: {}", stale.join(", "));
    }
    if survivors.is_empty() && unsound.is_empty() && stale.is_empty() {
        println!("all {} mutants are caught", catches.len());
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}
