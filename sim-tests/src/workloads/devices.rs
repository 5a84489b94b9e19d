//! Work on numbered devices, whole ones and parts: of tasks, of what other tasks submit, of actors that keep
//! theirs for as long as they live, and in placement groups that have some.
//!
//! Nothing here waits for a device while it keeps another one: that might be for ever, and its own fault.

use std::rc::Rc;

use shoal_core::group::{Bundle, GroupStrategy};
use shoal_core::resources::{Demand, Quantity, Resources};

use super::Builder;
use super::builder::{Options, Place, body};
use super::gangs::{call_each, within};
use crate::program::{Class, Function, Slot, Step};

pub(super) fn build(b: &mut Builder) {
    if b.devices == 0 {
        return;
    }
    for _ in 0..b.random.between(1, 3) {
        match b.random.below(4) {
            0 => tasks(b),
            1 => lessees(b),
            2 => actors(b),
            _ => groups(b),
        }
    }
}

/// Something that uses a device, and may crash while it does.
fn leaf(b: &mut Builder) -> Rc<Function> {
    let micros = *b.random.pick(&[100, 10_000, 300_000]);
    let attempts = u32::from(b.random.chance(150));
    let options = Options {
        cpu: *b.random.pick(&[0, 5_000, 10_000]),
        gpu: b.amount(),
        retries_max: b.random.between(0, 3) as i32,
        calls_max: if b.random.chance(150) { b.random.between(1, 3) as u32 } else { 0 },
        place: b.random.chance(700).then_some(Place::Anywhere),
        ..Options::default()
    };
    b.function(&options, body(vec![Step::Compute { micros }, Step::CrashUntil { attempts }]))
}

fn tasks(b: &mut Builder) {
    let mut results = Vec::new();
    for _ in 0..b.random.between(1, 3) {
        let leaf = leaf(b);
        for _ in 0..1 + b.random.skewed(8) {
            results.push(b.submit(&leaf, &[], &[]));
        }
    }
    if b.random.chance(200) {
        let slot = *b.random.pick(&results);
        let force = b.random.chance(500);
        b.step(Step::Cancel { slot, force, recursive: false });
    }
    for slot in results {
        b.get(slot);
    }
}

/// Tasks that lease workers with devices, and crash now and then while these run, or before they are up.
fn lessees(b: &mut Builder) {
    let leaf = leaf(b);
    let count = b.random.between(1, 4) as Slot;
    let submit = |into| Step::Submit { function: leaf.clone(), dependencies: vec![], borrows: vec![], into };
    let mut steps: Vec<Step> = (0..count).map(submit).collect();
    let micros = 1 + b.random.skewed(300_000);
    let attempts = if b.random.chance(500) { b.random.between(1, 2) as u32 } else { 0 };
    steps.extend([Step::Compute { micros }, Step::CrashUntil { attempts }]);
    steps.extend((0..count).map(|slot| Step::Get { slot, into: count + slot }));
    let parent = b.function(&Options::default(), body(steps));
    let results: Vec<Slot> = (0..b.random.between(1, 3)).map(|_| b.submit(&parent, &[], &[])).collect();
    for slot in results {
        b.get(slot);
    }
}

/// Actors that are let go of before anything is waited for, and end when they have been called.
fn actors(b: &mut Builder) {
    let mut results = Vec::new();
    for _ in 0..b.random.between(1, 3) {
        let class = class(b);
        let actor = b.actor(&class, &[]);
        for _ in 0..b.random.between(1, 3) {
            let method = usize::from(b.random.chance(150));
            results.push(b.call(actor, method, &[], &[]));
        }
        if b.random.chance(200) {
            let no_restart = b.random.chance(500);
            b.step(Step::Kill { actor, no_restart });
        }
        b.drop(actor);
    }
    for slot in results {
        b.get(slot);
    }
}

fn class(b: &mut Builder) -> Rc<Class> {
    let micros = *b.random.pick(&[100, 10_000, 300_000]);
    let works = body(vec![Step::Compute { micros }]);
    let crashes = body(vec![Step::Compute { micros }, Step::CrashUntil { attempts: 1 }]);
    let restarts = *b.random.pick(&[0, 1, -1]);
    let constructor = if b.random.chance(100) { body(vec![Step::Raise]) } else { body(vec![]) };
    let class = b.class(restarts, 0, 1, constructor, vec![works, crashes]);
    let mut running = Resources::default();
    running.set(Resources::GPU, Quantity(b.amount()));
    let mut resources = running.clone();
    resources.set(Resources::CPU, Quantity(*b.random.pick(&[0, 10_000])));
    Rc::new(Class { placement: Demand { resources, ..Demand::default() }, running, ..Class::clone(&class) })
}

/// Work in the bundles of placement groups, made and awaited by an actor each.
fn groups(b: &mut Builder) {
    let mut makers = Vec::new();
    for _ in 0..b.random.between(1, 3) {
        let steps = group(b);
        let restarts = *b.random.pick(&[0, 1]);
        makers.push(b.class(restarts, 0, 1, body(vec![]), vec![body(steps)]));
    }
    call_each(b, &makers);
}

fn group(b: &mut Builder) -> Vec<Step> {
    let strategy = *b.random.pick(&[GroupStrategy::Pack, GroupStrategy::Spread, GroupStrategy::StrictSpread]);
    let count = b.random.between(1, 2.min(b.hosts as u64));
    let amount = *b.random.pick(&[5_000, 10_000, 10_000]);
    let mut resources = Resources::default();
    resources.set(Resources::GPU, Quantity(amount));
    let bundle = Bundle { resources, labels: vec![] };
    let bundles = (0..count).map(|_| bundle.clone()).collect();
    let micros = *b.random.pick(&[10_000, 300_000, 2_000_000]);
    let gpu = if b.random.chance(500) { amount } else { amount / 2 };
    let options = Options { cpu: 0, gpu, place: Some(Place::Anywhere), ..Options::default() };
    let function = b.function(&options, body(vec![Step::Compute { micros }]));
    within(b, strategy, bundles, &function)
}
