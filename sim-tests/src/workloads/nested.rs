//! Tasks that submit tasks and wait for them, deeper than there are CPUs.

use std::rc::Rc;

use super::Builder;
use super::builder::{Options, body};
use crate::program::{Function, Product, Script, Step};

pub(super) fn build(b: &mut Builder) {
    let depth = b.random.between(1, 6);
    let root = function(b, depth);
    for _ in 0..b.random.between(1, 3) {
        let result = b.submit(&root, &[], &[]);
        if b.random.chance(800) {
            b.get(result);
        }
    }
}

/// A task that waits for one or two of the next level; at the bottom one that computes.
fn function(b: &mut Builder, depth: u64) -> Rc<Function> {
    let micros = b.random.skewed(50_000);
    let options = Options { retries_max: b.random.between(0, 3) as i32, ..Options::default() };
    if depth == 0 {
        return b.function(&options, body(vec![Step::Compute { micros }]));
    }
    let inner = function(b, depth - 1);
    let children = if depth > 3 { 1 } else { b.random.between(1, 2) as u16 };
    let mut steps = vec![Step::Compute { micros }];
    for child in 0..children {
        steps.push(Step::Submit {
            function: inner.clone(),
            dependencies: vec![],
            borrows: vec![],
            into: child,
        });
    }
    let passes_on = b.random.chance(300);
    if !passes_on {
        steps.extend((0..children).map(|child| Step::Get { slot: child, into: 10 + child }));
    }
    // One that does not wait returns its children's references inside its value.
    let contains = if passes_on { (0..children).collect() } else { vec![] };
    let script = Script { steps, results: vec![Product { size: 8, contains }] };
    b.function(&options, script)
}
