//! The template process's side of starting workers, apart from the interpreter that it forks.
//!
//! One thread does all of this: [`Template::wait`] returns a request, the caller forks, and then calls
//! [`Template::forked`] in the parent and [`Template::into_worker`] in the child. Ends of children are
//! noticed by descriptors that poll together with the link, so no signal handler is needed and
//! children inherit no signal mask.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, waitpid};
use shoal_core::ids::ProcessId;
use shoal_core::resources::Environment;
use shoal_core::wire;

use crate::control::{Control, Welcome};
use crate::frame::{self, Kind};
use crate::inbox::Inbox;
use crate::socket;

/// The kernel ends processes with a higher score first when memory runs out.
const WORKER_OOM_SCORE: &str = "1000";

/// A worker to fork.
#[derive(Debug)]
pub struct ForkRequest {
    /// What the worker is told.
    pub welcome: Welcome,
    /// Its surroundings.
    pub environment: Environment,
    /// Its link to the daemon.
    pub link: OwnedFd,
    /// Where its standard output goes.
    pub stdout: OwnedFd,
    /// Where its standard error goes.
    pub stderr: OwnedFd,
}

/// What [`Template::wait`] waits for.
#[derive(Debug)]
pub enum Event {
    /// Fork this worker.
    Fork(Box<ForkRequest>),
    /// The daemon has closed the link: the template exits.
    Closed,
}

/// The template's end of its link, and its children.
#[derive(Debug)]
pub struct Template {
    pid: Option<Pid>,
    link: OwnedFd,
    inbox: Inbox,
    descriptors: VecDeque<OwnedFd>,
    children: Vec<Child>,
}

#[derive(Debug)]
struct Child {
    pid: Pid,
    /// Readable once the child has ended.
    descriptor: OwnedFd,
}

impl Template {
    /// Serve the daemon behind `link`.
    pub fn new(link: OwnedFd) -> Template {
        Template {
            pid: Some(rustix::process::getpid()),
            link,
            inbox: Inbox::default(),
            descriptors: VecDeque::new(),
            children: Vec::new(),
        }
    }

    /// Wait for a request, and report the ends of children meanwhile.
    pub fn wait(&mut self) -> io::Result<Event> {
        loop {
            if let Some(request) = self.next_request()? {
                return Ok(Event::Fork(Box::new(request)));
            }
            let (readable, ended) = self.poll()?;
            for pid in ended {
                self.child_ended(pid)?;
            }
            if readable {
                let mut buffer = [0; 16 * 1024];
                match socket::receive(&self.link, &mut buffer, &mut self.descriptors, false) {
                    Ok(0) => return Ok(Event::Closed),
                    Ok(count) => self.inbox.extend(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                        return Ok(Event::Closed);
                    }
                    Err(error) if is_temporary(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// In the parent: the worker has this pid.
    pub fn forked(&mut self, process: ProcessId, pid: u32) -> io::Result<()> {
        let pid = Pid::from_raw(pid as i32)
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no pid of a child"))?;
        // The child does the same. Whoever comes first, the group exists before anybody is told of it.
        let _ = rustix::process::setpgid(Some(pid), Some(pid));
        let descriptor = pidfd_open(pid, PidfdFlags::empty())?;
        self.children.push(Child { pid, descriptor });
        self.report(&Control::Forked { process, pid: pid.as_raw_pid() as u32 })
    }

    /// In the parent: the worker could not be forked.
    pub fn fork_failed(&mut self, process: ProcessId, reason: String) -> io::Result<()> {
        self.report(&Control::ForkFailed { process, reason })
    }

    /// In the child: become a process of its own. Everything of the template's is closed, the worker
    /// leads a new process group, prints into its own pipes, and ends when the template does.
    pub fn into_worker(self, stdout: OwnedFd, stderr: OwnedFd) -> io::Result<()> {
        let template = self.pid;
        drop(self);
        let _ = rustix::process::setpgid(None, None);
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != template {
            // It died before the line above: nobody will send the signal.
            std::process::exit(1);
        }
        // Not permitted everywhere, and nothing depends on it.
        let _ = std::fs::write("/proc/self/oom_score_adj", WORKER_OOM_SCORE);
        rustix::stdio::dup2_stdout(stdout)?;
        rustix::stdio::dup2_stderr(stderr)?;
        Ok(())
    }

    fn next_request(&mut self) -> io::Result<Option<ForkRequest>> {
        let Some((header, body)) = self.inbox.next_frame().map_err(invalid)? else {
            return Ok(None);
        };
        if header.kind != Kind::Control {
            return Err(invalid("a template takes no messages"));
        }
        match wire::decode(body).map_err(invalid)? {
            Control::Fork { welcome, environment } => {
                let mut descriptor =
                    || self.descriptors.pop_front().ok_or_else(|| invalid("a descriptor is missing"));
                let (link, stdout, stderr) = (descriptor()?, descriptor()?, descriptor()?);
                Ok(Some(ForkRequest { welcome, environment, link, stdout, stderr }))
            }
            other => Err(invalid(format!("a template cannot do this: {other:?}"))),
        }
    }

    /// Wait until the link is readable or a child has ended.
    fn poll(&self) -> io::Result<(bool, Vec<Pid>)> {
        let mut waited = vec![PollFd::new(&self.link, PollFlags::IN)];
        waited.extend(self.children.iter().map(|child| PollFd::new(&child.descriptor, PollFlags::IN)));
        match poll(&mut waited, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok((false, Vec::new())),
            Err(error) => return Err(error.into()),
        }
        let ended = self.children.iter().zip(&waited[1..]);
        let ended = ended.filter(|(_, poll)| !poll.revents().is_empty()).map(|(child, _)| child.pid);
        Ok((!waited[0].revents().is_empty(), ended.collect()))
    }

    fn child_ended(&mut self, pid: Pid) -> io::Result<()> {
        self.children.retain(|child| child.pid != pid);
        let status = reap(pid)?;
        self.report(&Control::ChildExited { pid: pid.as_raw_pid() as u32, status })
    }

    fn report(&self, control: &Control) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, Kind::Control, ProcessId::default(), ProcessId::default(), control)
            .map_err(invalid)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match socket::send(&self.link, &[IoSlice::new(rest)], &[]) {
                Ok(count) => rest = &rest[count..],
                // The daemon is gone; the next read says so.
                Err(error) if is_hang_up(&error) => return Ok(()),
                Err(error) if is_temporary(&error) => wait_writable(self.link.as_fd())?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Take the status of a child that has ended, after ending what is left of the group that it led.
pub(crate) fn reap(pid: Pid) -> io::Result<i32> {
    // While the child is not reaped its number, and so its group's, belongs to nobody else.
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status.as_raw()),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait_writable(link: BorrowedFd<'_>) -> io::Result<()> {
    match poll(&mut [PollFd::new(&link, PollFlags::OUT)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
