//! What nodes are told of each other, and of jobs.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Debug, Formatter};

use super::{Head, Outbox};
use crate::ids::NodeId;
use crate::machine::{Span, Time, Wakeup};
use crate::message::{Message, NodeSummary};
use crate::mutants::Mutant;
use crate::resources::Resources;
use crate::views;

/// What is to be told.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Nodes that are new, or of which something was heard.
    changed: BTreeSet<NodeId>,
    not_before: Time,
    told: Told,
}

/// What was told last of each node. Follows from the rest of the head.
#[derive(Clone, Default)]
struct Told(BTreeMap<NodeId, LastWord>);

#[derive(Clone)]
struct LastWord {
    summary: Arc<NodeSummary>,
    /// Nodes that came before this one know it too.
    by_all: bool,
}

impl Debug for Told {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("..")
    }
}

impl View {
    /// The node is dead: that is told otherwise.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.changed.remove(&node);
        self.told.0.remove(&node);
    }
}

impl Head {
    /// What this head believes to be free on a live node, for those who look from outside.
    pub fn believed_free(&self, node: NodeId) -> Option<&Resources> {
        self.nodes.get(node).map(|node| &node.summary.free)
    }

    pub(super) fn view_changed(&mut self, node: NodeId) {
        self.groups.stir();
        self.view.changed.insert(node);
    }

    /// Tell all nodes what has changed, if it is time for that.
    pub(super) fn tell_changes(&mut self, out: &mut Outbox) {
        if self.view.changed.is_empty() {
            return;
        }
        if out.now < self.view.not_before {
            self.deadlines.arm(Wakeup::TellView, self.view.not_before);
            return;
        }
        let changed = core::mem::take(&mut self.view.changed);
        let pause = views::interval(self.config.view_every, self.nodes.alive().count());
        self.view.not_before = out.now + pause;
        let nodes: Arc<[Arc<NodeSummary>]> =
            changed.into_iter().filter_map(|id| self.news_of(id, pause)).collect();
        for to in self.nodes.within_reach() {
            if nodes.iter().any(|summary| summary.node != to) {
                out.send_to_node(to, Message::View { nodes: nodes.clone() });
            }
        }
    }

    /// What all nodes are told of a living one, if there is anything to tell.
    ///
    /// That nothing has changed is news for those who guess, but not where guesses are given up sooner.
    fn news_of(&mut self, id: NodeId, pause: Span) -> Option<Arc<NodeSummary>> {
        let summary = self.nodes.get(id)?.shown();
        let known = |word: &LastWord| word.by_all || Mutant::QuietArrival.is_active();
        let before = self.view.told.0.get(&id).filter(|word| known(word));
        if !views::tells_all(pause) && before.is_some_and(|word| *word.summary == summary) {
            return None;
        }
        let summary = Arc::new(summary);
        self.view.told.0.insert(id, LastWord { summary: summary.clone(), by_all: true });
        Some(summary)
    }

    /// What a node that has come is told of a living one: what the others know, so that it can be told the same
    /// as they from then on.
    fn last_word(&mut self, id: NodeId) -> Option<Arc<NodeSummary>> {
        let node = self.nodes.get(id)?;
        let word = self.view.told.0.entry(id);
        let word = word.or_insert_with(|| LastWord { summary: Arc::new(node.shown()), by_all: false });
        Some(word.summary.clone())
    }

    /// Tell a node that has come what it must know of nodes and jobs. One that has been here before says
    /// itself what it may have missed of those that are over: see [`Head::settle_news`].
    pub(super) fn brief(&mut self, to: NodeId, new: bool, out: &mut Outbox) {
        let alive: Vec<NodeId> = self.nodes.alive().map(|(id, _)| id).collect();
        let nodes = alive.into_iter().filter_map(|id| self.last_word(id)).collect();
        out.send_to_node(to, Message::View { nodes });
        for (node, heir) in self.nodes.dead().filter(|_| new) {
            out.send_to_node(to, Message::NodeDied { node, heir });
        }
        for (job, row) in self.jobs.iter() {
            out.send_to_node(to, row.started(job));
            if row.ended && new {
                out.send_to_node(to, Message::JobEnded { job });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::harness::*;
    use crate::ids::{JobId, ProcessId};
    use crate::message::NodeSummary;
    use crate::resources::Resources;
    use crate::value::Death;
    use crate::views::{NODES_PER_INTERVAL, VIEW_EVERY, interval};
    use alloc::boxed::Box;
    use alloc::string::String;
    use bytes::Bytes;

    fn report(head: &mut Harness, node: u32, free: &Resources) {
        let report = Box::new(NodeSummary { free: free.clone(), ..summary(NodeId(node)) });
        head.daemon_says(NodeId(node), Message::NodeReport { report, order: 0 });
    }

    #[test]
    fn a_new_node_hears_of_all_and_all_hear_of_it() {
        let mut head = Harness::new();
        head.join();
        assert_eq!(head.views, [(1, alloc::vec![1])], "it is new to nobody else");
        head.views.clear();
        head.pass(VIEW_EVERY);
        head.join();
        let (both, second) = (alloc::vec![1, 2], alloc::vec![2]);
        assert_eq!(core::mem::take(&mut head.views), [(2, both), (1, second)]);
        // What changes soon after waits and goes together.
        for free in [1, 2, 3] {
            report(&mut head, 2, &resources(&[("CPU", free)]));
        }
        report(&mut head, 1, &resources(&[("CPU", 1)]));
        assert_eq!(head.views, []);
        head.pass(VIEW_EVERY);
        assert_eq!(head.views, [(1, alloc::vec![1, 2]), (2, alloc::vec![1, 2])]);
        head.views.clear();
        head.pass(Span::from_secs(1));
        assert_eq!(head.views, [], "nothing has changed");
    }

    #[test]
    fn where_views_are_rare_only_what_differs_is_told() {
        let mut head = Harness::new();
        let nodes = 10 * NODES_PER_INTERVAL as u32;
        for _ in 0..nodes {
            head.join();
        }
        head.pass(interval(VIEW_EVERY, nodes as usize));
        head.views.clear();
        let full = &summary(NodeId(1)).total;
        report(&mut head, 1, full);
        report(&mut head, 2, &resources(&[("CPU", 1)]));
        report(&mut head, 3, &resources(&[("CPU", 1)]));
        report(&mut head, 3, full);
        head.pass(interval(VIEW_EVERY, nodes as usize));
        assert!(head.views.iter().all(|(_, told)| *told == [2]), "{:?}", head.views);
        // The node itself need not hear it.
        assert_eq!(core::mem::take(&mut head.views).len() as u32, nodes - 1);
        // What has changed and is not told yet is not told to a new one either: then all know the same.
        report(&mut head, 2, full);
        head.join();
        let last = |head: &Harness| head.head.view.told.0[&NodeId(2)].summary.free.clone();
        assert_eq!(last(&head), resources(&[("CPU", 1)]));
        head.views.clear();
        head.pass(interval(VIEW_EVERY, nodes as usize));
        let news = |to: u32| (to, alloc::vec![2, nodes + 1]);
        assert_eq!(head.views[..2], [news(1), news(2)]);
        assert_eq!(last(&head), *full);
    }

    #[test]
    fn jobs_are_told_to_all_and_to_who_comes_later() {
        let mut head = Harness::new();
        head.join();
        head.join();
        let driver = ProcessId::new(NodeId(1), 1);
        let launch = Bytes::from_static(b"launch");
        let namespace = String::from("mine");
        let register = Message::RegisterJob { driver, namespace: namespace.clone(), launch: launch.clone() };
        let job = JobId(1);
        let started = Message::JobStarted { job, driver, namespace: namespace.clone(), launch };
        let node = |number| ProcessId::daemon(NodeId(number));
        let registered = Message::JobRegistered { driver, job, namespace };
        assert_eq!(
            head.daemon_says(NodeId(1), register),
            [(node(1), registered), (node(2), started.clone())]
        );
        head.let_out.clear();
        head.join();
        assert!(head.sent().contains(&(node(3), started.clone())));
        let ended = Message::ProcessEnded { process: driver, death: Death::Exited { code: 0 } };
        let over = Message::JobEnded { job };
        let told = head.daemon_says(NodeId(1), ended.clone());
        let forgotten = Message::JobForgotten { job };
        let expected = [&over, &forgotten].map(|message| [1, 2, 3].map(|n| (node(n), message.clone())));
        assert_eq!(told, expected.concat());
        assert_eq!(head.daemon_says(NodeId(1), ended), [], "once");
        head.join();
        assert_eq!(head.sent(), [], "who is new need not know");
    }
}
