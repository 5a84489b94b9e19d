//! How a node ends: asked by somebody, in order, and completely.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, getppid, pidfd_open};
use shoal_core::message::Message;
use shoal_core::value::Death;
use tokio::io::Interest;
use tokio::signal::unix::{SignalKind, signal};

use super::log;
use super::state::{Daemon, Shared, with};
use super::watched::{Watched, watch};

/// How long workers may take to run their exit handlers.
const EXIT_GRACE: Duration = Duration::from_secs(2);

/// How long nodes may take to hear that the cluster ends.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);

/// How long the operating system may take to end killed processes.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How often to look whether they have ended.
const POLL_PERIOD: Duration = Duration::from_millis(2);

/// Stop on signals, and when the owner is gone.
pub(super) fn listen(shared: &Shared, owner: Option<OwnedFd>) -> io::Result<()> {
    for (kind, name) in [
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::hangup(), "SIGHUP"),
    ] {
        let mut signals = signal(kind)?;
        let shared = Rc::clone(shared);
        tokio::task::spawn_local(async move {
            while signals.recv().await.is_some() {
                shared.borrow_mut().request_stop(&format!("it got {name}"));
            }
        });
    }
    if let Some(pipe) = owner {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        stop_when_readable(shared, pipe, true, "its owner has closed it")?;
        // Processes that the owner has forked may hold the pipe open after its end.
        if let Some(starter) = getppid().filter(|pid| !pid.is_init()) {
            let starter = pidfd_open(starter, PidfdFlags::NONBLOCK)?;
            stop_when_readable(shared, starter, false, "its owner has ended")?;
        }
    }
    Ok(())
}

fn stop_when_readable(
    shared: &Shared,
    descriptor: OwnedFd,
    to_end: bool,
    reason: &'static str,
) -> io::Result<()> {
    let descriptor = watch(descriptor, Interest::READABLE)?;
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        loop {
            let Ok(mut ready) = descriptor.readable().await else {
                return;
            };
            // Nobody writes into the owner's pipe; if somebody does, that is not its end.
            let read = |fd: &Watched| Ok(rustix::io::read(fd.get_ref(), &mut [0; 64])?);
            if !to_end || !matches!(ready.try_io(read), Ok(Ok(1..)) | Err(_)) {
                break;
            }
        }
        shared.borrow_mut().request_stop(reason);
    });
    Ok(())
}

/// Wait until somebody wants the node to stop, then end everything that belongs to it; with
/// `ends_cluster` also the other nodes, if the head is here.
pub(super) async fn wait_and_stop(shared: &Shared, ends_cluster: bool) {
    let stop = Rc::clone(&shared.borrow().stop);
    stop.notified().await;
    if ends_cluster && !shared.borrow().has_failed {
        with(shared, Daemon::end_cluster);
        until(shared, NEWS_PATIENCE, Daemon::has_told_nodes).await;
    }
    with(shared, Daemon::ask_workers_to_exit);
    // A second request is an impatient one.
    tokio::select! {
        _ = until(shared, EXIT_GRACE, |daemon| daemon.workers().is_empty()) => {}
        () = stop.notified() => {}
    }
    with(shared, |daemon| {
        for process in daemon.workers() {
            daemon.kill(process, Death::Killed { reason: String::from("the node was stopped") });
        }
    });
    until(shared, KILL_PATIENCE, |daemon| daemon.worker_pids().is_empty()).await;
    with(shared, |daemon| {
        for job in daemon.jobs_with_template() {
            daemon.stop_template(job);
        }
    });
    // Templates are reaped like everything that has been adopted since.
    let done = until(shared, KILL_PATIENCE, |daemon| daemon.kill_children() == 0).await;
    if !done {
        log!("some processes cannot be killed");
    }
}

/// Wait until `condition` holds, for at most `patience`. Whether it does.
async fn until(shared: &Shared, patience: Duration, condition: impl Fn(&Daemon) -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !condition(&shared.borrow()) {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(POLL_PERIOD).await;
    }
    true
}

impl Daemon {
    /// Somebody wants the node to stop.
    pub(super) fn request_stop(&mut self, reason: &str) {
        if self.stop_reason.is_none() {
            log!("the node stops: {reason}");
            self.stop_reason = Some(String::from(reason));
        }
        self.stop.notify_one();
    }

    fn ask_workers_to_exit(&mut self) {
        self.stopping = true;
        let reason = self.stop_reason.clone().unwrap_or_default();
        let daemon = self.daemon_process();
        for process in self.workers() {
            if let Some(link) = self.link_of(process) {
                let message = Message::Exit { graceful: false, reason: reason.clone() };
                self.queue_message(link, process, daemon, &message);
            }
        }
    }
}
