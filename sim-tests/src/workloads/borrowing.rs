//! References on long ways: in arguments, in results, in values of values, in actors' states.

use std::rc::Rc;

use super::Builder;
use super::builder::{Options, body};
use crate::program::{Class, Function, Product, Script, Step};

pub(super) fn build(b: &mut Builder) {
    let size = *b.random.pick(&[8, 8, 8, 200_000]);
    let functions = functions(b);
    let keeper = keeper(b);
    let mut actors = Vec::new();
    let mut slots = vec![b.put(size, &[])];
    for _ in 0..1 + b.random.skewed(24) {
        let one = *b.random.pick(&slots);
        match b.random.below(10) {
            0 => slots.push(b.put(size, &[one])),
            1 => {
                let function = b.random.pick(&functions).clone();
                slots.push(b.submit(&function, &[one], &[]));
            }
            2..=4 => {
                let function = b.random.pick(&functions).clone();
                slots.push(b.submit(&function, &[], &[one]));
            }
            5 if actors.len() < 2 => actors.push(b.actor(&keeper, &[one])),
            5 | 6 if !actors.is_empty() => {
                let actor = *b.random.pick(&actors);
                let method = b.random.below(3) as usize;
                slots.push(b.call(actor, method, &[], &[one]));
            }
            7 => {
                let value = b.get(one);
                let inner = b.slot();
                b.step(Step::Take { slot: value, index: 0, into: inner });
                b.drop(value);
                slots.push(inner);
            }
            8 if !actors.is_empty() => {
                // An actor's handle travels, too.
                let actor = *b.random.pick(&actors);
                let function = b.random.pick(&functions).clone();
                slots.push(b.submit(&function, &[], &[actor]));
            }
            _ => b.drop(one),
        }
    }
    for slot in slots {
        let value = b.get(slot);
        let inner = b.slot();
        b.step(Step::Take { slot: value, index: 0, into: inner });
        if b.random.chance(700) {
            b.get(inner);
        }
    }
}

/// Functions that do different things with the reference that they are given.
fn functions(b: &mut Builder) -> Vec<Rc<Function>> {
    let options = Options { retries_max: b.random.between(0, 2) as i32, ..Options::default() };
    let micros = b.random.skewed(10_000);
    let returned = |slots: Vec<u16>, steps: Vec<Step>| Script {
        steps,
        results: vec![Product { size: 8, contains: slots }],
    };
    let take = Step::Take { slot: 0, index: 0, into: 1 };
    let reads = b.function(&options, body(vec![Step::Compute { micros }, Step::Get { slot: 0, into: 1 }]));
    let returns = b.function(&options, returned(vec![0], vec![Step::Compute { micros }]));
    let unpacks = b.function(&options, returned(vec![1], vec![take]));
    let wraps = b.function(
        &options,
        returned(vec![1], vec![Step::Put { product: Product { size: 8, contains: vec![0] }, into: 1 }]),
    );
    let submit = |function: &Rc<Function>, into| Step::Submit {
        function: function.clone(),
        dependencies: vec![],
        borrows: vec![0],
        into,
    };
    // Passes it on to a child, and returns the child's reference without waiting.
    let passes = b.function(&options, returned(vec![1], vec![submit(&returns, 1), Step::Drop { slot: 0 }]));
    let waits = b.function(&options, body(vec![submit(&wraps, 1), Step::Get { slot: 1, into: 2 }]));
    let crash = Step::CrashUntil { attempts: 1 };
    let crashes = b.function(&options, returned(vec![1], vec![submit(&reads, 1), crash]));
    vec![reads, returns, unpacks, wraps, passes, waits, crashes]
}

/// An actor that keeps what it is given.
fn keeper(b: &mut Builder) -> Rc<Class> {
    let restarts = *b.random.pick(&[0, 1]);
    let keeps = body(vec![Step::Keep { slot: 0 }]);
    let gives = Script {
        steps: vec![Step::Recall { index: 0, into: 1 }],
        results: vec![Product { size: 8, contains: vec![1] }],
    };
    let reads = body(vec![Step::Recall { index: 1, into: 1 }, Step::Get { slot: 1, into: 2 }]);
    b.class(restarts, 0, 1, body(vec![Step::Keep { slot: 0 }]), vec![keeps, gives, reads])
}
