//! Placement groups: made, used by tasks and actors, left by nodes, removed early or late.

use shoal_core::group::{Bundle, GroupStrategy};
use shoal_core::resources::{Quantity, Resources};

use super::Builder;
use super::builder::{Options, body};
use crate::program::Step;
use crate::scenario::SPECIAL;

pub(super) fn build(b: &mut Builder) {
    for _ in 0..b.random.between(1, 2) {
        group(b);
    }
}

fn group(b: &mut Builder) {
    let micros = b.random.skewed(100_000);
    let options = Options { retries_max: *b.random.pick(&[0, 3, -1]), ..Options::default() };
    let leaf = b.function(&options, body(vec![Step::Compute { micros }]));
    let restarts = *b.random.pick(&[0, 1, -1]);
    let class = b.class(restarts, -1, 1, body(vec![]), vec![body(vec![Step::Compute { micros }])]);
    let bundles = bundles(b);
    let count = bundles.len() as u64;
    let strategy = *b.random.pick(&[
        GroupStrategy::Pack,
        GroupStrategy::Spread,
        GroupStrategy::StrictPack,
        GroupStrategy::StrictSpread,
    ]);
    let name = if b.random.chance(300) { format!("group{}", b.random.below(3)) } else { String::new() };
    let detached = !name.is_empty() && b.random.chance(500);
    let group = b.slot();
    b.step(Step::CreateGroup { bundles, strategy, name: name.clone(), detached, into: group });
    let waits = b.random.chance(300);
    if waits {
        b.step(Step::AwaitGroup { group, micros: 20_000_000 });
    }
    let mut results = Vec::new();
    for _ in 0..b.random.skewed(8) {
        let bundle = b.random.chance(500).then(|| b.random.below(count) as u32);
        let into = b.slot();
        if b.random.chance(200) {
            b.step(Step::ActorWithin { class: class.clone(), group, bundle, into });
            results.push(b.call(into, 0, &[], &[]));
            results.push(b.call(into, 0, &[], &[]));
        } else {
            b.step(Step::SubmitWithin { function: leaf.clone(), group, bundle, into });
            results.push(into);
        }
    }
    if b.random.chance(200) {
        b.step(Step::RemoveGroup { group });
    } else if !waits {
        // What cannot be placed is removed in the end, or its work would wait for ever.
        b.step(Step::AwaitGroup { group, micros: 20_000_000 });
    }
    for slot in results {
        b.get(slot);
    }
    b.step(Step::RemoveGroup { group });
    if !name.is_empty() {
        let found = b.slot();
        b.step(Step::FindGroup { name, into: found });
        b.step(Step::RemoveGroup { group: found });
    }
}

fn bundles(b: &mut Builder) -> Vec<Bundle> {
    let count = b.random.between(1, 4);
    (0..count)
        .map(|_| {
            let mut resources = Resources::default();
            let amount = *b.random.pick(&[5_000, 10_000, 10_000, 20_000]);
            resources.set(Resources::CPU, Quantity(amount));
            if b.random.chance(100) {
                resources.set(SPECIAL, Quantity(5_000));
            }
            Bundle { resources, labels: Vec::new() }
        })
        .collect()
}
