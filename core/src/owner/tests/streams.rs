//! Generators: what a second attempt is told.

use super::super::NextItem;
use super::*;

#[test]
fn the_producer_of_a_second_attempt_learns_what_was_taken() {
    let mut owner = Harness::new(1);
    let target = function(1, Returns::Stream { backpressure: 1 });
    let (task, effects) = owner.submit(target, vec![], vec![]);
    let request = requested(&effects)[0];
    owner.grant(request, 1, 2);
    let outcome = Outcome::Value(small());
    owner.receive(process(2), Message::GeneratorItem { task, attempt: 0, index: 0, outcome });
    let mut effects = Effects::new();
    assert_eq!(owner.owner.next_item(task, &mut effects), NextItem::Item(task.object(1)));
    let ended = Message::LeaseEnded { lease: lease_id(1), death: KILLED, last_started: Some(task) };
    owner.receive(DAEMON, ended);
    let effects = owner.tell(Input::LinkClosed { peer: process(2) });
    let effects = owner.grant(requested(&effects)[0], 2, 3);
    let messages = sent(&effects, process(3));
    assert!(matches!(&messages[0], Message::PushTask(assignment) if assignment.attempt == 1));
    assert_eq!(messages[1], Message::GeneratorConsumed { task, consumed: 1 });
}

#[test]
fn a_consumer_that_is_ahead_of_the_start_is_reported_with_it() {
    let (mut owner, mut worker) = (Harness::new(1), Harness::new(2));
    let (busy, effects) = owner.submit(function(9, Returns::Count(1)), vec![], vec![]);
    let request = requested(&effects)[0];
    let effects = owner.grant(request, 1, 2);
    converse(&mut owner, &mut worker, effects, process(1));
    let (task, effects) = owner.submit(function(1, Returns::Stream { backpressure: 1 }), vec![], vec![]);
    let effects = owner.grant(requested(&effects)[0], 2, 3);
    let push = sent(&effects, process(3)).remove(0);
    worker.receive(process(1), push);
    let consumed = u32::MAX;
    assert!(worker.receive(process(1), Message::GeneratorConsumed { task, consumed }).is_empty());
    let effects = worker.ran(busy, Outcome::Value(small()));
    let told = |effect: &Effect| matches!(effect, Effect::Consumed { consumed: u32::MAX, .. });
    assert!(effects.iter().any(told), "{effects:?}");
}

#[test]
fn a_generator_that_ends_after_its_consumer_lets_go_of_its_arguments() {
    let mut owner = Harness::new(1);
    let (argument, lent) = (owner.put(vec![]), owner.put(vec![]));
    let target = function(1, Returns::Stream { backpressure: 0 });
    let (task, effects) = owner.submit(target, vec![argument], vec![lent]);
    owner.grant(requested(&effects)[0], 1, 2);
    for object in [argument, lent, task.object(0)] {
        owner.tell(Input::RemoveReference { object });
    }
    owner.tell(Input::CloseStream { task });
    assert_eq!(owner.owner.object_count(), 2, "the task still needs its arguments");
    owner.receive(process(2), finished(task, vec![]));
    assert_eq!(owner.owner.object_count(), 0);
}

#[test]
fn what_a_second_attempt_repeats_elsewhere_is_freed_there() {
    let mut owner = Harness::new(1);
    let (task, effects) = owner.submit(function(1, Returns::Stream { backpressure: 0 }), vec![], vec![]);
    owner.grant(requested(&effects)[0], 1, 2);
    let item = |attempt, at: NodeId| {
        let payload = Payload::Stored { node: at, size: 1 << 20 };
        let outcome = Outcome::Value(Value { payload, contains: vec![] });
        Message::GeneratorItem { task, attempt, index: 0, outcome }
    };
    owner.receive(process(2), item(0, NODE));
    let ended = Message::LeaseEnded { lease: lease_id(1), death: KILLED, last_started: Some(task) };
    owner.receive(DAEMON, ended);
    let effects = owner.tell(Input::LinkClosed { peer: process(2) });
    owner.grant(requested(&effects)[0], 2, 3);
    assert!(owner.receive(process(3), item(1, NODE)).is_empty(), "there it has taken the first one's place");
    let elsewhere = NodeId(7);
    let effects = owner.receive(process(3), item(1, elsewhere));
    let freed = Message::FreeObject { object: task.object(1), attempt: 1 };
    assert_eq!(sent(&effects, ProcessId::daemon(elsewhere)), [freed]);
    // Here the second one's may come after it was freed, and the first one's is there.
    owner.receive(process(3), finished_attempt(task, 1, vec![]));
    let effects = owner.tell(Input::CloseStream { task });
    let freed = Message::FreeObject { object: task.object(1), attempt: u32::MAX };
    assert_eq!(sent(&effects, DAEMON), [freed.clone(), freed]);
}

/// An index that no honest producer ever reaches.
#[test]
fn the_last_index_of_all_is_no_item() {
    let mut owner = Harness::new(1);
    let (task, effects) = owner.submit(function(1, Returns::Stream { backpressure: 0 }), vec![], vec![]);
    owner.grant(requested(&effects)[0], 1, 2);
    let outcome = Outcome::Value(small());
    owner.receive(process(2), Message::GeneratorItem { task, attempt: 0, index: u32::MAX, outcome });
    assert_eq!(owner.owner.peek_item(task), NextItem::NotYet(task.object(1)));
    let Message::TaskFinished(mut completion) = finished(task, vec![]) else { unreachable!() };
    completion.items = u32::MAX;
    owner.receive(process(2), Message::TaskFinished(completion));
    assert_eq!(owner.owner.peek_item(task), NextItem::End);
}
