//! Placement groups: made by drivers and actors, used by tasks, what these submit, and actors, left by
//! nodes, removed early or late, or with whoever made them.

use std::rc::Rc;

use shoal_core::group::{Bundle, GroupStrategy};
use shoal_core::resources::{Demand, LabelSelector, Quantity, Resources};

use super::Builder;
use super::builder::{Options, Place, body};
use crate::program::{Class, Function, Script, Slot, Step};
use crate::scenario::{ROOM, SPECIAL, ZONE};

/// What cannot be placed within this time is removed, or its work would wait for ever.
const PATIENCE_MICROS: u64 = 20_000_000;

pub(super) fn build(b: &mut Builder) {
    for _ in 0..b.random.between(1, 2) {
        if b.random.chance(150) {
            of_actor(b);
        } else {
            group(b);
        }
    }
}

/// What a program does with a group.
struct Plan {
    bundles: u64,
    name: String,
    detached: bool,
    /// Its work begins when it is there.
    waits: bool,
    micros: u64,
}

fn group(b: &mut Builder) {
    let name = if b.random.chance(300) { format!("group{}", b.random.below(3)) } else { String::new() };
    let detached = !name.is_empty() && b.random.chance(500);
    let bundles = bundles(b, detached);
    let micros = b.random.skewed(100_000);
    let plan = Plan { bundles: bundles.len() as u64, name, detached, waits: b.random.chance(300), micros };
    let group = create(b, bundles, &plan);
    if plan.waits {
        b.step(Step::AwaitGroup { group, micros: PATIENCE_MICROS });
    }
    if b.random.chance(200) {
        actor_that_holds(b, group, &plan);
    }
    let results = work(b, group, &plan);
    if b.random.chance(300) {
        let micros = b.random.skewed(3_000_000);
        b.step(Step::Compute { micros });
        b.step(Step::RemoveGroup { group });
    } else if !plan.waits {
        b.step(Step::AwaitGroup { group, micros: PATIENCE_MICROS });
    }
    for slot in results {
        b.get(slot);
    }
    b.step(Step::RemoveGroup { group });
    if !plan.name.is_empty() {
        find_by_name(b, &plan);
    }
}

fn create(b: &mut Builder, bundles: Vec<Bundle>, plan: &Plan) -> Slot {
    let strategies =
        [GroupStrategy::Pack, GroupStrategy::Spread, GroupStrategy::StrictPack, GroupStrategy::StrictSpread];
    let strategy = *b.random.pick(&strategies);
    let into = b.slot();
    let (name, detached) = (plan.name.clone(), plan.detached);
    b.step(Step::CreateGroup { bundles, strategy, name, detached, into });
    into
}

/// Tasks, tasks that submit others, and actors; the slots of their results.
fn work(b: &mut Builder, group: Slot, plan: &Plan) -> Vec<Slot> {
    let leaf = function(b, plan, body(vec![Step::Compute { micros: plan.micros }]));
    let parent = parent(b, plan, &leaf);
    let restarts = *b.random.pick(&[0, 1, -1]);
    let method = body(vec![Step::Compute { micros: plan.micros }]);
    let class = b.class(restarts, -1, 1, body(vec![]), vec![method, captured(&leaf, 1)]);
    let class = if b.random.chance(100) { class } else { placed(b, &class, plan.detached) };
    let mut results = Vec::new();
    for _ in 0..b.random.skewed(8) {
        let bundle = b.random.chance(500).then(|| b.random.below(plan.bundles) as u32);
        let into = b.slot();
        match b.random.below(10) {
            0..2 => {
                b.step(Step::ActorWithin { class: class.clone(), group, bundle, into });
                for method in 0..b.random.between(1, 2) as usize {
                    results.push(b.call(into, method, &[], &[]));
                }
            }
            2..5 => {
                b.step(Step::SubmitWithin { function: parent.clone(), group, bundle, into });
                results.push(into);
            }
            _ => {
                b.step(Step::SubmitWithin { function: leaf.clone(), group, bundle, into });
                results.push(into);
            }
        }
    }
    results
}

/// Somebody else's group of that name, or another's.
fn find_by_name(b: &mut Builder, plan: &Plan) {
    let group = b.slot();
    b.step(Step::FindGroup { name: plan.name.clone(), into: group });
    let leaf = function(b, plan, body(vec![Step::Compute { micros: plan.micros }]));
    let into = b.slot();
    b.step(Step::SubmitWithin { function: leaf, group, bundle: None, into });
    b.step(Step::AwaitGroup { group, micros: PATIENCE_MICROS });
    if b.random.chance(500) {
        b.get(into);
    }
    b.step(Step::RemoveGroup { group });
}

/// An actor that keeps what it was placed with. Nothing else is asked of the group before it is gone, for
/// that may be all there is.
fn actor_that_holds(b: &mut Builder, group: Slot, plan: &Plan) {
    let method = body(vec![Step::Compute { micros: plan.micros }]);
    let restarts = *b.random.pick(&[0, 1]);
    let class = b.class(restarts, -1, 1, body(vec![]), vec![method]);
    let class = placed(b, &class, plan.detached);
    let running = class.placement.resources.clone();
    let class = Rc::new(Class { running, ..Class::clone(&class) });
    if !plan.waits {
        b.step(Step::AwaitGroup { group, micros: PATIENCE_MICROS });
    }
    let actor = b.slot();
    b.step(Step::ActorWithin { class, group, bundle: None, into: actor });
    let result = b.call(actor, 0, &[], &[]);
    b.get(result);
    b.drop(actor);
}

/// A group that an actor makes, and that ends with it.
fn of_actor(b: &mut Builder) {
    let bundles = bundles(b, false);
    let plan = Plan {
        bundles: bundles.len() as u64,
        name: String::new(),
        detached: false,
        waits: true,
        micros: b.random.skewed(100_000),
    };
    let leaf = function(b, &plan, body(vec![Step::Compute { micros: plan.micros }]));
    let (group, into) = (0, 1);
    let make = Step::CreateGroup {
        bundles,
        strategy: GroupStrategy::Pack,
        name: String::new(),
        detached: false,
        into: group,
    };
    let steps = vec![
        make,
        Step::SubmitWithin { function: leaf, group, bundle: None, into },
        Step::AwaitGroup { group, micros: PATIENCE_MICROS },
        Step::Get { slot: into, into: 2 },
    ];
    let (restarts, retries) = (*b.random.pick(&[0, 1]), *b.random.pick(&[0, 1]));
    let class = b.class(restarts, retries, 1, body(vec![]), vec![body(steps)]);
    let actor = b.actor(&class, &[]);
    let result = b.call(actor, 0, &[], &[]);
    if b.random.chance(300) {
        let micros = b.random.skewed(100_000);
        b.step(Step::Compute { micros });
        let no_restart = b.random.chance(500);
        b.step(Step::Kill { actor, no_restart });
    }
    b.get(result);
    b.drop(actor);
}

/// A function that fits into most bundles, wherever they are.
fn function(b: &mut Builder, plan: &Plan, script: Script) -> Rc<Function> {
    let options = Options {
        cpu: if plan.detached { 0 } else { *b.random.pick(&[0, 5_000, 10_000]) },
        retries_max: *b.random.pick(&[0, 3, -1]),
        place: b.random.chance(900).then_some(Place::Anywhere),
        ..Options::default()
    };
    b.function(&options, script)
}

/// A task that submits others in its group and waits for them.
fn parent(b: &mut Builder, plan: &Plan, leaf: &Rc<Function>) -> Rc<Function> {
    let count = b.random.between(1, 3) as Slot;
    function(b, plan, captured(leaf, count))
}

fn captured(leaf: &Rc<Function>, count: Slot) -> Script {
    let submit = |into| Step::SubmitCaptured { function: leaf.clone(), into };
    let get = |slot| Step::Get { slot, into: count + slot };
    body((0..count).map(submit).chain((0..count).map(get)).collect())
}

/// A class whose actors fit into most bundles, wherever they are.
fn placed(b: &mut Builder, class: &Rc<Class>, detached: bool) -> Rc<Class> {
    let mut resources = Resources::default();
    let (name, amount) =
        if detached { (ROOM, 5_000) } else { (Resources::CPU, *b.random.pick(&[1, 5_000, 10_000])) };
    resources.set(name, Quantity(amount));
    Rc::new(Class { placement: Demand { resources, ..Demand::default() }, ..Class::clone(class) })
}

fn bundles(b: &mut Builder, detached: bool) -> Vec<Bundle> {
    let count = b.random.between(1, 4);
    (0..count)
        .map(|_| {
            let mut resources = Resources::default();
            let amount = *b.random.pick(&[5_000, 10_000, 10_000, 20_000]);
            resources.set(if detached { ROOM } else { Resources::CPU }, Quantity(amount));
            if !detached && b.random.chance(100) {
                resources.set(SPECIAL, Quantity(5_000));
            }
            let zone = b.random.chance(100).then(|| LabelSelector {
                key: String::from(ZONE),
                values: vec![String::from(*b.random.pick(&["even", "odd"]))],
                excludes: false,
            });
            Bundle { resources, labels: zone.into_iter().collect() }
        })
        .collect()
}
