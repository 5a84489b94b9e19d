//! Groups that have lost bundles.

use super::*;

#[test]
fn what_a_dead_node_had_is_placed_anew_at_once_while_the_rest_is_suspended() {
    let mut head = cluster(3);
    place(&mut head, &spec(1, GroupStrategy::StrictSpread, &[2, 2, 2]), &[1, 2, 3]);
    let sent = dies(&mut head, 2);
    let rescheduling = |detail: &str| {
        let state = GroupState::Rescheduling { detail: String::from(detail) };
        (WATCHER, Message::GroupUpdate { group: group(1), state })
    };
    let why = "it needs 1 nodes more, each bundle its own, and 0 have room for one";
    assert_eq!(sent, [suspend(1, 1), suspend(3, 1), rescheduling(""), rescheduling(why)]);
    assert_eq!(head.join(), NodeId(4));
    head.let_out.clear();
    assert_eq!(passes(&mut head, Span::from_millis(100)), [reserve(4, 1, 2, &[(1, 2)])]);
    let sent = reserved(&mut head, 4, 1, 2);
    assert_eq!(sent, [commit(1, 1, 2), commit(3, 1, 2), commit(4, 1, 2), placed(1, &[1, 4, 3])]);
}

#[test]
fn a_node_that_dies_while_it_is_asked_ends_the_attempt() {
    let mut head = cluster(3);
    create(&mut head, &spec(1, GroupStrategy::StrictSpread, &[2, 2]));
    reserved(&mut head, 1, 1, 1);
    let sent = dies(&mut head, 2);
    assert_eq!(sent, [release(1, 1, 1), reserve(1, 1, 2, &[(0, 2)]), reserve(3, 1, 2, &[(1, 2)])]);
    reserved(&mut head, 1, 1, 2);
    assert_eq!(reserved(&mut head, 3, 1, 2).last(), Some(&placed(1, &[1, 3])));
}

#[test]
fn a_bundle_that_is_lost_while_another_one_is_placed_is_placed_with_it() {
    let mut head = cluster(4);
    place(&mut head, &spec(1, GroupStrategy::StrictSpread, &[2, 2]), &[1, 2]);
    assert!(dies(&mut head, 2).contains(&reserve(3, 1, 2, &[(1, 2)])));
    let sent = dies(&mut head, 1);
    assert_eq!(sent, [release(3, 1, 2), reserve(3, 1, 3, &[(0, 2)]), reserve(4, 1, 3, &[(1, 2)])]);
    assert_eq!(reserved(&mut head, 3, 1, 2), []);
}

#[test]
fn a_group_that_gives_way_gives_up_what_is_being_placed_of_it() {
    let mut head = cluster(5);
    place(&mut head, &spec(1, GroupStrategy::StrictSpread, &[4, 4]), &[1, 2]);
    place(&mut head, &spec(2, GroupStrategy::StrictSpread, &[2, 2]), &[3, 4]);
    report(&mut head, 5, 2);
    dies(&mut head, 2);
    assert!(dies(&mut head, 3).contains(&reserve(5, 2, 2, &[(0, 2)])));
    // As often as it takes that nobody waits for the answer.
    for attempt in 2..5 {
        refused(&mut head, 5, 2, attempt);
        report(&mut head, 5, 2);
        let sent = passes(&mut head, Span::from_millis(200));
        assert!(sent.contains(&reserve(5, 2, attempt + 1, &[(0, 2)])), "{sent:?}");
    }
    let sent = pass(&mut head, 2, &[1, 4, 5]);
    assert!(
        sent.contains(&give_back(4, 2, 5, false)) && sent.contains(&give_back(5, 2, 5, false)),
        "{sent:?}"
    );
    assert!(sent.contains(&reserve(4, 1, 2, &[(1, 4)])), "{sent:?}");
    assert_eq!(reserved(&mut head, 5, 2, 5), []);
}

#[test]
fn of_two_groups_that_wait_for_each_other_the_younger_gives_way() {
    let mut head = cluster(4);
    place(&mut head, &spec(1, GroupStrategy::StrictSpread, &[4, 4]), &[1, 2]);
    place(&mut head, &spec(2, GroupStrategy::StrictSpread, &[4, 4]), &[3, 4]);
    dies(&mut head, 2);
    let sent = dies(&mut head, 3);
    assert!(sent.contains(&suspend(4, 2)), "{sent:?}");
    let sent = passes(&mut head, Span::from_secs(2));
    assert_eq!(sent[0], give_back(4, 2, 1, false));
    assert!(sent.contains(&reserve(4, 1, 2, &[(1, 4)])), "{sent:?}");
    assert_eq!(reserved(&mut head, 4, 1, 2).last(), Some(&placed(1, &[1, 4])));
    assert!(matches!(state_of(&mut head, 2), Some(GroupState::Rescheduling { .. })));
    assert_eq!(pass(&mut head, 60, &[1, 4]), [], "the older one never gives way");
    // Where it would not help, nobody gives up anything.
    let mut head = cluster(4);
    place(&mut head, &spec(1, GroupStrategy::StrictSpread, &[4, 4, 4]), &[1, 2, 3]);
    place(&mut head, &spec(2, GroupStrategy::Pack, &[4]), &[4]);
    dies(&mut head, 2);
    dies(&mut head, 3);
    let sent = pass(&mut head, 60, &[1, 4]);
    assert!(!sent.iter().any(|(_, message)| matches!(message, Message::ReturnBundles { .. })), "{sent:?}");
}

#[test]
fn groups_that_wait_for_each_other_wait_for_what_a_node_would_say_until_it_is_dead() {
    let mut head = Harness::durable();
    for _ in 0..5 {
        head.join();
    }
    for (number, nodes) in [(1, [1, 2]), (2, [3, 4])] {
        create(&mut head, &spec(number, GroupStrategy::StrictSpread, &[4, 4]));
        head.write_all();
        nodes.iter().for_each(|node| drop(reserved(&mut head, *node, number, 1)));
        head.write_all();
    }
    report(&mut head, 5, 0);
    for node in [2, 3] {
        dies(&mut head, node);
        head.write_all();
    }
    let mut second = head.restart();
    second.tell(Input::NodeReturns { connection: 2, node: NodeId(1) });
    second.write_all();
    let left: [(u32, u64, &[u32]); 2] = [(1, 1, &[0]), (4, 2, &[1])];
    for (node, number, indices) in left {
        comes_back(&mut second, node, &[(number, 1, indices, true)]);
        report(&mut second, node, 0);
    }
    // Of the fifth, which has nothing of these groups, nothing is heard any more.
    let mut sent = Vec::new();
    for _ in 0..15 {
        sent.extend(pass(&mut second, 1, &[1, 4]));
        second.write_all();
        sent.extend(without_orders(second.sent()));
    }
    assert!(sent.contains(&give_back(4, 2, 1, false)), "{sent:?}");
    assert!(sent.contains(&reserve(4, 1, 2, &[(1, 4)])), "{sent:?}");
}
