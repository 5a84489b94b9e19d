//! Each machine under arbitrary inputs.
//!
//! Messages are drawn by their types, so that new ones are covered without a word here. What a driver
//! of machines guarantees is kept: work ends once, ids of a program's own are fresh, a place in the
//! store is used by whom it was given to. Everything else may come from anybody at any time, and must
//! leave the machine with its invariants.

pub mod head;
pub mod node;
pub mod owner;
pub mod session;

use core::fmt::Debug;

use shoal_core::ids::{JobId, NodeId, ProcessId, TaskId};
use shoal_core::message::Message;
use shoal_core::resources::{Demand, Quantity, Resources};
use shoal_core::{Effects, Machine, Span, Time, wire};

use crate::Log;
use crate::entropy::Entropy;
use crate::tree::{Dictionary, Side};

/// The node of the machine, or of the machine's peers.
pub const NODE: NodeId = NodeId(1);

/// A machine, the time, and what it has said.
struct Stage<'b, M: Machine> {
    machine: M,
    now: Time,
    entropy: Entropy<'b>,
    dictionary: Dictionary,
    check: fn(&M),
    log: Log<'b>,
}

impl<'b, M> Stage<'b, M>
where
    M: Machine,
    M::Effect: Clone,
{
    fn new(machine: M, check: fn(&M), bytes: &'b [u8], log: Log<'b>) -> Stage<'b, M> {
        let mut dictionary = Dictionary::default();
        learn_usual(&mut dictionary);
        Stage { machine, now: Time(0), entropy: Entropy::new(bytes), dictionary, check, log }
    }

    /// Apply an input.
    fn tell(&mut self, input: M::Input) -> Vec<M::Effect> {
        self.log.line("<", &input);
        self.dictionary.learn(Side::Peer, &input);
        let mut effects = Effects::new();
        self.machine.handle(self.now, input, &mut effects);
        self.heard(effects)
    }

    /// Let some time pass; what becomes due on the way is fired at its time, or all at once late.
    fn pass(&mut self) -> Vec<M::Effect> {
        let spans = [
            Span(0),
            Span(1),
            Span::from_micros(10),
            Span::from_millis(1),
            Span::from_millis(20),
            Span::from_millis(300),
            Span::from_secs(3),
            Span::from_secs(100),
        ];
        let end = self.now + self.entropy.pick(&spans);
        let late = self.entropy.chance(64);
        let mut all = Vec::new();
        while let Some((due, wakeup)) = self.machine.poll_timeout().filter(|(due, _)| *due <= end) {
            self.now = if late { end } else { self.now.max(due) };
            self.log.line("*", &(self.now, wakeup));
            let mut effects = Effects::new();
            self.machine.handle_timeout(self.now, &mut effects);
            all.extend(self.heard(effects));
            let next = self.machine.poll_timeout();
            assert!(next.is_none_or(|(due, _)| due > self.now), "{next:?} is due again at once");
        }
        self.now = end;
        all
    }

    /// Check the machine, and learn from what it has said.
    fn heard(&mut self, mut effects: Effects<M::Effect>) -> Vec<M::Effect> {
        let effects: Vec<M::Effect> = effects.drain().collect();
        for effect in &effects {
            self.log.line(">", effect);
            self.dictionary.learn(Side::Machine, effect);
        }
        (self.check)(&self.machine);
        effects
    }
}

/// What a machine sends can be sent.
fn check_message(message: &Message) {
    let encoded = wire::encode(message).expect("a message can be encoded");
    let decoded: Message = wire::decode(&encoded).expect("what was encoded can be decoded");
    assert_eq!(*message, decoded);
}

/// Names that occur on every node, so that strangers' first words already make some sense.
fn learn_usual(dictionary: &mut Dictionary) {
    dictionary.learn(Side::Peer, &ProcessId::HEAD);
    for node in [NODE, NodeId(2), NodeId(3)] {
        dictionary.learn(Side::Peer, &node);
        dictionary.learn(Side::Peer, &ProcessId::daemon(node));
        dictionary.learn(Side::Peer, &ProcessId::steward(node));
        for number in 1..4 {
            dictionary.learn(Side::Peer, &ProcessId::new(node, number));
        }
    }
    dictionary.learn(Side::Peer, &JobId(1));
    dictionary.learn(Side::Peer, &TaskId { owner: ProcessId::new(NODE, 1), number: 1 });
    dictionary.know("size", &[1, 4_096, 16_384, 65_536, 300_000, 1 << 20]);
    for (name, amount) in [("CPU", 1.0), ("CPU", 0.5), ("GPU", 1.0), ("GPU", 0.25), ("slot", 1.0)] {
        dictionary.learn(Side::Peer, &amounts(&[(name, amount)]));
        dictionary.learn(Side::Peer, &Demand { resources: amounts(&[(name, amount)]), ..Demand::default() });
    }
}

/// Resources by name.
fn amounts(amounts: &[(&str, f64)]) -> Resources {
    let mut resources = Resources::default();
    for (name, amount) in amounts {
        resources.set(name, Quantity::from_f64(*amount));
    }
    resources
}

/// Take one of the list out, if there is one.
fn take<T: Debug>(entropy: &mut Entropy<'_>, list: &mut Vec<T>) -> Option<T> {
    (!list.is_empty()).then(|| list.remove(entropy.index(list.len())))
}
