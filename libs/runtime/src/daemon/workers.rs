//! Workers: from the fork to the last byte that they wrote.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shoal_core::ids::ProcessId;
use shoal_core::node::Input;
use shoal_core::value::Death;
use tokio::io::Interest;

use super::log;
use super::output::Stream;
use super::state::{Daemon, Process, Shared, Task, with};
use super::watched::{Watched, watch};
use crate::control::Control;

/// How long a worker that has closed its link may take to end.
const HANG_UP_GRACE: Duration = Duration::from_secs(5);

/// How long a template may take to report that a child of its has ended.
const REPORT_GRACE: Duration = Duration::from_secs(2);

/// While so many bytes wait for a driver, it gets no more of what workers print.
const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// What is read of a dead worker's output at most: somebody else may still be writing into it.
const LAST_READS_MAX: u32 = 64;

/// One of a worker's two output streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Channel {
    Output,
    Error,
}

/// What the daemon knows of a worker, apart from its link.
#[derive(Debug)]
pub(super) struct Worker {
    /// `None` until it has been forked.
    started: Option<Started>,
    /// Where it prints, until it has been forked.
    pipes: Option<[OwnedFd; 2]>,
    /// The death to report, whatever the operating system says.
    death: Option<Death>,
    /// Ends it if it hangs up and goes on.
    hung_up: Option<Task>,
}

#[derive(Debug)]
struct Started {
    pid: Pid,
    /// Names the process even when its number is another's. `None` if it ended at once.
    descriptor: Option<Rc<Watched>>,
    outputs: [Option<Output>; 2],
    _watch: Option<Task>,
}

#[derive(Debug)]
struct Output {
    pipe: Rc<Watched>,
    stream: Stream,
    _task: Task,
}

impl Worker {
    /// A worker that is being forked.
    pub(super) fn starting(pipes: [OwnedFd; 2]) -> Worker {
        Worker { started: None, pipes: Some(pipes), death: None, hung_up: None }
    }

    /// Its pid, once it has been forked.
    pub(super) fn pid(&self) -> Option<u32> {
        self.started.as_ref().map(|started| started.pid.as_raw_pid() as u32)
    }

    /// Kill it and everything in its group, if it exists.
    fn signal(&self) {
        let Some(Started { pid, descriptor: Some(descriptor), .. }) = &self.started else {
            return;
        };
        // As long as this succeeds the worker has not been reaped, and its number is its own.
        if pidfd_send_signal(descriptor.get_ref(), Signal::KILL).is_ok() {
            let _ = rustix::process::kill_process_group(*pid, Signal::KILL);
        }
    }

    fn output(&mut self, channel: Channel) -> Option<&mut Output> {
        self.started.as_mut()?.outputs[channel as usize].as_mut()
    }
}

/// Wait for a worker's end. Its template reports it with its status; this is for a template that does not.
async fn await_end(shared: Shared, process: ProcessId, descriptor: Rc<Watched>) {
    if descriptor.readable().await.is_ok() {
        tokio::time::sleep(REPORT_GRACE).await;
        let reason = String::from("it ended, and its template did not say how");
        with(&shared, |daemon| daemon.worker_ended(process, Death::Killed { reason }));
    }
}

/// Read what a worker prints.
async fn serve_output(shared: Shared, process: ProcessId, channel: Channel, pipe: Rc<Watched>) {
    loop {
        let Ok(mut ready) = pipe.readable().await else {
            return;
        };
        let result = ready.try_io(|_| with(&shared, |daemon| daemon.read_output(process, channel)));
        if let Ok(Ok(0) | Err(_)) = result {
            return;
        }
        tokio::task::yield_now().await;
    }
}

impl Daemon {
    /// A worker has been forked.
    pub(super) fn worker_started(&mut self, process: ProcessId, pid: u32) {
        let Some(raw) = Pid::from_raw(pid as i32) else {
            return;
        };
        let shared = self.shared();
        let logs = self.logs.clone();
        let Some(worker) = self.worker_mut(process) else {
            return;
        };
        let open = |(pipe, channel, name): (OwnedFd, Channel, &str)| {
            let log = logs.join(format!("worker-{}-{pid}.{name}", process.number()));
            let pipe = Rc::new(watch(pipe, Interest::READABLE).ok()?);
            let task = serve_output(Rc::clone(&shared), process, channel, Rc::clone(&pipe));
            Some(Output { pipe, stream: Stream::new(log), _task: Task::spawn(task) })
        };
        let outputs = match worker.pipes.take() {
            Some([out, err]) => [open((out, Channel::Output, "out")), open((err, Channel::Error, "err"))],
            None => [None, None],
        };
        let descriptor = pidfd_open(raw, PidfdFlags::NONBLOCK)
            .ok()
            .and_then(|descriptor| watch(descriptor, Interest::READABLE).ok())
            .map(Rc::new);
        let watch = descriptor
            .as_ref()
            .map(|descriptor| Task::spawn(await_end(Rc::clone(&shared), process, Rc::clone(descriptor))));
        worker.started = Some(Started { pid: raw, descriptor, outputs, _watch: watch });
        if let Some(link) = self.link_of(process) {
            self.release_link(link);
        }
        self.watch_memory();
    }

    /// The machine wants a process dead, or it has misbehaved.
    pub(super) fn kill(&mut self, process: ProcessId, death: Death) {
        match self.processes.get_mut(&process) {
            Some(Process { worker: Some(worker), .. }) if worker.started.is_some() => {
                worker.death.get_or_insert(death);
                worker.signal();
            }
            Some(Process { worker: Some(_), .. }) => self.abandon_fork(process, death),
            // A driver is the user's process. It is not killed, only left alone.
            Some(Process { worker: None, .. }) => self.driver_ended(process, death),
            None => {}
        }
    }

    /// A worker has closed its link. Usually it is about to end.
    pub(super) fn worker_hung_up(&mut self, process: ProcessId) {
        let Some(link) = self.processes.get_mut(&process).and_then(|entry| entry.link.take()) else {
            return;
        };
        self.close_link(link);
        let shared = self.shared();
        let Some(worker) = self.worker_mut(process) else {
            return;
        };
        worker.hung_up = Some(Task::spawn(async move {
            tokio::time::sleep(HANG_UP_GRACE).await;
            let reason = String::from("it closed its link to the node and went on");
            with(&shared, |daemon| daemon.kill(process, Death::Killed { reason }));
        }));
    }

    /// A child of a template, or one that this process has adopted, has ended and been reaped.
    pub(super) fn child_exited(&mut self, pid: u32, status: i32) {
        let found =
            self.processes.iter().find(|(_, entry)| entry.worker.as_ref().and_then(Worker::pid) == Some(pid));
        if let Some((process, _)) = found {
            self.worker_ended(*process, death_of(status));
        }
    }

    /// A worker is dead: take what it has left, and tell the machine.
    pub(super) fn worker_ended(&mut self, process: ProcessId, death: Death) {
        if let Some(link) = self.link_of(process) {
            self.drain(link);
        }
        for channel in [Channel::Output, Channel::Error] {
            self.drain_output(process, channel);
        }
        let Some(Process { link, worker: Some(worker), .. }) = self.processes.remove(&process) else {
            return;
        };
        if let Some(link) = link {
            self.close_link(link);
        }
        // Only a worker that nobody has reaped still leads its group.
        worker.signal();
        self.pairs.forget(process);
        let death = worker.death.unwrap_or(death);
        if death != (Death::Exited { code: 0 }) {
            let pid = worker.started.map_or(0, |started| started.pid.as_raw_pid());
            log!("{process:?} (pid {pid}) is dead: {death:?}");
        }
        let last_started = self.store.take_started(process);
        self.tell_node(Input::ProcessExited { process, death, last_started });
        self.sweep_soon();
    }

    /// The pids of all workers.
    pub(super) fn worker_pids(&self) -> Vec<(ProcessId, u32)> {
        let pid = |(process, entry): (&ProcessId, &Process)| Some((*process, entry.worker.as_ref()?.pid()?));
        let mut found: Vec<_> = self.processes.iter().filter_map(pid).collect();
        found.sort_unstable();
        found
    }

    /// All workers, those that are being forked included.
    pub(super) fn workers(&self) -> Vec<ProcessId> {
        let workers = self.processes.iter().filter(|(_, entry)| entry.worker.is_some());
        workers.map(|(process, _)| *process).collect()
    }

    fn worker_mut(&mut self, process: ProcessId) -> Option<&mut Worker> {
        self.processes.get_mut(&process)?.worker.as_mut()
    }

    /// Read once what a worker has printed. `Ok(0)`: it prints no more.
    fn read_output(&mut self, process: ProcessId, channel: Channel) -> io::Result<usize> {
        let mut buffer = std::mem::take(&mut self.output_buffer);
        let mut lines = Vec::new();
        let result = match self.worker_mut(process).and_then(|worker| worker.output(channel)) {
            Some(output) => output.stream.read(output.pipe.get_ref(), &mut buffer, &mut lines),
            None => Ok(0),
        };
        self.output_buffer = buffer;
        if let Ok(0) = result {
            self.finish_output(process, channel, &mut lines);
        }
        self.pass_output(process, channel, lines);
        result
    }

    /// Read what a dead worker has printed last.
    fn drain_output(&mut self, process: ProcessId, channel: Channel) {
        for _ in 0..LAST_READS_MAX {
            if !matches!(self.read_output(process, channel), Ok(1..)) {
                break;
            }
        }
        let mut lines = Vec::new();
        self.finish_output(process, channel, &mut lines);
        self.pass_output(process, channel, lines);
    }

    fn finish_output(&mut self, process: ProcessId, channel: Channel, lines: &mut Vec<String>) {
        if let Some(output) = self.worker_mut(process).and_then(|worker| worker.output(channel)) {
            output.stream.finish(lines);
        }
    }

    /// Show lines to the driver of the worker's job, if it wants to see them and keeps up.
    fn pass_output(&mut self, process: ProcessId, channel: Channel, mut lines: Vec<String>) {
        if lines.is_empty() {
            return;
        }
        let Some(job) = self.processes.get(&process).map(|entry| entry.job) else {
            return;
        };
        let Some(driver) = self.jobs.get(&job).and_then(|job| job.output()) else {
            return;
        };
        let link = self.link_of(driver);
        let slow = match link {
            Some(link) => self.waiting_bytes(link) > OUTPUT_BYTES_MAX,
            None if driver.node() == self.id => return,
            None => self.is_slow_to(driver.node()),
        };
        let Some(worker) = self.worker_mut(process) else {
            return;
        };
        let pid = worker.pid().unwrap_or(0);
        let Some(output) = worker.output(channel) else {
            return;
        };
        if slow {
            return output.stream.drop_lines(&mut lines);
        }
        if let Some(notice) = output.stream.notice() {
            lines.insert(0, notice);
        }
        let error = channel == Channel::Error;
        let control = Control::Output { process, pid, error, lines };
        match link {
            Some(link) => self.queue_control(link, &control, Vec::new()),
            None => self.send_control_to_node(driver, &control),
        }
    }
}

/// What a wait status says, for people.
pub(super) fn describe_end(status: i32) -> String {
    match death_of(status) {
        Death::Signalled { signal } => format!("killed by signal {signal}"),
        _ => format!("exit code {}", libc::WEXITSTATUS(status)),
    }
}

/// What a wait status says.
pub(super) fn death_of(status: i32) -> Death {
    if libc::WIFSIGNALED(status) {
        Death::Signalled { signal: libc::WTERMSIG(status) }
    } else {
        Death::Exited { code: libc::WEXITSTATUS(status) }
    }
}
