//! Streams: with and without a limit, read to the end, left early, broken, of big items.

use shoal_core::task::Returns;

use super::Builder;
use super::builder::Options;
use crate::program::{Product, Script, Step};

pub(super) fn build(b: &mut Builder) {
    for _ in 0..b.random.between(1, 3) {
        stream(b);
    }
}

fn stream(b: &mut Builder) {
    let items = b.random.skewed(20);
    let backpressure = *b.random.pick(&[0, 1, 3]);
    let size = *b.random.pick(&[8, 8, 8, 300_000]);
    let micros = b.random.skewed(30_000);
    let ends_badly = b.random.below(6);
    let attempts = b.random.between(1, 2) as u32;
    let inner = b.random.chance(200);
    let mut steps = Vec::new();
    if inner {
        // Each item refers to something that the generator's process owns.
        steps.push(Step::Put { product: Product::default(), into: 1 });
    }
    for item in 0..items {
        steps.push(Step::Compute { micros });
        if item == items / 2 {
            match ends_badly {
                0 => steps.push(Step::CrashUntil { attempts }),
                1 => steps.push(Step::RaiseUntil { attempts }),
                _ => {}
            }
        }
        let contains = if inner { vec![1] } else { vec![] };
        steps.push(Step::Yield { product: Product { size, contains } });
    }
    let options = Options {
        returns: Returns::Stream { backpressure },
        retries_max: b.random.between(0, 2) as i32,
        retry_exceptions: b.random.chance(500),
        ..Options::default()
    };
    let generator = b.function(&options, Script { steps, results: vec![] });
    // Something that the generator holds while it runs, also when nobody takes its items any more.
    let argument = b.random.chance(300).then(|| b.put(16, &[]));
    let stream = b.submit(&generator, argument.as_slice(), &[]);
    if let Some(argument) = argument {
        b.drop(argument);
    }
    let taken = if b.random.chance(600) { items + 2 } else { b.random.below(items + 1) };
    for _ in 0..taken {
        let item = b.slot();
        b.step(Step::Next { slot: stream, into: item });
        match b.random.below(4) {
            0 => {}
            1 => b.drop(item),
            _ => {
                let value = b.get(item);
                if inner {
                    let reference = b.slot();
                    b.step(Step::Take { slot: value, index: 0, into: reference });
                    b.drop(value);
                    b.get(reference);
                }
            }
        }
    }
    if b.random.chance(100) {
        b.step(Step::Cancel { slot: stream, force: false, recursive: false });
    }
    b.drop(stream);
}
