//! References between processes: kept while somebody holds them, whoever dies.

use super::*;

/// Invariant 2: a reference that a task returns inside its value keeps the object alive.
#[test]
fn a_returned_reference_keeps_its_object_until_the_receiver_drops_it() {
    let (mut owner, mut worker) = (Harness::new(1), Harness::new(2));
    let (task, effects) = owner.submit(function(1, Returns::Count(1)), vec![], vec![]);
    let request = requested(&effects)[0];
    let effects = owner.grant(request, 1, 2);
    converse(&mut owner, &mut worker, effects, process(1));
    let inner = worker.put(vec![]);
    let value = Value { contains: vec![inner], ..small() };
    let effects = worker.ran(task, Outcome::Value(value));
    worker.tell(Input::RemoveReference { object: inner });
    converse(&mut owner, &mut worker, effects, process(2));
    assert_eq!(worker.owner.object_count(), 1, "the owner of the value holds it");
    let effects = owner.tell(Input::RemoveReference { object: task.object(0) });
    converse(&mut owner, &mut worker, effects, process(1));
    assert_eq!((owner.owner.object_count(), worker.owner.object_count()), (0, 0));
}

#[test]
fn what_a_dead_process_owned_fails_at_once_and_is_not_counted() {
    let mut borrower = Harness::new(1);
    let lost = TaskId { owner: process(7), number: 1 }.object(0);
    borrower.tell(Input::AddReference { object: lost });
    let effects = borrower.tell(Input::Need { object: lost });
    assert_eq!(sent(&effects, process(7)), [Message::FetchObject { object: lost, missing_at: None }]);
    borrower.receive(DAEMON, Message::ProcessDied { process: process(7), death: KILLED });
    assert!(matches!(borrower.owner.lookup(lost), Lookup::Failed(_)));
    // Another object of the dead, heard of later.
    let other = TaskId { owner: process(7), number: 2 }.object(0);
    borrower.tell(Input::AddReference { object: other });
    let effects = borrower.tell(Input::Need { object: other });
    assert!(sent(&effects, process(7)).is_empty(), "nobody asks the dead");
    assert!(matches!(borrower.owner.lookup(other), Lookup::Failed(_)));
    borrower.tell(Input::RemoveReference { object: lost });
    borrower.tell(Input::RemoveReference { object: other });
    assert_eq!(borrower.owner.object_count(), 0);
}

#[test]
fn a_task_with_an_argument_of_a_dead_owner_fails_instead_of_waiting() {
    let mut owner = Harness::new(1);
    let lost = TaskId { owner: process(7), number: 1 }.object(0);
    owner.tell(Input::AddReference { object: lost });
    owner.tell(Input::Need { object: lost });
    owner.receive(DAEMON, Message::ProcessDied { process: process(7), death: KILLED });
    let other = TaskId { owner: process(7), number: 2 }.object(0);
    owner.tell(Input::AddReference { object: other });
    let (task, _) = owner.submit(function(1, Returns::Count(1)), vec![lost, other], vec![]);
    assert!(matches!(owner.owner.lookup(task.object(0)), Lookup::Failed(_)));
}

/// The borrower's registration may travel slower than the end of the task that lent the reference.
#[test]
fn what_a_task_has_lent_on_is_kept_until_the_borrower_is_registered() {
    let (mut owner, mut worker) = (Harness::new(1), Harness::new(2));
    let lent = owner.put(vec![]);
    let (task, effects) = owner.submit(function(1, Returns::Count(1)), vec![], vec![lent]);
    let effects = owner.grant(requested(&effects)[0], 1, 2);
    converse(&mut owner, &mut worker, effects, process(1));
    worker.tell(Input::AddReference { object: lent });
    // It lends the reference to process 3, which keeps it, and ends.
    let (inner, effects) = worker.submit(function(2, Returns::Count(1)), vec![], vec![lent]);
    worker.grant(requested(&effects)[0], 2, 3);
    let finished = crate::task::Completion {
        task: inner,
        attempt: 0,
        outcomes: vec![Outcome::Value(small())],
        items: 0,
        retryable: false,
        kept: vec![lent],
        started: 0,
        micros: 10,
        exiting: false,
    };
    worker.receive(process(3), Message::TaskFinished(Box::new(finished)));
    worker.tell(Input::RemoveReference { object: inner.object(0) });
    worker.tell(Input::RemoveReference { object: lent });
    let effects = worker.ran(task, Outcome::Value(small()));
    converse(&mut owner, &mut worker, effects, process(2));
    owner.tell(Input::RemoveReference { object: lent });
    assert!(owner.owner.has_outcome(lent), "process 3 has it from the worker");
    // Now the owner hears of process 3, which then needs nothing of the worker any more.
    owner.receive(process(3), Message::Borrow { object: lent });
    let effects = worker.receive(process(3), Message::ReturnGrants { object: lent, grants: 1 });
    converse(&mut owner, &mut worker, effects, process(2));
    assert!(owner.owner.has_outcome(lent));
    owner.receive(process(3), Message::ReturnGrants { object: lent, grants: 1 });
    assert!(!owner.owner.has_outcome(lent), "nobody has it any more");
}
