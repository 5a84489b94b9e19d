//! Calls of actors: in order, over deaths and failed arguments.

use super::*;

fn update(owner: &mut Harness, actor: ActorId, incarnation: u32, state: ActorState) -> Vec<Effect> {
    let message = Message::ActorUpdate { actor, incarnation, state, restarts_left: -1 };
    owner.receive(ProcessId::HEAD, message)
}

fn actor() -> ActorId {
    ActorId(TaskId { owner: process(9), number: 1 })
}

#[test]
fn calls_wait_for_the_actor_and_keep_their_order() {
    let mut owner = Harness::new(1);
    let calls: Vec<TaskId> = (0..3).map(|_| owner.submit(method(actor()), vec![], vec![]).0).collect();
    let effects = update(&mut owner, actor(), 0, ActorState::Alive { process: process(5) });
    let expected: Vec<(TaskId, u32)> = calls.into_iter().map(|task| (task, 0)).collect();
    assert_eq!(pushed(&effects, process(5)), expected);
}

#[test]
fn a_call_whose_argument_fails_does_not_hold_up_those_behind_it() {
    let mut owner = Harness::new(1);
    let (argument, _) = owner.submit(function(1, Returns::Count(1)), vec![], vec![]);
    update(&mut owner, actor(), 0, ActorState::Starting);
    let (first, _) = owner.submit(method(actor()), vec![argument.object(0)], vec![]);
    let (second, _) = owner.submit(method(actor()), vec![], vec![]);
    let effects = update(&mut owner, actor(), 0, ActorState::Alive { process: process(5) });
    assert!(pushed(&effects, process(5)).is_empty(), "the first call waits for its argument");
    let object = argument.object(0);
    let effects = owner.tell(Input::Cancel { object, force: false, recursive: false });
    assert!(matches!(owner.owner.lookup(first.object(0)), Lookup::Failed(_)));
    assert_eq!(pushed(&effects, process(5)), [(second, 0)]);
}

#[test]
fn what_is_called_after_a_kill_for_good_never_reaches_the_actor() {
    let mut owner = Harness::new(1);
    owner.submit(method(actor()), vec![], vec![]);
    update(&mut owner, actor(), 0, ActorState::Alive { process: process(5) });
    owner.tell(Input::KillActor { actor: actor(), no_restart: true });
    let (late, effects) = owner.submit(method(actor()), vec![], vec![]);
    assert!(pushed(&effects, process(5)).is_empty(), "the process may not have heard of its end yet");
    update(&mut owner, actor(), 0, ActorState::Dead { cause: ActorDeath::Killed });
    owner.tell(Input::LinkClosed { peer: process(5) });
    assert!(matches!(owner.owner.lookup(late.object(0)), Lookup::Failed(Failure::ActorDied { .. })));
}

#[test]
fn what_is_called_after_a_kill_that_restarts_the_actor_is_a_call_like_others() {
    let mut owner = Harness::new(1);
    update(&mut owner, actor(), 0, ActorState::Alive { process: process(5) });
    owner.tell(Input::WatchActor { actor: actor() });
    owner.tell(Input::KillActor { actor: actor(), no_restart: false });
    update(&mut owner, actor(), 1, ActorState::Alive { process: process(6) });
    let (call, effects) = owner.submit(method(actor()), vec![], vec![]);
    assert_eq!(pushed(&effects, process(6)), [(call, 0)]);
}

/// Invariant 8: what is in flight to the old process is settled before the new one gets calls.
#[test]
fn calls_to_a_new_incarnation_wait_until_the_old_ones_are_settled() {
    let mut owner = Harness::new(1);
    let (lost, _) = owner.submit(method(actor()), vec![], vec![]);
    update(&mut owner, actor(), 0, ActorState::Alive { process: process(5) });
    update(&mut owner, actor(), 1, ActorState::Restarting);
    update(&mut owner, actor(), 1, ActorState::Alive { process: process(6) });
    let (next, effects) = owner.submit(method(actor()), vec![], vec![]);
    assert!(pushed(&effects, process(6)).is_empty());
    let effects = owner.tell(Input::LinkClosed { peer: process(5) });
    assert!(matches!(owner.owner.lookup(lost.object(0)), Lookup::Failed(_)));
    assert_eq!(pushed(&effects, process(6)), [(next, 0)]);
}

/// Deaths that explain each other are told one level deep, however long the chain is: a message
/// that nests without end would overflow the stack of whoever decodes it.
#[test]
fn an_actor_dies_of_an_argument_and_says_so_one_level_deep() {
    let mut owner = Harness::new(1);
    let (call, _) = owner.submit(method(actor()), vec![], vec![]);
    let cause = ActorDeath::Process(KILLED);
    update(&mut owner, actor(), 0, ActorState::Dead { cause });
    let (mut argument, mut earlier) = (call.object(0), actor());
    for _ in 0..3 {
        let id = ActorId(owner.owner.next_task_id());
        let spec = Box::new(ActorSpec::new(id, JobId(1)));
        let effects = owner.tell(Input::CreateActor { spec, dependencies: vec![argument], request: None });
        let said = sent(&effects, ProcessId::HEAD);
        let [Message::ActorUnmade { summary }] = &said[..] else { panic!("{said:?}") };
        assert!(matches!(summary.state, ActorState::Dead { .. }), "the head is not asked to make it");
        let (call, _) = owner.submit(method(id), vec![], vec![]);
        argument = call.object(0);
        let Lookup::Failed(Failure::ActorDied { actor, cause: ActorDeath::ArgumentFailed(failure) }) =
            owner.owner.lookup(argument)
        else {
            panic!("{:?}", owner.owner.lookup(argument));
        };
        assert_eq!((*actor, failure.as_ref()), (id, &Failure::ActorDied { actor: earlier, cause: () }));
        earlier = id;
    }
}

#[test]
fn an_actor_that_is_killed_before_its_arguments_are_there_is_never_made() {
    let mut owner = Harness::new(1);
    let (argument, _) = owner.submit(function(1, Returns::Count(1)), vec![], vec![]);
    let id = ActorId(owner.owner.next_task_id());
    let (spec, dependencies) = (Box::new(ActorSpec::new(id, JobId(1))), vec![argument.object(0)]);
    let unmade = |effects: &[Effect]| match &sent(effects, ProcessId::HEAD)[..] {
        [Message::ActorUnmade { summary }] => Some(summary.state.clone()),
        _ => None,
    };
    let effects = owner.tell(Input::CreateActor { spec, dependencies, request: None });
    assert_eq!(unmade(&effects), Some(ActorState::Starting), "others may get a handle");
    let effects = owner.receive(DAEMON, Message::HeadChanged { epoch: 7 });
    assert_eq!(unmade(&effects), Some(ActorState::Starting), "the next head does not know of it");
    let (call, _) = owner.submit(method(id), vec![], vec![]);
    let again = owner.tell(Input::KillActor { actor: id, no_restart: false });
    assert!(sent(&again, ProcessId::HEAD).is_empty(), "it has not started, and will");
    assert!(matches!(owner.owner.lookup(call.object(0)), Lookup::NotReady));
    let effects = owner.tell(Input::KillActor { actor: id, no_restart: true });
    assert_eq!(unmade(&effects), Some(ActorState::Dead { cause: ActorDeath::Killed }));
    let killed = |call: TaskId, owner: &Harness| {
        let lookup = owner.owner.lookup(call.object(0));
        matches!(lookup, Lookup::Failed(Failure::ActorDied { cause: ActorDeath::Killed, .. }))
    };
    assert!(killed(call, &owner));
    let (late, _) = owner.submit(method(id), vec![], vec![]);
    assert!(killed(late, &owner));
    let object = argument.object(0);
    let effects = owner.tell(Input::Cancel { object, force: false, recursive: false });
    assert!(sent(&effects, ProcessId::HEAD).is_empty(), "{effects:?}");
}

#[test]
fn what_the_node_and_the_head_decide_is_taken_from_them_alone() {
    let mut owner = Harness::new(1);
    let (_, effects) = owner.submit(function(1, Returns::Count(1)), vec![], vec![]);
    let request = requested(&effects)[0];
    owner.submit(method(actor()), vec![], vec![]);
    let said = [
        Message::LeaseGranted {
            request,
            lease: lease_id(1),
            worker: process(5),
            devices: Devices::default(),
        },
        Message::ActorUpdate {
            actor: actor(),
            incarnation: 0,
            state: ActorState::Alive { process: process(5) },
            restarts_left: 0,
        },
        Message::ExtentGranted { request: RequestId(1), offset: 4096, size: 1 << 20 },
        Message::Freed { offset: 4096, size: 1 << 20 },
        Message::Exit { graceful: false, reason: "a peer wants it".into() },
        Message::ProcessDied { process: process(5), death: KILLED },
    ];
    for message in said {
        assert!(owner.receive(process(9), message.clone()).is_empty(), "{message:?}");
    }
    assert_eq!(owner.owner.allocate(64), None);
}

#[test]
fn a_generator_that_waits_for_another_call_of_a_dead_actor_lets_go_of_its_arguments_once() {
    let mut owner = Harness::new(1);
    let value = owner.put(vec![]);
    let holder = owner.put(vec![value]);
    let (first, _) = owner.submit(method(actor()), vec![], vec![]);
    let mut generator = method(actor());
    if let Target::Method { method, .. } = &mut generator {
        Arc::make_mut(method).returns = Returns::Stream { backpressure: 0 };
    }
    let (second, _) = owner.submit(generator, vec![first.object(0)], vec![value]);
    owner.tell(Input::RemoveReference { object: value });
    update(&mut owner, actor(), 0, ActorState::Dead { cause: ActorDeath::Killed });
    assert!(matches!(owner.owner.lookup(second.object(0)), Lookup::Failed(Failure::ActorDied { .. })));
    assert!(owner.owner.has_outcome(value), "{holder:?} has it");
}
