//! What an exploration starts from, and what may go wrong in it.

use shoal_core::Wakeup;

use crate::program::{Class, Function, Script};

/// What the users of a cluster have written.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// Remote functions.
    pub functions: Vec<Function>,
    /// Actor classes.
    pub classes: Vec<Class>,
    /// Drivers.
    pub drivers: Vec<Script>,
    /// A script without operations.
    pub nothing: Script,
}

/// A small cluster, what it is used for, and how much may go wrong.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is explored, in a line.
    pub about: &'static str,
    /// CPUs of each node.
    pub nodes: Vec<i64>,
    /// Workers that are up before anything happens.
    pub prestarted: u32,
    /// What runs.
    pub programs: Programs,
    /// What may go wrong.
    pub faults: Faults,
    /// A reference leads to its object even if its lender died before the owner knew of the borrower.
    /// That does not hold yet; `README.md` tells the story.
    pub strict: bool,
}

impl Scenario {
    /// A scenario of which nothing is said yet.
    pub fn new(name: &'static str, about: &'static str) -> Scenario {
        Scenario {
            name,
            about,
            nodes: vec![1],
            prestarted: 1,
            programs: Programs::default(),
            faults: Faults::default(),
            strict: false,
        }
    }
}

/// How much may go wrong. Each is a budget: it may happen so often, at any point.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Workers that die, taking along any part of what they had not sent.
    pub workers: u8,
    /// Drivers that die so.
    pub drivers: u8,
    /// Deadlines that fire although something else could still happen before.
    pub early: u8,
    /// Only such deadlines; all if none is named.
    pub early_of: Option<Wakeup>,
}

impl Faults {
    /// In words, for reports.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        let mut add = |count: u8, what: &str| {
            if count > 0 {
                parts.push(format!("{count} {what}{}", if count == 1 { "" } else { "s" }));
            }
        };
        add(self.workers, "worker death");
        add(self.drivers, "driver death");
        add(self.early, "early deadline");
        if parts.is_empty() { String::from("no faults") } else { parts.join(", ") }
    }
}
