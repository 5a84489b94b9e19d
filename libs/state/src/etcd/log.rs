//! Rows in etcd.

use std::collections::BTreeMap;

use prost::Message;
use shoal_core::head::WriteResult;
use tokio::time::Instant;
use tonic::Status;

use super::plan::{Layout, after, apply, transactions};
use super::rpc::{
    Compare, DeleteRangeRequest, KeyValue, Operation, PutRequest, RangeRequest, Stage, TxnRequest,
};
use super::{Etcd, PATIENCE, Tenure};
use crate::{Changes, Contents, Log, StateError};

/// So many keys are read at a time.
const PAGE: i64 = 200;

/// The log of an elected head; see the module's text.
///
/// A write that does not fit into one transaction is staged first: its parts under keys of their own, then the
/// number of parts as the mark that it counts. Only then the rows change, in several transactions, and the stage
/// is cleared. Who reads the log and finds the mark does the rest before; so nobody sees half of a write.
#[derive(Debug)]
pub struct EtcdLog {
    etcd: Etcd,
    tenure: Tenure,
    /// The change that created the key of the election.
    elected_at: i64,
    pub(super) layout: Layout,
    /// The epoch that is written there.
    epoch: u64,
}

impl EtcdLog {
    pub(super) fn new(etcd: Etcd, tenure: Tenure, elected_at: i64) -> EtcdLog {
        let layout = Layout::new(etcd.key("rows/"));
        EtcdLog { etcd, tenure, elected_at, layout, epoch: 0 }
    }

    /// How long the head that has it is the head.
    pub fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// Make changes if this is still the head's log.
    fn commit(&self, operations: Vec<Operation>) -> Result<WriteResult, StateError> {
        let compare = vec![Compare::created_by(self.etcd.key("head"), self.elected_at)];
        let txn = TxnRequest { compare, success: operations, failure: Vec::new() };
        loop {
            let (client, deadline, txn) = (self.etcd.client.clone(), self.tenure.ends(), txn.clone());
            match self.etcd.wait(async move { client.transact(deadline, txn).await }) {
                Ok(done) if done.succeeded => return Ok(WriteResult::Done),
                Ok(_) => return Ok(WriteResult::Fenced),
                // The tenure was renewed meanwhile. To do it again does no harm: nobody else changes rows.
                Err(_) if self.tenure.ends() > deadline => {}
                Err(status) => return Err(self.etcd.client.error(&status)),
            }
        }
    }

    /// Make changes that do not fit into one transaction, in several, until one is refused.
    pub(super) fn commit_all(&self, steps: Vec<Vec<Operation>>) -> Result<WriteResult, StateError> {
        for step in steps {
            if self.commit(step)? == WriteResult::Fenced {
                return Ok(WriteResult::Fenced);
            }
        }
        Ok(WriteResult::Done)
    }

    /// The transactions that stage what is to be done. After the last one it counts as done.
    pub(super) fn stage(&self, groups: &[Vec<Operation>]) -> Vec<Vec<Operation>> {
        let put = |name: &str, value| PutRequest { key: self.etcd.key(name), value, lease: 0 }.into();
        let mut steps = vec![vec![self.clear_stage()]];
        for (number, group) in groups.iter().enumerate() {
            let stage = Stage { operations: group.clone() };
            steps.push(vec![put(&format!("staged/{number:08}"), stage.encode_to_vec())]);
        }
        steps.push(vec![put("commit", groups.len().to_string().into_bytes())]);
        steps
    }

    /// The transactions that change the rows as it was staged, and clear the stage.
    pub(super) fn carry_out(&self, groups: Vec<Vec<Operation>>) -> Vec<Vec<Operation>> {
        let key = self.etcd.key("commit");
        let mark = DeleteRangeRequest { range_end: after(&key), key };
        let mut steps = groups;
        steps.push(vec![mark.into(), self.clear_stage()]);
        steps
    }

    fn clear_stage(&self) -> Operation {
        let key = self.etcd.key("staged/");
        DeleteRangeRequest { range_end: after(&key), key }.into()
    }

    /// Every key and value of a range as they are at one moment, which is `revision`; 0 is now.
    fn read(&self, range: (Vec<u8>, Vec<u8>), revision: i64) -> Result<(Vec<KeyValue>, i64), StateError> {
        let client = self.etcd.client.clone();
        let read = async move {
            let (mut found, (mut next, end), mut revision) = (Vec::new(), range, revision);
            loop {
                let range = RangeRequest { key: next.clone(), range_end: end.clone(), limit: PAGE, revision };
                let page = client.range(Instant::now() + PATIENCE, range).await?;
                if revision == 0 {
                    revision = page.header.unwrap_or_default().revision;
                }
                found.extend(page.kvs);
                match found.last() {
                    Some(last) if page.more => next = [&last.key[..], &[0]].concat(),
                    _ => return Ok((found, revision)),
                }
            }
        };
        self.etcd.wait(read).map_err(|status: Status| self.etcd.client.error(&status))
    }

    fn read_one(&self, name: &str, revision: i64) -> Result<Option<Vec<u8>>, StateError> {
        let key = self.etcd.key(name);
        let end = [&key[..], &[0]].concat();
        let (found, _) = self.read((key, end), revision)?;
        Ok(found.into_iter().next().map(|found| found.value))
    }

    /// What was staged and counts, though it may not have been carried out.
    fn read_stage(&self, revision: i64) -> Result<Vec<Vec<Operation>>, StateError> {
        let Some(parts) = self.read_one("commit", revision)? else { return Ok(Vec::new()) };
        let start = self.etcd.key("staged/");
        let end = after(&start);
        let (staged, _) = self.read((start, end), revision)?;
        if parts != staged.len().to_string().into_bytes() {
            return Err(self.etcd.client.damaged("a part of a write is missing"));
        }
        let stages = staged.into_iter().map(|staged| Stage::decode(&staged.value[..]));
        let stages: Result<Vec<Stage>, _> = stages.collect();
        let stages = stages.map_err(|error| self.etcd.client.damaged(error))?;
        Ok(stages.into_iter().map(|stage| stage.operations).collect())
    }
}

impl Log for EtcdLog {
    fn load(&mut self) -> Result<Contents, StateError> {
        let (rows, revision) = self.read(self.layout.range(), 0)?;
        let mut contents: BTreeMap<Vec<u8>, Vec<u8>> =
            rows.into_iter().map(|found| (found.key, found.value)).collect();
        let groups = self.read_stage(revision)?;
        for operation in groups.iter().flatten() {
            apply(operation.clone(), &mut contents);
        }
        let epoch_key = self.etcd.key("epoch");
        let epoch = match contents.remove(&epoch_key) {
            Some(staged) => Some(staged),
            None => self.read_one("epoch", revision)?,
        };
        let epoch = epoch.map(|epoch| String::from_utf8_lossy(&epoch).parse::<u64>()).transpose();
        self.epoch = epoch.map_err(|error| self.etcd.client.damaged(error))?.unwrap_or_default();
        let rows = self.layout.rows(contents).map_err(|detail| self.etcd.client.damaged(detail))?;
        if !groups.is_empty() && self.commit_all(self.carry_out(groups))? == WriteResult::Fenced {
            let detail = String::from("another head was elected while this one read it");
            return Err(StateError::Storage { place: self.etcd.location.to_string(), detail });
        }
        Ok(Contents { epoch: self.epoch, rows })
    }

    fn write(&mut self, epoch: u64, changes: &Changes) -> Result<WriteResult, StateError> {
        if self.epoch > epoch {
            return Ok(WriteResult::Fenced);
        }
        let operations = self.layout.operations(changes);
        let mut operations = operations.map_err(|error| self.etcd.client.damaged(error))?;
        if self.epoch < epoch {
            let (key, value) = (self.etcd.key("epoch"), epoch.to_string().into_bytes());
            operations.push(PutRequest { key, value, lease: 0 }.into());
            self.epoch = epoch;
        }
        let mut groups = transactions(operations);
        match groups.len() {
            0 | 1 => self.commit(groups.pop().unwrap_or_default()),
            _ => {
                let mut steps = self.stage(&groups);
                steps.extend(self.carry_out(groups));
                self.commit_all(steps)
            }
        }
    }
}
