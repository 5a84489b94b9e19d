//! Actors that are found by their name, some outliving their creator, all killed in the end.

use super::Builder;
use super::builder::body;
use crate::program::Step;

pub(super) fn build(b: &mut Builder) {
    let name = format!("name{}", b.random.below(3));
    let detached = b.random.chance(500);
    let restarts = *b.random.pick(&[0, 1, -1]);
    let micros = b.random.skewed(20_000);
    let raises = b.random.chance(100);
    let constructor = if raises { vec![Step::Raise] } else { vec![Step::Compute { micros }] };
    let works = body(vec![Step::Compute { micros }]);
    let crashes = body(vec![Step::CrashUntil { attempts: 1 }]);
    let exits = body(vec![Step::ExitActor]);
    let class = b.class(restarts, 0, 1, body(constructor), vec![works, crashes, exits]);
    let handle = b.slot();
    b.step(Step::CreateActor {
        class: class.clone(),
        dependencies: vec![],
        borrows: vec![],
        name: name.clone(),
        detached,
        into: handle,
    });
    let found = b.slot();
    b.step(Step::FindActor { name: name.clone(), into: found, class: class.clone() });
    let mut results = Vec::new();
    for _ in 0..b.random.skewed(12) {
        let actor = *b.random.pick(&[handle, found]);
        let method = *b.random.pick(&[0, 0, 0, 0, 1, 2]);
        results.push(b.call(actor, method, &[], &[]));
    }
    if b.random.chance(300) {
        let no_restart = b.random.chance(500);
        b.step(Step::Kill { actor: found, no_restart });
    }
    for slot in results {
        b.get(slot);
    }
    b.step(Step::FindActor { name, into: found, class });
    b.step(Step::Kill { actor: found, no_restart: true });
    b.step(Step::Kill { actor: handle, no_restart: true });
}
