//! Who owns what a dead process owned: the steward of its node, or, when the node is dead, the steward
//! that the head named as heir, and so on.

use super::Owner;
use crate::ids::{NodeId, ObjectId, ProcessId};
use crate::mutants::Mutant;
use crate::value::{Failure, Outcome};
use alloc::boxed::Box;

impl Owner {
    /// Whether this process owns the object: it was born as its owner, or is the heir of who was.
    pub(super) fn is_owned(&self, object: ObjectId) -> bool {
        let born = object.owner();
        born == self.config.process || (self.steward.is_some() && self.present(born) == Some(self.me()))
    }

    /// The owner of an object, as far as this process knows. None if it is dead and nobody inherits.
    pub(super) fn owner_of(&self, object: ObjectId) -> Option<ProcessId> {
        if Mutant::AskTheDead.is_active() {
            return Some(object.owner());
        }
        self.present(object.owner())
    }

    /// Who stands for `process`: itself while it lives, then its heir.
    pub(super) fn present(&self, process: ProcessId) -> Option<ProcessId> {
        self.line_of(process).last().filter(|present| !self.is_dead(*present))
    }

    /// Whether `of`, a process or the daemon of a dead node, is among those through whose death
    /// `process` came to be owned by who owns it now.
    pub(super) fn inherits_through(&self, process: ProcessId, of: ProcessId) -> bool {
        let mut dead = self.line_of(process).filter(|dead| self.is_dead(*dead));
        dead.any(|dead| {
            dead == of || (ProcessId::daemon(dead.node()) == of && self.is_dead_node(dead.node()))
        })
    }

    /// A process, its heir if it is dead, the heir's heir if that is dead, and so on.
    fn line_of(&self, process: ProcessId) -> impl Iterator<Item = ProcessId> {
        let heir = |dead: &ProcessId| {
            let inherited = self.config.stewards && self.is_dead(*dead);
            let node = dead.node();
            inherited.then(|| ProcessId::steward(self.heirs.get(&node).copied().unwrap_or(node)))
        };
        // An heir was alive when it was named, so the line is no longer than there were deaths.
        core::iter::successors(Some(process), heir).take(self.heirs.len() + 2)
    }

    /// What is said of an object of ours that nobody knows any more.
    pub(super) fn gone(&self, object: ObjectId) -> Outcome {
        let failure = match self.death_of(object.owner()) {
            Some(death) => Failure::OwnerDied { object, death },
            None => Failure::Freed { object },
        };
        Outcome::Failure(Box::new(failure))
    }

    /// Whether that node died.
    pub(super) fn is_dead_node(&self, node: NodeId) -> bool {
        self.heirs.contains_key(&node)
    }
}
