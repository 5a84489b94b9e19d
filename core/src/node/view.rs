//! What this node knows of the others: which live, which died, and what is free there.
//!
//! The head's first word about other nodes is complete, and later ones name what has changed. So a
//! node with a lower number than this one's that it has never named died before this one came. Of a
//! higher number that is not known the news is still on its way.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::roll::Roll;
use crate::group;
use crate::ids::NodeId;
use crate::machine::Time;
use crate::message::NodeSummary;
use crate::mutants::Mutant;
use crate::placement::{self, CANDIDATES_MAX};
use crate::resources::{Demand, Quantity, Resources};
use crate::views;

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct View {
    own: NodeId,
    /// Nodes that live, this one left out. What is free is a guess where `guesses` says so.
    nodes: Roll,
    /// Nodes that died while this one lived, and their heirs.
    dead: BTreeMap<NodeId, NodeId>,
    /// What is said of nodes of which something else is assumed, and since when.
    guesses: BTreeMap<NodeId, (Time, Arc<NodeSummary>)>,
    /// The same nodes, the longest guessed at first.
    guessed: BTreeSet<(Time, NodeId)>,
    /// The head has spoken.
    informed: bool,
    /// Who got work last that goes to one node after the other.
    turn: NodeId,
}

impl View {
    pub(super) fn new(own: NodeId) -> View {
        let (nodes, dead, guesses) = (Roll::default(), BTreeMap::new(), BTreeMap::new());
        View { own, nodes, dead, guesses, guessed: BTreeSet::new(), informed: false, turn: own }
    }

    /// Where a live node's daemon is reached.
    pub(super) fn address_of(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(node).map(|summary| summary.address.as_str())
    }

    /// The head tells of nodes.
    pub(super) fn update(&mut self, nodes: &[Arc<NodeSummary>]) {
        self.informed = true;
        let (mut news, mut near) = (nodes, 0);
        while let Some((summary, others)) = news.split_first() {
            // Thousands at a time are of nodes of which nothing else is assumed. The dead are not listed.
            if self.guesses.is_empty() && !Mutant::IgnoreFalls.is_active() {
                let count = self.nodes.renew_from(near, news);
                near += count;
                news = &news[count..];
                if count > 0 {
                    continue;
                }
            }
            near = self.take_up(summary, near);
            news = others;
        }
    }

    /// The head tells of a node, which may have this place in the list. Says what place the next one may have.
    fn take_up(&mut self, summary: &Arc<NodeSummary>, near: usize) -> usize {
        let node = summary.node;
        if node == self.own || self.dead.contains_key(&node) {
            return near;
        }
        self.forget_guess(node);
        if !summary.alive {
            self.nodes.remove(node);
            return near;
        }
        self.set(summary.clone(), self.nodes.place_near(node, near)) + 1
    }

    /// Note what is known of a node, which has this place in the list, or gets it. Says where it is.
    fn set(&mut self, mut summary: Arc<NodeSummary>, place: Result<usize, usize>) -> usize {
        if Mutant::IgnoreFalls.is_active() {
            self.ignore_falls(&mut summary);
        }
        self.nodes.set(summary, place)
    }

    fn ignore_falls(&self, summary: &mut Arc<NodeSummary>) {
        let Some(before) = self.nodes.get(summary.node) else { return };
        let known = Arc::make_mut(summary);
        for (name, amount) in &before.free.0 {
            let most = known.free.get(name).max(*amount);
            known.free.set(name, most);
        }
    }

    /// The head has recorded a death. Says whether that was news.
    pub(super) fn bury(&mut self, node: NodeId, heir: NodeId) -> bool {
        if self.dead.insert(node, heir).is_some() {
            return false;
        }
        if !Mutant::RedirectToDead.is_active() {
            self.nodes.remove(node);
        }
        self.forget_guess(node);
        true
    }

    pub(super) fn is_dead(&self, node: NodeId) -> bool {
        let unnamed = self.informed && node < self.own && !self.nodes.contains(node);
        unnamed || self.dead.contains_key(&node)
    }

    /// The nodes of whose deaths this one has heard.
    pub(super) fn dead(&self) -> impl Iterator<Item = NodeId> {
        self.dead.keys().copied()
    }

    /// Whose steward owns what the processes of a dead node owned, if that node died while this one
    /// lived.
    pub(super) fn heir(&self, node: NodeId) -> Option<NodeId> {
        self.dead.get(&node).copied()
    }

    /// A node, its heir if it is dead, the heir's heir if that is dead, and so on.
    pub(super) fn line_of(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        // An heir was alive when it was named, so the line is no longer than there were deaths.
        core::iter::successors(Some(node), |node| self.heir(*node)).take(self.dead.len() + 1)
    }

    /// The other nodes that live.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeSummary> {
        self.nodes.iter()
    }

    /// The other nodes that live and are not to be emptied: these have nothing to offer, but to groups that are there
    /// already.
    pub(super) fn takers(&self) -> Vec<NodeId> {
        let offers = |node: &&NodeSummary| node.total.0.keys().any(|name| !group::is_derived(name));
        self.nodes_from_here().filter(offers).map(|node| node.node).collect()
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&NodeSummary> {
        self.nodes.get(node).map(|node| &**node)
    }

    /// What is free there by its last report, without guesses.
    pub(super) fn reported(&self, node: NodeId) -> Option<&Resources> {
        let said = self.guesses.get(&node).map(|(_, said)| said);
        said.or_else(|| self.nodes.get(node)).map(|summary| &summary.free)
    }

    /// The other nodes that live, from this one's number on, so that those who choose at the same time do not
    /// all choose the same.
    fn nodes_from_here(&self) -> impl Iterator<Item = &NodeSummary> {
        self.nodes.iter_after(self.own)
    }

    /// The best other node of those where such work fits now.
    pub(super) fn best_free(&mut self, demand: &Demand) -> Option<NodeId> {
        let fits = |node: &&NodeSummary| placement::fits_now(node, demand);
        // A node that has rejected such work counts as full, or it would be looked at before every other one.
        if demand.resources.get(Resources::CPU) >= Quantity::ONE {
            placement::best(self.nodes.roomy_after(self.own).filter(fits).take(CANDIDATES_MAX), demand)
        } else {
            placement::best(self.nodes_from_here().filter(fits).take(CANDIDATES_MAX), demand)
        }
    }

    /// The best other node of those that can ever run such work.
    pub(super) fn best_feasible(&self, demand: &Demand) -> Option<NodeId> {
        let feasible = self.nodes_from_here().filter(|node| placement::is_feasible(node, demand));
        placement::best(feasible, demand)
    }

    /// The node whose turn it is of those where such work fits now; `here` says whether this one
    /// counts.
    pub(super) fn take_turn(&mut self, demand: &Demand, here: bool) -> Option<NodeId> {
        let fitting = self.nodes().filter(|node| placement::fits_now(node, demand)).map(|node| node.node);
        let next = placement::next_in_turn(fitting.chain(here.then_some(self.own)), self.turn)?;
        self.turn = next;
        Some(next)
    }

    /// Work is sent to a node: less is free there than it has reported.
    pub(super) fn promise(&mut self, node: NodeId, demand: &Demand, now: Time) {
        self.guess(node, now, |free| free.subtract(&demand.resources));
    }

    /// A node had no room for such work, whatever it has reported.
    pub(super) fn rejected(&mut self, node: NodeId, demand: &Demand, now: Time) {
        self.guess(node, now, |free| {
            for (name, amount) in &demand.resources.0 {
                free.set(name, free.get(name).min(Quantity(amount.0 - 1)));
            }
        });
    }

    fn guess(&mut self, node: NodeId, now: Time, change: impl FnOnce(&mut Resources)) {
        let Ok(place) = self.nodes.place(node) else { return };
        let summary = self.nodes.at(place);
        let said = summary.clone();
        let mut guessed = NodeSummary::clone(summary);
        change(&mut guessed.free);
        let (since, _) = self.guesses.entry(node).or_insert((now, said));
        self.guessed.insert((*since, node));
        self.set(Arc::new(guessed), Ok(place));
    }

    /// Give up guesses that nothing has confirmed in time. Says whether there were any.
    pub(super) fn expire(&mut self, now: Time) -> bool {
        let mut any = false;
        while self.guesses_due().is_some_and(|due| due <= now)
            && let Some((_, node)) = self.guessed.pop_first()
        {
            if let Some((_, said)) = self.guesses.remove(&node) {
                self.set(said, self.nodes.place(node));
            }
            any = true;
        }
        any
    }

    fn forget_guess(&mut self, node: NodeId) {
        if let Some((since, _)) = self.guesses.remove(&node) {
            self.guessed.remove(&(since, node));
        }
    }

    /// When the first guess is given up.
    pub(super) fn guesses_due(&self) -> Option<Time> {
        self.guessed.first().map(|(since, _)| *since + views::guessed_for(self.nodes.len()))
    }

    /// What the table says of itself must be true.
    pub(super) fn check(&self) {
        self.nodes.check();
        assert!(!self.nodes.contains(self.own), "a node does not look at itself from outside");
        if !Mutant::RedirectToDead.is_active() {
            assert!(self.dead.keys().all(|node| !self.nodes.contains(*node)), "the dead are gone");
        }
        let since = |(node, (since, _)): (&NodeId, &(Time, Arc<NodeSummary>))| (*since, *node);
        assert_eq!(self.guessed, self.guesses.iter().map(since).collect());
        assert!(self.guesses.keys().all(|node| self.nodes.contains(*node)), "guesses are of nodes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::harness::{demand, summary};
    use crate::views::guessed_for;
    use alloc::vec;
    use alloc::vec::Vec;

    fn tell(view: &mut View, nodes: Vec<NodeSummary>) {
        let nodes: Vec<Arc<NodeSummary>> = nodes.into_iter().map(Arc::new).collect();
        view.update(&nodes);
    }

    fn view() -> View {
        let mut view = View::new(NodeId(5));
        tell(&mut view, vec![summary(2, &[("CPU", 2.0)]), summary(5, &[]), summary(7, &[("CPU", 2.0)])]);
        view
    }

    #[test]
    fn who_was_never_named_and_came_before_is_dead_and_who_comes_later_is_not() {
        let dead = |view: &View| (1..10).filter(|n| view.is_dead(NodeId(*n))).collect::<Vec<u32>>();
        assert_eq!(dead(&View::new(NodeId(5))), [], "nobody has told it anything");
        let mut view = view();
        assert_eq!(dead(&view), [1, 3, 4]);
        assert!(view.bury(NodeId(7), NodeId(2)) && !view.bury(NodeId(7), NodeId(2)));
        tell(&mut view, vec![summary(7, &[("CPU", 2.0)])]);
        assert_eq!(dead(&view), [1, 3, 4, 7], "late news of a dead node");
        assert_eq!((view.heir(NodeId(7)), view.heir(NodeId(1))), (Some(NodeId(2)), None));
        view.check();
    }

    #[test]
    fn what_was_sent_away_counts_until_the_next_report_or_a_while() {
        let mut view = view();
        let cpu = demand(&[("CPU", 1.0)]);
        let mut sent = Vec::new();
        while let Some(node) = view.best_free(&cpu) {
            view.promise(node, &cpu, Time(1));
            sent.push(node.0);
        }
        assert_eq!(sent, [7, 2, 7, 2], "each stays half empty as long as possible");
        tell(&mut view, vec![summary(2, &[("CPU", 2.0)])]);
        assert_eq!(view.best_free(&cpu), Some(NodeId(2)));
        view.rejected(NodeId(2), &cpu, Time(2));
        assert_eq!(view.best_free(&cpu), None);
        assert_eq!(view.best_free(&demand(&[("CPU", 0.5)])), Some(NodeId(2)), "less may do");
        assert!(view.expire(Time(1) + guessed_for(2)));
        assert_eq!(view.guesses_due(), Some(Time(2) + guessed_for(2)));
        assert_eq!(view.best_free(&cpu), Some(NodeId(7)));
        assert!(view.expire(Time(2) + guessed_for(2)));
        view.check();
    }

    #[test]
    fn turns_pass_over_nodes_without_room() {
        let mut view = view();
        let cpu = demand(&[("CPU", 1.0)]);
        let turns: Vec<u32> = (0..6).map(|_| view.take_turn(&cpu, true).unwrap().0).collect();
        assert_eq!(turns, [7, 2, 5, 7, 2, 5]);
        view.rejected(NodeId(7), &cpu, Time(1));
        let turns: Vec<u32> = (0..3).map(|_| view.take_turn(&cpu, false).unwrap().0).collect();
        assert_eq!(turns, [2, 2, 2]);
    }
}
