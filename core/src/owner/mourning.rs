//! Ownership survives its owner: how the heir knows that everybody who holds something has registered.
//!
//! Owners tell stewards, once each, whom they have given references ([`super::records`]): the own node's
//! steward knows the holders on its node and the other nodes that have some; these nodes' stewards know
//! theirs. When an owner dies, its heir sends [`Message::Mourn`] to all of them, stewards pass it to the
//! holders on their nodes, and each answers with [`Message::Mourned`] once it has registered with the heir
//! what it holds. The answers take the ways that the registrations took before them.
//!
//! When a node dies its steward dies with it; then the heir asks the head which nodes there are, and sends
//! `Mourn` to the stewards of all. They have sent it their records before they answer.
//!
//! **Holders that are not known** hold through holders that are: whoever passes a reference on keeps
//! the object alive until the receiver has registered (see [`super::borrowing`]), and that goes on over the
//! death of the owner.
//!
//! **Copies** in the stores of nodes are known to these. So each steward that is asked asks its daemon, too,
//! which answers when it has told the heir what it has.
//!
//! **References on their way** when their owner dies are read before the receiver answers: it answers when
//! it has heard of the death and has read the dead process's link to its end. Between nodes, and through
//! daemons, what a process had sent comes before the news of its death anyway.
//!
//! Nobody is waited for who is dead; who is slow is. At the end the heir tells the stewards that it asked
//! ([`Message::Settled`]): records that it has not sent them anew, because nobody on their node registered,
//! are void, as is what they know of the dead owner's holders. If the heir dies before, they still
//! have everything for the next one.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::questions::Question;
use super::{Out, Owner};
use crate::ids::{NodeId, ObjectId, ProcessId, RequestId};
use crate::machine::Time;
use crate::message::{Answer, Message, Query};
use crate::value::Death;

/// Waiting for holders to register, at a steward.
#[derive(Clone, Debug)]
pub(super) struct Mourning {
    death: Death,
    heir: NodeId,
    waiting: BTreeSet<ProcessId>,
    /// The head was asked which nodes there are.
    census: Option<RequestId>,
    /// Another heir's steward waits for the answer; none if this steward is the heir.
    reply_to: Option<ProcessId>,
    /// The stewards that were asked.
    stewards: BTreeSet<ProcessId>,
    /// Objects that are held until this is over.
    held: Vec<ObjectId>,
    /// Copies of objects that nobody here knows yet.
    copies: Vec<(ObjectId, NodeId, u32)>,
}

impl Mourning {
    fn new(death: Death, heir: NodeId, reply_to: Option<ProcessId>) -> Mourning {
        Mourning {
            death,
            heir,
            waiting: BTreeSet::new(),
            census: None,
            reply_to,
            stewards: BTreeSet::new(),
            held: Vec::new(),
            copies: Vec::new(),
        }
    }

    /// Objects that are held until this is over.
    pub(super) fn held(&self) -> &[ObjectId] {
        &self.held
    }
}

impl Owner {
    /// For [`Owner::inspect`].
    pub(super) fn mourned(&self) -> Vec<ProcessId> {
        self.steward.iter().flat_map(|steward| steward.mournings.keys().copied()).collect()
    }

    /// Whether nothing more will be heard of what this process owned, or did while it lived.
    pub(super) fn is_settled(&self, process: ProcessId) -> bool {
        self.mourning_of(process).is_none()
    }

    fn mourning_of(&self, process: ProcessId) -> Option<ProcessId> {
        let mournings = &self.steward.as_ref()?.mournings;
        let ours = mournings.iter().filter(|(_, mourning)| mourning.reply_to.is_none());
        ours.map(|(of, _)| *of).find(|of| self.inherits_through(process, *of))
    }

    /// Keep an object that was adopted until its holders have registered.
    pub(super) fn hold_while_mourning(&mut self, object: ObjectId) {
        let Some(of) = self.mourning_of(object.owner()) else { return };
        if let Some(mourning) = self.steward().and_then(|steward| steward.mournings.get_mut(&of)) {
            mourning.held.push(object);
            self.record(object).uses += 1;
        }
    }

    /// A copy is reported of an object that is not known: it may still become known. Says whether it may.
    pub(super) fn copy_while_mourning(
        &mut self,
        object: ObjectId,
        node: NodeId,
        attempt: u32,
        out: Out<'_>,
    ) -> bool {
        let Some(of) = self.mourning_of(object.owner()) else { return false };
        if let Some(mourning) = self.steward().and_then(|steward| steward.mournings.get_mut(&of)) {
            mourning.copies.push((object, node, attempt));
        }
        self.adopt_again(object, out);
        true
    }

    /// A node of which it is known that it has what this attempt has made.
    pub(super) fn copy_known(&self, object: ObjectId, attempt: u32) -> Option<NodeId> {
        let mournings = self.steward.iter().flat_map(|steward| steward.mournings.values());
        let mut copies = mournings.flat_map(|mourning| &mourning.copies);
        let copy = copies
            .find(|(of, node, made_by)| (*of, *made_by) == (object, attempt) && !self.is_dead_node(*node));
        copy.map(|(_, node, _)| *node)
    }

    /// This steward inherits: see that all holders register.
    pub(super) fn mourn(&mut self, of: ProcessId, death: Death, out: Out<'_>) {
        let node = self.node();
        let holders = self.holders_from(of);
        let is_node = of.is_daemon();
        let Some(steward) = self.steward() else { return };
        let known = steward.has_shelf(of) || !holders.is_empty();
        if !known && !is_node {
            return;
        }
        steward.mournings.insert(of, Mourning::new(death, node, None));
        self.ask_mourners(of, holders, out);
        if is_node {
            let Some(steward) = self.steward() else { return };
            steward.requests += 1;
            let request = RequestId(1 << 61 | steward.requests);
            if let Some(mourning) = steward.mournings.get_mut(&of) {
                mourning.census = Some(request);
            }
            let question = Question::Ask { to: ProcessId::HEAD, query: Query::Nodes };
            self.ask(request, question, out);
        }
    }

    /// Those on this node, and stewards, that hold what the dead owned.
    fn holders_from(&self, of: ProcessId) -> BTreeSet<ProcessId> {
        let Some(steward) = &self.steward else { return BTreeSet::new() };
        let lenders = steward.holders.iter().filter(|(lender, _)| self.inherits_through(**lender, of));
        let holders = lenders.flat_map(|(_, holders)| holders.iter().copied());
        holders.filter(|holder| *holder != self.me() && !self.is_dead(*holder)).collect()
    }

    fn ask_mourners(&mut self, of: ProcessId, mourners: BTreeSet<ProcessId>, out: Out<'_>) {
        let me = self.me();
        for mourner in mourners {
            let Some(mourning) = self.steward().and_then(|steward| steward.mournings.get_mut(&of)) else {
                return;
            };
            if mourner == me || !mourning.waiting.insert(mourner) {
                continue;
            }
            if mourner.is_steward() {
                mourning.stewards.insert(mourner);
            }
            let message = Message::Mourn { of, death: mourning.death.clone(), heir: mourning.heir };
            self.watch(mourner, out);
            self.send(mourner, message, out);
        }
    }

    /// The head's answer: these nodes there are. Says whether it was meant for a mourning.
    pub(super) fn census_taken(
        &mut self,
        now: Time,
        request: RequestId,
        answer: &Answer,
        out: Out<'_>,
    ) -> bool {
        let Some(steward) = self.steward() else { return false };
        let asked = |(_, mourning): &(&ProcessId, &Mourning)| mourning.census == Some(request);
        let Some(of) = steward.mournings.iter().find(asked).map(|(of, _)| *of) else {
            return false;
        };
        if let Some(mourning) = steward.mournings.get_mut(&of) {
            mourning.census = None;
        }
        let nodes = match answer {
            Answer::Nodes(nodes) => nodes.as_slice(),
            _ => &[],
        };
        let stewards = nodes.iter().filter(|node| node.alive).map(|node| ProcessId::steward(node.node));
        let stewards: BTreeSet<ProcessId> = stewards.filter(|steward| !self.is_dead(*steward)).collect();
        self.ask_mourners(of, stewards, out);
        self.end_mourning(now, of, out);
        true
    }

    /// An heir wants everybody to register. Its word is as good as the daemon's, from whom it has it.
    pub(super) fn mourn_received(
        &mut self,
        now: Time,
        from: ProcessId,
        of: ProcessId,
        death: Death,
        heir: NodeId,
        out: Out<'_>,
    ) {
        if of.is_daemon() {
            self.node_died(now, of.node(), heir, out);
        } else {
            self.process_died(now, of, death.clone(), out);
        }
        if self.steward.is_none() {
            if self.is_link_unread(of) {
                self.mourners.push((of, from));
            } else {
                self.send(from, Message::Mourned { of }, out);
            }
            return;
        }
        let here = self.node();
        let mut holders = self.holders_from(of);
        holders.retain(|holder| holder.node() == here);
        // What is in the store here has been reported when the daemon answers.
        holders.insert(self.daemon());
        if let Some(steward) = self.steward() {
            steward.mournings.insert(of, Mourning::new(death, heir, Some(from)));
        }
        self.ask_mourners(of, holders, out);
        self.end_mourning(now, of, out);
    }

    /// A link is closed and read to its end: those who waited for that are answered.
    pub(super) fn mourn_after_link(&mut self, peer: ProcessId, out: Out<'_>) {
        for (of, from) in core::mem::take(&mut self.mourners) {
            if of == peer {
                self.send(from, Message::Mourned { of }, out);
            } else {
                self.mourners.push((of, from));
            }
        }
    }

    /// A holder has registered everything.
    pub(super) fn mourned_received(&mut self, now: Time, from: ProcessId, of: ProcessId, out: Out<'_>) {
        if let Some(mourning) = self.steward().and_then(|steward| steward.mournings.get_mut(&of)) {
            mourning.waiting.remove(&from);
            self.end_mourning(now, of, out);
        }
    }

    /// Somebody died: who waits for the dead does not wait any more, and no heir but the living does.
    pub(super) fn mourners_died(&mut self, now: Time, out: Out<'_>) {
        let Some(steward) = &self.steward else { return };
        for of in steward.mournings.keys().copied().collect::<Vec<_>>() {
            let Some(mut mourning) = self.steward().and_then(|steward| steward.mournings.remove(&of)) else {
                continue;
            };
            if mourning.reply_to.is_some_and(|heir| self.is_dead(heir)) {
                continue;
            }
            mourning.waiting.retain(|process| !self.is_dead(*process));
            if let Some(steward) = self.steward() {
                steward.mournings.insert(of, mourning);
            }
            self.end_mourning(now, of, out);
        }
    }

    /// If nobody is waited for: report it, or, at the heir, conclude.
    pub(super) fn end_mourning(&mut self, now: Time, of: ProcessId, out: Out<'_>) {
        let Some(steward) = self.steward() else { return };
        let over = |mourning: &Mourning| mourning.waiting.is_empty() && mourning.census.is_none();
        if !steward.mournings.get(&of).is_some_and(over) {
            return;
        }
        let Some(mourning) = steward.mournings.remove(&of) else { return };
        if let Some(heir) = mourning.reply_to {
            self.send(heir, Message::Mourned { of }, out);
            return;
        }
        for (object, node, attempt) in mourning.copies {
            self.copy_added(object, node, attempt, out);
        }
        for object in mourning.held {
            self.unuse(object);
        }
        self.conclude(now, of, out);
        self.forget_holders_from(of, None);
        for steward in mourning.stewards.into_iter().filter(|steward| !self.is_dead(*steward)) {
            self.send(steward, Message::Settled { of }, out);
        }
    }

    /// The heir has everything that it will have.
    pub(super) fn settled_received(&mut self, from: ProcessId, of: ProcessId) {
        self.clear_shelves(of, from);
        self.forget_holders_from(of, Some(from));
    }

    fn forget_holders_from(&mut self, of: ProcessId, heir: Option<ProcessId>) {
        let Some(steward) = &self.steward else { return };
        let lenders = steward.holders.keys().copied();
        let over = |lender: &ProcessId| Some(*lender) != heir && self.inherits_through(*lender, of);
        let lenders: Vec<ProcessId> = lenders.filter(over).collect();
        if let Some(steward) = self.steward() {
            steward.holders.retain(|lender, _| !lenders.contains(lender));
        }
    }
}
