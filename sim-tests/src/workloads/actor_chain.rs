//! Actors that call actors, with crashes, restarts and retried calls.

use super::Builder;
use super::builder::body;
use crate::program::Step;

pub(super) fn build(b: &mut Builder) {
    let restarts = *b.random.pick(&[0, 0, 1, 3, -1]);
    let retries = *b.random.pick(&[0, 0, 1, -1]);
    let limit = if b.random.chance(200) { b.random.between(2, 4) as u32 } else { 1 };
    let micros = b.random.skewed(20_000);
    let crashes = if b.random.chance(200) { b.random.between(1, 2) as u32 } else { 0 };
    let plain = body(vec![Step::Compute { micros }]);
    let crashing = body(vec![Step::Compute { micros }, Step::CrashUntil { attempts: crashes }]);
    let raising = body(vec![Step::Raise]);
    // Calls the first actor in its state, if it has one, and waits for the answer.
    let forward = body(vec![
        Step::Recall { index: 0, into: 1 },
        Step::Call { actor: 1, method: 0, dependencies: vec![], borrows: vec![], into: 2 },
        Step::Get { slot: 2, into: 3 },
    ]);
    let keep_borrow = vec![Step::Compute { micros: 100 }, Step::Keep { slot: 0 }];
    let class = b.class(restarts, retries, limit, body(keep_borrow), vec![plain, crashing, raising, forward]);
    let mut actors = Vec::new();
    for _ in 0..b.random.between(1, 4) {
        let next: Vec<u16> = actors.last().copied().into_iter().collect();
        actors.push(b.actor(&class, &next));
    }
    let mut results = Vec::new();
    for _ in 0..b.random.skewed(40) {
        let actor = *b.random.pick(&actors);
        let method = *b.random.pick(&[0, 0, 0, 1, 2, 3]);
        let argument: Vec<u16> =
            results.last().copied().filter(|_| b.random.chance(150)).into_iter().collect();
        results.push(b.call(actor, method, &argument, &[]));
    }
    if b.random.chance(200) {
        let victim = *b.random.pick(&actors);
        b.step(Step::Kill { actor: victim, no_restart: true });
    }
    if b.random.chance(300) {
        // The handle goes while calls are under way.
        let dropped = *b.random.pick(&actors);
        b.drop(dropped);
    }
    for slot in results {
        b.get(slot);
    }
}
