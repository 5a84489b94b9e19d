//! Large values whose owners end soon after they have passed them on, read on several machines afterwards.

use shoal_core::task::Returns;

use super::Builder;
use super::builder::{Options, Place, body};
use crate::program::{Product, Script, Slot, Step};

pub(super) fn build(b: &mut Builder) {
    let size = *b.random.pick(&[8, 150_000, 600_000]);
    let calls_max = *b.random.pick(&[0, 1, 1]);
    let put = |into| Step::Put { product: Product { size, contains: vec![] }, into };
    let count = b.random.between(1, 3) as Slot;
    let returns = vec![Product { size: 8, contains: (0..count).collect() }];
    let puts = Script { steps: (0..count).map(put).collect(), results: returns };
    let place = b.random.chance(700).then_some(Place::Spread);
    // One that yields goes on for a while when others have begun to read.
    let yields = b.random.chance(300);
    let make = if yields {
        let returns = Returns::Stream { backpressure: 0 };
        let lingers = b.random.skewed(200_000);
        let mut steps = puts.steps;
        steps.push(Step::Yield { product: puts.results[0].clone() });
        steps.push(Step::Compute { micros: lingers });
        let options = Options { calls_max, place, returns, ..Options::default() };
        b.function(&options, Script { steps, results: vec![] })
    } else {
        b.function(&Options { calls_max, place, ..Options::default() }, puts)
    };
    let micros = *b.random.pick(&[1_000, 100_000, 3_000_000]);
    let spread = Options { place: Some(Place::Spread), ..Options::default() };
    let gets = body(vec![Step::Compute { micros }, Step::Get { slot: 0, into: 1 }]);
    let borrows = b.function(&spread, gets);
    let reads = b.function(&spread, body(vec![Step::Compute { micros }]));
    let mut orphans = Vec::new();
    for _ in 0..b.random.between(1, 3) {
        let mut made = b.submit(&make, &[], &[]);
        if yields {
            let item = b.slot();
            b.step(Step::Next { slot: made, into: item });
            b.drop(made);
            made = item;
        }
        let value = b.get(made);
        for index in 0..count as usize {
            let into = b.slot();
            b.step(Step::Take { slot: value, index, into });
            orphans.push(into);
        }
        b.drop(value);
        b.drop(made);
    }
    if b.random.chance(500) {
        let micros = b.random.skewed(2_000_000);
        b.step(Step::Compute { micros });
    }
    let mut results = Vec::new();
    for _ in 0..1 + b.random.skewed(10) {
        let orphan = *b.random.pick(&orphans);
        match b.random.chance(500) {
            true => results.push(b.submit(&reads, &[orphan], &[])),
            false => results.push(b.submit(&borrows, &[], &[orphan])),
        }
    }
    if b.random.chance(300) {
        orphans.iter().for_each(|orphan| b.drop(*orphan));
    }
    for slot in results {
        b.get(slot);
    }
}
