//! Many tiny tasks, tasks that need no CPU, and tasks that nothing here can ever run.

use super::Builder;
use super::builder::{Options, body};
use crate::program::Step;

pub(super) fn build(b: &mut Builder) {
    let cpu = *b.random.pick(&[0, 0, 100, 10_000]);
    let micros = b.random.skewed(3_000);
    let options = Options { cpu, ..Options::default() };
    let tiny = b.function(&options, body(vec![Step::Compute { micros }]));
    let waits = b.function(
        &options,
        body(vec![
            Step::Submit { function: tiny.clone(), dependencies: vec![], borrows: vec![], into: 0 },
            Step::Get { slot: 0, into: 1 },
        ]),
    );
    let mut results = Vec::new();
    for _ in 0..1 + b.random.skewed(120) {
        let function = if b.random.chance(200) { &waits } else { &tiny };
        results.push(b.submit(function, &[], &[]));
    }
    if b.random.chance(150) {
        let impossible = Options { cpu: 1_000_000, ..Options::default() };
        let never = b.function(&impossible, body(vec![]));
        results.push(b.submit(&never, &[], &[]));
    }
    for slot in results {
        b.get(slot);
    }
}
