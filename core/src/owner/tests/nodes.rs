//! More than one node: leases that are redirected, and nodes that die.

use super::*;
use crate::group::{GroupSpec, GroupState, GroupStrategy};
use crate::ids::GroupId;
use crate::message::{Answer, Query, Route};
use crate::value::Payload;

const OTHER: NodeId = NodeId(2);
const THERE: ProcessId = ProcessId::daemon(OTHER);

fn lease_request(request: RequestId, route: Route, prefer: Option<NodeId>) -> Message {
    Message::RequestLease { request, job: JobId(1), demand: Arc::new(Demand::default()), route, prefer }
}

fn redirected(owner: &mut Harness, request: RequestId, route: Route) -> Vec<Effect> {
    owner.receive(DAEMON, Message::LeaseRedirected { request, to: OTHER, route })
}

fn granted_there(owner: &mut Harness, request: RequestId, worker: ProcessId) -> Vec<Effect> {
    let lease = LeaseId { node: OTHER, epoch: 1, number: 1 };
    owner.receive(THERE, Message::LeaseGranted { request, lease, worker, devices: Devices::default() })
}

fn node_died(owner: &mut Harness) -> Vec<Effect> {
    owner.receive(DAEMON, Message::NodeDied { node: OTHER, heir: NODE })
}

#[test]
fn a_request_goes_where_it_is_sent_and_home_when_it_is_rejected() {
    let mut owner = Harness::new(1);
    let (_, effects) = owner.submit(function(1, Returns::Count(1)), vec![], vec![]);
    let request = requested(&effects)[0];
    let effects = redirected(&mut owner, request, Route::IfFree);
    assert_eq!(sent(&effects, THERE), [lease_request(request, Route::IfFree, None)]);
    assert!(owner.receive(DAEMON, Message::LeaseRejected { request }).is_empty(), "it is not there any more");
    let effects = owner.receive(THERE, Message::LeaseRejected { request });
    assert_eq!(
        sent(&effects, DAEMON),
        [lease_request(request, Route::Rejected { by: OTHER, times: 1 }, None)]
    );
}

#[test]
fn a_request_is_cancelled_where_it_is_and_a_late_grant_goes_back_there() {
    let mut owner = Harness::new(1);
    let (task, effects) = owner.submit(function(1, Returns::Count(1)), vec![], vec![]);
    let request = requested(&effects)[0];
    redirected(&mut owner, request, Route::Queue);
    owner.tell(Input::Cancel { object: task.object(0), force: false, recursive: false });
    let effects = owner.pass(Span::from_secs(1));
    assert_eq!(sent(&effects, THERE), [Message::CancelLeaseRequest { request }]);
    let effects = granted_there(&mut owner, request, ProcessId::new(OTHER, 3));
    assert!(matches!(sent(&effects, THERE)[..], [Message::ReturnLease { reusable: true, .. }]));
}

#[test]
fn what_was_asked_of_a_node_that_dies_is_asked_at_home() {
    let mut owner = Harness::new(1);
    let (_, effects) = owner.submit(function(1, Returns::Count(1)), vec![], vec![]);
    let request = requested(&effects)[0];
    redirected(&mut owner, request, Route::Queue);
    let effects = node_died(&mut owner);
    assert_eq!(sent(&effects, DAEMON), [lease_request(request, Route::Fresh, None)]);
    let effects = redirected(&mut owner, request, Route::IfFree);
    assert_eq!(
        sent(&effects, DAEMON),
        [lease_request(request, Route::Rejected { by: OTHER, times: 1 }, None)]
    );
}

/// Invariant 3: nobody can tell what the workers of a dead node had started.
#[test]
fn what_was_pushed_to_a_dead_node_counts_as_an_attempt() {
    let mut owner = Harness::new(1);
    let (task, effects) = owner.submit(function(1, Returns::Count(1)), vec![], vec![]);
    let request = requested(&effects)[0];
    redirected(&mut owner, request, Route::IfFree);
    let worker = ProcessId::new(OTHER, 3);
    let effects = granted_there(&mut owner, request, worker);
    assert_eq!(pushed(&effects, worker), [(task, 0)]);
    let request = requested(&node_died(&mut owner))[0];
    assert_eq!(pushed(&owner.grant(request, 2, 3), process(3)), [(task, 1)]);
    assert!(owner.receive(worker, Message::TasksReturned { tasks: vec![(task, 0)] }).is_empty());
}

/// What comes from another node comes in order: with its daemon's word there is nothing left to wait for.
#[test]
fn a_dead_worker_of_another_node_is_settled_without_a_link() {
    let mut owner = Harness::new(1);
    let (task, effects) = owner.submit(function(1, Returns::Count(1)), vec![], vec![]);
    let request = requested(&effects)[0];
    redirected(&mut owner, request, Route::IfFree);
    granted_there(&mut owner, request, ProcessId::new(OTHER, 3));
    let lease = LeaseId { node: OTHER, epoch: 1, number: 1 };
    let effects = owner.receive(THERE, Message::LeaseEnded { lease, death: KILLED, last_started: None });
    assert_eq!(pushed(&owner.grant(requested(&effects)[0], 2, 3), process(3)), [(task, 0)]);
}

#[test]
fn calls_to_an_actor_of_another_node_are_settled_by_the_news_of_its_end() {
    for whole_node in [false, true] {
        let mut owner = Harness::new(1);
        let actor = ActorId(TaskId { owner: process(9), number: 1 });
        let there = ProcessId::new(OTHER, 5);
        let (call, _) = owner.submit(method(actor), vec![], vec![]);
        let update =
            |incarnation, state| Message::ActorUpdate { actor, incarnation, state, restarts_left: 1 };
        let effects = owner.receive(ProcessId::HEAD, update(0, ActorState::Alive { process: there }));
        assert_eq!(pushed(&effects, there), [(call, 0)]);
        assert_eq!(sent(&effects, DAEMON), [Message::WatchProcess { process: there }]);
        owner.receive(ProcessId::HEAD, update(1, ActorState::Restarting));
        assert!(!owner.owner.has_outcome(call.object(0)), "its answer may be under way");
        if whole_node {
            node_died(&mut owner);
        } else {
            owner.receive(DAEMON, Message::ProcessDied { process: there, death: KILLED });
        }
        let Lookup::Failed(Failure::ActorUnavailable { .. }) = owner.owner.lookup(call.object(0)) else {
            panic!("{:?}", owner.owner.lookup(call.object(0)));
        };
    }
}

#[test]
fn a_task_runs_where_its_arguments_are() {
    let mut owner = Harness::new(1);
    let stored = owner.owner.next_task_id().object(0);
    let payload = Payload::Stored { node: OTHER, size: 8 << 20 };
    owner.tell(Input::Put { object: stored, value: Value { payload, contains: vec![] } });
    let (task, effects) = owner.submit(function(1, Returns::Count(1)), vec![stored], vec![]);
    let request = requested(&effects)[0];
    assert_eq!(sent(&effects, DAEMON), [lease_request(request, Route::Fresh, Some(OTHER))]);
    // With a lease here and one there, the one there gets it.
    let (other, effects) = owner.submit(function(2, Returns::Count(1)), vec![], vec![]);
    let second = requested(&effects)[0];
    owner.tell(Input::Cancel { object: task.object(0), force: false, recursive: false });
    assert_eq!(pushed(&owner.grant(request, 1, 3), process(3)), [(other, 0)]);
    granted_there(&mut owner, second, ProcessId::new(OTHER, 3));
    let (third, effects) = owner.submit(function(1, Returns::Count(1)), vec![stored], vec![]);
    assert!(pushed(&effects, process(3)).is_empty(), "{third:?} waits or goes there");
}

#[test]
fn another_head_is_asked_again_and_answers_once() {
    let mut owner = Harness::new(1);
    let actor = ActorId(TaskId { owner: process(9), number: 1 });
    owner.tell(Input::WatchActor { actor });
    let request = RequestId(1);
    let query = Query::Get { key: "k".into() };
    owner.tell(Input::Ask { request, to: ProcessId::HEAD, query: query.clone() });
    let group = GroupId(owner.owner.next_task_id());
    let spec = GroupSpec {
        id: group,
        job: JobId(1),
        creator: None,
        name: "".into(),
        namespace: "".into(),
        detached: false,
        bundles: vec![],
        strategy: GroupStrategy::Pack,
    };
    owner.tell(Input::CreateGroup { spec: Box::new(spec.clone()), request: RequestId(2) });
    let effects = owner.receive(DAEMON, Message::HeadChanged { epoch: 2 });
    let expected = [
        Message::Ask { request, query },
        Message::CreateGroup { spec: Box::new(spec), request: RequestId(2) },
        Message::SubscribeActor { actor },
        Message::SubscribeGroup { group },
    ];
    assert_eq!(sent(&effects, ProcessId::HEAD), expected);
    assert!(owner.receive(DAEMON, Message::HeadChanged { epoch: 2 }).is_empty());
    let answer = Message::Answer { request, answer: Answer::NotFound };
    assert!(matches!(owner.receive(ProcessId::HEAD, answer.clone())[..], [Effect::Answered { .. }]));
    assert!(owner.receive(ProcessId::HEAD, answer).is_empty());
    // Changes of the group are told once each.
    let state = GroupState::Placed { nodes: vec![] };
    let update = Message::GroupUpdate { group, state: state.clone() };
    let effects = owner.receive(ProcessId::HEAD, update.clone());
    assert!(matches!(&effects[..], [Effect::GroupChanged { state: told, .. }] if *told == state));
    assert!(owner.receive(ProcessId::HEAD, update).is_empty());
    assert_eq!(owner.owner.group_state(group), Some(&state));
}
