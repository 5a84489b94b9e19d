//! Values that are put on many nodes and held for long, while nodes are emptied and taken away.

use super::Builder;
use super::builder::{Options, Place};
use super::orphans::made;
use crate::program::{Product, Script, Slot, Step};

pub(super) fn build(b: &mut Builder) {
    let size = *b.random.pick(&[8, 200_000, 600_000]);
    let put = Step::Put { product: Product { size, contains: vec![] }, into: 1 };
    let options = Options { retries_max: 3, place: Some(Place::Spread), ..Options::default() };
    let gives = || Script { steps: vec![put.clone()], results: vec![Product { size: 8, contains: vec![1] }] };
    let make = b.function(&options, gives());
    // Actors go on where they are: what they put while their node is emptied has to leave, too.
    let maker = b.class(-1, -1, 1, Script::default(), vec![gives()]);
    let makers: Vec<Slot> = (0..b.random.below(4)).map(|_| b.actor(&maker, &[])).collect();
    let mut values = Vec::new();
    for _ in 0..b.random.between(2, 4) {
        for _ in 0..b.random.between(1, 8) {
            values.push(made(b, |b| b.submit(&make, &[], &[])));
        }
        for maker in &makers {
            values.push(made(b, |b| b.call(*maker, 0, &[], &[])));
        }
        let micros = 1 + b.random.below(20_000_000);
        b.step(Step::Compute { micros });
        if b.random.chance(500) {
            let one = *b.random.pick(&values);
            b.get(one);
        }
    }
    for slot in values {
        b.get(slot);
    }
}
