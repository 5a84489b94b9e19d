//! Big values made on one node and read on others: copied, broadcast, spilled where they come from, lost
//! with a node and made again, and what they were made of, too.

use std::rc::Rc;

use super::Builder;
use super::builder::{Options, Place};
use crate::program::{Function, Product, Script, Slot, Step};

pub(super) fn build(b: &mut Builder) {
    let size = *b.random.pick(&[110_000, 600_000, 1_500_000]);
    let retries_max = *b.random.pick(&[0, 1, 3, -1]);
    let options = Options { retries_max, place: Some(Place::Spread), ..Options::default() };
    let micros = b.random.skewed(50_000);
    let results = vec![Product { size, contains: vec![] }];
    let compute = Step::Compute { micros };
    let make = b.function(&options, Script { steps: vec![compute.clone()], results: results.clone() });
    let refine = b.function(&options, Script { steps: vec![compute.clone()], results });
    let read = b.function(&options, Script { steps: vec![compute], results: vec![Product::default()] });
    let mut sources = Vec::new();
    for _ in 0..b.random.between(1, 4) {
        sources.push(if b.random.chance(200) { b.put(size, &[]) } else { b.submit(&make, &[], &[]) });
    }
    for _ in 0..b.random.skewed(5) {
        // A chain: when all of it is lost, all of it is made again.
        let source = *b.random.pick(&sources);
        let refined = b.submit(&refine, &[source], &[]);
        if b.random.chance(500) {
            b.drop(source);
            sources.retain(|slot| *slot != source);
        }
        sources.push(refined);
    }
    let mut reads = broadcast(b, &read, &sources);
    if b.random.chance(500) {
        let micros = 1 + b.random.skewed(3_000_000);
        b.step(Step::Compute { micros });
        reads.extend(broadcast(b, &read, &sources));
    }
    for slot in reads {
        b.get(slot);
    }
    for slot in sources {
        let value = b.get(slot);
        b.drop(value);
        b.drop(slot);
    }
}

/// Many readers of some values at once, by value or by reference.
fn broadcast(b: &mut Builder, read: &Rc<Function>, sources: &[Slot]) -> Vec<Slot> {
    let mut reads = Vec::new();
    for _ in 0..1 + b.random.skewed(12) {
        let source = *b.random.pick(sources);
        reads.push(b.submit(read, &[source], &[]));
    }
    reads
}
