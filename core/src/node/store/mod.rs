//! The object store's table; follows in the next change.
use super::outbox::Outbox;
use super::WorkResult;
use crate::deadlines::Deadlines;
use crate::ids::*;
use crate::machine::Span;
use crate::message::StoreSummary;

#[derive(Debug)]
pub(super) struct Store {}

#[allow(unused_variables)]
impl Store {
    pub(super) fn new(start: u64, capacity: u64, full_grace: Span) -> Store {
        Store {}
    }
    pub(super) fn check(&self) {}
    pub(super) fn summary(&self) -> StoreSummary {
        StoreSummary::default()
    }
    pub(super) fn request_extent(&mut self, from: ProcessId, request: RequestId, size: u64, out: &mut Outbox) {
        let failure = crate::value::Failure::StoreFull { detail: "the store is not there yet".into() };
        out.send(from, crate::message::Message::ExtentRefused { request, failure });
    }
    pub(super) fn return_extent(&mut self, from: ProcessId, offset: u64, size: u64, out: &mut Outbox) {}
    pub(super) fn seal(&mut self, from: ProcessId, job: JobId, object: ObjectId, offset: u64, size: u64, out: &mut Outbox) {}
    pub(super) fn pin(&mut self, from: ProcessId, object: ObjectId, owner_dead: bool, out: &mut Outbox) {}
    pub(super) fn unpin(&mut self, from: ProcessId, object: ObjectId, out: &mut Outbox) {}
    pub(super) fn free_object(&mut self, from: ProcessId, object: ObjectId, out: &mut Outbox) {}
    pub(super) fn finished(&mut self, operation: OperationId, result: WorkResult, out: &mut Outbox) {}
    pub(super) fn settle(&mut self, out: &mut Outbox, deadlines: &mut Deadlines) {}
    pub(super) fn owners_lost(&mut self, job: JobId, live: &dyn Fn(ProcessId) -> bool, out: &mut Outbox) {}
    pub(super) fn job_gone(&mut self, job: JobId, out: &mut Outbox) {}
    pub(super) fn process_gone(&mut self, id: ProcessId, job_ended: bool, out: &mut Outbox) {}
}
