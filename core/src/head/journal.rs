//! Durability: what was decided is in the log before anybody hears of it.
//!
//! While an input is handled the keys of what it changes are collected. Their rows leave in one
//! [`Effect::Write`]; while one is under way the next ones gather (group commit). Every other effect
//! waits, in order, for the write that covers what was decided before it. So nobody ever acts on
//! something that a crash of the head would undo, and an answer to a question never tells what is not
//! certain yet.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::{Effect, Key, WriteResult};
use crate::ids::OperationId;
use crate::machine::Effects;

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    durable: bool,
    /// What has changed since the last write began.
    dirty: BTreeSet<Key>,
    /// The write under way.
    writing: Option<OperationId>,
    /// The last write that began; writes are numbered from 1.
    last: u64,
    /// Effects that wait, with the write that covers them.
    held: VecDeque<(u64, Effect)>,
    /// The head has stepped down.
    closed: bool,
}

impl Journal {
    pub(super) fn new(durable: bool) -> Journal {
        let (dirty, held) = (BTreeSet::new(), VecDeque::new());
        Journal { durable, dirty, writing: None, last: 0, held, closed: false }
    }

    pub(super) fn is_durable(&self) -> bool {
        self.durable
    }

    /// Whether the head has stepped down.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// A newer head acts or may act, so this one must not: nobody hears of what is not written.
    pub(super) fn close(&mut self, out: &mut Effects<Effect>) {
        self.closed = true;
        self.writing = None;
        self.dirty.clear();
        self.held.clear();
        out.push(Effect::StepDown);
    }

    /// How many effects wait for the log.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Take up what one input has changed and what must happen for it.
    pub(super) fn take(&mut self, dirty: BTreeSet<Key>, caused: Vec<Effect>, out: &mut Effects<Effect>) {
        self.dirty.extend(dirty);
        // What has changed goes with the next write; otherwise the one under way covers everything.
        let covered_by = self.last + u64::from(!self.dirty.is_empty());
        let waits = self.writing.is_some() || !self.dirty.is_empty();
        for effect in caused {
            if waits {
                self.held.push_back((covered_by, effect));
            } else {
                out.push(effect);
            }
        }
    }

    /// Begin the next write if there is something to write and none is under way: its name, and the
    /// keys whose rows it must hold as they are now.
    pub(super) fn begin_write(&mut self) -> Option<(OperationId, BTreeSet<Key>)> {
        if self.writing.is_some() || self.dirty.is_empty() {
            return None;
        }
        self.last += 1;
        let operation = OperationId(self.last);
        self.writing = Some(operation);
        Some((operation, core::mem::take(&mut self.dirty)))
    }

    /// A write has ended: let go of what it covers.
    pub(super) fn written(&mut self, operation: OperationId, result: WriteResult, out: &mut Effects<Effect>) {
        if self.writing != Some(operation) {
            return;
        }
        self.writing = None;
        if result != WriteResult::Done {
            return self.close(out);
        }
        let covered = self.held.partition_point(|(write, _)| *write <= operation.0);
        for (_, effect) in self.held.drain(..covered) {
            out.push(effect);
        }
    }

    /// What the journal says of itself must be true.
    pub(super) fn check(&self) {
        assert!(self.writing.is_some() || self.held.is_empty(), "only what is being written holds effects");
        assert!(self.writing.is_some() || self.dirty.is_empty(), "what has changed is being written");
        assert!(self.held.iter().is_sorted_by_key(|(write, _)| *write), "effects keep their order");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use alloc::format;
    use alloc::string::String;
    use alloc::vec;

    const DONE: WriteResult = WriteResult::Done;

    fn handled(node: u32) -> Effect {
        Effect::Handled { node: NodeId(node) }
    }

    /// Changes of one input and its effects; what comes out.
    fn input(journal: &mut Journal, dirty: &[Key], node: u32) -> Vec<String> {
        let mut out = Effects::new();
        journal.take(dirty.iter().cloned().collect(), vec![handled(node)], &mut out);
        finish(journal, out)
    }

    fn written(journal: &mut Journal, number: u64, result: WriteResult) -> Vec<String> {
        let mut out = Effects::new();
        journal.written(OperationId(number), result, &mut out);
        finish(journal, out)
    }

    fn finish(journal: &mut Journal, mut out: Effects<Effect>) -> Vec<String> {
        let write = journal.begin_write().map(|(operation, keys)| format!("{}: {}", operation.0, keys.len()));
        journal.check();
        let effects = out.drain().map(|effect| match effect {
            Effect::Handled { node } => format!("{}", node.0),
            other => format!("{other:?}"),
        });
        effects.chain(write).collect()
    }

    fn job(number: u32) -> Key {
        Key::Job(crate::ids::JobId(number))
    }

    #[test]
    fn effects_wait_for_the_write_that_covers_them_and_keep_their_order() {
        let mut journal = Journal::new(true);
        assert_eq!(input(&mut journal, &[], 1), ["1"], "nothing is at stake");
        assert_eq!(input(&mut journal, &[Key::Meta], 2), ["1: 1"]);
        assert_eq!(input(&mut journal, &[], 3), [""; 0], "it may tell what is not certain yet");
        assert_eq!(input(&mut journal, &[job(1), job(2)], 4), [""; 0]);
        assert_eq!(input(&mut journal, &[job(2)], 5), [""; 0]);
        assert_eq!(input(&mut journal, &[], 6), [""; 0]);
        assert_eq!(written(&mut journal, 7, DONE), [""; 0], "not the one under way");
        assert_eq!(written(&mut journal, 1, DONE), ["2", "3", "2: 2"], "two inputs, one write");
        assert_eq!(input(&mut journal, &[], 7), [""; 0]);
        assert_eq!(written(&mut journal, 2, DONE), ["4", "5", "6", "7"]);
        assert_eq!(input(&mut journal, &[], 8), ["8"]);
        assert_eq!(journal.held(), 0);
    }

    #[test]
    fn who_steps_down_tells_nobody_what_it_had_decided() {
        for result in [WriteResult::Fenced, WriteResult::Unknown] {
            let mut journal = Journal::new(true);
            input(&mut journal, &[Key::Meta], 1);
            input(&mut journal, &[job(1)], 2);
            assert_eq!(written(&mut journal, 1, result), ["StepDown"]);
            assert!(journal.is_closed());
        }
        let mut journal = Journal::new(true);
        input(&mut journal, &[Key::Meta], 1);
        let mut out = Effects::new();
        journal.close(&mut out);
        assert_eq!(finish(&mut journal, out), ["StepDown"]);
        assert_eq!(written(&mut journal, 1, DONE), [""; 0], "that is none of its business any more");
    }
}
