//! References travel through three processes while those die.

use crate::program::{Class, Function, Script, Step};
use crate::scenario::{Faults, Programs, Scenario};

use super::{call, submit};

/// An actor that keeps a reference (method 0) and later reads what it stands for (method 1).
fn keeper() -> Class {
    let keep = Script::new([Step::Keep { slot: 0 }]);
    let read = Script::new([Step::Recall { into: 0 }, Step::Get { slot: 0, into: 1 }]);
    Class::new(0, 0, [keep, read])
}

/// The driver owns a value; a task lends it to an actor, and that actor reads it.
pub(super) fn lender(deep: bool) -> Scenario {
    let lend = Script::new([call(1, 0, 0, &[0], 2), Step::Get { slot: 2, into: 3 }]);
    let driver = Script::new([
        Step::Create { class: 0, into: 0 },
        Step::Put { contains: Vec::new(), into: 1 },
        submit(0, &[1, 0], 2),
        Step::Drop { slot: 1 },
        Step::Get { slot: 2, into: 3 },
        call(0, 0, 1, &[], 4),
        Step::Get { slot: 4, into: 5 },
    ]);
    Scenario {
        nodes: vec![2],
        prestarted: 2,
        programs: Programs {
            functions: vec![Function::new(0, if deep { 1 } else { 0 }, lend)],
            classes: vec![keeper()],
            drivers: vec![driver],
            ..Programs::default()
        },
        faults: Faults { workers: 1, ..Faults::default() },
        ..Scenario::new(
            "lender",
            "a reference goes from its owner through a lender to a borrower, and processes die",
        )
    }
}

/// A task makes a value, the driver lends it to an actor, and the actor reads it.
pub(super) fn owner(deep: bool) -> Scenario {
    let make = Script { steps: vec![Step::Put { contains: Vec::new(), into: 0 }], returns: vec![0] };
    let driver = Script::new([
        Step::Create { class: 0, into: 0 },
        submit(0, &[], 1),
        Step::Get { slot: 1, into: 2 },
        Step::Take { slot: 2, into: 3 },
        call(0, 0, 0, &[3], 4),
        Step::Drop { slot: 1 },
        Step::Drop { slot: 2 },
        Step::Drop { slot: 3 },
        call(0, 0, 1, &[], 5),
        Step::Get { slot: 5, into: 6 },
    ]);
    Scenario {
        nodes: vec![2],
        prestarted: 2,
        programs: Programs {
            functions: vec![Function::new(0, 1, make)],
            classes: vec![keeper()],
            drivers: vec![driver],
            ..Programs::default()
        },
        faults: Faults { workers: 1, early: if deep { 1 } else { 0 }, ..Faults::default() },
        ..Scenario::new("owner", "the owner of a value that others hold, or its borrower, dies")
    }
}
