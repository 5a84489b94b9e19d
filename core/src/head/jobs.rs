//! Jobs: one for each driver.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use bytes::Bytes;

use super::rows::JobRow;
use super::{Head, Key, Outbox, Row};
use crate::ids::{JobId, ProcessId};
use crate::message::Message;
use crate::mutants::Mutant;

/// All jobs whose drivers live, and those that go on in detached actors.
#[derive(Clone, Debug)]
pub(super) struct Jobs {
    jobs: BTreeMap<JobId, JobRow>,
    drivers: BTreeMap<ProcessId, JobId>,
    /// Those whose drivers are gone.
    ended: BTreeSet<JobId>,
    seed: u64,
}

impl Jobs {
    /// All jobs as the log knows them.
    pub(super) fn restore(seed: u64, jobs: BTreeMap<JobId, JobRow>) -> Jobs {
        let running = jobs.iter().filter(|(_, job)| !job.ended);
        let drivers = running.map(|(id, job)| (job.driver, *id)).collect();
        let ended = jobs.iter().filter(|(_, job)| job.ended).map(|(id, _)| *id).collect();
        Jobs { jobs, drivers, ended, seed }
    }

    /// What the log must hold of a job.
    pub(super) fn row(&self, id: JobId) -> Option<Row> {
        self.jobs.get(&id).cloned().map(Row::Job)
    }

    /// All jobs that are remembered.
    pub(super) fn iter(&self) -> impl Iterator<Item = (JobId, &JobRow)> {
        self.jobs.iter().map(|(id, job)| (*id, job))
    }

    /// Those of these processes that are drivers.
    pub(super) fn drivers_in(&self, range: RangeInclusive<ProcessId>) -> Vec<ProcessId> {
        self.drivers.range(range).map(|(driver, _)| *driver).collect()
    }

    /// Whether the driver of a job is gone; of a job that is not known, too.
    pub(super) fn is_over(&self, id: JobId) -> bool {
        self.jobs.get(&id).is_none_or(|job| job.ended)
    }

    /// Whether anything is known of a job.
    pub(super) fn is_known(&self, id: JobId) -> bool {
        self.jobs.contains_key(&id)
    }

    /// Whether that was the driver of a job that has ended.
    pub(super) fn has_ended(&self, driver: ProcessId) -> bool {
        self.jobs.values().any(|job| job.ended && job.driver == driver)
    }

    /// The job whose driver that was, if it was one.
    pub(super) fn end(&mut self, driver: ProcessId, out: &mut Outbox) -> Option<JobId> {
        let id = self.drivers.remove(&driver)?;
        self.jobs.get_mut(&id).expect("drivers have jobs").ended = true;
        self.ended.insert(id);
        out.touch(Key::Job(id));
        Some(id)
    }
}

impl JobRow {
    /// What nodes are told of it.
    pub(super) fn started(&self, job: JobId) -> Message {
        let JobRow { driver, namespace, launch, .. } = self.clone();
        Message::JobStarted { job, driver, namespace, launch }
    }
}

/// A namespace that no program can name by accident.
fn anonymous_namespace(seed: u64, job: JobId) -> String {
    let high = scramble(seed ^ scramble(u64::from(job.0)));
    format!("anonymous-{high:016x}{:016x}", scramble(high))
}

/// Spreads the bits of a number over all of it (the finaliser of splitmix64).
fn scramble(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Head {
    /// Give a driver its job; told twice, the same one.
    pub(super) fn register_job(
        &mut self,
        driver: ProcessId,
        namespace: String,
        launch: Bytes,
        out: &mut Outbox,
    ) {
        if !self.jobs.drivers.contains_key(&driver) {
            let last = self.meta.last_job.checked_add(1).expect("job numbers are used up");
            self.meta.last_job = last;
            let job = JobId(last);
            let anonymous = namespace.is_empty();
            let namespace = if anonymous { anonymous_namespace(self.jobs.seed, job) } else { namespace };
            out.touch(Key::Meta);
            out.touch(Key::Job(job));
            let row = JobRow { driver, namespace, launch, ended: false };
            let started = row.started(job);
            self.jobs.drivers.insert(driver, job);
            self.jobs.jobs.insert(job, row);
            self.tell_registered(driver, out);
            // The driver's node has heard all of it from the driver.
            for node in self.nodes.within_reach().filter(|node| *node != driver.node()) {
                out.send_to_node(node, started.clone());
            }
        } else {
            self.tell_registered(driver, out);
        }
    }

    /// Jobs whose drivers are gone, and then their last actors, are over for good.
    pub(super) fn forget_jobs(&mut self, out: &mut Outbox) {
        if self.jobs.ended.is_empty() || Mutant::EndJobTwice.is_active() {
            return;
        }
        let over: Vec<JobId> = self.jobs.ended.iter().copied().filter(|job| !self.actors.has(*job)).collect();
        for job in over {
            self.jobs.ended.remove(&job);
            self.jobs.jobs.remove(&job);
            out.touch(Key::Job(job));
            self.nodes.tell_all(&Message::JobForgotten { job }, out);
        }
    }

    /// Tell a driver's node which job it has.
    pub(super) fn tell_registered(&self, driver: ProcessId, out: &mut Outbox) {
        let Some(job) = self.jobs.drivers.get(&driver).copied() else { return };
        let namespace = self.jobs.jobs[&job].namespace.clone();
        out.send_to_node(driver.node(), Message::JobRegistered { driver, job, namespace });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::harness::{DAEMON, Harness, process};

    #[test]
    fn jobs_count_up_and_anonymous_namespaces_differ() {
        let mut harness = Harness::new();
        let mut register = |number, namespace: &str| {
            let message = Message::RegisterJob {
                driver: process(number),
                namespace: String::from(namespace),
                launch: Bytes::new(),
            };
            let sent = harness.receive(DAEMON, message);
            let [(to, Message::JobRegistered { driver, job, namespace })] = &sent[..] else {
                panic!("{sent:?}")
            };
            assert_eq!((*to, *driver), (DAEMON, process(number)));
            (job.0, namespace.clone())
        };
        assert_eq!(register(1, "mine"), (1, String::from("mine")));
        let (second, anonymous) = register(2, "");
        let (third, other) = register(3, "");
        assert_eq!((second, third), (2, 3));
        assert_ne!(anonymous, other);
        assert_eq!(register(2, ""), (2, anonymous), "told twice, the same job");
    }

    #[test]
    fn a_daemon_cannot_speak_for_another_node() {
        let mut harness = Harness::new();
        let stranger = ProcessId::daemon(crate::ids::NodeId(9));
        let message =
            Message::RegisterJob { driver: process(1), namespace: String::new(), launch: Bytes::new() };
        assert_eq!(harness.receive(stranger, message), []);
    }
}
