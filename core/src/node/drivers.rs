//! Drivers and their jobs: how a driver is let in, and what is left when it is gone.

use alloc::string::String;
use alloc::vec::Vec;

use super::outbox::Outbox;
use super::processes::Role;
use super::{Effect, Node};
use crate::ids::{JobId, ProcessId};
use crate::message::Message;
use crate::resources::Environment;

/// More workers than this are never started before they are asked for.
const PRESTART_MAX: u32 = 1_024;

/// What a node knows of a job.
#[derive(Debug, Default)]
pub(super) struct Job {
    /// Its driver is gone; only detached actors, and what they started, go on.
    pub(super) ended: bool,
    /// It may have processes or a template here.
    pub(super) present: bool,
}

impl Node {
    /// A driver gets its number at once and its job from the head.
    pub(super) fn driver_connected(
        &mut self,
        connection: u64,
        pid: u32,
        namespace: String,
        prestart: u32,
        out: &mut Outbox,
    ) {
        let role = Role::Driver { connection: Some(connection), prestart: prestart.min(PRESTART_MAX) };
        let driver = self.processes.add(pid, None, role);
        out.send(ProcessId::HEAD, Message::RegisterJob { driver, namespace });
    }

    pub(super) fn job_registered(
        &mut self,
        driver: ProcessId,
        job: JobId,
        namespace: String,
        out: &mut Outbox,
    ) {
        let Some(process) = self.processes.get_mut(driver) else { return };
        let Role::Driver { connection, prestart } = &mut process.role else { return };
        let Some(connection) = connection.take() else { return };
        let prestart = *prestart;
        process.job = Some(job);
        self.jobs.insert(job, Job { ended: false, present: true });
        out.push(Effect::AcceptDriver { connection, process: driver, job, namespace });
        if prestart > 0 {
            let pool = self.pools.find(job, &Environment::default());
            self.pools.prestart(pool, prestart);
        }
    }

    /// The head has recorded that the driver is gone. What it leased, and what that leased, is
    /// stopped by the deaths of the lessees; actors are stopped by the head.
    pub(super) fn job_ended(&mut self, job: JobId, out: &mut Outbox) {
        let Some(known) = self.jobs.get_mut(&job) else { return };
        known.ended = true;
        let live = |process: ProcessId| self.processes.get(process).is_some();
        self.store.owners_lost(job, &live, out);
        self.closing.insert(job);
    }

    /// Stop what is left of an ended job, unless an actor of it is here.
    pub(super) fn close_job(&mut self, job: JobId, out: &mut Outbox) {
        let rooted = self.actors.values().any(|actor| actor.job == job);
        let Some(known) = self.jobs.get(&job) else { return };
        if !known.ended || !known.present || rooted {
            return;
        }
        let of_job = |id: &ProcessId| self.processes.get(*id).is_some_and(|p| p.job == Some(job));
        let left: Vec<ProcessId> = self.processes.iter().map(|(id, _)| id).filter(of_job).collect();
        for worker in &left {
            self.retire(*worker, "its job is over", out);
        }
        if left.is_empty() {
            self.store.job_gone(job, out);
            self.pools.forget(job);
            if let Some(known) = self.jobs.get_mut(&job) {
                known.present = false;
            }
            out.push(Effect::StopTemplate { job });
        }
    }

    /// Whether the job can still make use of an idle worker here.
    pub(super) fn job_goes_on(&self, job: JobId) -> bool {
        let ended = self.jobs.get(&job).is_some_and(|job| job.ended);
        !ended || self.actors.values().any(|actor| actor.job == job)
    }
}
