//! A state of a cluster: small, for millions of them are looked at.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::rc::Rc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use shoal_core::Time;
use shoal_core::ids::{OperationId, ProcessId};

use crate::fingerprint::Printer;

/// A number that stands for a part, a frame, work or a history.
pub type Id = u32;

/// A direction of a link, first in, first out.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Way {
    /// Who writes.
    pub from: ProcessId,
    /// Who reads.
    pub to: ProcessId,
}

/// See the module's text. Two states with equal fields go on alike.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct State {
    /// Whoever is alive.
    pub parts: BTreeMap<ProcessId, Id>,
    /// Frames under way; no way is empty.
    pub ways: BTreeMap<Way, Vec<Id>>,
    /// Work under way, and which part started it.
    pub work: Vec<(ProcessId, Option<OperationId>, Id)>,
    /// Direct links, the smaller process first.
    pub links: Vec<(ProcessId, ProcessId)>,
    /// Processes that crashed: what they had not sent may be lost.
    pub crashed: Vec<ProcessId>,
    /// What is remembered of the past.
    pub history: Id,
    /// What may still go wrong.
    pub left: Left,
    /// How often nothing was left to happen but a deadline.
    pub waited: u8,
    /// The drivers have left, and nothing goes wrong any more.
    pub leaving: bool,
}

/// What may still go wrong.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Left {
    /// Deaths of workers.
    pub workers: u8,
    /// Deaths of drivers.
    pub drivers: u8,
    /// Early deadlines.
    pub early: u8,
}

/// One thing that can happen in a cluster.
#[derive(Clone, Debug)]
pub enum Action {
    /// The first frame of a way arrives.
    Deliver(Way),
    /// The first frame of a way, and what follows, was never sent: its sender crashed before.
    Lose(Way),
    /// Work ends, by its place in the list.
    Finish(usize),
    /// A thread of a program goes on.
    Go(ProcessId, u8),
    /// A deadline has come.
    Deadline(ProcessId),
    /// A process crashes.
    Crash(ProcessId),
    /// All programs have ended, and nothing is left of them: the drivers leave.
    Leave,
}

/// Values by number, equal ones by the same.
#[derive(Debug)]
pub struct Numbered<T> {
    by_fingerprint: HashMap<u64, Id, FxBuildHasher>,
    values: Vec<Rc<T>>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Numbered { by_fingerprint: HashMap::default(), values: Vec::new() }
    }
}

impl<T> Numbered<T> {
    /// The value with this number.
    pub fn get(&self, id: Id) -> &Rc<T> {
        &self.values[id as usize]
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// The number of a value that prints as `printed` when the clock says `now`. Says whether it is new.
    pub fn number(&mut self, value: T, printed: u64) -> (Id, bool) {
        let next = self.values.len() as Id;
        let id = *self.by_fingerprint.entry(printed).or_insert(next);
        if id == next {
            self.values.push(Rc::new(value));
        }
        (id, id == next)
    }
}

impl<T: Debug> Numbered<T> {
    /// The number of a value without a clock.
    pub fn of(&mut self, value: T, printer: &mut Printer) -> Id {
        let printed = printer.fingerprint(&value, Time(0));
        self.number(value, printed).0
    }
}
