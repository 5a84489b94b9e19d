//! Many tasks at once, their results gathered by one.

use shoal_core::task::Returns;

use super::Builder;
use super::builder::{Options, body};
use crate::program::{Product, Script, Step};

pub(super) fn build(b: &mut Builder) {
    let micros = *[10, 500, 20_000, 300_000].get(b.random.below(4) as usize).unwrap_or(&10);
    let crashes = if b.random.chance(150) { b.random.between(1, 3) as u32 } else { 0 };
    let raises = if b.random.chance(150) { b.random.between(1, 3) as u32 } else { 0 };
    let options = Options {
        cpu: *b.random.pick(&[10_000, 10_000, 5_000]),
        retries_max: b.random.between(0, 4) as i32,
        retry_exceptions: b.random.chance(500),
        calls_max: if b.random.chance(150) { b.random.between(1, 4) as u32 } else { 0 },
        ..Options::default()
    };
    let leaf = b.function(
        &options,
        body(vec![
            Step::Compute { micros },
            Step::RaiseUntil { attempts: raises },
            Step::CrashUntil { attempts: crashes },
        ]),
    );
    let pair = b.function(
        &Options { returns: Returns::Count(2), ..options.clone() },
        Script { steps: vec![Step::Compute { micros }], results: vec![Product::default(); 2] },
    );
    let width = 1 + b.random.skewed(60);
    let mut leaves = Vec::new();
    for _ in 0..width {
        if b.random.chance(100) {
            let first = b.submit(&pair, &[], &[]);
            leaves.extend([first, first + 1]);
        } else {
            leaves.push(b.submit(&leaf, &[], &[]));
        }
    }
    if b.random.chance(300) {
        let count = b.random.below(leaves.len() as u64 + 1) as usize;
        b.step(Step::Wait { slots: leaves.clone(), count });
    }
    if b.random.chance(500) {
        let joined = b.submit(&leaf, &leaves, &[]);
        for slot in &leaves {
            b.drop(*slot);
        }
        b.get(joined);
    } else {
        for slot in leaves {
            if b.random.chance(100) {
                b.drop(slot);
            } else {
                b.get(slot);
            }
        }
    }
}
