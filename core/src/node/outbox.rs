//! Where the parts of a node put their effects.

use alloc::string::String;

use super::{Effect, Work};
use crate::ids::{OperationId, ProcessId};
use crate::machine::{Effects, Time};
use crate::message::Message;
use crate::value::Death;

/// The effects of one input, with the moment of it and the numbers of the work that it starts.
pub(super) struct Outbox<'a> {
    pub(super) now: Time,
    next_operation: u64,
    effects: &'a mut Effects<Effect>,
}

impl<'a> Outbox<'a> {
    pub(super) fn new(now: Time, next_operation: u64, effects: &'a mut Effects<Effect>) -> Self {
        Outbox { now, next_operation, effects }
    }

    /// The number that the next started work will get.
    pub(super) fn next_operation(&self) -> u64 {
        self.next_operation
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn send(&mut self, to: ProcessId, message: Message) {
        self.effects.push(Effect::Send { to, message });
    }

    pub(super) fn start(&mut self, work: Work) -> OperationId {
        let operation = OperationId(self.next_operation);
        self.next_operation += 1;
        self.effects.push(Effect::Start { operation, work });
        operation
    }

    pub(super) fn kill(&mut self, process: ProcessId, death: Death) {
        self.effects.push(Effect::Kill { process, death });
    }

    /// Ask a process to end.
    pub(super) fn exit(&mut self, process: ProcessId, graceful: bool, reason: &str) {
        self.send(process, Message::Exit { graceful, reason: String::from(reason) });
    }
}
