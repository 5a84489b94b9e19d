//! Who reads what: objects that are here, or that other nodes have.

use alloc::vec::Vec;

use super::Node;
use super::outbox::Outbox;
use super::processes::Role;
use super::store::{Offer, Wanted};
use crate::ids::{NodeId, ObjectId, ProcessId};
use crate::message::Message;

impl Node {
    /// A process here wants to read an object.
    pub(super) fn pin(&mut self, from: ProcessId, object: ObjectId, locations: &[NodeId], out: &mut Outbox) {
        let own = self.config.node;
        let elsewhere = |node: &NodeId| *node != own && !self.view.is_dead(*node);
        let mut others: Vec<NodeId> = locations.iter().copied().filter(elsewhere).collect();
        if others.is_empty() {
            let primary = self.store.primary_of_dropped(object, out.now);
            others.extend(primary.filter(elsewhere));
        }
        let away = !locations.is_empty() && !locations.contains(&own);
        if self.store.has(object) || others.is_empty() && !away {
            // Where no other node has it, it is about to be sealed here.
            let owner_dead = self.processes.is_dead(object.owner());
            return self.store.pin(from, object, owner_dead, out);
        }
        let job = self.processes.get(from).and_then(|process| process.job).unwrap_or_default();
        let urgent = self.is_blocked(from);
        self.store.pull(object, Wanted { reader: from, job, urgent, locations: others });
    }

    /// Whether a process cannot go on without what it asks for: programs ask when they need it, tasks
    /// say so when they wait.
    fn is_blocked(&self, process: ProcessId) -> bool {
        match self.processes.get(process).map(|process| &process.role) {
            Some(Role::Driver { .. }) => true,
            Some(Role::Worker(worker)) => worker.holding.as_ref().is_some_and(|held| held.is_blocked()),
            None => false,
        }
    }

    pub(super) fn received_of_store(&mut self, from: NodeId, message: Message, out: &mut Outbox) {
        match message {
            Message::PullObject { object } => self.store.pull_object(from, object, out),
            Message::PullEnded { object } => self.store.pull_ended(from, object, out),
            // It goes, too, and may have told the head already that nothing is left here.
            Message::KeepObject { object, .. } if self.draining.is_some() => {
                out.send(ProcessId::daemon(from), Message::ObjectKept { object, attempt: None });
            }
            Message::KeepObject { object, job } => self.store.keep_object(from, object, job, out),
            Message::ObjectKept { object, attempt } => self.store.object_kept(from, object, attempt),
            Message::PullReady { object, attempt, size, primary } => {
                let primary = if self.view.is_dead(primary) { self.config.node } else { primary };
                self.store.pull_ready(from, object, Offer { attempt, size, primary }, out);
            }
            Message::PullFailed { object, failure } => self.store.pull_failed(from, object, failure),
            Message::PullElsewhere { object, node } => {
                let at = Some(node).filter(|node| *node != self.config.node && !self.view.is_dead(*node));
                self.store.pull_elsewhere(from, object, at);
            }
            _ => {}
        }
    }

    /// Owners learn of copies that were made and dropped here.
    pub(super) fn tell_owners(&mut self, out: &mut Outbox) {
        let node = self.config.node;
        for (object, attempt) in self.store.take_copied() {
            self.watch_owner(object.owner(), out);
            if let Some(owner) = self.present_owner(object) {
                out.send(owner, Message::CopyAdded { object, node, attempt });
            }
        }
        for (object, attempt) in self.store.take_dropped() {
            if let Some(owner) = self.present_owner(object) {
                out.send(owner, Message::CopyRemoved { object, node, attempt });
            }
        }
    }

    /// Who owns an object now, as far as this node knows.
    fn present_owner(&self, object: ObjectId) -> Option<ProcessId> {
        let owner = object.owner();
        if self.view.is_dead(owner.node()) {
            let heir = self.view.line_of(owner.node()).last().filter(|heir| !self.view.is_dead(*heir));
            heir.map(ProcessId::steward)
        } else if self.processes.is_dead(owner) {
            Some(ProcessId::steward(owner.node()))
        } else {
            Some(owner)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TaskId;
    use crate::machine::Span;
    use crate::node::cluster::Cluster;
    use crate::node::harness::{KILLED, afar};
    use crate::node::{Work, WorkResult};
    use crate::value::Failure;

    const MIB: u64 = 1 << 20;

    fn object(owner: ProcessId, number: u64) -> ObjectId {
        TaskId { owner, number }.object(0)
    }

    /// Three nodes; the driver of the first has made an object of one MiB there.
    fn cluster() -> (Cluster, ObjectId) {
        let mut cluster = Cluster::new(3, 64 * MIB);
        let x = object(afar(1, 1), 1);
        cluster.put(afar(1, 1), x, MIB);
        (cluster, x)
    }

    fn is_pinned(told: &[Message], object: ObjectId) -> bool {
        matches!(told, [Message::Pinned { object: pinned, size: MIB, .. }] if *pinned == object)
    }

    fn failure(told: &[Message]) -> &Failure {
        match told {
            [Message::PinFailed { failure, .. }] => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn readers_of_a_node_share_one_copy_and_the_owner_learns_of_it() {
        let (mut cluster, x) = cluster();
        let (first, second) = (cluster.worker(2), cluster.worker(2));
        cluster.pin(first, x, &[1]);
        cluster.pin(second, x, &[1]);
        cluster.run();
        assert_eq!(cluster.offers.len(), 1);
        let [(node, from, fetch)] = cluster.fetches()[..] else { panic!("{:?}", cluster.work) };
        assert_eq!((node, from), (NodeId(2), NodeId(1)));
        cluster.finish(NodeId(2), fetch, WorkResult::Done);
        assert!(is_pinned(&cluster.told(first), x) && is_pinned(&cluster.told(second), x));
        cluster.run();
        assert!(cluster.offers.is_empty(), "the source is free to move it again");
        let added = Message::CopyAdded { object: x, node: NodeId(2), attempt: 0 };
        assert_eq!(cluster.told(afar(1, 1)), [added]);
        // The next reader finds it there, a reader of the third node may read from there.
        cluster.pin(afar(2, 1), x, &[1, 2]);
        assert!(is_pinned(&cluster.told(afar(2, 1)), x));
        cluster.pin(afar(3, 1), x, &[2, 1]);
        cluster.run();
        assert_eq!(cluster.fetches()[0].1, NodeId(2));
        cluster.finish_all();
        assert!(is_pinned(&cluster.told(afar(3, 1)), x));
    }

    #[test]
    fn what_all_nodes_want_at_once_goes_as_a_tree() {
        let mut cluster = Cluster::new(14, 64 * MIB);
        let (large, small) = (object(afar(1, 1), 1), object(afar(1, 1), 2));
        for (x, size, rounds) in [(large, MIB, 3), (small, MIB - 1, 1)] {
            cluster.put(afar(1, 1), x, size);
            (2..=14).for_each(|node| cluster.pin(afar(node, 1), x, &[1]));
            let mut served = alloc::collections::BTreeMap::<NodeId, usize>::new();
            for _ in 0..rounds {
                cluster.run();
                for (node, from, fetch) in cluster.fetches() {
                    *served.entry(from).or_default() += 1;
                    cluster.finish(node, fetch, WorkResult::Done);
                }
            }
            assert!((2..=14).all(|node| matches!(cluster.told(afar(node, 1))[..], [Message::Pinned { .. }])));
            let most = served.into_values().max();
            assert_eq!(most, Some(if x == large { 3 } else { 13 }));
        }
    }

    #[test]
    fn who_was_sent_on_comes_back_when_that_node_fails() {
        for dies in [true, false] {
            let (mut cluster, x) = (Cluster::new(5, 64 * MIB), object(afar(1, 1), 1));
            cluster.put(afar(1, 1), x, MIB);
            (2..=5).for_each(|node| cluster.pin(afar(node, 1), x, &[1]));
            cluster.run();
            let fetches = cluster.fetches();
            assert_eq!(fetches.len(), 3, "the last one waits for one of them");
            let (busy, last) = (NodeId(2 + 5 % 3), afar(5, 1));
            assert!(fetches.iter().all(|(node, ..)| *node != last.node()));
            if dies {
                cluster.die(busy.0);
            } else {
                // It does not get its copy in time. The others do.
                for (node, _, fetch) in fetches.iter().filter(|(node, ..)| *node != busy) {
                    cluster.finish(*node, *fetch, WorkResult::Done);
                }
                cluster.run();
                cluster.pass(Span::from_secs(5));
            }
            cluster.run();
            let [.., (_, from, fetch)] = cluster.fetches()[..] else { panic!("{:?}", cluster.work) };
            assert_eq!(from, NodeId(1), "the source is asked again");
            cluster.finish(last.node(), fetch, WorkResult::Done);
            let told = cluster.told(last);
            assert!(told.iter().any(|message| matches!(message, Message::Pinned { .. })), "{told:?}");
        }
    }

    #[test]
    fn a_node_that_fails_is_followed_by_the_next_and_the_last_by_a_loss() {
        let (mut cluster, x) = cluster();
        let reader = afar(2, 1);
        // The third node does not have it: it says so when nobody has sealed it there in time.
        cluster.pin(reader, x, &[3, 1]);
        cluster.run();
        assert_eq!(cluster.fetches(), []);
        cluster.pass(Span::from_secs(5));
        cluster.run();
        // What breaks off is tried again, not for ever.
        for _ in 0..9 {
            assert_eq!(cluster.told(reader), []);
            let [(_, from, fetch)] = cluster.fetches()[..] else { panic!("{:?}", cluster.work) };
            assert_eq!(from, NodeId(1));
            let broken = Failure::ObjectLost { object: x, detail: "bad checksum".into() };
            cluster.finish(NodeId(2), fetch, WorkResult::Failed(broken));
            cluster.run();
        }
        assert!(matches!(failure(&cluster.told(reader)), Failure::ObjectLost { .. }));
        assert!(cluster.offers.is_empty());
        cluster.die(1);
        cluster.pin(reader, x, &[1]);
        assert!(
            matches!(failure(&cluster.told(reader)[1..]), Failure::ObjectLost { .. }),
            "of all known dead"
        );
    }

    #[test]
    fn a_copy_that_broke_off_on_its_way_is_not_lost() {
        let (mut cluster, x) = cluster();
        let reader = afar(2, 1);
        cluster.pin(reader, x, &[1]);
        cluster.run();
        let broken = Failure::ObjectLost { object: x, detail: "connection lost".into() };
        cluster.finish(NodeId(2), cluster.fetches()[0].2, WorkResult::Failed(broken));
        cluster.run();
        cluster.finish_all();
        assert!(is_pinned(&cluster.told(reader), x));
    }

    #[test]
    fn the_death_of_the_source_leads_to_the_next_or_to_a_loss() {
        for others in [&[1][..], &[1, 3][..]] {
            let (mut cluster, x) = cluster();
            cluster.pin(afar(3, 1), x, &[1]);
            cluster.finish_all();
            let reader = afar(2, 1);
            cluster.pin(reader, x, others);
            cluster.run();
            let (_, _, fetch) = cluster.fetches()[0];
            cluster.die(1);
            assert_eq!(cluster.cancelled, [(NodeId(2), fetch)]);
            // What was cancelled ends like anything else, and only then is its room free.
            let gone = Failure::ObjectLost { object: x, detail: "connection lost".into() };
            cluster.finish(NodeId(2), fetch, WorkResult::Failed(gone));
            cluster.finish_all();
            let told: Vec<Message> = cluster
                .told(reader)
                .into_iter()
                .filter(|message| matches!(message, Message::Pinned { .. } | Message::PinFailed { .. }))
                .collect();
            if others.len() == 1 {
                let Failure::ObjectLost { detail, .. } = failure(&told) else { panic!("{told:?}") };
                assert!(detail.contains("node 1"), "{detail}");
            } else {
                assert!(is_pinned(&told, x), "{told:?}");
            }
        }
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_fetched_and_its_late_answer_ignored() {
        let (mut cluster, x) = cluster();
        let (reader, other) = (cluster.worker(2), cluster.worker(2));
        cluster.pin(reader, x, &[1]);
        cluster.exited(reader);
        // Asked for again before the answer to the first question is here.
        cluster.pin(other, x, &[1]);
        cluster.run();
        assert_eq!((cluster.fetches().len(), cluster.offers.len()), (1, 1));
        cluster.exited(other);
        assert_eq!(cluster.cancelled.len(), 1);
        cluster.run();
        assert!(cluster.offers.is_empty());
        cluster.finish_all();
        cluster.told.clear();
        cluster.pin(afar(2, 1), x, &[1]);
        cluster.finish_all();
        assert!(is_pinned(&cluster.told(afar(2, 1)), x));
    }

    #[test]
    fn what_is_made_here_meanwhile_is_read_here() {
        let (mut cluster, x) = cluster();
        let (reader, maker) = (cluster.worker(2), cluster.worker(2));
        cluster.pin(reader, x, &[1]);
        cluster.run();
        cluster.put(maker, x, MIB);
        assert!(is_pinned(&cluster.told(reader), x));
        assert_eq!(cluster.cancelled.len(), 1);
        cluster.finish_all();
        assert!(cluster.offers.is_empty());
    }

    #[test]
    fn what_is_freed_while_it_comes_is_not_kept() {
        let (mut cluster, x) = cluster();
        let owner = afar(1, 1);
        let reader = afar(2, 1);
        cluster.pin(reader, x, &[1]);
        cluster.run();
        let free = Message::FreeObject { object: x, attempt: u32::MAX };
        cluster.says(owner, 2, free.clone());
        cluster.says(owner, 1, free);
        assert_eq!(*failure(&cluster.told(reader)), Failure::Freed { object: x });
        cluster.finish_all();
        for node in cluster.nodes.values() {
            assert_eq!(node.node.inspect().store.used, 0);
        }
    }

    #[test]
    fn what_was_said_to_be_freed_before_anybody_asked_may_be_copied_anew() {
        let (mut cluster, x) = cluster();
        let reader = afar(2, 1);
        // The owner had been told of a copy that is not there.
        cluster.says(afar(1, 1), 2, Message::FreeObject { object: x, attempt: 0 });
        cluster.pin(reader, x, &[1]);
        cluster.finish_all();
        assert!(is_pinned(&cluster.told(reader), x));
    }

    #[test]
    fn a_spilled_object_is_read_back_for_others_and_a_copy_is_dropped_where_room_is_short() {
        let mut cluster = Cluster::new(2, 16 * MIB);
        let owner = afar(1, 1);
        let numbered = |number| object(owner, number);
        for number in 0..20 {
            cluster.put(owner, numbered(number), MIB);
            cluster.pass(Span::from_millis(20));
        }
        assert!(!cluster.disks.is_empty());
        let reader = afar(2, 1);
        for number in 0..20 {
            cluster.pin(reader, numbered(number), &[1]);
            cluster.finish_all();
            cluster.pass(Span::from_millis(20));
            cluster.finish_all();
            assert!(is_pinned(&cluster.told(reader), numbered(number)), "{number}");
            cluster.unpin(reader, numbered(number));
        }
        assert!(cluster.disks.iter().all(|(node, ..)| *node == NodeId(1)), "copies are not written");
        let removed = cluster
            .told(owner)
            .iter()
            .filter(|message| matches!(message, Message::CopyRemoved { .. }))
            .count();
        assert!(removed >= 4, "{removed}");
        // After the death of the node that keeps them, they are all there is.
        cluster.die(1);
        for number in 0..8 {
            cluster.put(reader, object(reader, number), MIB);
            cluster.pass(Span::from_millis(20));
        }
        assert!(!cluster.disks.is_empty(), "now they are written");
    }

    #[test]
    fn a_copy_without_room_fails_like_any_other_need_of_room() {
        let mut cluster = Cluster::new(2, 8 * MIB);
        let owner = afar(1, 1);
        cluster.put(owner, object(owner, 1), 6 * MIB);
        let reader = afar(2, 1);
        cluster.put(reader, object(reader, 1), 6 * MIB);
        cluster.pin(reader, object(reader, 1), &[]);
        cluster.pin(reader, object(owner, 1), &[1]);
        cluster.run();
        cluster.pass(Span::from_secs(3));
        cluster.run();
        let told = cluster.told(reader);
        let failed = told.iter().filter(|message| {
            matches!(message, Message::PinFailed { failure: Failure::StoreFull { .. }, .. })
        });
        assert_eq!(failed.count(), 1, "{told:?}");
        assert!(cluster.offers.is_empty());
    }

    #[test]
    fn the_heir_of_a_dead_owner_learns_of_copies_that_come_later() {
        let (mut cluster, x) = cluster();
        let owner = object(cluster.worker(1), 5).owner();
        let y = object(owner, 5);
        cluster.put(owner, y, MIB);
        cluster.exited(owner);
        cluster.pin(afar(2, 1), y, &[1]);
        cluster.pin(afar(2, 1), x, &[1]);
        cluster.finish_all();
        let added = |object| Message::CopyAdded { object, node: NodeId(2), attempt: 0 };
        let steward = ProcessId::steward(NodeId(1));
        let here = Message::CopyAdded { object: y, node: NodeId(1), attempt: 0 };
        assert_eq!(cluster.told(steward), [here, added(y)]);
        assert!(cluster.told(afar(1, 1)).contains(&added(x)));
        let died = Message::ProcessDied { process: owner, death: KILLED };
        assert!(!cluster.told(afar(2, 1)).contains(&died), "nobody there has asked for it");
    }

    #[test]
    fn fetches_are_bounded_and_those_of_blocked_readers_come_first() {
        let mut cluster = Cluster::new(2, 64 * MIB);
        let owner = afar(1, 1);
        for number in 0..4 {
            cluster.put(owner, object(owner, number), 10 * MIB);
        }
        let (task, blocked) = (cluster.worker(2), cluster.worker(2));
        for number in 0..3 {
            cluster.pin(task, object(owner, number), &[1]);
        }
        cluster.run();
        let wanted = |cluster: &Cluster| -> Vec<u64> {
            let fetched = |work: &Work| match work {
                Work::Fetch { object, .. } => Some(object.task.number),
                _ => None,
            };
            cluster.work.values().filter_map(fetched).collect()
        };
        assert_eq!(wanted(&cluster), [0], "16 MiB at a time");
        cluster.pin(blocked, object(owner, 3), &[1]);
        cluster.run();
        assert_eq!(wanted(&cluster), [0]);
        cluster.says(blocked, 2, Message::Blocked);
        cluster.run();
        assert_eq!(wanted(&cluster), [0, 3], "what tasks will need does not count against it");
        let urgent = cluster.work.values().filter_map(|work| match work {
            Work::Fetch { object, urgent, .. } => Some((object.task.number, *urgent)),
            _ => None,
        });
        assert_eq!(urgent.collect::<Vec<_>>(), [(0, false), (3, true)], "its bytes go first, too");
        cluster.finish_all();
        assert_eq!(cluster.told(task).len(), 3);
    }
}
