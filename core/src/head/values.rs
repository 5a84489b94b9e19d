//! The key-value table.
//!
//! A question may come twice, once to a head and once to the next. What it has changed and how that was
//! answered is therefore one row's business: who asks again gets the same answer, and changes nothing.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

use super::{Key, Outbox, Row};
use crate::ids::{NodeId, ProcessId, RequestId};

/// How many answers to each process are remembered. No more than that may be on their way.
const ANSWERS_MAX: usize = 256;

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    values: BTreeMap<String, Bytes>,
    /// What was answered to those who changed something: whether they have.
    answers: BTreeMap<ProcessId, VecDeque<(RequestId, bool)>>,
}

impl Values {
    pub(super) fn restore(
        values: BTreeMap<String, Bytes>,
        answers: BTreeMap<ProcessId, Vec<(RequestId, bool)>>,
    ) -> Values {
        let answers = answers.into_iter().map(|(process, answers)| (process, answers.into()));
        Values { values, answers: answers.collect() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Bytes> {
        self.values.get(key)
    }

    /// The keys that start so.
    pub(super) fn keys(&self, prefix: &str) -> Vec<String> {
        let keys = self.values.range(String::from(prefix)..).map(|(key, _)| key);
        keys.take_while(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// Set or delete a key for somebody. Whether that has changed something.
    pub(super) fn set(
        &mut self,
        asked: (ProcessId, RequestId),
        key: String,
        value: Option<Bytes>,
        overwrite: bool,
        out: &mut Outbox,
    ) -> bool {
        let (process, request) = asked;
        let answered = self.answers.get(&process).into_iter().flatten();
        if let Some((_, changed)) = answered.rev().find(|(answered, _)| *answered == request) {
            return *changed;
        }
        let changed = match &value {
            Some(_) => overwrite || !self.values.contains_key(&key),
            None => self.values.contains_key(&key),
        };
        if changed {
            out.touch(Key::Value(key.clone()));
            match value {
                Some(value) => drop(self.values.insert(key, value)),
                None => drop(self.values.remove(&key)),
            }
        }
        if out.is_durable() {
            let answers = self.answers.entry(process).or_default();
            answers.push_back((request, changed));
            if answers.len() > ANSWERS_MAX {
                answers.pop_front();
            }
            out.touch(Key::Answers(process));
        }
        changed
    }

    /// The process is gone: it asks for nothing any more.
    pub(super) fn forget(&mut self, process: ProcessId, out: &mut Outbox) {
        if self.answers.remove(&process).is_some() {
            out.touch(Key::Answers(process));
        }
    }

    /// The processes of a node that have changed something.
    pub(super) fn askers_on(&self, node: NodeId) -> Vec<ProcessId> {
        let of_node = ProcessId::new(node, 0)..=ProcessId::new(node, u32::MAX);
        self.answers.range(of_node).map(|(process, _)| *process).collect()
    }

    /// What the log must hold under a key.
    pub(super) fn row(&self, key: &str) -> Option<Row> {
        self.values.get(key).cloned().map(Row::Value)
    }

    /// What the log must hold of the answers to a process.
    pub(super) fn answers_row(&self, process: ProcessId) -> Option<Row> {
        self.answers.get(&process).map(|answers| Row::Answers(answers.iter().copied().collect()))
    }
}
