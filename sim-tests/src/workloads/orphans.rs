//! Values that workers and actors put, and that others hold, copy and read, while their makers and the
//! nodes of these die. Nothing can make such a value again: as long as a copy is left, it must be found.

use std::rc::Rc;

use super::Builder;
use super::builder::{Options, Place, body};
use crate::program::{Class, Product, Script, Slot, Step};

pub(super) fn build(b: &mut Builder) {
    let size = *b.random.pick(&[8, 200_000, 600_000]);
    let options = Options { retries_max: 3, place: Some(Place::Spread), ..Options::default() };
    let micros = b.random.skewed(50_000);
    let compute = Step::Compute { micros };
    let put = Step::Put { product: Product { size, contains: vec![] }, into: 1 };
    let gives = Script { steps: vec![put], results: vec![Product { size: 8, contains: vec![1] }] };
    let make = b.function(&options, gives);
    let read = b.function(&options, body(vec![compute]));
    let holder = holder(b);
    let mut orphans = Vec::new();
    for _ in 0..b.random.between(1, 5) {
        orphans.push(made(b, |b| b.submit(&make, &[], &[])));
    }
    let mut holders = Vec::new();
    for _ in 0..b.random.below(3) {
        let kept = *b.random.pick(&orphans);
        let actor = b.actor(&holder, &[kept]);
        holders.push(actor);
        if b.random.chance(300) {
            orphans.push(made(b, |b| b.call(actor, PUTS, &[], &[])));
        }
    }
    for _ in 0..b.random.between(1, 3) {
        let mut reads = Vec::new();
        for _ in 0..b.random.skewed(8) {
            let one = *b.random.pick(&orphans);
            reads.push(b.submit(&read, &[one], &[]));
        }
        reads.extend(holders.clone().into_iter().map(|actor| b.call(actor, READS, &[], &[])));
        for slot in reads {
            b.get(slot);
        }
        // Long enough, now and then, for a node to be declared dead.
        let micros = 1 + b.random.skewed(8_000_000);
        b.step(Step::Compute { micros });
        if orphans.len() > 1 && b.random.chance(300) {
            let at = b.random.below(orphans.len() as u64) as usize;
            b.drop(orphans.swap_remove(at));
        }
    }
    for slot in orphans {
        b.get(slot);
    }
}

/// What somebody else has put: the reference that a call of it returned.
pub(super) fn made(b: &mut Builder, call: impl Fn(&mut Builder) -> Slot) -> Slot {
    let result = call(b);
    let value = b.get(result);
    let inner = b.slot();
    b.step(Step::Take { slot: value, index: 0, into: inner });
    b.drop(value);
    b.drop(result);
    inner
}

const READS: usize = 0;
const PUTS: usize = 1;

/// An actor that keeps a reference, and puts values of its own.
fn holder(b: &mut Builder) -> Rc<Class> {
    let reads = body(vec![Step::Recall { index: 0, into: 1 }, Step::Get { slot: 1, into: 2 }]);
    let put = Step::Put { product: Product { size: 300_000, contains: vec![] }, into: 1 };
    let puts = Script { steps: vec![put], results: vec![Product { size: 8, contains: vec![1] }] };
    b.class(1, 1, 1, body(vec![Step::Keep { slot: 0 }]), vec![reads, puts])
}
