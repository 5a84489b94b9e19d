//! Actors whose constructors have arguments that are not there yet, or whose bytes are not: called, killed, let
//! go of or given to others before they are made.

use super::Builder;
use super::builder::{Options, body};
use crate::program::{Product, Script, Step};

pub(super) fn build(b: &mut Builder) {
    let passed_on = b.random.chance(400);
    // Longer than the head waits for an actor of which nobody has told it.
    let long = passed_on && b.random.chance(300);
    let micros = if long { 15_000_000 } else { 1 + b.random.skewed(300_000) };
    let raises = b.random.chance(100);
    let ends =
        if raises { Step::Raise } else { Step::CrashUntil { attempts: u32::from(b.random.chance(100)) } };
    let options = Options { retries_max: b.random.between(0, 1) as i32, ..Options::default() };
    // Large ones are in the store, and not always in that of the node that the actor comes to.
    let size = *b.random.pick(&[0, 0, 110_000, 400_000]);
    let results = vec![Product { size, contains: vec![] }];
    let slow = b.function(&options, Script { steps: vec![Step::Compute { micros }, ends], results });
    let restarts = *b.random.pick(&[0, 1]);
    let works = body(vec![Step::Compute { micros: 1_000 }]);
    let crashes = body(vec![Step::CrashUntil { attempts: 1 }]);
    let class = b.class(restarts, 0, 1, body(vec![]), vec![works, crashes]);
    let calls = Step::Call { actor: 0, method: 0, dependencies: vec![], borrows: vec![], into: 1 };
    let caller = b.function(&Options::default(), body(vec![calls, Step::Get { slot: 1, into: 2 }]));
    let mut results = Vec::new();
    for _ in 0..b.random.between(1, 4) {
        let mut arguments = Vec::new();
        for _ in 0..b.random.between(1, 3) {
            let is_put = size > 0 && b.random.chance(300);
            arguments.push(if is_put { b.put(size, &[]) } else { b.submit(&slow, &[], &[]) });
        }
        let into = b.slot();
        b.step(Step::CreateActor {
            class: class.clone(),
            dependencies: arguments.clone(),
            borrows: vec![],
            name: String::new(),
            detached: false,
            into,
        });
        arguments.iter().for_each(|argument| b.drop(*argument));
        for _ in 0..b.random.below(3) {
            let method = usize::from(b.random.chance(150));
            results.push(b.call(into, method, &[], &[]));
        }
        if passed_on {
            results.push(b.submit(&caller, &[], &[into]));
        }
        match b.random.below(4) {
            0 => {
                let no_restart = b.random.chance(500);
                b.step(Step::Kill { actor: into, no_restart });
            }
            1 => b.step(Step::Compute { micros: micros / 2 }),
            _ => {}
        }
        b.drop(into);
    }
    for slot in results {
        b.get(slot);
    }
}
