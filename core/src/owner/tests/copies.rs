//! Where stored objects are: several copies, none, and what follows.

use super::*;
use crate::value::Payload;
use alloc::collections::BTreeMap;

const NODES: [NodeId; 3] = [NODE, NodeId(2), NodeId(3)];

fn stored(node: NodeId) -> Value {
    Value { payload: Payload::Stored { node, size: 1 << 20 }, contains: vec![] }
}

fn put(owner: &mut Harness, node: NodeId) -> ObjectId {
    let object = owner.owner.next_task_id().object(0);
    owner.tell(Input::Put { object, value: stored(node) });
    object
}

fn copied(owner: &mut Harness, object: ObjectId, node: NodeId, attempt: u32) -> Vec<Effect> {
    owner.receive(ProcessId::daemon(node), Message::CopyAdded { object, node, attempt })
}

fn node_died(owner: &mut Harness, node: NodeId) -> Vec<Effect> {
    owner.receive(DAEMON, Message::NodeDied { node, heir: NODE })
}

/// Where a process of that node is told that the object is.
fn told(owner: &mut Harness, object: ObjectId, node: NodeId, missing_at: Option<NodeId>) -> Option<Outcome> {
    let reader = ProcessId::new(node, 8);
    let effects = owner.receive(reader, Message::FetchObject { object, missing_at });
    match &sent(&effects, reader)[..] {
        [Message::ObjectContent { outcome, .. }] => Some(outcome.clone()),
        [] => None,
        other => panic!("{other:?}"),
    }
}

fn at(node: NodeId) -> Option<Outcome> {
    Some(Outcome::Value(stored(node)))
}

/// Run a task with one stored result per node given.
fn run(owner: &mut Harness, results: &[NodeId]) -> (TaskId, u32) {
    let (task, effects) = owner.submit(function(1, Returns::Count(results.len() as u32)), vec![], vec![]);
    if let [request, ..] = requested(&effects)[..] {
        owner.grant(request, 1, 2);
    }
    finish(owner, task, 0, results);
    (task, 0)
}

fn finish(owner: &mut Harness, task: TaskId, attempt: u32, results: &[NodeId]) -> Vec<Effect> {
    let completion =
        finished_attempt(task, attempt, results.iter().map(|node| Outcome::Value(stored(*node))).collect());
    owner.receive(process(2), completion)
}

/// As where a node that drains hands the object over and is gone, while it is copied from there.
#[test]
fn what_was_copied_elsewhere_while_its_owner_waits_for_it_is_not_lost() {
    let mut owner = Harness::new(1);
    let object = put(&mut owner, NodeId(2));
    let pin = |effects: &[Effect]| {
        sent(effects, DAEMON).contains(&Message::Pin { object, locations: vec![NodeId(3)] })
    };
    owner.tell(Input::Need { object });
    copied(&mut owner, object, NodeId(3), 0);
    node_died(&mut owner, NodeId(2));
    let failed = |detail: &str| {
        let failure = Failure::ObjectLost { object, detail: detail.into() };
        Message::PinFailed { object, failure }
    };
    let effects = owner.receive(DAEMON, failed("node 2, which had it, died"));
    assert!(pin(&effects), "{effects:?}");
    // Where it is now it is not found either.
    let effects = owner.receive(DAEMON, failed("it is not there"));
    let told =
        effects.iter().any(|effect| matches!(effect, Effect::Changed { object: lost } if *lost == object));
    assert!(told && !pin(&effects), "{effects:?}");
}

#[test]
fn readers_are_given_the_copies_in_turn_and_their_own_nodes_first() {
    let mut owner = Harness::new(1);
    let object = put(&mut owner, NODE);
    assert_eq!(told(&mut owner, object, NodeId(9), None), at(NODE));
    copied(&mut owner, object, NodeId(2), 0);
    copied(&mut owner, object, NodeId(3), 0);
    copied(&mut owner, object, NodeId(3), 0);
    let mut given: Vec<_> = (0..3).map(|_| told(&mut owner, object, NodeId(9), None)).collect();
    given.sort_by_key(|outcome| alloc::format!("{outcome:?}"));
    assert_eq!(given, NODES.map(at));
    for node in NODES {
        assert_eq!(told(&mut owner, object, node, None), at(node));
    }
    let effects = owner.tell(Input::RemoveReference { object });
    for node in NODES {
        let freed = Message::FreeObject { object, attempt: u32::MAX };
        assert_eq!(sent(&effects, ProcessId::daemon(node)), [freed]);
    }
    // A copy that comes when the object is gone is freed as well.
    let effects = copied(&mut owner, object, NodeId(4), 0);
    let freed = Message::FreeObject { object, attempt: 0 };
    assert_eq!(sent(&effects, ProcessId::daemon(NodeId(4))), [freed]);
}

/// The most readers that one node served when an object came to as many other nodes as there are in these waves:
/// who belongs to a wave asks when the copies of the wave before are complete, and before those of its own are.
fn most_served(waves: &[u32]) -> u32 {
    let mut owner = Harness::new(1);
    let object = put(&mut owner, NODE);
    let mut served: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut readers = (10..).map(NodeId);
    for wave in waves {
        let wave: Vec<NodeId> = readers.by_ref().take(*wave as usize).collect();
        for reader in &wave {
            let outcome = told(&mut owner, object, *reader, None).unwrap();
            *served.entry(super::super::copies::named_location(&outcome).unwrap()).or_default() += 1;
        }
        for reader in wave {
            copied(&mut owner, object, reader, 0);
        }
    }
    assert_eq!(served.values().sum::<u32>(), waves.iter().sum());
    served.into_values().max().unwrap()
}

#[test]
fn a_broadcast_is_a_tree() {
    // One after the other, each from the newest copy.
    assert_eq!(most_served(&[1; 8]), 1);
    // As many at a time as have it by then: doubling, three times.
    assert!(most_served(&[1, 2, 4, 1]) <= 3);
    // Two at a time.
    assert!(most_served(&[2; 4]) <= 2);
    assert!(most_served(&[3; 10]) <= 4);
}

#[test]
fn a_copy_that_was_dropped_is_not_given_any_more_and_was_not_the_last() {
    let mut owner = Harness::new(1);
    let object = put(&mut owner, NODE);
    copied(&mut owner, object, NodeId(2), 0);
    let dropped = |node, attempt| Message::CopyRemoved { object, node, attempt };
    assert!(owner.receive(ProcessId::daemon(NodeId(2)), dropped(NodeId(2), 7)).is_empty());
    assert_eq!(told(&mut owner, object, NodeId(2), None), at(NodeId(2)), "that was of another attempt");
    assert!(owner.receive(ProcessId::daemon(NodeId(2)), dropped(NodeId(2), 0)).is_empty());
    assert_eq!(told(&mut owner, object, NodeId(2), None), at(NODE));
    assert!(owner.receive(ProcessId::daemon(NODE), dropped(NODE, 0)).is_empty());
    assert_eq!(told(&mut owner, object, NodeId(2), None), at(NODE), "this is where it was made");
}

#[test]
fn a_location_where_the_object_is_missing_is_not_given_again() {
    let mut owner = Harness::new(1);
    let object = put(&mut owner, NODE);
    copied(&mut owner, object, NodeId(2), 0);
    assert_eq!(told(&mut owner, object, NodeId(9), Some(NODE)), at(NodeId(2)));
    // The reader's own node may have it in the end; this one says it does not.
    let lost = told(&mut owner, object, NodeId(9), Some(NodeId(2)));
    let Some(Outcome::Failure(failure)) = lost else { panic!("{lost:?}") };
    assert!(matches!(*failure, Failure::ObjectLost { .. }), "it was put and cannot be made again");
}

/// Invariant 2: a reachable object has a copy, or a task that makes it again, or a typed loss.
#[test]
fn a_dead_nodes_copies_are_replaced_by_others_or_made_again() {
    let mut owner = Harness::new(1);
    let (task, _) = run(&mut owner, &[NodeId(2)]);
    let object = task.object(0);
    copied(&mut owner, object, NodeId(3), 0);
    node_died(&mut owner, NodeId(2));
    assert_eq!(told(&mut owner, object, NodeId(9), None), at(NodeId(3)));
    let effects = node_died(&mut owner, NodeId(3));
    assert_eq!(pushed(&effects, process(2)), [(task, 1)]);
    assert_eq!(told(&mut owner, object, NodeId(9), None), None, "the reader waits");
    let effects = finish(&mut owner, task, 1, &[NODE]);
    let content = Message::ObjectContent { object, outcome: Outcome::Value(stored(NODE)) };
    assert_eq!(sent(&effects, ProcessId::new(NodeId(9), 8)), [content]);
    // A copy of the first attempt's value is none of the second's.
    let effects = copied(&mut owner, object, NodeId(4), 0);
    let freed = Message::FreeObject { object, attempt: 0 };
    assert_eq!(sent(&effects, ProcessId::daemon(NodeId(4))), [freed]);
}

#[test]
fn what_a_task_made_anew_for_another_results_sake_replaces_the_old() {
    let mut owner = Harness::new(1);
    let (task, _) = run(&mut owner, &[NodeId(2), NodeId(3)]);
    node_died(&mut owner, NodeId(3));
    assert_eq!(told(&mut owner, task.object(0), NodeId(9), None), at(NodeId(2)), "it is still there");
    let effects = finish(&mut owner, task, 1, &[NODE, NODE]);
    let freed = Message::FreeObject { object: task.object(0), attempt: 0 };
    assert_eq!(sent(&effects, ProcessId::daemon(NodeId(2))), [freed]);
    assert_eq!(told(&mut owner, task.object(0), NodeId(9), None), at(NODE));
}

#[test]
fn a_borrower_names_the_node_that_failed_it() {
    let mut borrower = Harness::new(1);
    let owner = ProcessId::new(NodeId(2), 1);
    let object = TaskId { owner, number: 1 }.object(0);
    borrower.tell(Input::AddReference { object });
    borrower.tell(Input::Need { object });
    let content = Message::ObjectContent { object, outcome: Outcome::Value(stored(NodeId(3))) };
    borrower.receive(owner, content);
    let effects = borrower.tell(Input::Need { object });
    assert_eq!(sent(&effects, DAEMON), [Message::Pin { object, locations: vec![NodeId(3)] }]);
    let failure = Failure::ObjectLost { object, detail: "".into() };
    let effects = borrower.receive(DAEMON, Message::PinFailed { object, failure });
    let asked = Message::FetchObject { object, missing_at: Some(NodeId(3)) };
    assert_eq!(sent(&effects, owner), [asked]);
}
