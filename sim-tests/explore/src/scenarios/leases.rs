//! Leases are granted, used and returned while workers die.

use crate::program::{Function, Script, Step};
use crate::scenario::{Faults, Programs, Scenario};

use super::submit;

/// A driver calls a function twice and does not want the second call any more.
pub(super) fn returns(deep: bool) -> Scenario {
    let driver = Script::new([
        submit(0, &[], 0),
        submit(0, &[], 1),
        Step::Cancel { slot: 1, force: false },
        Step::Get { slot: 0, into: 2 },
        Step::Get { slot: 1, into: 2 },
    ]);
    Scenario {
        programs: Programs {
            functions: vec![Function::new(0, 1, Script::default())],
            drivers: vec![driver],
            ..Programs::default()
        },
        faults: Faults { workers: if deep { 2 } else { 1 }, early: 2, ..Faults::default() },
        ..Scenario::new("leases", "leases are asked for, granted, cancelled and returned while workers die")
    }
}

/// A driver calls a function that may be tried again, and cancels it by force.
pub(super) fn cancel(deep: bool) -> Scenario {
    let mut steps =
        vec![submit(0, &[], 0), Step::Cancel { slot: 0, force: true }, Step::Get { slot: 0, into: 1 }];
    if deep {
        steps.insert(0, submit(0, &[], 2));
        steps.push(Step::Get { slot: 2, into: 1 });
    }
    Scenario {
        programs: Programs {
            functions: vec![Function::new(0, 1, Script::default())],
            drivers: vec![Script::new(steps)],
            ..Programs::default()
        },
        faults: Faults { workers: 1, early: 1, ..Faults::default() },
        ..Scenario::new("cancel", "a task is cancelled by force while it waits, runs, ends or crashes")
    }
}

/// A task waits for a task of its own, and there is one CPU for both.
pub(super) fn nested(deep: bool) -> Scenario {
    let outer = Script::new([submit(1, &[], 0), Step::Get { slot: 0, into: 1 }]);
    let driver = Script::new([submit(0, &[], 0), submit(1, &[], 1), Step::Get { slot: 0, into: 2 }]);
    Scenario {
        programs: Programs {
            functions: vec![Function::new(0, 1, outer), Function::new(1, 1, Script::default())],
            drivers: vec![driver],
            ..Programs::default()
        },
        faults: Faults { workers: u8::from(!deep), drivers: u8::from(deep), ..Faults::default() },
        ..Scenario::new(
            "nested",
            "a task waits for a task of its own on one CPU, while workers or the driver die",
        )
    }
}

/// Small tasks are pushed behind each other, and taken back when the first turns out to be slow.
pub(super) fn take_back(deep: bool) -> Scenario {
    let mut steps = vec![submit(0, &[], 0), Step::Get { slot: 0, into: 9 }];
    let count = if deep { 4 } else { 3 };
    steps.extend((1..=count).map(|slot| submit(0, &[], slot)));
    steps.extend((1..=count).map(|slot| Step::Get { slot, into: 9 }));
    Scenario {
        nodes: vec![2],
        prestarted: 2,
        programs: Programs {
            functions: vec![Function::new(0, 0, Script::default())],
            drivers: vec![Script::new(steps)],
            ..Programs::default()
        },
        faults: Faults { workers: 1, early: 1, ..Faults::default() },
        ..Scenario::new("take-back", "tasks behind a slow one are taken back while workers die")
    }
}
