//! Children of the daemon: templates, and what it adopts because its parent has died.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use shoal_core::ids::ProcessId;
use tokio::signal::unix::{SignalKind, signal};

use super::leftovers;
use super::session::WORKER_VARIABLE;
use super::state::{Daemon, Shared, Task, with};
use super::workers::describe_end;
use crate::template;

/// A process becomes ours only after its parent's end, and may have children itself.
const SWEEP_PAUSE: Duration = Duration::from_millis(50);

/// A process that cannot be killed must not keep us busy.
const SWEEPS_MAX: u32 = 20;

/// Reap children as they end.
pub(super) fn listen(shared: &Shared) -> io::Result<()> {
    let mut ended = signal(SignalKind::child())?;
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        while ended.recv().await.is_some() {
            with(&shared, Daemon::reap_children);
        }
    });
    Ok(())
}

impl Daemon {
    fn reap_children(&mut self) {
        while let Some(pid) = ended_child() {
            let template = self.job_of_template(pid);
            let number = pid.as_raw_pid() as u32;
            let worker = self.worker_pids().iter().any(|(_, worker)| *worker == number);
            if template.is_some() || worker {
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            }
            let Ok(status) = template::reap(pid) else {
                return;
            };
            match template {
                Some(job) => self.template_ended(job, &describe_end(status)),
                None => self.child_exited(number, status),
            }
        }
    }

    /// Look for what dead workers have left, once it has become ours.
    pub(super) fn sweep_soon(&mut self) {
        if self.sweep.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let shared = self.shared();
        self.sweep = Some(Task::spawn(async move {
            for _ in 0..SWEEPS_MAX {
                tokio::time::sleep(SWEEP_PAUSE).await;
                if shared.borrow().kill_orphans() == 0 {
                    return;
                }
            }
        }));
    }

    /// Kill adopted children that a dead worker has started. Those of living workers may be meant to
    /// run on their own.
    fn kill_orphans(&self) -> usize {
        let known = self.worker_pids();
        let orphan = |pid: &u32| {
            let template = Pid::from_raw(*pid as i32).and_then(|pid| self.job_of_template(pid));
            if template.is_some() || known.iter().any(|(_, worker)| worker == pid) {
                return false;
            }
            let Some(mark) = leftovers::marked_value(*pid, WORKER_VARIABLE) else {
                return false;
            };
            let starter = mark.parse().ok().map(ProcessId);
            starter.is_some_and(|starter| !self.processes.contains_key(&starter))
                && leftovers::kill_if_marked(*pid, WORKER_VARIABLE, &mark)
        };
        leftovers::children().iter().filter(|pid| orphan(pid)).count()
    }

    /// Kill every child, known or adopted; how many there were.
    pub(super) fn kill_children(&self) -> usize {
        let children = leftovers::children();
        for pid in children.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
            // A child that has not been reaped keeps its number.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        children.len()
    }
}

/// A child that has ended and is not reaped yet.
fn ended_child() -> Option<Pid> {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut information: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is to a structure of the right type that lives through the call.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut information, options) };
    if result != 0 {
        return None;
    }
    // SAFETY: `waitid` has succeeded, so the field is set: to zero if no child has ended.
    Pid::from_raw(unsafe { information.si_pid() })
}
