//! Constructors whose arguments are in the store: they begin when these are pinned, as tasks do.

use super::*;
use crate::task::{Assignment, Callee};

const SIZE: u64 = 1 << 20;

fn actor() -> ActorId {
    ActorId(TaskId { owner: process(9), number: 1 })
}

/// Something that process 1 owns.
fn argument(number: u64) -> ObjectId {
    TaskId { owner: process(1), number }.object(0)
}

fn stored(contains: Vec<ObjectId>) -> Value {
    Value { payload: Payload::Stored { node: NODE, size: SIZE }, contains }
}

fn lost(object: ObjectId) -> Failure {
    Failure::ObjectLost { object, detail: "a test".into() }
}

/// A worker that is to become an actor, given these objects; what it asks for.
fn become_actor(given: &[ObjectId]) -> (Harness, Vec<Effect>) {
    let mut worker = Harness::new(2);
    let mut spec = Box::new(ActorSpec::new(actor(), JobId(1)));
    let outcome = Outcome::Value(stored(vec![]));
    spec.dependencies =
        given.iter().map(|object| Dependency { object: *object, outcome: outcome.clone() }).collect();
    let devices = Devices::default();
    let effects = worker.receive(DAEMON, Message::BecomeActor { spec, incarnation: 0, devices });
    (worker, effects)
}

impl Harness {
    fn pinned(&mut self, object: ObjectId) -> Vec<Effect> {
        self.receive(DAEMON, Message::Pinned { object, offset: 4096, size: SIZE })
    }

    /// The bytes are gone; the owner is asked what became of them.
    fn loses(&mut self, object: ObjectId) -> Vec<Effect> {
        let effects = self.receive(DAEMON, Message::PinFailed { object, failure: lost(object) });
        let fetch = Message::FetchObject { object, missing_at: Some(NODE) };
        assert_eq!(sent(&effects, process(1)), [fetch], "{effects:?}");
        effects
    }

    /// The owner says what became of them.
    fn fetched(&mut self, object: ObjectId, outcome: Outcome) -> Vec<Effect> {
        self.receive(process(1), Message::ObjectContent { object, outcome })
    }
}

fn pins(effects: &[Effect]) -> Vec<ObjectId> {
    let pin = |message: Message| match message {
        Message::Pin { object, .. } => Some(object),
        _ => None,
    };
    sent(effects, DAEMON).into_iter().filter_map(pin).collect()
}

/// What the constructor that begins is given.
fn begun(effects: &[Effect]) -> Option<Vec<Outcome>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Construct { spec, .. } => {
            Some(spec.dependencies.iter().map(|given| given.outcome.clone()).collect())
        }
        _ => None,
    })
}

/// What the actor died of before its constructor began.
fn never_begun(effects: &[Effect]) -> Option<ActorDeath> {
    assert_eq!(begun(effects), None);
    sent(effects, DAEMON).into_iter().find_map(|message| match message {
        Message::ActorConstructed { failed, .. } => failed,
        _ => None,
    })
}

#[test]
fn a_constructor_begins_when_the_last_of_its_arguments_is_pinned_and_calls_wait_for_it() {
    let (mut worker, effects) = become_actor(&[argument(4), argument(5), argument(4)]);
    assert_eq!(pins(&effects), [argument(4), argument(5)]);
    assert_eq!(begun(&effects), None);
    let call = TaskId { owner: process(3), number: 1 };
    let callee = Callee::Method { actor: actor(), incarnation: 0, name: "m".into(), group: "".into() };
    let assignment = Assignment {
        task: call,
        attempt: 0,
        callee,
        label: "A.m".into(),
        arguments: Bytes::new(),
        dependencies: vec![],
        borrows: vec![],
        returns: Returns::Count(1),
        retry_exceptions: RetryExceptions::Never,
    };
    assert!(worker.receive(process(3), Message::PushTask(Box::new(assignment))).is_empty());
    assert_eq!(begun(&worker.pinned(argument(5))), None);
    assert_eq!(begun(&worker.pinned(argument(4))).map(|given| given.len()), Some(3));
    assert!(worker.pinned(argument(4)).iter().all(|effect| matches!(effect, Effect::Changed { .. })));
    let effects = worker.tell(Input::Constructed { failed: None });
    let runs = |effect: &Effect| matches!(effect, Effect::Run { assignment, .. } if assignment.task == call);
    assert!(effects.iter().any(runs), "{effects:?}");
}

/// A stored argument is memory that nobody else can have.
#[test]
fn arguments_of_a_constructor_are_let_go_when_it_has_ended() {
    let (mut worker, _) = become_actor(&[argument(4)]);
    worker.pinned(argument(4));
    assert!(worker.pass(Span::from_secs(1)).is_empty(), "the constructor still reads it");
    let mut effects = worker.tell(Input::Constructed { failed: None });
    effects.extend(worker.pass(Span::from_secs(1)));
    assert!(sent(&effects, DAEMON).contains(&Message::Unpin { object: argument(4) }));
    assert_eq!(worker.owner.object_count(), 0);
}

/// The CPU is lent to whoever makes the argument again.
#[test]
fn a_constructor_waits_for_an_argument_that_is_made_again() {
    let (mut worker, _) = become_actor(&[argument(4)]);
    let effects = worker.loses(argument(4));
    assert!(sent(&effects, DAEMON).contains(&Message::Blocked));
    let effects = worker.fetched(argument(4), Outcome::Value(stored(vec![])));
    assert_eq!((pins(&effects), begun(&effects)), (vec![argument(4)], None));
    let effects = worker.pinned(argument(4));
    assert!(begun(&effects).is_some());
    assert!(sent(&effects, DAEMON).contains(&Message::Unblocked));
    assert!(worker.pass(Span::from_secs(1)).is_empty(), "the constructor reads it");
    worker.tell(Input::Constructed { failed: None });
    worker.pass(Span::from_secs(1));
    assert_eq!(worker.owner.object_count(), 0);
}

#[test]
fn a_constructor_gets_an_argument_that_was_made_again_and_is_small_now() {
    let (mut worker, _) = become_actor(&[argument(4)]);
    worker.loses(argument(4));
    let effects = worker.fetched(argument(4), Outcome::Value(small()));
    assert_eq!(begun(&effects), Some(vec![Outcome::Value(small())]));
}

#[test]
fn an_actor_dies_of_an_argument_that_nothing_can_make_again_and_its_constructor_never_begins() {
    let (mut worker, _) = become_actor(&[argument(4), argument(5)]);
    worker.pinned(argument(5));
    worker.loses(argument(4));
    let mut effects = worker.fetched(argument(4), Outcome::Failure(Box::new(lost(argument(4)))));
    let cause = ActorDeath::ArgumentFailed(Box::new(lost(argument(4)).without_cause()));
    assert_eq!(never_begun(&effects), Some(cause));
    assert!(sent(&effects, DAEMON).contains(&Message::Unblocked));
    effects.extend(worker.pass(Span::from_secs(1)));
    assert!(sent(&effects, DAEMON).contains(&Message::Unpin { object: argument(5) }));
    assert_eq!(worker.owner.object_count(), 0);
    assert!(worker.pinned(argument(4)).iter().all(|effect| begun(core::slice::from_ref(effect)).is_none()));
}

#[test]
fn an_actor_dies_of_an_argument_whose_owner_has_died() {
    let (mut worker, _) = become_actor(&[argument(4)]);
    worker.loses(argument(4));
    let died = Message::ProcessDied { process: process(1), death: KILLED };
    let Some(ActorDeath::ArgumentFailed(failure)) = never_begun(&worker.receive(DAEMON, died)) else {
        panic!("it must not begin");
    };
    assert_eq!(*failure, Failure::OwnerDied { object: argument(4), death: KILLED });
}

#[test]
fn an_actor_dies_of_an_argument_that_the_disk_cannot_give_back() {
    let (mut worker, _) = become_actor(&[argument(4)]);
    let failure = Failure::OutOfDisk { detail: "a test".into() };
    let effects =
        worker.receive(DAEMON, Message::PinFailed { object: argument(4), failure: failure.clone() });
    assert_eq!(never_begun(&effects), Some(ActorDeath::ArgumentFailed(Box::new(failure.without_cause()))));
}

/// The attempt that should have made it again raised something large.
#[test]
fn an_actor_dies_of_an_argument_that_raises_when_it_is_made_again() {
    let (mut worker, _) = become_actor(&[argument(4)]);
    worker.loses(argument(4));
    let effects = worker.fetched(argument(4), Outcome::Exception(stored(vec![])));
    assert_eq!((pins(&effects), never_begun(&effects)), (vec![argument(4)], None));
    let effects = worker.pinned(argument(4));
    assert_eq!(never_begun(&effects), Some(ActorDeath::Constructor(stored(vec![]))));
}

#[test]
fn a_process_that_is_to_end_does_so_while_its_constructor_waits() {
    for graceful in [false, true] {
        let (mut worker, _) = become_actor(&[argument(4)]);
        let effects = worker.receive(DAEMON, Message::Exit { graceful, reason: "it was killed".into() });
        assert!(matches!(&effects[..], [Effect::Exit { force: false, .. }]), "{effects:?}");
    }
}

/// The same for a task: its code reads what was raised, and that is its outcome.
#[test]
fn a_task_gets_a_large_exception_for_an_argument_that_raises_when_it_is_made_again() {
    let (mut owner, mut worker) = (Harness::new(1), Harness::new(2));
    let object = owner.owner.next_task_id().object(0);
    owner.tell(Input::Put { object, value: stored(vec![]) });
    let (_, effects) = owner.submit(function(1, Returns::Count(1)), vec![object], vec![]);
    let request = requested(&effects)[0];
    for message in sent(&owner.grant(request, 1, 2), process(2)) {
        worker.receive(process(1), message);
    }
    worker.loses(object);
    let effects = worker.fetched(object, Outcome::Exception(stored(vec![])));
    assert_eq!(pins(&effects), [object]);
    let effects = worker.pinned(object);
    let given = effects.iter().find_map(|effect| match effect {
        Effect::Run { assignment, .. } => Some(&assignment.dependencies),
        _ => None,
    });
    let raised = Dependency { object, outcome: Outcome::Exception(stored(vec![])) };
    assert_eq!(given, Some(&vec![raised]));
    assert!(worker.owner.open(object).is_some());
}
