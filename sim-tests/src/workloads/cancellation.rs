//! Cancelling tasks that wait, run, or have children; gently and by force.

use super::Builder;
use super::builder::{Options, body};
use crate::program::Step;

pub(super) fn build(b: &mut Builder) {
    let options = Options { retries_max: b.random.between(0, 3) as i32, ..Options::default() };
    let micros = 1 + b.random.skewed(100_000);
    let leaf = b.function(&options, body(vec![Step::Compute { micros }, Step::Compute { micros }]));
    let mut steps = vec![];
    for child in 0..b.random.between(1, 3) as u16 {
        let function = leaf.clone();
        steps.push(Step::Submit { function, dependencies: vec![], borrows: vec![], into: child });
        steps.push(Step::Get { slot: child, into: 10 + child });
    }
    let parent = b.function(&options, body(steps));
    let class = b.class(0, 0, 1, body(vec![]), vec![body(vec![Step::Compute { micros }])]);
    let actor = if b.random.chance(300) { Some(b.actor(&class, &[])) } else { None };
    let mut results = Vec::new();
    for _ in 0..1 + b.random.skewed(20) {
        let slot = match (b.random.below(4), actor) {
            (0, Some(actor)) => b.call(actor, 0, &[], &[]),
            (1, _) if !results.is_empty() => {
                let argument = *b.random.pick(&results);
                b.submit(&leaf, &[argument], &[])
            }
            (2, _) => b.submit(&parent, &[], &[]),
            _ => b.submit(&leaf, &[], &[]),
        };
        results.push(slot);
    }
    for slot in &results {
        if b.random.chance(200) {
            let micros = b.random.skewed(50_000);
            b.step(Step::Compute { micros });
        }
        if b.random.chance(400) {
            let (force, recursive) = (b.random.chance(300), b.random.chance(500));
            b.step(Step::Cancel { slot: *slot, force, recursive });
        }
    }
    for slot in results {
        if b.random.chance(800) {
            b.get(slot);
        }
    }
}
