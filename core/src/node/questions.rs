//! Answers to questions about this node.

use alloc::string::String;

use super::Node;
use super::outbox::Outbox;
use crate::ids::{ProcessId, RequestId};
use crate::message::{Answer, Message, Query, WorkerSummary};

impl Node {
    pub(super) fn answer(&mut self, from: ProcessId, request: RequestId, query: Query, out: &mut Outbox) {
        let answer = match query {
            Query::Workers => Answer::Workers(
                self.processes
                    .workers()
                    .map(|(id, process, worker)| WorkerSummary {
                        process: id,
                        pid: process.pid,
                        job: process.job.unwrap_or_default(),
                        state: String::from(worker.describe()),
                    })
                    .collect(),
            ),
            Query::Store => Answer::Store(self.store.summary()),
            // Asked of the wrong machine.
            _ => Answer::NotFound,
        };
        out.send(from, Message::Answer { request, answer });
    }
}
