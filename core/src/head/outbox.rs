//! What one input causes, until the journal takes it.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::{Effect, Key};
use crate::ids::{NodeId, ProcessId};
use crate::machine::Time;
use crate::message::Message;

/// The effects of one input, the keys of what it has changed, and the moment of it.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) now: Time,
    pub(super) effects: Vec<Effect>,
    pub(super) dirty: BTreeSet<Key>,
    durable: bool,
}

impl Outbox {
    pub(super) fn new(now: Time, durable: bool) -> Outbox {
        Outbox { now, effects: Vec::new(), dirty: BTreeSet::new(), durable }
    }

    /// Whether there is a log.
    pub(super) fn is_durable(&self) -> bool {
        self.durable
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn send(&mut self, to: ProcessId, message: Message) {
        self.push(Effect::Send { to, message });
    }

    pub(super) fn send_to_node(&mut self, to: NodeId, message: Message) {
        self.send(ProcessId::daemon(to), message);
    }

    /// The row of this key is not what the log holds: whoever changes what a row says calls this.
    pub(super) fn touch(&mut self, key: Key) {
        if self.durable {
            self.dirty.insert(key);
        }
    }
}
