//! One step after the other: what comes in, and exactly what goes out.

mod repair;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::actor::{ActorSpec, ActorState};
use crate::group::{Bundle, GroupSpec, GroupState, GroupStrategy, demanded};
use crate::head::harness::{Harness, actor, process, resources, spec as actor_spec, state, summary};
use crate::head::{Effect, Input};
use crate::ids::{GroupId, JobId, NodeId, ProcessId, RequestId, TaskId};
use crate::machine::Span;
use crate::message::{ActorEvent, Answer, Message, NodeState, NodeSummary, Query};
use crate::resources::{Demand, LabelSelector, Strategy};
use crate::value::{ActorDeath, Death};

type Sent = Vec<(ProcessId, Message)>;

/// Who makes groups in these tests, and who watches them.
const MAKER: ProcessId = process(1);
const WATCHER: ProcessId = process(9);

fn group(number: u64) -> GroupId {
    GroupId(TaskId { owner: MAKER, number })
}

fn spec(number: u64, strategy: GroupStrategy, cpus: &[i64]) -> GroupSpec {
    let bundle = |cpus: &i64| Bundle { resources: resources(&[("CPU", *cpus)]), labels: Vec::new() };
    GroupSpec {
        id: group(number),
        job: JobId(1),
        creator: None,
        name: String::new(),
        namespace: String::from("tests"),
        detached: true,
        bundles: cpus.iter().map(bundle).collect(),
        strategy,
    }
}

fn create(head: &mut Harness, spec: &GroupSpec) -> Sent {
    let create = Message::CreateGroup { spec: Box::new(spec.clone()), request: RequestId(1) };
    let mut sent = head.receive(spec.id.creator(), create);
    sent.extend(head.receive(WATCHER, Message::SubscribeGroup { group: spec.id }));
    without_orders(sent)
}

/// The numbers of orders, and what new subscribers are told, are the subjects of other tests.
fn without_orders(mut sent: Sent) -> Sent {
    sent.retain(|(_, message)| !matches!(message, Message::GroupMade { .. }));
    for (_, message) in &mut sent {
        if let Message::ReserveBundles { order, .. } = message {
            *order = 0;
        }
    }
    sent
}

fn passes(head: &mut Harness, span: Span) -> Sent {
    without_orders(head.pass(span))
}

/// A head with nodes of four CPUs each.
fn cluster(nodes: u32) -> Harness {
    let mut head = Harness::new();
    for _ in 0..nodes {
        head.join();
    }
    head.let_out.clear();
    head
}

fn daemon(node: u32) -> ProcessId {
    ProcessId::daemon(NodeId(node))
}

fn reserve(node: u32, number: u64, attempt: u32, bundles: &[(u32, i64)]) -> (ProcessId, Message) {
    let bundles = bundles.iter().map(|(index, cpus)| (*index, resources(&[("CPU", *cpus)]))).collect();
    (daemon(node), Message::ReserveBundles { group: group(number), attempt, bundles, order: 0 })
}

fn reserved(head: &mut Harness, node: u32, number: u64, attempt: u32) -> Sent {
    head.receive(daemon(node), Message::BundlesReserved { group: group(number), attempt })
}

fn refused(head: &mut Harness, node: u32, number: u64, attempt: u32) -> Sent {
    head.receive(daemon(node), Message::BundlesRefused { group: group(number), attempt })
}

fn commit(node: u32, number: u64, attempt: u32) -> (ProcessId, Message) {
    (daemon(node), Message::CommitBundles { group: group(number), attempt })
}

fn release(node: u32, number: u64, attempt: u32) -> (ProcessId, Message) {
    (daemon(node), Message::ReleaseBundles { group: group(number), attempt })
}

fn give_back(node: u32, number: u64, attempt: u32, removed: bool) -> (ProcessId, Message) {
    (daemon(node), Message::ReturnBundles { group: group(number), attempt, removed })
}

fn suspend(node: u32, number: u64) -> (ProcessId, Message) {
    (daemon(node), Message::SuspendBundles { group: group(number) })
}

fn placed(number: u64, nodes: &[u32]) -> (ProcessId, Message) {
    let state = GroupState::Placed { nodes: nodes.iter().copied().map(NodeId).collect() };
    (WATCHER, Message::GroupUpdate { group: group(number), state })
}

fn removed(number: u64) -> (ProcessId, Message) {
    (WATCHER, Message::GroupUpdate { group: group(number), state: GroupState::Removed })
}

/// Make a group and let its nodes set aside what they are asked for.
fn place(head: &mut Harness, spec: &GroupSpec, nodes: &[u32]) {
    create(head, spec);
    let mut sent = Vec::new();
    for node in nodes {
        sent = reserved(head, *node, spec.id.0.number, 1);
    }
    assert!(sent.iter().any(|(_, message)| matches!(
        message,
        Message::GroupUpdate { state: GroupState::Placed { .. }, .. }
    )));
}

/// What a node says of itself; so many of its CPUs are free.
fn report(head: &mut Harness, node: u32, free: i64) -> Sent {
    let report = NodeSummary { free: resources(&[("CPU", free)]), ..summary(NodeId(node)) };
    without_orders(
        head.receive(daemon(node), Message::NodeReport { report: Box::new(report), order: u64::MAX }),
    )
}

/// Let time pass in which the nodes are well.
fn pass(head: &mut Harness, seconds: u64, nodes: &[u32]) -> Sent {
    let mut sent = Vec::new();
    for _ in 0..seconds {
        nodes.iter().for_each(|node| drop(head.receive(daemon(*node), Message::Heartbeat)));
        sent.extend(passes(head, Span::from_secs(1)));
    }
    sent
}

/// The node's death; what is sent because of it, but for the news itself.
fn dies(head: &mut Harness, node: u32) -> Sent {
    let mut sent: Sent = Vec::new();
    let lost = head.tell(Input::NodeLost { node: NodeId(node) });
    let later = head.pass_for_all(Span::from_secs(2));
    for effect in lost.into_iter().chain(later) {
        if let Effect::Send { to, message } = effect
            && !matches!(message, Message::NodeDied { .. } | Message::Fenced)
        {
            sent.push((to, message));
        }
    }
    without_orders(sent)
}

fn state_of(head: &mut Harness, number: u64) -> Option<GroupState> {
    let sent = head.receive(WATCHER, Message::Ask { request: RequestId(7), query: Query::Groups });
    let [(_, Message::Answer { answer: Answer::Groups(groups), .. })] = &sent[..] else { panic!("{sent:?}") };
    groups.iter().find(|(spec, _)| spec.id == group(number)).map(|(_, state)| state.clone())
}

fn told(sent: &Sent) -> String {
    let detail = sent.iter().rev().find_map(|(_, message)| match message {
        Message::GroupUpdate { state: GroupState::Pending { detail }, .. }
        | Message::GroupUpdate { state: GroupState::Rescheduling { detail }, .. } => Some(detail.clone()),
        _ => None,
    });
    detail.expect("the group waits")
}

#[test]
fn bundles_are_opened_when_all_are_set_aside() {
    let mut head = cluster(2);
    let sent = create(&mut head, &spec(1, GroupStrategy::StrictSpread, &[2, 1]));
    let created = Message::Answer { request: RequestId(1), answer: Answer::GroupCreated };
    let pending = GroupState::Pending { detail: String::new() };
    let update = Message::GroupUpdate { group: group(1), state: pending };
    assert_eq!(
        sent,
        [(MAKER, created), reserve(1, 1, 1, &[(0, 2)]), reserve(2, 1, 1, &[(1, 1)]), (WATCHER, update)]
    );
    assert_eq!(reserved(&mut head, 2, 1, 1), [], "nothing is open before all is set aside");
    assert_eq!(reserved(&mut head, 2, 1, 1), [], "said twice");
    assert_eq!(reserved(&mut head, 1, 1, 0), [], "an answer to something else");
    let sent = reserved(&mut head, 1, 1, 1);
    assert_eq!(sent, [commit(1, 1, 1), commit(2, 1, 1), placed(1, &[1, 2])]);
    assert_eq!(passes(&mut head, Span::from_secs(5)), []);
}

#[test]
fn a_refusal_releases_the_others_and_is_tried_again_with_pauses() {
    let mut head = cluster(2);
    create(&mut head, &spec(1, GroupStrategy::StrictSpread, &[2, 2]));
    reserved(&mut head, 2, 1, 1);
    assert_eq!(refused(&mut head, 1, 1, 1), [release(2, 1, 1)]);
    report(&mut head, 1, 4);
    let mut attempts = 0;
    for _ in 0..50 {
        for (to, message) in passes(&mut head, Span::from_millis(100)) {
            if let Message::ReserveBundles { attempt, .. } = message
                && to == daemon(1)
            {
                attempts += 1;
                refused(&mut head, 1, 1, attempt);
                report(&mut head, 1, 4);
            }
        }
    }
    assert!((8..16).contains(&attempts), "{attempts} attempts in five seconds");
}

#[test]
fn what_waits_says_why_and_is_placed_when_there_is_room() {
    let mut head = cluster(2);
    assert!(
        told(&create(&mut head, &spec(1, GroupStrategy::Pack, &[1, 8]))).contains("bundle 1 needs 8 of CPU")
    );
    place(&mut head, &spec(2, GroupStrategy::StrictSpread, &[3, 3]), &[1, 2]);
    let text = told(&create(&mut head, &spec(3, GroupStrategy::StrictPack, &[1, 1])));
    assert!(text.contains("2 of CPU, and no node has more than 1 free now"), "{text}");
    assert_eq!(report(&mut head, 2, 1), []);
    assert_eq!(passes(&mut head, Span::from_millis(1_100)), [], "nobody asks in vain");
    assert_eq!(report(&mut head, 2, 4), [reserve(2, 3, 1, &[(0, 1), (1, 1)])]);
    // A removed group makes room, too.
    create(&mut head, &spec(4, GroupStrategy::Pack, &[4]));
    head.receive(WATCHER, Message::RemoveGroup { group: group(2) });
    let sent = passes(&mut head, Span::from_millis(100));
    assert_eq!(sent, [reserve(1, 4, 1, &[(0, 4)])]);
}

#[test]
fn what_leases_hold_is_asked_for_in_time_and_what_others_have_is_not() {
    let mut head = cluster(2);
    place(&mut head, &spec(1, GroupStrategy::Pack, &[3]), &[1]);
    for node in [1, 2] {
        report(&mut head, node, 0);
    }
    create(&mut head, &spec(2, GroupStrategy::StrictSpread, &[2, 2]));
    create(&mut head, &spec(3, GroupStrategy::Pack, &[2]));
    assert_eq!(passes(&mut head, Span::from_millis(900)), [], "what is free may come");
    let sent = passes(&mut head, Span::from_millis(200));
    assert_eq!(sent, [reserve(2, 3, 1, &[(0, 2)])], "the other group keeps what it has");
    refused(&mut head, 2, 3, 1);
    assert_eq!(passes(&mut head, Span::from_millis(100)), [reserve(2, 3, 2, &[(0, 2)])], "once more");
    // An actor that runs is not a lease.
    let strategy = Strategy::bound(NodeId(2), false);
    let running = resources(&[("CPU", 3)]);
    let placement = Demand { resources: running.clone(), strategy, ..Demand::default() };
    head.create(&ActorSpec { placement, running, ..actor_spec(actor(1, 7)) });
    refused(&mut head, 2, 3, 2);
    let asked = |sent: Sent| sent.into_iter().any(|(_, m)| matches!(m, Message::ReserveBundles { .. }));
    assert!(!asked(pass(&mut head, 3, &[1, 2])), "nobody can give what is asked for");
}

#[test]
fn labels_choose_among_nodes() {
    let mut head = Harness::new();
    for zone in ["a", "b"] {
        let labels = vec![(String::from("zone"), String::from(zone))];
        let summary = NodeSummary { labels, ..summary(NodeId(0)) };
        head.tell(Input::NodeJoins { connection: 1, summary: Box::new(summary) });
    }
    let mut in_b = spec(1, GroupStrategy::Pack, &[1]);
    let zone = |value: &str| LabelSelector {
        key: String::from("zone"),
        values: vec![String::from(value)],
        excludes: false,
    };
    in_b.bundles[0].labels = vec![zone("b")];
    assert_eq!(create(&mut head, &in_b)[1], reserve(2, 1, 1, &[(0, 1)]));
    let mut nowhere = spec(2, GroupStrategy::Pack, &[1]);
    nowhere.bundles[0].labels = vec![zone("c")];
    assert!(told(&create(&mut head, &nowhere)).contains("labels that bundle 0 asks for (zone=c)"));
}

#[test]
fn a_group_is_removed_in_any_phase() {
    let mut head = cluster(2);
    create(&mut head, &spec(1, GroupStrategy::Pack, &[9]));
    let remove =
        |head: &mut Harness, number| head.receive(WATCHER, Message::RemoveGroup { group: group(number) });
    assert_eq!(remove(&mut head, 1), [removed(1)]);
    create(&mut head, &spec(2, GroupStrategy::StrictSpread, &[1, 1]));
    reserved(&mut head, 1, 2, 1);
    assert_eq!(remove(&mut head, 2), [give_back(1, 2, 1, true), give_back(2, 2, 1, true), removed(2)]);
    assert_eq!(reserved(&mut head, 2, 2, 1), []);
    place(&mut head, &spec(3, GroupStrategy::Pack, &[1]), &[1]);
    assert_eq!(remove(&mut head, 3), [give_back(1, 3, 1, true), removed(3)]);
    assert_eq!(remove(&mut head, 3), [], "told twice");
    assert_eq!(state_of(&mut head, 3), Some(GroupState::Removed));
    assert_eq!(create(&mut head, &spec(4, GroupStrategy::Pack, &[4]))[1], reserve(1, 4, 1, &[(0, 4)]));
}

#[test]
fn the_handle_may_be_faster_than_the_creation() {
    let mut head = cluster(1);
    assert_eq!(head.receive(WATCHER, Message::SubscribeGroup { group: group(1) }), []);
    let sent = create(&mut head, &spec(1, GroupStrategy::Pack, &[1]));
    assert_eq!(sent.iter().filter(|(to, _)| *to == WATCHER).count(), 2, "{sent:?}");
    head.receive(WATCHER, Message::RemoveGroup { group: group(2) });
    let sent = create(&mut head, &spec(2, GroupStrategy::Pack, &[1]));
    assert_eq!(sent[1..], [removed(2)], "it is removed as soon as it is made");
    // Never made.
    head.receive(WATCHER, Message::SubscribeGroup { group: group(3) });
    assert_eq!(pass(&mut head, 9, &[1]), []);
    assert_eq!(pass(&mut head, 2, &[1]), [removed(3)]);
    let sent = head.receive(MAKER, Message::SubscribeGroup { group: group(4) });
    assert_eq!(sent, [(MAKER, Message::GroupUpdate { group: group(4), state: GroupState::Removed })]);
}

#[test]
fn whoever_watches_a_group_learns_what_its_bundles_have() {
    let mut head = cluster(1);
    head.receive(WATCHER, Message::SubscribeGroup { group: group(1) });
    let spec = spec(1, GroupStrategy::Pack, &[1, 8]);
    let create = Message::CreateGroup { spec: Box::new(spec.clone()), request: RequestId(1) };
    let sent = head.receive(MAKER, create);
    let bundles = spec.amounts().cloned().collect();
    let made = (WATCHER, Message::GroupMade { group: group(1), bundles });
    assert_eq!(sent[1], made, "{sent:?}");
    let again = head.receive(WATCHER, Message::SubscribeGroup { group: group(1) });
    assert_eq!((again.len(), &again[0]), (2, &made), "a new head is asked again");
}

#[test]
fn an_actor_goes_to_a_bundle_whose_node_has_its_labels_or_dies_with_the_reason() {
    let mut head = cluster(2);
    let zone = |number: u32| vec![(String::from("zone"), format!("z{number}"))];
    for number in [1, 2] {
        let report = NodeSummary { labels: zone(number), ..summary(NodeId(number)) };
        let report = Message::NodeReport { report: Box::new(report), order: u64::MAX };
        head.receive(daemon(number), report);
    }
    place(&mut head, &spec(1, GroupStrategy::StrictSpread, &[2, 2]), &[1, 2]);
    let mut create = |number, value: &str| {
        let resources = demanded(&resources(&[("CPU", 1)]), group(1), None);
        let zone =
            LabelSelector { key: String::from("zone"), values: vec![String::from(value)], excludes: false };
        let placement = Demand { resources, group: Some(group(1)), labels: vec![zone], ..Demand::default() };
        head.create(&ActorSpec { placement, ..actor_spec(actor(1, number)) })
    };
    let started = |sent: &Sent, node| {
        let start = |(to, message): &(ProcessId, Message)| {
            *to == daemon(node) && matches!(message, Message::StartActor { .. })
        };
        sent.iter().any(start)
    };
    assert!(started(&create(50, "z2"), 2));
    let nowhere = create(51, "z3");
    assert!(!started(&nowhere, 1) && !started(&nowhere, 2));
    pass(&mut head, 25, &[1, 2]);
    let sent = head.receive(WATCHER, Message::SubscribeActor { actor: actor(1, 51) });
    let [(_, Message::ActorUpdate { state, .. })] = &sent[..] else { panic!("{sent:?}") };
    let ActorState::Dead { cause: ActorDeath::Unschedulable(detail) } = state else { panic!("{state:?}") };
    assert!(detail.contains("labels"), "{detail}");
}

#[test]
fn names_are_unique_and_nonsense_is_refused() {
    let mut head = cluster(1);
    let named = |number| GroupSpec { name: String::from("n"), ..spec(number, GroupStrategy::Pack, &[1]) };
    let answer = |sent: Sent| match &sent[0].1 {
        Message::Answer { answer, .. } => answer.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(answer(create(&mut head, &named(1))), Answer::GroupCreated);
    assert_eq!(answer(create(&mut head, &named(1))), Answer::GroupCreated, "told twice");
    assert!(matches!(answer(create(&mut head, &named(2))), Answer::GroupRefused { .. }));
    let find = |head: &mut Harness| {
        let query = Query::GroupByName { name: String::from("n"), namespace: String::from("tests") };
        answer(head.receive(WATCHER, Message::Ask { request: RequestId(3), query }))
    };
    assert!(matches!(find(&mut head), Answer::Groups(found) if found[0].0.id == group(1)));
    head.receive(WATCHER, Message::RemoveGroup { group: group(1) });
    assert_eq!(find(&mut head), Answer::NotFound);
    assert_eq!(answer(create(&mut head, &named(3))), Answer::GroupCreated);
    for cpus in [&[][..], &[0], &[-1]] {
        let nonsense = spec(4, GroupStrategy::Pack, cpus);
        assert!(matches!(answer(create(&mut head, &nonsense)), Answer::GroupRefused { .. }), "{cpus:?}");
    }
    let foreign =
        Message::CreateGroup { spec: Box::new(spec(5, GroupStrategy::Pack, &[1])), request: RequestId(1) };
    assert_eq!(head.receive(process(2), foreign), []);
}

#[test]
fn a_group_ends_with_its_job_or_the_actor_that_made_it_unless_it_is_detached() {
    let mut head = cluster(1);
    let register =
        Message::RegisterJob { driver: MAKER, namespace: String::new(), launch: bytes::Bytes::new() };
    head.receive(daemon(1), register);
    head.create(&ActorSpec { detached: true, ..actor_spec(actor(1, 50)) });
    let mortal = |number| GroupSpec { detached: false, ..spec(number, GroupStrategy::Pack, &[1]) };
    let of_actor = |number| GroupSpec { creator: Some(actor(1, 50)), ..mortal(number) };
    place(&mut head, &mortal(1), &[1]);
    place(&mut head, &spec(2, GroupStrategy::Pack, &[1]), &[1]);
    place(&mut head, &of_actor(3), &[1]);
    let death = Death::Exited { code: 0 };
    let sent = head.receive(daemon(1), Message::ProcessEnded { process: MAKER, death });
    assert!(
        sent.contains(&removed(1)) && !sent.contains(&removed(2)) && !sent.contains(&removed(3)),
        "{sent:?}"
    );
    let sent = head.receive(WATCHER, Message::KillActor { actor: actor(1, 50), no_restart: true });
    assert!(sent.contains(&removed(3)) && !sent.contains(&removed(2)), "{sent:?}");
    let late = create(&mut head, &mortal(5));
    assert!(matches!(&late[0].1, Message::Answer { answer: Answer::GroupRefused { .. }, .. }), "{late:?}");
}

#[test]
fn a_group_that_waits_is_looked_at_when_a_node_is_connected_again() {
    let mut head = cluster(2);
    head.tell(Input::NodeLost { node: NodeId(2) });
    let sent = create(&mut head, &spec(1, GroupStrategy::StrictSpread, &[1, 1]));
    assert!(told(&sent).contains("nodes"), "{sent:?}");
    assert_eq!(passes(&mut head, Span::from_millis(100)), []);
    let sent = without_orders(head.receive(daemon(2), Message::Heartbeat));
    assert_eq!(sent, [reserve(1, 1, 1, &[(0, 1)]), reserve(2, 1, 1, &[(1, 1)])]);
}

#[test]
fn actors_wait_for_their_group_and_end_with_it() {
    let mut head = cluster(2);
    let in_group = |number, bundle, cpus: i64| {
        let demand = demanded(&resources(&[("CPU", cpus)]), group(1), bundle);
        let placement = Demand { resources: demand.clone(), group: Some(group(1)), ..Demand::default() };
        ActorSpec { placement, running: demand, ..actor_spec(actor(1, number)) }
    };
    let started = |sent: &Sent| -> Vec<ProcessId> {
        let starts = sent.iter().filter(|(_, message)| matches!(message, Message::StartActor { .. }));
        starts.map(|(to, _)| *to).collect()
    };
    assert_eq!(started(&head.create(&in_group(50, None, 2))), [], "its group is not made yet");
    create(&mut head, &spec(1, GroupStrategy::StrictSpread, &[2, 1]));
    assert_eq!(started(&head.create(&in_group(51, Some(1), 1))), []);
    assert_eq!(pass(&mut head, 60, &[1, 2]), []);
    reserved(&mut head, 1, 1, 1);
    let sent = reserved(&mut head, 2, 1, 1);
    assert_eq!(started(&sent), [daemon(1), daemon(2)]);
    let large = head.create(&in_group(52, None, 3));
    assert_eq!(started(&large), [], "no bundle has room for it");
    let mut of_two = in_group(53, None, 1);
    of_two.running = Default::default();
    assert_eq!(started(&head.create(&of_two)), [daemon(1)], "both are full; here it comes first");
    // The node gave its bundle back before the actor had started.
    let given = head.report(actor(1, 53), 0, ActorEvent::GivenBack);
    assert_eq!(started(&given), [daemon(1)]);
    let sent = head.receive(WATCHER, Message::RemoveGroup { group: group(1) });
    let stops = sent.iter().filter(|(_, message)| matches!(message, Message::StopActor { .. }));
    assert_eq!(stops.count(), 3);
    let sent = head.receive(WATCHER, Message::SubscribeActor { actor: actor(1, 51) });
    let dead = ActorState::Dead { cause: ActorDeath::GroupRemoved };
    assert!(matches!(&sent[0].1, Message::ActorUpdate { state, .. } if *state == dead), "{sent:?}");
    head.create(&in_group(54, None, 1));
    let sent = head.receive(WATCHER, Message::SubscribeActor { actor: actor(1, 54) });
    assert!(matches!(&sent[0].1, Message::ActorUpdate { state, .. } if *state == dead), "{sent:?}");
}

/// What a node says to a new head: the bundles that it has set aside.
fn comes_back(head: &mut Harness, node: u32, bundles: &[(u64, u32, &[u32], bool)]) -> Sent {
    let bundle = |(number, attempt, indices, committed): &(u64, u32, &[u32], bool)| {
        (group(*number), *attempt, indices.to_vec(), *committed)
    };
    let bundles = bundles.iter().map(bundle).collect();
    let state = NodeState { bundles, ..state(NodeId(node)) };
    let node = NodeId(node);
    let effects = head.tell(Input::NodeReturns { connection: 2, node });
    head.let_out.extend(effects);
    let message = Message::NodeState { state: Box::new(state) };
    let effects = head.tell(Input::Received { via: node, from: ProcessId::daemon(node), message });
    head.let_out.extend(effects);
    head.write_all();
    let of_groups = |(_, message): &(ProcessId, Message)| {
        matches!(
            message,
            Message::CommitBundles { .. }
                | Message::ReleaseBundles { .. }
                | Message::ReserveBundles { .. }
                | Message::ReturnBundles { .. }
                | Message::SuspendBundles { .. }
        )
    };
    without_orders(head.sent().into_iter().filter(of_groups).collect())
}

#[test]
fn a_new_head_goes_on_where_the_log_says() {
    let mut head = Harness::durable();
    for _ in 0..3 {
        head.join();
    }
    // One that is whole, one under repair, one that is being placed.
    for (number, cpus, nodes) in [(1, &[1, 1][..], &[1, 2][..]), (2, &[1, 1, 1], &[1, 2, 3])] {
        create(&mut head, &spec(number, GroupStrategy::StrictSpread, cpus));
        head.write_all();
        nodes.iter().for_each(|node| drop(reserved(&mut head, *node, number, 1)));
        head.write_all();
    }
    dies(&mut head, 3);
    head.write_all();
    create(&mut head, &spec(3, GroupStrategy::StrictSpread, &[1, 1]));
    head.write_all();
    reserved(&mut head, 1, 3, 1);

    let mut second = head.restart();
    second.tell(Input::NodeReturns { connection: 2, node: NodeId(9) });
    second.write_all();
    assert_eq!(state_of(&mut second, 1), Some(GroupState::Placed { nodes: vec![NodeId(1), NodeId(2)] }));
    assert!(matches!(state_of(&mut second, 2), Some(GroupState::Rescheduling { .. })));
    assert!(matches!(state_of(&mut second, 3), Some(GroupState::Pending { .. })));
    // The commit of the first was on its way; the third had come half way; the ninth is unknown. The
    // second has its bundles 1 and 2 on nodes 1 and 2, for 3 had most room.
    let bundles: [(u64, u32, &[u32], bool); 4] =
        [(1, 1, &[0], false), (2, 1, &[1], true), (3, 1, &[0], false), (9, 4, &[0], true)];
    let sent = comes_back(&mut second, 1, &bundles);
    assert_eq!(sent, [release(1, 3, 1), give_back(1, 9, 4, true), commit(1, 1, 1), suspend(1, 2)]);
    assert_eq!(passes(&mut second, Span::from_secs(1)), [], "nothing is placed while a node is awaited");
    let sent = comes_back(&mut second, 2, &[(1, 1, &[1], true), (2, 1, &[2], true)]);
    assert_eq!(sent, [commit(2, 1, 1), suspend(2, 2)]);
    let sent = passes(&mut second, Span::from_millis(10));
    assert_eq!(sent, [reserve(1, 3, 2, &[(0, 1)]), reserve(2, 3, 2, &[(1, 1)])]);
    // What a node should have and does not is lost.
    let mut third = second.restart();
    third.tell(Input::NodeReturns { connection: 2, node: NodeId(9) });
    third.write_all();
    comes_back(&mut third, 2, &[(1, 1, &[1], true)]);
    let sent = comes_back(&mut third, 1, &[(2, 1, &[1], true)]);
    assert!(sent.contains(&suspend(1, 2)), "{sent:?}");
    assert!(matches!(state_of(&mut third, 1), Some(GroupState::Rescheduling { .. })));
}
