//! Actors restart while calls are under way.

use crate::program::{Class, Function, Script, Step};
use crate::scenario::{Faults, Programs, Scenario};

use super::{call, submit};

/// Three calls of an actor that may be started again once, one of which may be tried again.
pub(super) fn restart(deep: bool) -> Scenario {
    let mut steps = vec![Step::Create { class: 0, into: 0 }];
    let calls = if deep { 3 } else { 2 };
    steps.extend((1..=calls).map(|slot| call(0, 0, 0, &[], slot)));
    steps.extend((1..=calls).map(|slot| Step::Get { slot, into: 9 }));
    Scenario {
        programs: Programs {
            classes: vec![Class::new(1, 1, [Script::default()])],
            drivers: vec![Script::new(steps)],
            ..Programs::default()
        },
        faults: Faults { workers: 2, early: if deep { 1 } else { 0 }, ..Faults::default() },
        ..Scenario::new("restart", "an actor dies and starts again while calls are under way")
    }
}

/// An actor is killed, to be started again or for good, between its calls, and may die by itself.
pub(super) fn kill(deep: bool) -> Scenario {
    let driver = Script::new([
        Step::Create { class: 0, into: 0 },
        call(0, 0, 0, &[], 1),
        Step::Kill { actor: 0, no_restart: false },
        call(0, 0, 0, &[], 2),
        Step::Get { slot: 1, into: 9 },
        Step::Get { slot: 2, into: 9 },
        Step::Kill { actor: 0, no_restart: true },
        call(0, 0, 0, &[], 3),
        Step::Get { slot: 3, into: 9 },
    ]);
    Scenario {
        programs: Programs {
            classes: vec![Class::new(if deep { 2 } else { 1 }, 1, [Script::default()])],
            drivers: vec![driver],
            ..Programs::default()
        },
        faults: Faults { workers: 1, drivers: u8::from(deep), ..Faults::default() },
        ..Scenario::new(
            "kill",
            "an actor is killed, to start again and then for good, and dies by itself meanwhile",
        )
    }
}

/// A call whose argument fails is not made, and must not hold up the one behind it.
pub(super) fn failing(deep: bool) -> Scenario {
    let driver = Script::new([
        Step::Create { class: 0, into: 0 },
        submit(0, &[], 1),
        Step::Call { actor: 0, class: 0, method: 0, passes: vec![1], lends: Vec::new(), into: 2 },
        call(0, 0, 0, &[], 3),
        Step::Get { slot: 3, into: 9 },
        Step::Get { slot: 2, into: 9 },
    ]);
    Scenario {
        nodes: vec![2],
        prestarted: 2,
        programs: Programs {
            functions: vec![Function::new(0, 0, Script::new([Step::Raise]))],
            classes: vec![Class::new(1, 0, [Script::default()])],
            drivers: vec![driver],
            ..Programs::default()
        },
        faults: Faults { workers: u8::from(deep), ..Faults::default() },
        ..Scenario::new("failing", "a call whose argument fails is followed by another")
    }
}
