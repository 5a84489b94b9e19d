//! Names of rare states that the cluster counts.

use shoal_core::actor::ActorState;
use shoal_core::head::{Key, Row};
use shoal_core::ids::{NodeId, ObjectId, ProcessId};
use shoal_core::message::Message;
use shoal_core::node::Work;

use super::{Cluster, Process};
use crate::Content;

/// Objects are written to disk while there is no head.
pub const SPILLED_WITHOUT_HEAD: &str = "objects were spilled while their node had no head";
/// A node's view is older than a death.
pub const REDIRECTED_TO_DEAD: &str = "a lease was sent to a node that was gone";
/// A copy of an object is made for nobody's object.
pub const OWNER_DIED_DURING_COPY: &str = "an owner died while its object was copied";
/// A steward is told of a copy of what it inherits.
pub const COPIED_FOR_HEIR: &str = "an object was copied whose owner was dead";
/// Two stewards could own what a dead node's processes owned.
pub const TWO_CANDIDATES: &str = "a node died, and two stewards had records of what it owned";
/// A constructor never begins, for the bytes of an argument were lost meanwhile, and nothing can make them again.
pub const UNBEGUN: &str = "a constructor's argument failed while it was waited for";
/// Its node must keep them from others until it is gone, and no longer.
pub const DIED_WITH_DEVICES: &str = "a process died while it used numbered devices";
/// It comes back if that one has no copy in the end.
pub const SENT_ON: &str = "a node that wanted a copy was sent to another that was copying";
/// A draining node need not keep it any more.
pub const HANDED_OVER: &str = "a draining node handed an object over";
/// It need not wait for its time.
pub const EMPTIED: &str = "a draining node said that it was empty";
/// It has lost no more than its office, and the next head must not count it as dead.
pub const LOST_OFFICE: &str = "a daemon went on without the head that lived in it";
/// A head finds that the one before was placing something.
pub const HEAD_CAME_DURING_PLACEMENT: &str = "a head came while an actor or a group was placed";

impl<C: Content> Cluster<C> {
    pub(super) fn note_redirect(&mut self, message: &Message) {
        if let Message::LeaseRedirected { to, .. } = message
            && !self.nodes.contains_key(to)
        {
            self.count(REDIRECTED_TO_DEAD);
        }
    }

    pub(super) fn note_reader_sent_on(&mut self, message: &Message) {
        if matches!(message, Message::PullElsewhere { .. }) {
            self.count(SENT_ON);
        }
    }

    pub(super) fn note_former_host(&mut self, host: usize) {
        if !self.settings.residence.is_apart() && self.node_of(host).is_some() {
            self.count(LOST_OFFICE);
        }
    }

    pub(super) fn note_drain(&mut self, message: &Message) {
        if matches!(message, Message::ObjectKept { attempt: Some(_), .. }) {
            self.count(HANDED_OVER);
        }
        if matches!(message, Message::Emptied { .. }) {
            self.count(EMPTIED);
        }
    }

    pub(super) fn note_spill(&mut self, node: NodeId) {
        if self.nodes.get(&node).is_some_and(|daemon| !daemon.head.connected) {
            self.count(SPILLED_WITHOUT_HEAD);
        }
    }

    pub(super) fn note_node_death(&mut self, node: NodeId) {
        let keepers = self.nodes.values().filter(|daemon| daemon.steward.keeps_records_of(node));
        if keepers.count() > 1 {
            self.count(TWO_CANDIDATES);
        }
    }

    pub(super) fn note_copy(&mut self, object: ObjectId) {
        if self.deaths.contains_key(&object.owner()) {
            self.count(COPIED_FOR_HEIR);
        }
    }

    pub(super) fn note_unbegun(&mut self, process: ProcessId, message: &Message) {
        // What has begun has made its process an actor.
        let begun = self.processes.get(&process).is_some_and(|process| process.actor.is_some());
        if !begun && matches!(message, Message::ActorConstructed { failed: Some(_), .. }) {
            self.count(UNBEGUN);
        }
    }

    pub(super) fn note_user_of_devices(&mut self, process: &Process) {
        if !process.devices.0.is_empty() {
            self.count(DIED_WITH_DEVICES);
        }
    }

    pub(super) fn note_owner_death(&mut self, process: ProcessId) {
        let copies = |work: &Work| matches!(work, Work::Fetch { object, .. } if object.owner() == process);
        if self.nodes.values().any(|daemon| daemon.operations().any(copies)) {
            self.count(OWNER_DIED_DURING_COPY);
        }
    }
}

/// Whether the head that wrote these rows was placing something.
pub(super) fn is_placing(rows: &[(Key, Row)]) -> bool {
    rows.iter().any(|(_, row)| match row {
        Row::Actor(row) => row.node.is_some() && !matches!(row.state, ActorState::Alive { .. }),
        Row::Group(row) => row.nodes.iter().any(Option::is_none),
        _ => false,
    })
}
