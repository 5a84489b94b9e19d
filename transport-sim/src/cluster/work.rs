//! Work that a node starts: forks, the disk, the store's pages, copies from other nodes.

use shoal_core::ids::{NodeId, ObjectId, OperationId, ProcessId};
use shoal_core::message::Message;
use shoal_core::node::{self, SpillLocation, Work, WorkResult};
use shoal_core::value::{Death, Failure};

use super::{Cluster, Daemon, Event, Fact};
use crate::{Content, DiskError, Fault};

/// How many copies of 1000 break off where packets are lost.
const BREAKS_PER_MILLE: u64 = 100;

impl<C: Content> Cluster<C> {
    pub(super) fn start_work(&mut self, id: NodeId, operation: OperationId, work: Work) {
        let settings = &self.settings;
        let most = match &work {
            Work::ForkWorker { .. } => settings.fork_micros,
            Work::Spill { .. } | Work::Restore { .. } | Work::DeleteSpilled { .. } => settings.disk_micros,
            Work::Reserve { .. } | Work::ReleasePages { .. } => 1_000,
            Work::Fetch { size, .. } => 100 + size / settings.bytes_per_micro.max(1),
        };
        let Some(daemon) = self.nodes.get_mut(&id) else { return };
        if let Work::ForkWorker { process, job, .. } = &work {
            daemon.starting.insert(*process, *job);
        }
        if daemon.operations.insert(operation, work).is_some() {
            self.broken = Some(format!("{operation:?} was started twice"));
        }
        self.schedule_in(most, Event::Work(id, operation));
    }

    pub(super) fn cancel_work(&mut self, id: NodeId, operation: OperationId) {
        if let Some(daemon) = self.nodes.get_mut(&id)
            && daemon.operations.contains_key(&operation)
            && daemon.cancelled.insert(operation)
        {
            self.schedule_in(100, Event::Work(id, operation));
        }
    }

    pub(super) fn work_ends(&mut self, id: NodeId, operation: OperationId) {
        let Some(daemon) = self.nodes.get_mut(&id) else { return };
        let Some(work) = daemon.operations.remove(&operation) else { return };
        let cancelled = daemon.cancelled.remove(&operation);
        let result = match work {
            Work::ForkWorker { process, .. } => self.fork_ends(id, process),
            Work::Spill { objects } => self.spill_ends(id, &objects),
            Work::Restore { object, from, offset } => self.restore_ends(id, object, from, offset),
            Work::DeleteSpilled { location } => {
                if !daemon.disk.delete(location) {
                    self.broken = Some(format!("{location:?} was deleted, and is not there"));
                }
                WorkResult::Done
            }
            Work::Reserve { .. } => self.reserve_ends(id),
            Work::Fetch { object, from, offset, size, .. } => {
                self.fetch_ends(id, object, from, offset, size, cancelled)
            }
            Work::ReleasePages { offset, size } => {
                daemon.segment.release(offset, size);
                WorkResult::Done
            }
        };
        self.tell_node(id, node::Input::Finished { operation, result });
    }

    fn daemon(&mut self, id: NodeId) -> &mut Daemon<C> {
        self.nodes.get_mut(&id).expect("work ends where a daemon is")
    }

    /// Count one more of something that a daemon does, and say whether a fault strikes just this one.
    fn is_struck(
        &mut self,
        id: NodeId,
        count: impl Fn(&mut Daemon<C>) -> &mut u32,
        strikes: impl Fn(&Fault) -> Option<(usize, u32)>,
    ) -> bool {
        let daemon = self.daemon(id);
        let host = daemon.host;
        let nth = *count(daemon);
        *count(daemon) += 1;
        !self.healed && self.faults.iter().any(|fault| strikes(fault) == Some((host, nth)))
    }

    fn fork_ends(&mut self, id: NodeId, process: ProcessId) -> WorkResult {
        let nth = self.daemon(id).forks;
        let fails = self.is_struck(
            id,
            |daemon| &mut daemon.forks,
            |fault| match fault {
                Fault::ForkFails { host, nth } => Some((*host, *nth)),
                _ => None,
            },
        );
        if fails {
            self.count("a fork failed");
            let daemon = self.daemon(id);
            daemon.starting.remove(&process);
            daemon.killed_early.remove(&process);
            let detail = String::from("the worker could not be forked");
            return WorkResult::Failed(Failure::EnvironmentSetup { detail });
        }
        let host = self.daemon(id).host;
        let crash = Fault::StartCrash { host, nth };
        let crashes = !self.healed && self.faults.contains(&crash);
        let Some(job) = self.daemon(id).starting.remove(&process) else {
            return WorkResult::Done;
        };
        self.spawn(process, job, None);
        let most = self.settings.fork_micros;
        self.schedule_in(most, Event::WorkerUp(process));
        if let Some(death) = self.daemon(id).killed_early.remove(&process) {
            self.die(process, death, true);
        } else if crashes {
            self.count("a worker crashed while it started");
            self.die(process, Death::Signalled { signal: 6 }, true);
        }
        WorkResult::Forked { pid: 10_000 + process.number() }
    }

    pub(super) fn worker_up(&mut self, process: ProcessId) {
        if self.processes.contains_key(&process) {
            self.send(process, ProcessId::daemon(process.node()), Message::WorkerReady);
        }
    }

    fn spill_ends(&mut self, id: NodeId, objects: &[(ObjectId, u64, u64)]) -> WorkResult {
        let now = self.now();
        let full = self.daemon(id).disk_full_until > now;
        let torn = self.is_struck(
            id,
            |daemon| &mut daemon.spills,
            |fault| match fault {
                Fault::TornSpill { host, nth } => Some((*host, *nth)),
                _ => None,
            },
        );
        let mut contents = Vec::new();
        for (object, offset, size) in objects {
            match self.daemon(id).segment.read(*offset, *size) {
                Some(content) if content.object() == *object => contents.push((content.clone(), *size)),
                found => {
                    let problem = format!("{object:?} is spilled from {offset}, where {found:?} lies");
                    self.broken = Some(problem);
                    return WorkResult::Done;
                }
            }
        }
        let written = if full { Err(DiskError::Full) } else { self.daemon(id).disk.write(contents, torn) };
        match written {
            Ok(locations) => {
                self.count("objects were spilled");
                self.note_spill(id);
                if torn {
                    self.lost(String::from("a spill was torn"));
                }
                WorkResult::Spilled(locations)
            }
            Err(_) => {
                self.count("the disk was full");
                let detail = String::from("no room on the disk");
                self.lost(detail.clone());
                WorkResult::Failed(Failure::OutOfDisk { detail })
            }
        }
    }

    fn restore_ends(&mut self, id: NodeId, object: ObjectId, from: SpillLocation, offset: u64) -> WorkResult {
        let fails = self.is_struck(
            id,
            |daemon| &mut daemon.restores,
            |fault| match fault {
                Fault::RestoreFails { host, nth } => Some((*host, *nth)),
                _ => None,
            },
        );
        let now = self.now();
        let fails = fails || self.daemon(id).unreadable_until > now;
        match self.daemon(id).disk.read(from).cloned() {
            Ok(content) if !fails => {
                if content.object() != object {
                    self.broken =
                        Some(format!("{object:?} is restored from {from:?}, where {content:?} lies"));
                }
                self.daemon(id).segment.write(offset, from.size, content);
                self.count("an object was restored");
                WorkResult::Done
            }
            _ => {
                self.count("a restore failed");
                self.lost(format!("{object:?} could not be restored"));
                let detail = String::from("the spill file is damaged");
                WorkResult::Failed(Failure::ObjectLost { object, detail })
            }
        }
    }

    fn reserve_ends(&mut self, id: NodeId) -> WorkResult {
        let fails = self.is_struck(
            id,
            |daemon| &mut daemon.reserves,
            |fault| match fault {
                Fault::ReserveFails { host, nth } => Some((*host, *nth)),
                _ => None,
            },
        );
        if fails {
            self.count("a reservation failed");
            let detail = String::from("no memory for the store");
            return WorkResult::Failed(Failure::StoreFull { detail });
        }
        WorkResult::Done
    }

    /// How a copy from another node ended.
    fn fetch_ends(
        &mut self,
        id: NodeId,
        object: ObjectId,
        from: NodeId,
        offset: u64,
        size: u64,
        cancelled: bool,
    ) -> WorkResult {
        let failed = |detail: &str| {
            let detail = String::from(detail);
            WorkResult::Failed(Failure::ObjectLost { object, detail })
        };
        if cancelled {
            return failed("nobody waits for it any more");
        }
        let (here, gone) = {
            let daemon = self.daemon(id);
            (daemon.host, daemon.has_forgotten(from))
        };
        let Some(source) = self.nodes.get(&from).filter(|_| !gone) else {
            return failed("its node is gone");
        };
        let blocked = self.is_blocked(source.host, here) || self.is_blocked(here, source.host);
        let offered = source.offers.get(&(id, object)).copied();
        // Whatever goes wrong with a packet ends the stream that it was on.
        let lossy = source.host != here && !self.healed && !self.settings.loss.is_none();
        if blocked || lossy && self.random.chance(BREAKS_PER_MILLE) {
            self.count("the way broke while an object was copied");
            return failed("the way to its node broke");
        }
        let Some((at, length)) = offered else {
            return failed("its node does not offer it any more");
        };
        match self.nodes[&from].segment.read(at, length).cloned() {
            Some(content) if content.object() == object && length == size => {
                self.count("an object was copied from another node");
                self.note_copy(object);
                self.daemon(id).segment.write(offset, size, content);
                WorkResult::Done
            }
            found => {
                let problem = format!("{from:?} offers {object:?} at {at}, where {found:?} lies");
                self.broken = Some(problem);
                failed("it is not there")
            }
        }
    }

    fn lost(&mut self, detail: String) {
        self.facts.push(Fact::Lost { detail });
    }

    // --- What programs see of the store ----------------------------------------------------------

    /// A program writes an object at a place that its owner has allocated.
    pub fn write(&mut self, process: ProcessId, offset: u64, size: u64, content: C) {
        if let Some(daemon) = self.nodes.get_mut(&process.node()) {
            daemon.segment.write(offset, size, content);
        }
    }

    /// A program reads an object at a place that its owner has opened.
    pub fn read(&self, process: ProcessId, offset: u64, size: u64) -> Option<&C> {
        self.nodes.get(&process.node())?.segment.read(offset, size)
    }
}
