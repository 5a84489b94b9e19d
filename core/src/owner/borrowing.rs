//! References that travel between processes.
//!
//! Whoever passes a reference on gives the receiver one *grant* and keeps the object alive until the
//! grant comes back. A receiver that keeps the reference asks the owner to register it; the owner's
//! answer is a grant too, and the lender's grants are returned then. When the receiver's last
//! reference goes, it returns every grant it has. Counts make the order of messages irrelevant: a
//! return may overtake the grant that it returns. The scheme is indirect reference counting (Piquer,
//! 1991) with a short-cut to the owner, so that no lender has to outlive its borrowers.
//!
//! When an owner dies its heir owns the object (see [`super::steward`]): everybody who counts grants of it
//! hears of the death and registers with the heir, and what holders have lent each other is returned
//! then, as ever. Where nobody inherits there is nothing left to keep alive for others, and everybody stops
//! counting. Otherwise two processes that lent each other the same reference would wait for each other
//! for ever.

use alloc::vec::Vec;

use super::objects::State;
use super::{Out, Owner};
use crate::ids::{ObjectId, ProcessId};
use crate::message::Message;
use crate::mutants::Mutant;
use crate::value::Outcome;

impl Owner {
    /// `to` gets a reference to `object` from this process.
    pub(super) fn grant(&mut self, object: ObjectId, to: ProcessId, out: Out<'_>) {
        self.lend(&[object], to, out);
        self.count_grant(object, to, out);
    }

    /// One more grant of `to`, of whose records nothing has to be done.
    pub(super) fn count_grant(&mut self, object: ObjectId, to: ProcessId, out: Out<'_>) {
        let Some(owner) = self.owner_of(object) else { return };
        if self.is_dead(to) || to == self.config.process {
            return;
        }
        self.count_held(object, to, 1);
        self.watch(to, out);
        // The holder will turn to whoever owns the object then.
        self.watch(owner, out);
    }

    /// `to` gets a copy of a value: it holds what the value contains.
    pub(super) fn grant_contained(&mut self, outcome: &Outcome, to: ProcessId, out: Out<'_>) {
        self.lend(contained(outcome), to, out);
        for object in contained(outcome) {
            self.count_grant(*object, to, out);
        }
    }

    /// A value came from `from` with one grant for each reference inside. Each is counted as used.
    pub(super) fn receive_contained(&mut self, outcome: &Outcome, from: ProcessId, out: Out<'_>) {
        for object in contained(outcome) {
            self.record(*object).uses += 1;
            self.receive_grant(*object, from, out);
        }
    }

    /// `from` keeps `object` alive for this process until the grant is returned.
    pub(super) fn receive_grant(&mut self, object: ObjectId, from: ProcessId, out: Out<'_>) {
        let Some(owner) = self.owner_of(object).filter(|_| from != self.config.process) else {
            // A worker that runs its own task holds nothing for itself.
            return;
        };
        if owner == self.config.process {
            self.send(from, Message::ReturnGrants { object, grants: 1 }, out);
            return;
        }
        if self.is_dead(from) {
            // Its word came late, and it keeps nothing alive any more.
            self.ask_to_register(object, out);
            return;
        }
        let sharing = self.record(object).sharing();
        let registered = sharing.grants.iter().any(|(lender, _)| *lender == owner);
        if registered && from != owner {
            self.send(from, Message::ReturnGrants { object, grants: 1 }, out);
            return;
        }
        match sharing.grants.iter_mut().find(|(lender, _)| *lender == from) {
            Some((_, grants)) => *grants += 1,
            None => sharing.grants.push((from, 1)),
        }
        if from == owner {
            self.watch(owner, out);
        } else {
            self.ask_to_register(object, out);
        }
    }

    /// Ask the owner to count this process among the holders.
    pub(super) fn ask_to_register(&mut self, object: ObjectId, out: Out<'_>) {
        let Some(owner) = self.owner_of(object).filter(|owner| *owner != self.me()) else { return };
        let sharing = self.record(object).sharing();
        if !sharing.registering {
            sharing.registering = true;
            self.watch(owner, out);
            self.send(owner, Message::Borrow { object }, out);
        }
    }

    /// A process got a reference from somebody else and wants to be registered here.
    pub(super) fn borrow_received(&mut self, from: ProcessId, object: ObjectId, out: Out<'_>) {
        if self.keep_early(from, object, Message::Borrow { object }, out) || !self.is_owned(object) {
            return;
        }
        // Also when the object is gone: the borrower must not wait, its fetch says so, and what it is going to
        // return must have been counted, for a reference may come back here meanwhile.
        self.grant(object, from, out);
        self.send(from, Message::Borrowed { object }, out);
    }

    /// The owner has registered this process.
    pub(super) fn borrowed(&mut self, from: ProcessId, object: ObjectId, out: Out<'_>) {
        if self.owner_of(object) != Some(from) {
            // It has died since, and its heir was asked.
            return;
        }
        let Some(record) = self.objects.get_mut(&object) else {
            return;
        };
        let sharing = record.sharing();
        sharing.registering = false;
        let lenders: Vec<_> = sharing.grants.extract_if(.., |(lender, _)| *lender != from).collect();
        match sharing.grants.first_mut() {
            Some((_, grants)) => *grants += 1,
            None => sharing.grants.push((from, 1)),
        }
        for (lender, grants) in lenders {
            self.send(lender, Message::ReturnGrants { object, grants }, out);
        }
        self.dropped.push(object);
    }

    /// `from` does not need this many grants any more.
    pub(super) fn grants_returned(&mut self, from: ProcessId, object: ObjectId, grants: u32) {
        let counted = !self.is_dead(from) && self.owner_of(object).is_some();
        if counted && self.objects.contains_key(&object) {
            self.count_held(object, from, -i64::from(grants));
            self.dropped.push(object);
        }
    }

    fn count_held(&mut self, object: ObjectId, holder: ProcessId, change: i64) {
        let held_for = &mut self.record(object).sharing().held_for;
        match held_for.iter_mut().find(|(process, _)| *process == holder) {
            Some((_, grants)) => *grants += change,
            None => held_for.push((holder, change)),
        }
        held_for.retain(|(_, grants)| *grants != 0);
    }

    /// Nobody here holds a borrowed object any more: return its grants, unless the owner's answer
    /// to a registration is still to come; then that answer brings us back here.
    pub(super) fn forget_borrowed(&mut self, object: ObjectId, out: Out<'_>) {
        let Some(record) = self.objects.get(&object) else {
            return;
        };
        if record.sharing.as_ref().is_some_and(|sharing| sharing.registering) {
            return;
        }
        let Some(record) = self.objects.remove(&object) else {
            return;
        };
        for (lender, grants) in record.sharing.map(|s| s.grants).unwrap_or_default() {
            if Mutant::KeepGrants.is_active() {
                break;
            }
            self.send(lender, Message::ReturnGrants { object, grants }, out);
        }
        if let State::Ready(outcome) = record.state {
            self.release_outcome(object, outcome, out);
        }
    }

    /// Register with the owner of a borrowed reference that is held here without any grant.
    pub(super) fn register(&mut self, object: ObjectId, out: Out<'_>) {
        if self.is_owned(object) {
            return;
        }
        let Some(record) = self.objects.get_mut(&object) else {
            return;
        };
        if record.local == 0 && record.uses == 0 {
            return;
        }
        if record.sharing().grants.is_empty() {
            self.ask_to_register(object, out);
        }
    }

    /// Of these references, which came with a task's arguments, the ones that are still held when
    /// the task ends and that only the task's owner has kept alive so far. The owner will give one
    /// grant for each, which counts as received now.
    pub(super) fn keep(&mut self, objects: &[ObjectId], lender: ProcessId, out: Out<'_>) -> Vec<ObjectId> {
        let mut kept = Vec::new();
        for object in objects {
            let owner = self.owner_of(*object);
            let Some(record) = self.objects.get(object) else {
                continue;
            };
            let registered = record
                .sharing
                .as_ref()
                .is_some_and(|s| s.grants.iter().any(|(from, _)| Some(*from) == owner));
            // Also what it has lent on: the owner may not know of that borrower yet.
            let borrowed = owner != Some(self.config.process);
            if record.is_wanted() && !registered && borrowed && !kept.contains(object) {
                kept.push(*object);
                self.receive_grant(*object, lender, out);
            }
        }
        kept
    }
}

/// The references inside an outcome.
pub(super) fn contained(outcome: &Outcome) -> &[ObjectId] {
    match outcome {
        Outcome::Value(value) | Outcome::Exception(value) => &value.contains,
        Outcome::Failure(_) => &[],
    }
}
