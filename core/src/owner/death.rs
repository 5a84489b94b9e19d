//! Other processes' deaths: what they held is released, what they owned is lost.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::objects::State;
use super::{Out, Owner};
use crate::ids::{ObjectId, ProcessId};
use crate::machine::Time;
use crate::message::Message;
use crate::mutants::Mutant;
use crate::value::{Death, Failure, Outcome};

/// What is known of another process.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    dead: Option<Death>,
}

impl Owner {
    /// See that this process hears of that one's death.
    pub(super) fn watch(&mut self, process: ProcessId, out: Out<'_>) {
        if process.is_daemon() || process == self.me() || self.peers.contains_key(&process) {
            return;
        }
        self.peers.insert(process, Peer::default());
        self.send(self.daemon(), Message::WatchProcess { process }, out);
    }

    pub(super) fn is_dead(&self, process: ProcessId) -> bool {
        self.death_of(process).is_some()
    }

    pub(super) fn death_of(&self, process: ProcessId) -> Option<&Death> {
        self.peers.get(&process)?.dead.as_ref()
    }

    /// The node has recorded a death.
    pub(super) fn process_died(&mut self, now: Time, process: ProcessId, death: Death, out: Out<'_>) {
        self.peers.entry(process).or_default().dead = Some(death.clone());
        let mut touched: Vec<ObjectId> = self
            .objects
            .iter()
            .filter(|(object, record)| object.owner() == process || record.sharing.is_some())
            .map(|(object, _)| *object)
            .collect();
        touched.sort_unstable();
        for object in touched {
            self.forget_holder(object, process);
            if object.owner() == process {
                self.owner_died(now, object, &death, out);
            }
            self.dropped.push(object);
        }
        self.forget_assigned(process, out);
    }

    fn forget_holder(&mut self, object: ObjectId, process: ProcessId) {
        let Some(sharing) = self.objects.get_mut(&object).and_then(|r| r.sharing.as_mut()) else {
            return;
        };
        sharing.held_for.retain(|(holder, _)| *holder != process);
        sharing.grants.retain(|(lender, _)| *lender != process);
        sharing.fetchers.retain(|fetcher| *fetcher != process);
        if object.owner() == process && !Mutant::CountForTheDead.is_active() {
            sharing.registering = false;
            sharing.held_for.clear();
            sharing.grants.clear();
        }
    }

    pub(super) fn owner_died(&mut self, now: Time, object: ObjectId, death: &Death, out: Out<'_>) {
        let unresolved =
            self.objects.get(&object).is_some_and(|r| matches!(r.state, State::Unknown | State::Fetching));
        if unresolved {
            let failure = Failure::OwnerDied { object, death: death.clone() };
            self.resolve(now, object, Outcome::Failure(Box::new(failure)), out);
        }
    }

    /// The direct link to a process is closed and everything on it was read.
    pub(super) fn link_closed(&mut self, now: Time, peer: ProcessId, out: Out<'_>) {
        self.worker_closed(now, peer, out);
        self.actor_closed(now, peer, out);
    }
}
