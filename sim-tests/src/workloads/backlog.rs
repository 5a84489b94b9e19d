//! More work than there are CPUs, on large values that may be lost while it waits: spilled to a bad disk, or
//! gone with another machine. Then it must be made again by those who wait for it.

use super::Builder;
use super::builder::{Options, Place, body};
use crate::program::{Product, Script, Step};

pub(super) fn build(b: &mut Builder) {
    let size = *b.random.pick(&[200_000, 800_000, 1_500_000]);
    let retries_max = *b.random.pick(&[1, 3, -1]);
    let place = b.random.chance(500).then_some(Place::Spread);
    let options = Options { retries_max, place, ..Options::default() };
    let results = vec![Product { size, contains: vec![] }];
    let make = b.function(&options, Script { steps: vec![Step::Compute { micros: 1_000 }], results });
    let micros = *b.random.pick(&[10_000, 200_000, 1_500_000]);
    let reading = Options { place: Some(Place::Anywhere), ..options };
    let read = b.function(&reading, body(vec![Step::Compute { micros }]));
    let waits = body(vec![Step::Compute { micros }]);
    let class = b.class(1, -1, 1, body(vec![]), vec![waits]);
    let sources: Vec<u16> = (0..b.random.between(1, 12)).map(|_| b.submit(&make, &[], &[])).collect();
    if b.random.chance(700) {
        // All of them are there when the work is asked for, and some of them on the disk.
        b.step(Step::Wait { slots: sources.clone(), count: sources.len() });
    }
    let actor = b.random.chance(300).then(|| b.actor(&class, &[]));
    let mut results = Vec::new();
    let alone = b.random.chance(400);
    for _ in 0..1 + b.random.skewed(24) {
        let mut arguments = vec![*b.random.pick(&sources)];
        if b.random.chance(300) {
            arguments.insert(0, *b.random.pick(&sources));
        }
        match actor.filter(|_| b.random.chance(300)) {
            Some(actor) => results.push(b.call(actor, 0, &arguments, &[])),
            None => results.push(b.submit(&read, &arguments, &[])),
        }
        if alone && let Some(result) = results.pop() {
            // Nothing comes behind it.
            b.get(result);
        }
    }
    if b.random.chance(500) {
        sources.iter().for_each(|source| b.drop(*source));
    }
    for slot in results {
        b.get(slot);
    }
}
