//! Tasks of placement groups: they wait for the group, and end with it.

use super::*;
use crate::group::{GroupState, demanded};
use crate::ids::GroupId;
use crate::resources::{Quantity, Resources};

/// Somebody else has made it.
const GROUP: GroupId = GroupId(TaskId { owner: ProcessId::new(NODE, 9), number: 1 });
const REMOVED: Message = Message::GroupUpdate { group: GROUP, state: GroupState::Removed };

/// A function that runs in a bundle of the group.
fn in_group(number: u128, bundle: u32) -> Target {
    let Target::Function(definition) = function(number, Returns::Count(1)) else { unreachable!() };
    let resources = demanded(&Resources::default(), GROUP, Some(bundle));
    let demand = Arc::new(Demand { resources, group: Some(GROUP), ..Demand::default() });
    Target::Function(Arc::new(Definition { demand, ..(*definition).clone() }))
}

fn has_lost_its_group(owner: &Harness, task: TaskId) -> bool {
    matches!(owner.owner.lookup(task.object(0)), Lookup::Failed(Failure::GroupRemoved { group: GROUP }))
}

#[test]
fn tasks_of_a_removed_group_fail_wherever_they_are() {
    let mut owner = Harness::new(1);
    let (started, effects) = owner.submit(in_group(1, 0), vec![], vec![]);
    assert_eq!(sent(&effects, ProcessId::HEAD), [Message::SubscribeGroup { group: GROUP }]);
    owner.grant(requested(&effects)[0], 1, 3);
    let (waiting, effects) = owner.submit(in_group(2, 1), vec![], vec![]);
    assert_eq!(sent(&effects, ProcessId::HEAD), [], "it is watched already");
    let request = requested(&effects)[0];
    let (other, _) = owner.submit(function(3, Returns::Count(1)), vec![], vec![]);

    let effects = owner.receive(ProcessId::HEAD, REMOVED);
    assert!(sent(&effects, DAEMON).contains(&Message::CancelLeaseRequest { request }));
    assert!(has_lost_its_group(&owner, waiting));
    let (late, effects) = owner.submit(in_group(2, 1), vec![], vec![]);
    assert!(has_lost_its_group(&owner, late) && requested(&effects).is_empty());
    assert!(!owner.owner.has_outcome(other.object(0)), "it is not of the group");
    // What had started ends with its worker, and is not tried again.
    assert!(!owner.owner.has_outcome(started.object(0)));
    let death = Death::GroupRemoved { group: GROUP };
    let ended = Message::LeaseEnded { lease: lease_id(1), death, last_started: Some(started) };
    owner.receive(DAEMON, ended);
    owner.tell(Input::LinkClosed { peer: process(3) });
    assert!(has_lost_its_group(&owner, started));
}

#[test]
fn who_has_dropped_the_group_hears_of_its_end_while_tasks_of_it_wait() {
    let mut owner = Harness::new(1);
    let (task, _) = owner.submit(in_group(1, 0), vec![], vec![]);
    let effects = owner.tell(Input::UnwatchGroup { group: GROUP });
    assert_eq!(sent(&effects, ProcessId::HEAD), []);
    owner.receive(ProcessId::HEAD, REMOVED);
    assert!(has_lost_its_group(&owner, task));
    let effects = owner.tell(Input::UnwatchGroup { group: GROUP });
    assert_eq!(sent(&effects, ProcessId::HEAD), [Message::UnsubscribeGroup { group: GROUP }]);
}

#[test]
fn what_no_bundle_can_ever_hold_is_refused_with_the_reason() {
    let mut owner = Harness::new(1);
    let (wide, effects) = owner.submit(in_group(1, 2), vec![], vec![]);
    let request = requested(&effects)[0];
    let (fits, _) = owner.submit(in_group(2, 1), vec![], vec![]);
    let mut bundle = Resources::default();
    bundle.set("GPU", Quantity::ONE);
    let made = Message::GroupMade { group: GROUP, bundles: vec![bundle.clone(), bundle] };
    let effects = owner.receive(ProcessId::HEAD, made);
    assert!(sent(&effects, DAEMON).contains(&Message::CancelLeaseRequest { request }));
    let (late, effects) = owner.submit(in_group(1, 2), vec![], vec![]);
    assert_eq!(requested(&effects), [], "it is known to be in vain");
    for task in [wide, late] {
        let Lookup::Failed(Failure::Unschedulable { detail }) = owner.owner.lookup(task.object(0)) else {
            panic!("{task:?} waits")
        };
        assert!(detail.contains("bundle 2") && detail.contains("GPU: 1"), "{detail}");
    }
    assert!(!owner.owner.has_outcome(fits.object(0)), "there is a bundle for it");
}

#[test]
fn nothing_piles_up_of_groups_that_are_gone() {
    let mut owner = Harness::new(1);
    for number in 0..3_000 {
        let group = GroupId(TaskId { number, ..GROUP.0 });
        let Target::Function(definition) = function(1, Returns::Count(1)) else { unreachable!() };
        let resources = demanded(&Resources::default(), group, None);
        let demand = Arc::new(Demand { resources, group: Some(group), ..Demand::default() });
        let target = || {
            let demand = demand.clone();
            Target::Function(Arc::new(Definition { demand, ..(*definition).clone() }))
        };
        let (task, effects) = owner.submit(target(), vec![], vec![]);
        if number % 2 == 0 {
            owner.grant(requested(&effects)[0], number, 100);
            let death = Death::GroupRemoved { group };
            let ended = Message::LeaseEnded { lease: lease_id(number), death, last_started: None };
            owner.receive(DAEMON, ended);
            owner.tell(Input::LinkClosed { peer: process(100) });
        }
        let state = GroupState::Removed;
        owner.receive(ProcessId::HEAD, Message::GroupUpdate { group, state });
        let (late, _) = owner.submit(target(), vec![], vec![]);
        for task in [task, late] {
            assert!(matches!(
                owner.owner.lookup(task.object(0)),
                Lookup::Failed(Failure::GroupRemoved { .. })
            ));
            owner.tell(Input::RemoveReference { object: task.object(0) });
        }
    }
    assert!(owner.owner.leases.classes.len() < 4, "{} classes", owner.owner.leases.classes.len());
    assert!(owner.owner.groups.len() <= 1_001);
}

#[test]
fn a_node_may_hear_of_the_removal_first() {
    let mut owner = Harness::new(1);
    let (one, effects) = owner.submit(in_group(1, 0), vec![], vec![]);
    let (two, _) = owner.submit(in_group(2, 0), vec![], vec![]);
    let refused = Message::LeaseRefused {
        request: requested(&effects)[0],
        failure: Failure::GroupRemoved { group: GROUP },
    };
    owner.receive(DAEMON, refused);
    assert!(has_lost_its_group(&owner, one) && has_lost_its_group(&owner, two));
}

#[test]
fn a_task_whose_group_has_given_up_its_bundle_is_tried_again() {
    let mut owner = Harness::new(1);
    let (task, effects) = owner.submit(in_group(1, 0), vec![], vec![]);
    owner.grant(requested(&effects)[0], 1, 3);
    let death = Death::Killed { reason: "its placement group has given up its bundle".into() };
    let ended = Message::LeaseEnded { lease: lease_id(1), death, last_started: Some(task) };
    owner.receive(DAEMON, ended);
    let effects = owner.tell(Input::LinkClosed { peer: process(3) });
    assert_eq!(pushed(&owner.grant(requested(&effects)[0], 2, 4), process(4)), [(task, 1)]);
}
