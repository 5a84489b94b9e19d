//! Values in the shared store: more than fit, spilled, restored, lost and made again.

use shoal_core::task::Returns;

use super::Builder;
use super::builder::Options;
use crate::program::{Product, Script, Step};

pub(super) fn build(b: &mut Builder) {
    let size = *b.random.pick(&[110_000, 500_000, 1_500_000]);
    let big = |count: usize| vec![Product { size, contains: vec![] }; count];
    let options = Options { retries_max: b.random.between(0, 3) as i32, ..Options::default() };
    let micros = b.random.skewed(20_000);
    let crashes = if b.random.chance(200) { 1 } else { 0 };
    let steps = vec![Step::Compute { micros }, Step::CrashUntil { attempts: crashes }];
    let make = b.function(&options, Script { steps: steps.clone(), results: big(1) });
    let two = Options { returns: Returns::Count(2), ..options.clone() };
    let split = b.function(&two, Script { steps: steps.clone(), results: big(2) });
    let small = b.function(&options, Script { steps, results: vec![Product::default()] });
    let mut slots = Vec::new();
    for _ in 0..1 + b.random.skewed(24) {
        let arguments: Vec<u16> = (0..b.random.below(3)).filter_map(|_| pick(b, &slots)).collect();
        match b.random.below(6) {
            0 => slots.push(b.put(size, &arguments)),
            1 => {
                let first = b.submit(&split, &arguments, &[]);
                slots.extend([first, first + 1]);
            }
            2 => slots.push(b.submit(&small, &arguments, &[])),
            _ => slots.push(b.submit(&make, &arguments, &[])),
        }
        if b.random.chance(250)
            && let Some(slot) = pick(b, &slots)
        {
            b.drop(slot);
        }
        if b.random.chance(250)
            && let Some(slot) = pick(b, &slots)
        {
            let value = b.get(slot);
            if b.random.chance(700) {
                b.drop(value);
            }
        }
    }
    if b.random.chance(500) {
        b.step(Step::Compute { micros: 500_000 });
    }
    for slot in slots {
        let value = b.get(slot);
        if b.random.chance(800) {
            b.drop(value);
        }
    }
}

fn pick(b: &mut Builder, slots: &[u16]) -> Option<u16> {
    (!slots.is_empty()).then(|| *b.random.pick(slots))
}
