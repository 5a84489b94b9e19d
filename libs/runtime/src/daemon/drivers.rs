//! Drivers: how they are let in, and what happens when they go.

use std::fmt;
use std::os::fd::AsFd;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use shoal_core::ids::{JobId, ProcessId};
use shoal_core::node::Input;
use shoal_core::value::Death;
use shoal_core::wire;

use super::links::{LinkId, Role};
use super::log;
use super::state::{Daemon, Process};
use super::templates::Job;
use crate::control::{Control, Launch, VERSION, Welcome};

/// A driver that has greeted, until the machine lets it in.
pub(super) struct Applicant {
    pid: u32,
    job: JobLaunch,
}

/// What other nodes need to know of a job in order to start workers of it.
#[derive(Serialize, Deserialize)]
struct JobLaunch {
    launch: Launch,
    /// The driver wants to see what its workers print.
    output: bool,
}

impl fmt::Debug for Applicant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.pid)
    }
}

impl Daemon {
    /// A driver asks to be let in.
    pub(super) fn driver_greets(
        &mut self,
        id: LinkId,
        pid: u32,
        version: String,
        namespace: String,
        launch: Launch,
        output: bool,
    ) {
        if version != VERSION {
            let reason = format!(
                "the driver is of version {version} and the node of version {VERSION}; \
                 install the same version for both"
            );
            return self.refuse(id, reason);
        }
        if self.stopping {
            return self.refuse(id, String::from("the node is being stopped"));
        }
        let job = JobLaunch { launch, output };
        let launch = match wire::encode(&job) {
            Ok(launch) => launch.into(),
            Err(error) => return self.refuse(id, format!("its surroundings cannot be passed on: {error}")),
        };
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.role = Role::Applicant(Rc::new(Applicant { pid, job }));
        // As many workers as can run at once will be wanted soon; the machine bounds the number.
        let prestart = self.cpus;
        self.tell_node(Input::DriverConnected { connection: id.0, pid, namespace, prestart, launch });
    }

    fn refuse(&mut self, id: LinkId, reason: String) {
        log!("a driver was refused: {reason}");
        self.queue_control(id, &Control::Refused { reason }, Vec::new());
        self.close_when_written(id);
    }

    /// The machine lets a driver in.
    pub(super) fn accept_driver(&mut self, id: LinkId, process: ProcessId, job: JobId, namespace: String) {
        let applicant = match self.links.get(&id).map(|link| &link.role) {
            Some(Role::Applicant(applicant)) => Rc::clone(applicant),
            // It is gone already.
            _ => return self.tell_of_end(process, Death::Exited { code: 0 }),
        };
        let segment = match self.store.segment().as_fd().try_clone_to_owned() {
            Ok(segment) => segment,
            Err(error) => {
                self.refuse(id, format!("the node has no file descriptor left: {error}"));
                return self.tell_of_end(process, Death::Exited { code: 0 });
            }
        };
        if let Some(link) = self.links.get_mut(&id) {
            link.role = Role::Process(process);
        }
        self.processes.insert(process, Process { job, link: Some(id), worker: None });
        let welcome = self.welcome(process, job, namespace.clone());
        self.queue_control(id, &Control::Welcome(welcome), vec![segment]);
        let JobLaunch { launch, output } = &applicant.job;
        let output = output.then_some(process);
        self.jobs.insert(job, Job::new(process, launch.clone(), namespace, output));
        log!("{process:?} (pid {}) is the driver of job {}", applicant.pid, job.0);
        // Workers will be wanted soon. If this fails, the first fork says why.
        if let Err(error) = self.start_template(job) {
            log!("the template of job {} could not be started: {error}", job.0);
        }
    }

    /// There is a job whose driver is on another node: its workers may be wanted here.
    pub(super) fn remember_job(&mut self, id: JobId, driver: ProcessId, namespace: String, launch: &[u8]) {
        if self.jobs.contains_key(&id) {
            return;
        }
        match wire::decode::<JobLaunch>(launch) {
            Ok(JobLaunch { launch, output }) => {
                let output = output.then_some(driver);
                self.jobs.insert(id, Job::new(driver, launch, namespace, output));
            }
            Err(error) => log!("workers of job {} cannot be started here: {error}", id.0),
        }
    }

    /// What a process is told when it is let in.
    pub(super) fn welcome(&self, process: ProcessId, job: JobId, namespace: String) -> Welcome {
        Welcome {
            process,
            node: self.id,
            job,
            namespace,
            segment: self.store.segment().capacity(),
            huge_pages: self.store.segment().huge_pages(),
            session: self.session.to_string_lossy().into_owned(),
            cpus: self.cpus,
        }
    }

    /// The link of a process is closed by its end.
    pub(super) fn process_hung_up(&mut self, process: ProcessId) {
        match self.processes.get(&process) {
            Some(Process { worker: Some(_), .. }) => self.worker_hung_up(process),
            // The status of a process that is not a child cannot be had; a driver that leaves closes
            // its link, and so does one that is killed.
            Some(Process { worker: None, .. }) => {
                self.driver_ended(process, Death::Exited { code: 0 });
            }
            None => {}
        }
    }

    pub(super) fn driver_ended(&mut self, process: ProcessId, death: Death) {
        let Some(driver) = self.processes.remove(&process) else {
            return;
        };
        log!("{process:?} is gone: {death:?}");
        if let Some(link) = driver.link {
            self.close_link(link);
        }
        self.pairs.forget(process);
        if let Some(job) = self.jobs.get_mut(&driver.job) {
            job.driver_left();
        }
        self.tell_of_end(process, death);
    }

    /// Let the machine know that a process that ran no task is gone.
    fn tell_of_end(&mut self, process: ProcessId, death: Death) {
        self.tell_node(Input::ProcessExited { process, death, last_started: None });
    }
}
