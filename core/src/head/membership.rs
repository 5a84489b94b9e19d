//! Who belongs to the cluster: joining, coming back, falling silent.
//!
//! A node is a member from the moment its number is in the log. It is dead when the head says so, and
//! the head says so when the node's connection has been gone for a while or nothing was heard of it for
//! longer. Slow is not dead: whatever comes from a node counts as hearing of it, and a head that was
//! held up itself gives everybody more time.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::nodes::{Link, Node};
use super::{Effect, Head, Key, Outbox};
use crate::ids::NodeId;
use crate::machine::{Span, Time, Wakeup};
use crate::message::{Message, NodeSummary};
use crate::mutants::Mutant;
use crate::resources::Resources;

/// A head that comes this late to look for silent nodes was held up.
const HELD_UP: Span = Span::from_millis(500);

impl Head {
    /// A daemon gets a number that was never given before.
    pub(super) fn node_joins(&mut self, connection: u64, summary: NodeSummary, out: &mut Outbox) {
        let last = self.meta.last_node.checked_add(1).expect("node numbers are used up");
        let node = NodeId(last);
        self.add_node(NodeSummary { node, ..summary }, out);
        out.push(Effect::Admit { connection, node, epoch: self.meta.epoch });
        self.brief(node, true, out);
        self.place_unplaced(out);
    }

    fn add_node(&mut self, summary: NodeSummary, out: &mut Outbox) {
        let id = summary.node;
        self.meta.last_node = id.0;
        out.touch(Key::Meta);
        out.touch(Key::Node(id));
        let node = Node::new(NodeSummary { alive: true, ..summary }, out.now);
        self.watch(&node);
        self.nodes.insert(node);
        self.nodes.inherit(id, out);
        self.view_changed(id);
    }

    /// The daemon that the head lives in has not joined, and never will: there is no log, and no other
    /// node. What it has it reports.
    fn adopt_host(&mut self, node: NodeId, out: &mut Outbox) {
        self.meta.host = Some(node);
        let (name, host, address, labels) = (String::new(), String::new(), String::new(), Vec::new());
        let (total, free) = (Resources::default(), Resources::default());
        self.add_node(NodeSummary { node, alive: true, name, host, address, total, free, labels }, out);
    }

    pub(super) fn node_returns(&mut self, connection: u64, id: NodeId, out: &mut Outbox) {
        let epoch = self.meta.epoch;
        let Some(node) = self.nodes.get_mut(id) else {
            let reason = format!("node {} is not in the cluster, or not any more", id.0);
            return out.push(Effect::Refuse { connection, reason });
        };
        node.heard = out.now;
        node.link = Link::Up;
        out.push(Effect::Resume { connection, node: id, epoch });
        self.brief(id, false, out);
        self.place_unplaced(out);
    }

    pub(super) fn node_lost(&mut self, id: NodeId, out: &mut Outbox) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if node.link == Link::Up {
            node.link = Link::Cut { since: out.now };
            let node = node.clone();
            self.watch(&node);
        }
    }

    /// The last head lived in the daemon of this node, which nobody hears of any more. Where heads are elected it
    /// may be there all the same, and have lost no more than its office.
    pub(super) fn former_host_is_missed(&mut self, host: NodeId, out: &mut Outbox) {
        if !self.config.elected || Mutant::BuryPredecessor.is_active() {
            return self.node_dies(host, out);
        }
        let Some(node) = self.nodes.get_mut(host) else { return };
        node.link = Link::Awaited { missed: Some(out.now) };
        let node = node.clone();
        self.meta.host = None;
        self.watch(&node);
    }

    /// The head lives in the daemon of this node. They die together, so it need not listen for it.
    pub(super) fn hosted(&mut self, node: NodeId, out: &mut Outbox) {
        self.meta.host = Some(node);
        out.touch(Key::Meta);
    }

    /// No head will follow this one: without one the nodes could neither go on nor join another.
    pub(super) fn cluster_ends(&mut self, out: &mut Outbox) {
        let host = self.meta.host;
        for node in self.nodes.within_reach().filter(|node| Some(*node) != host) {
            out.send_to_node(node, Message::ClusterEnds);
        }
    }

    /// Something came through the session of a node. Says whether it is worth listening to.
    pub(super) fn hears(&mut self, via: NodeId, out: &mut Outbox) -> bool {
        // Nobody has the number 0.
        if self.meta.last_node == 0 && !self.journal.is_durable() && via != NodeId(0) {
            self.adopt_host(via, out);
        }
        let Some(node) = self.nodes.get_mut(via) else {
            out.send_to_node(via, Message::Fenced);
            return false;
        };
        node.heard = out.now;
        if node.link != Link::Up {
            // There is a connection again, or the news that it broke was of an older one.
            node.link = Link::Up;
            self.place_unplaced(out);
        }
        true
    }

    pub(super) fn node_report(&mut self, report: NodeSummary, order: u64, out: &mut Outbox) {
        let id = report.node;
        let Some(node) = self.nodes.get_mut(id) else { return };
        let before = core::mem::replace(&mut node.summary.total, report.total.clone());
        let offers_more = before != report.total || node.summary.labels != report.labels;
        node.report(report, order);
        self.view_changed(id);
        if offers_more {
            self.place_unplaced(out);
        }
    }

    /// Wake when the node is to be declared dead.
    fn watch(&mut self, node: &Node) {
        let deadline = node.deadline(&self.config);
        self.patrol = self.patrol.min(deadline);
        self.deadlines.arm(Wakeup::SilentNodes, deadline);
    }

    /// Look for nodes of which nothing was heard for too long.
    pub(super) fn silent_due(&mut self, out: &mut Outbox) {
        let due = core::mem::replace(&mut self.patrol, Time(u64::MAX));
        if due + HELD_UP <= out.now {
            // What the nodes have said meanwhile may still wait to be read.
            self.forgive(out.now);
        }
        let late: Vec<NodeId> =
            self.watched().filter(|(_, deadline)| *deadline <= out.now).map(|(id, _)| id).collect();
        for id in late {
            self.node_dies(id, out);
        }
        if let Some(next) = self.watched().map(|(_, deadline)| deadline).min() {
            self.patrol = next;
            self.deadlines.arm(Wakeup::SilentNodes, next);
        }
    }

    /// The nodes that die if they fall silent, and when.
    fn watched(&self) -> impl Iterator<Item = (NodeId, Time)> {
        let others = self.nodes.alive().filter(|(id, _)| self.meta.host != Some(*id));
        others.map(|(id, node)| (id, node.deadline(&self.config)))
    }

    /// Count silence from now on.
    pub(super) fn forgive(&mut self, now: Time) {
        for node in self.nodes.alive_mut() {
            node.heard = now;
            if let Link::Cut { since } | Link::Awaited { missed: Some(since) } = &mut node.link {
                *since = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Input;
    use crate::head::harness::*;
    use crate::ids::ProcessId;
    use alloc::vec;

    const SECOND: Span = Span::from_secs(1);

    fn deaths(effects: &[Effect]) -> Vec<u32> {
        let forgotten = effects.iter().filter_map(|effect| match effect {
            Effect::Forget { node } => Some(node.0),
            _ => None,
        });
        forgotten.collect()
    }

    /// Three nodes, of which the first two go on speaking.
    fn three() -> Harness {
        let mut head = Harness::new();
        assert_eq!([head.join(), head.join(), head.join()].map(|node| node.0), [1, 2, 3]);
        head
    }

    /// Time passes while nodes speak.
    fn pass(head: &mut Harness, seconds: u64, speaking: &[u32]) -> Vec<Effect> {
        let mut all = Vec::new();
        for _ in 0..seconds {
            all.extend(head.pass_for_all(SECOND));
            for node in speaking {
                let from = ProcessId::daemon(NodeId(*node));
                all.extend(head.tell(Input::Received {
                    via: from.node(),
                    from,
                    message: Message::Heartbeat,
                }));
            }
        }
        all
    }

    #[test]
    fn a_silent_node_is_dead_after_a_while_and_a_cut_off_one_sooner() {
        let mut head = three();
        assert_eq!(deaths(&pass(&mut head, 9, &[1, 2])), [0; 0]);
        assert_eq!(deaths(&pass(&mut head, 1, &[1, 2])), [3]);
        let lost = Input::NodeLost { node: NodeId(2) };
        head.tell(lost.clone());
        assert_eq!(deaths(&pass(&mut head, 1, &[1])), [0; 0]);
        assert_eq!(deaths(&pass(&mut head, 1, &[1])), [2]);
        assert_eq!(deaths(&head.tell(lost)), [0; 0], "once");
    }

    #[test]
    fn who_comes_back_in_time_lives() {
        let mut head = three();
        head.tell(Input::NodeLost { node: NodeId(2) });
        pass(&mut head, 1, &[1, 3]);
        let returns = Input::NodeReturns { connection: 9, node: NodeId(2) };
        let effects = head.tell(returns);
        assert_eq!(effects, [Effect::Resume { connection: 9, node: NodeId(2), epoch: 1 }]);
        assert_eq!(deaths(&pass(&mut head, 8, &[1, 3])), [0; 0]);
        // The news that a connection broke may be older than what comes over the next.
        head.tell(Input::NodeLost { node: NodeId(2) });
        assert_eq!(deaths(&pass(&mut head, 9, &[1, 2, 3])), [0; 0]);
    }

    #[test]
    fn a_head_that_was_held_up_gives_everybody_more_time() {
        let mut head = three();
        head.tell(Input::NodeLost { node: NodeId(2) });
        head.now = head.now + Span::from_secs(60);
        assert_eq!(deaths(&head.pass_for_all(SECOND)), [0; 0]);
        assert_eq!(deaths(&pass(&mut head, 1, &[1, 3])), [2]);
        assert_eq!(deaths(&pass(&mut head, 20, &[1, 3])), [0; 0]);
    }

    #[test]
    fn the_dead_are_refused_and_told() {
        let mut head = three();
        pass(&mut head, 10, &[1, 2]);
        let returns = |node| Input::NodeReturns { connection: 9, node: NodeId(node) };
        for node in [3, 4] {
            let effects = head.tell(returns(node));
            assert!(matches!(effects[..], [Effect::Refuse { connection: 9, .. }]), "{effects:?}");
        }
        let dead = NodeId(3);
        let create = Message::CreateActor { spec: alloc::boxed::Box::new(spec(actor(1, 1))), request: None };
        for (from, message) in
            [(ProcessId::daemon(dead), Message::Heartbeat), (ProcessId::new(dead, 5), create)]
        {
            assert_eq!(head.receive(from, message), [(ProcessId::daemon(dead), Message::Fenced)]);
        }
        assert_eq!(head.join(), NodeId(4), "numbers are never given twice");
    }

    #[test]
    fn the_head_does_not_listen_for_the_node_that_it_lives_on() {
        let mut head = three();
        head.tell(Input::Hosted { node: NodeId(1) });
        assert_eq!(deaths(&pass(&mut head, 60, &[2, 3])), [0; 0]);
        assert_eq!(deaths(&pass(&mut head, 60, &[3])), [2]);
    }

    #[test]
    fn nobody_has_the_number_0() {
        let mut head = Harness::new();
        let nobody = ProcessId::daemon(NodeId(0));
        assert_eq!(head.receive(nobody, Message::Heartbeat), [(nobody, Message::Fenced)]);
        assert_eq!(head.join(), NodeId(1));
    }

    #[test]
    fn all_nodes_but_that_of_the_head_are_told_that_the_cluster_ends() {
        let mut head = three();
        head.tell(Input::Hosted { node: NodeId(1) });
        // One that is cut off may be back in time.
        head.tell(Input::NodeLost { node: NodeId(2) });
        let told = head.tell(Input::ClusterEnds);
        let news = |node| Effect::Send { to: ProcessId::daemon(NodeId(node)), message: Message::ClusterEnds };
        assert_eq!(told, [news(2), news(3)]);
    }

    #[test]
    fn nobody_speaks_through_the_session_of_another() {
        let mut head = three();
        let message = Message::SubscribeActor { actor: actor(1, 1) };
        let stranger = ProcessId::new(NodeId(2), 5);
        assert_eq!(head.tell(Input::Received { via: NodeId(3), from: stranger, message }), []);
        assert_eq!(head.pass(Span::from_secs(9)), [], "nobody waits for the actor");
    }

    #[test]
    fn nothing_is_placed_on_a_draining_node_or_on_one_that_is_cut_off() {
        let mut head = three();
        head.tell(Input::NodeLost { node: NodeId(1) });
        let drain = |draining: bool| {
            let drain = crate::message::Drain { grace: None, reason: String::new() };
            crate::message::Query::Drain { node: NodeId(2), drain: draining.then_some(drain) }
        };
        let ask = |head: &mut Harness, draining| {
            let request = crate::ids::RequestId(1);
            head.daemon_says(NodeId(3), Message::Ask { request, query: drain(draining) });
        };
        ask(&mut head, true);
        let create = |head: &mut Harness, number| {
            let id = crate::ids::ActorId(crate::ids::TaskId { owner: ProcessId::new(NodeId(3), 1), number });
            let started = head.create(&spec_of(id, &[("CPU", 1)]));
            started.iter().map(|(to, _)| to.node().0).collect::<Vec<u32>>()
        };
        assert_eq!(create(&mut head, 1), [3]);
        ask(&mut head, false);
        head.tell(Input::NodeReturns { connection: 3, node: NodeId(1) });
        let placed: Vec<u32> = (2..8).flat_map(|number| create(&mut head, number)).collect();
        assert_eq!(placed, vec![1, 1, 2, 2, 3, 1], "packed to the half, then spread");
    }
}
