//! Placement groups that lie on several machines and are used for long, so that machines go meanwhile and
//! several groups are repaired at once, maybe each in the other one's way. Each is made and awaited by an
//! actor of its own: a program that waits for one group while it keeps another one may wait for ever, and that
//! would be its own fault.

use std::rc::Rc;

use shoal_core::group::{Bundle, GroupStrategy};
use shoal_core::resources::{Quantity, Resources};

use super::Builder;
use super::builder::{Options, Place, body};
use crate::program::{Class, Function, Slot, Step};

/// What cannot be placed within this time is removed, or its work would wait for ever.
const PATIENCE_MICROS: u64 = 10_000_000;

pub(super) fn build(b: &mut Builder) {
    // Often more than there is room for.
    let mut makers = Vec::new();
    for _ in 0..b.random.between(1, 8) {
        let steps = gang(b);
        let restarts = *b.random.pick(&[0, 1]);
        makers.push(b.class(restarts, 0, 1, body(vec![]), vec![body(steps)]));
    }
    call_each(b, &makers);
}

/// Make an actor of each class, call its first method, and wait for all.
pub(super) fn call_each(b: &mut Builder, makers: &[Rc<Class>]) {
    let mut results = Vec::new();
    for class in makers {
        let actor = b.actor(class, &[]);
        results.push(b.call(actor, 0, &[], &[]));
        // It ends with the call, and its group with it, also when the call fails.
        b.drop(actor);
    }
    for slot in results {
        b.get(slot);
    }
}

/// Work in a group with at most one bundle for each machine.
fn gang(b: &mut Builder) -> Vec<Step> {
    let strategies = [GroupStrategy::StrictSpread, GroupStrategy::StrictSpread, GroupStrategy::Spread];
    let strategy = *b.random.pick(&strategies);
    let most = if b.random.chance(700) { 2 } else { 2.max(b.hosts as u64 - 1) };
    let count = b.random.between(2, most) as u32;
    let amount = *b.random.pick(&[5_000, 10_000, 10_000, 10_000, 20_000]);
    let bundles = (0..count).map(|_| bundle(Resources::CPU, amount)).collect();
    let micros = *b.random.pick(&[100_000, 1_000_000, 4_000_000]);
    let options = Options { cpu: 5_000, retries_max: -1, place: Some(Place::Anywhere), ..Options::default() };
    let function = b.function(&options, body(vec![Step::Compute { micros }]));
    within(b, strategy, bundles, &function)
}

/// So much of one resource.
pub(super) fn bundle(name: &str, amount: i64) -> Bundle {
    let mut resources = Resources::default();
    resources.set(name, Quantity(amount));
    Bundle { resources, labels: vec![] }
}

/// Make a group, have the function run in each of its bundles, and remove it.
pub(super) fn within(
    b: &mut Builder,
    strategy: GroupStrategy,
    bundles: Vec<Bundle>,
    function: &Rc<Function>,
) -> Vec<Step> {
    let group: Slot = 0;
    let count = bundles.len() as u32;
    let mut steps = vec![
        Step::CreateGroup { bundles, strategy, name: String::new(), detached: false, into: group },
        Step::AwaitGroup { group, micros: PATIENCE_MICROS },
    ];
    let mut results = Vec::new();
    for bundle in 0..count {
        for _ in 0..b.random.between(1, 3) {
            let into = 1 + results.len() as Slot;
            steps.push(Step::SubmitWithin { function: function.clone(), group, bundle: Some(bundle), into });
            results.push(into);
        }
    }
    let last = 1 + results.len() as Slot;
    steps.extend(results.into_iter().map(|slot| Step::Get { slot, into: last }));
    steps.push(Step::RemoveGroup { group });
    steps
}
