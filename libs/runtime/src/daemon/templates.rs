//! Templates: the processes that workers are forked from, one for each job.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, pidfd_send_signal};
use shoal_core::ids::{JobId, OperationId, ProcessId};
use shoal_core::node::{Input, WorkResult};
use shoal_core::resources::Environment;
use shoal_core::value::{Death, Failure};

use super::links::{LinkId, Role};
use super::log;
use super::session::{SESSION_VARIABLE, WORKER_VARIABLE};
use super::state::{Daemon, Process};
use super::workers::Worker;
use crate::control::{Control, Launch};
use crate::socket;

/// What a template runs. Its arguments: the link, the store's segment, a file with the module search
/// path, and the modules to import beforehand. The search path must be in place before anything else
/// is imported, and entries of it may hold anything but a zero.
const PROGRAM: &str = "\
import sys
with open(int(sys.argv[3]), encoding='utf-8') as file:
    sys.path[:] = file.read().split('\\0')
import shoal._template
shoal._template.main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[4:])
";

/// A template that dies this often before it has forked anything is not started again: its job's
/// surroundings are broken, and starting an interpreter for each attempt would keep a CPU busy.
const FAILURES_MAX: u32 = 3;

/// How much of a template's log is shown when it fails.
const LOG_TAIL_BYTES: u64 = 4000;

/// What is needed to start workers of a job. Kept after the driver's end: detached actors may need it.
#[derive(Debug)]
pub(super) struct Job {
    launch: Launch,
    namespace: String,
    /// The driver, while it is there.
    driver: Option<ProcessId>,
    /// The driver, if it wants to see what workers print.
    output: Option<ProcessId>,
    template: Option<Template>,
    /// Templates that died without having forked, since one did.
    failures: u32,
    last_failure: String,
}

#[derive(Debug)]
struct Template {
    pid: Pid,
    link: LinkId,
    log: PathBuf,
    /// Forks that have been asked for and not been answered.
    forks: HashMap<ProcessId, OperationId>,
    has_forked: bool,
    /// Its end is wanted.
    stopped: bool,
}

impl Job {
    pub(super) fn new(
        driver: ProcessId,
        launch: Launch,
        namespace: String,
        output: Option<ProcessId>,
    ) -> Job {
        Job {
            launch,
            namespace,
            driver: Some(driver),
            output,
            template: None,
            failures: 0,
            last_failure: String::new(),
        }
    }

    pub(super) fn driver_left(&mut self) {
        self.driver = None;
        self.output = None;
    }

    /// The driver that wants to see what workers print.
    pub(super) fn output(&self) -> Option<ProcessId> {
        self.output
    }
}

impl Daemon {
    /// Start the template of a job unless it runs.
    pub(super) fn start_template(&mut self, id: JobId) -> Result<(), String> {
        let Some(job) = self.jobs.get(&id) else {
            return Err(format!("no driver of job {} has ever connected to this node", id.0));
        };
        if job.template.is_some() {
            return Ok(());
        }
        if job.failures >= FAILURES_MAX {
            return Err(job.last_failure.clone());
        }
        let log = self.logs.join(format!("template-{}.log", id.0));
        let (ours, theirs) = socket::pair().map_err(|error| error.to_string())?;
        let python = job.launch.python.clone();
        let spawned = self.spawn_template(&job.launch, &log, theirs);
        let pid = spawned.map_err(|error| {
            format!("the interpreter {python} of the job's driver cannot be started: {error}")
        })?;
        let link = self.add_link(ours, Role::Template(id)).map_err(|error| error.to_string())?;
        let template = Template { pid, link, log, forks: HashMap::new(), has_forked: false, stopped: false };
        if let Some(job) = self.jobs.get_mut(&id) {
            job.template = Some(template);
        }
        Ok(())
    }

    fn spawn_template(&self, launch: &Launch, log: &Path, link: OwnedFd) -> io::Result<Pid> {
        let log = File::options().create(true).append(true).open(log)?;
        let module_path = memory_file(launch.module_path.join("\0").as_bytes())?;
        let inherited = [link.as_fd(), self.store.segment().as_fd(), module_path.as_fd()];
        let mut command = Command::new(&launch.python);
        // `-P`: the current directory is no place to import from, before the search path is set.
        command.args(["-P", "-c", PROGRAM]);
        command.args(inherited.iter().map(|descriptor| descriptor.as_raw_fd().to_string()));
        command.args(&launch.preload);
        command.env_clear().envs(launch.variables.iter().map(|(name, value)| (name, value)));
        command.env(SESSION_VARIABLE, &self.session);
        // The driver may be something that a worker of another node has started.
        command.env_remove(WORKER_VARIABLE);
        command.current_dir(&launch.working_directory);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = spawn_detached(&mut command, &inherited, self.files_before)?;
        Pid::from_raw(child as i32).ok_or_else(|| io::Error::other("a child without a pid"))
    }

    /// Fork a worker.
    pub(super) fn fork_worker(
        &mut self,
        operation: OperationId,
        process: ProcessId,
        job: JobId,
        environment: Environment,
    ) {
        let forked = if self.stopping {
            Err(String::from("the node is being stopped"))
        } else {
            self.ask_for_fork(operation, process, job, environment)
        };
        if let Err(detail) = forked {
            self.forget_fork(process);
            let failure = Failure::EnvironmentSetup { detail };
            self.finish(operation, WorkResult::Failed(failure));
        }
    }

    fn ask_for_fork(
        &mut self,
        operation: OperationId,
        process: ProcessId,
        job: JobId,
        mut environment: Environment,
    ) -> Result<(), String> {
        self.start_template(job)?;
        let make = || -> io::Result<_> {
            let nonblocking_end = |reader: OwnedFd| {
                rustix::io::ioctl_fionbio(&reader, true)?;
                io::Result::Ok(reader)
            };
            let (stdout, child_stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            let (stderr, child_stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            let (ours, theirs) = socket::pair()?;
            let pipes = [nonblocking_end(stdout)?, nonblocking_end(stderr)?];
            Ok((ours, pipes, vec![theirs, child_stdout, child_stderr]))
        };
        let (ours, pipes, theirs) =
            make().map_err(|error| format!("the node has no file descriptor left: {error}"))?;
        let link = self
            .add_link(ours, Role::Process(process))
            .map_err(|error| format!("a worker's link cannot be served: {error}"))?;
        // It may speak before its template says that it is there.
        self.hold_link(link);
        let worker = Some(Worker::starting(pipes));
        self.processes.insert(process, Process { job, link: Some(link), worker });
        self.store.forget_started(process);
        let namespace = self.jobs.get(&job).map(|job| job.namespace.clone()).unwrap_or_default();
        let welcome = self.welcome(process, job, namespace);
        let mark = (String::from(WORKER_VARIABLE), process.0.to_string());
        environment.variables.push(mark);
        if let Some(template) = self.template_mut(job) {
            template.forks.insert(process, operation);
            let link = template.link;
            self.queue_control(link, &Control::Fork { welcome, environment }, theirs);
        }
        Ok(())
    }

    /// A template has forked a worker.
    pub(super) fn forked(&mut self, process: ProcessId, pid: u32) {
        let Some(operation) = self.take_fork(process, true) else {
            // It was killed before it existed.
            return kill_at_once(pid);
        };
        self.worker_started(process, pid);
        self.finish(operation, WorkResult::Forked { pid });
    }

    /// A template could not fork a worker.
    pub(super) fn fork_failed(&mut self, process: ProcessId, reason: String) {
        let Some(operation) = self.take_fork(process, false) else {
            return;
        };
        self.forget_fork(process);
        let detail = format!("a worker could not be forked: {reason}");
        self.finish(operation, WorkResult::Failed(Failure::EnvironmentSetup { detail }));
    }

    fn take_fork(&mut self, process: ProcessId, success: bool) -> Option<OperationId> {
        let job = self.processes.get(&process)?.job;
        let template = self.template_mut(job)?;
        template.has_forked |= success;
        let operation = template.forks.remove(&process)?;
        if success && let Some(job) = self.jobs.get_mut(&job) {
            job.failures = 0;
        }
        Some(operation)
    }

    /// A worker that has not been forked yet is not wanted any more. The template may be busy for as
    /// long as the user's modules take to import, so its answer is not waited for.
    pub(super) fn abandon_fork(&mut self, process: ProcessId, death: Death) {
        let operation = self.take_fork(process, false);
        self.forget_fork(process);
        self.tell_node(Input::ProcessExited { process, death, last_started: None });
        if let Some(operation) = operation {
            let detail = String::from("the worker was killed before it was forked");
            self.finish(operation, WorkResult::Failed(Failure::EnvironmentSetup { detail }));
        }
    }

    /// Forget a worker that has never been.
    fn forget_fork(&mut self, process: ProcessId) {
        if let Some(process) = self.processes.remove(&process)
            && let Some(link) = process.link
        {
            self.close_link(link);
        }
    }

    /// End a template. What follows happens when it has been reaped.
    pub(super) fn kill_template(&mut self, job: JobId) {
        if let Some(template) = self.template_mut(job) {
            let pid = template.pid;
            // Not reaped yet, so the number is still its own.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// End a template that is not needed any more.
    pub(super) fn stop_template(&mut self, job: JobId) {
        if let Some(template) = self.template_mut(job) {
            template.stopped = true;
            self.kill_template(job);
        }
    }

    /// Nothing of a job will ever be started here again.
    pub(super) fn forget_job(&mut self, job: JobId) {
        self.stop_template(job);
        // One whose template still runs goes with the daemon.
        if self.template_mut(job).is_none() {
            self.jobs.remove(&job);
        }
    }

    /// The job whose template has this pid.
    pub(super) fn job_of_template(&self, pid: Pid) -> Option<JobId> {
        let found = self
            .jobs
            .iter()
            .find(|(_, job)| job.template.as_ref().is_some_and(|template| template.pid == pid));
        found.map(|(id, _)| *id)
    }

    /// A template has been reaped: its forks in flight fail.
    pub(super) fn template_ended(&mut self, id: JobId, end: &str) {
        let Some(link) = self.template_mut(id).map(|template| template.link) else {
            return;
        };
        // What it had done before may still be in its link.
        self.drain(link);
        self.close_link(link);
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let Some(template) = job.template.take() else {
            return;
        };
        let tail = log_tail(&template.log);
        let reason = format!("the template process of the job ended ({end}){tail}");
        if !template.stopped {
            log!("job {}: {reason}", id.0);
            if !template.has_forked {
                job.failures += 1;
                job.last_failure = reason.clone();
            }
        }
        let mut forks: Vec<_> = template.forks.into_iter().collect();
        forks.sort_unstable_by_key(|(process, _)| *process);
        for (process, operation) in forks {
            self.forget_fork(process);
            let failure = Failure::EnvironmentSetup { detail: reason.clone() };
            self.finish(operation, WorkResult::Failed(failure));
        }
    }

    /// All templates, for ending them.
    pub(super) fn jobs_with_template(&self) -> Vec<JobId> {
        let with = self.jobs.iter().filter(|(_, job)| job.template.is_some());
        with.map(|(id, _)| *id).collect()
    }

    fn template_mut(&mut self, job: JobId) -> Option<&mut Template> {
        self.jobs.get_mut(&job)?.template.as_mut()
    }
}

/// Spawn a process that leads a session of its own, ends with this thread, and keeps `inherited`.
fn spawn_detached(command: &mut Command, inherited: &[BorrowedFd<'_>], files: Rlimit) -> io::Result<u32> {
    let daemon = Some(rustix::process::getpid());
    let inherited: Vec<_> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    let prepare = move || {
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != daemon {
            return Err(io::ErrorKind::NotFound.into());
        }
        rustix::process::setrlimit(Resource::Nofile, files)?;
        close_on_exec();
        for descriptor in &inherited {
            // SAFETY: the descriptors are open in the daemon while it spawns, and this is its copy.
            let descriptor = unsafe { BorrowedFd::borrow_raw(*descriptor) };
            rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made; nothing is allocated or locked.
    unsafe { command.pre_exec(prepare) };
    // The child is reaped by number, together with those that this process adopts.
    command.spawn().map(|child| child.id())
}

/// Kill a child of a template that nobody wants.
fn kill_at_once(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid as i32)
        && let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty())
    {
        let _ = pidfd_send_signal(descriptor, Signal::KILL);
    }
}

/// Have everything closed on exec: also what this process was started with and knows nothing of.
fn close_on_exec() {
    // SAFETY: this changes a flag of open descriptors. Kernels that cannot do it say so, and then the
    // flags that this process has set itself must do.
    unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
}

/// A file in memory that holds `bytes`, to be read from its start.
fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("module-path", MemfdFlags::CLOEXEC)?);
    io::Write::write_all(&mut file, bytes)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file.into())
}

/// The end of a log, as the tail of an error message.
fn log_tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if !bytes.is_empty() => {
            format!("; its last words:\n{}", String::from_utf8_lossy(&bytes).trim_end())
        }
        _ => String::new(),
    }
}
