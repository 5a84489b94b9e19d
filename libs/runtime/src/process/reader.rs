//! The receiving halves of all links, used by one thread at a time: the leader.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use shoal_core::ids::ProcessId;
use shoal_core::message::Message;
use shoal_core::owner::Input;
use shoal_core::wire;

use super::link::{Incoming, ReadState};
use super::{Process, exit_now};
use crate::control::Control;
use crate::frame::Kind;
use crate::spin::Spin;

/// The poller's name for the descriptor that tells an event loop of jobs that others have read.
const JOBS: u64 = u64::MAX;
/// So often a thread looks before it sleeps, if that pays.
const LOOKS_MAX: u32 = 256;
/// Looks at the link that was last used, before looking at all.
const HOT_LOOKS: u32 = 4;
/// A sleeping leader looks up this often, for deadlines of the machine.
const SLEEP_MAX: Duration = Duration::from_millis(500);

pub(super) struct Reader {
    links: HashMap<ProcessId, Incoming>,
    hot: Option<ProcessId>,
    spin: Spin,
    /// What was decoded and not applied yet; kept to reuse its room.
    batch: Vec<(ProcessId, Message)>,
    outputs: Vec<Control>,
    closed: Vec<ProcessId>,
    /// Links that were full, and are watched for room.
    writable: Vec<(ProcessId, Arc<OwnedFd>)>,
}

impl Default for Reader {
    fn default() -> Self {
        Reader {
            links: HashMap::new(),
            hot: None,
            spin: Spin::new(LOOKS_MAX),
            batch: Vec::new(),
            outputs: Vec::new(),
            closed: Vec::new(),
            writable: Vec::new(),
        }
    }
}

impl Reader {
    pub(super) fn add(&mut self, poller: &OwnedFd, link: Incoming) -> std::io::Result<()> {
        let data = epoll::EventData::new_u64(link.peer.0);
        epoll::add(poller, link.socket().as_fd(), data, epoll::EventFlags::IN)?;
        self.links.insert(link.peer, link);
        Ok(())
    }

    pub(super) fn watch_jobs(&mut self, poller: &OwnedFd, jobs: &OwnedFd) -> std::io::Result<()> {
        epoll::add(poller, jobs, epoll::EventData::new_u64(JOBS), epoll::EventFlags::IN)?;
        Ok(())
    }

    /// Look again and again for a bounded time; whether something came.
    pub(super) fn look(&mut self, process: &Process) -> bool {
        let mut spin = std::mem::replace(&mut self.spin, Spin::new(LOOKS_MAX));
        let mut turn = 0;
        let found = spin.run(|| {
            turn += 1;
            match self.hot {
                Some(hot) if turn % HOT_LOOKS != 0 => self.read(process, hot) && self.apply(process),
                _ => self.poll(process, 0),
            }
        });
        self.spin = spin;
        found
    }

    /// Sleep until something comes or the deadline passes, and read it; whether a signal came.
    pub(super) fn sleep(&mut self, process: &Process, deadline: Option<Instant>) -> bool {
        self.watch_full_links(process);
        let left = deadline
            .map_or(SLEEP_MAX, |deadline| deadline.saturating_duration_since(Instant::now()).min(SLEEP_MAX));
        match self.wait(process, left) {
            Ok(names) => {
                self.read_all(process, &names);
                process.inner.lock().handle_timeout();
                names.is_empty()
            }
            Err(interrupted) => interrupted,
        }
    }

    /// Read what is there after waiting at most `millis`; whether something came.
    pub(super) fn poll(&mut self, process: &Process, millis: u64) -> bool {
        let names = self.wait(process, Duration::from_millis(millis)).unwrap_or_default();
        self.read_all(process, &names)
    }

    /// Names of the links that have input.
    fn wait(&mut self, process: &Process, left: Duration) -> Result<Vec<ProcessId>, bool> {
        let mut events = Vec::with_capacity(64);
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match epoll::wait(&process.poller, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) => {}
            Err(error) => return Err(error == rustix::io::Errno::INTR),
        }
        let mut names = Vec::with_capacity(events.len());
        for event in events {
            match event.data.u64() {
                // For the event loop alone, which clears it in `Process::poll`.
                JOBS => {}
                name => names.push(ProcessId(name)),
            }
        }
        Ok(names)
    }

    fn read_all(&mut self, process: &Process, names: &[ProcessId]) -> bool {
        let mut any = false;
        for name in names {
            any |= self.read(process, *name);
        }
        self.watch_full_links(process);
        any && self.apply(process)
    }

    /// Read one link and decode its frames; whether there were any.
    fn read(&mut self, process: &Process, name: ProcessId) -> bool {
        let Some(mut link) = self.links.remove(&name) else { return false };
        let mut any = false;
        loop {
            let state = link.read();
            match self.take_frames(process, &mut link) {
                Ok(found) => any |= found,
                Err(error) => {
                    eprintln!("shoal: the link to {name:?} is closed: {error}");
                    self.close(process, link);
                    return true;
                }
            }
            match state {
                ReadState::More => {}
                ReadState::Drained => break,
                ReadState::Closed => {
                    self.close(process, link);
                    return true;
                }
            }
        }
        if any {
            self.hot = Some(name);
        }
        self.links.insert(name, link);
        any
    }

    fn close(&mut self, process: &Process, link: Incoming) {
        let _ = epoll::delete(&process.poller, link.socket().as_fd());
        self.closed.push(link.peer);
        if self.hot == Some(link.peer) {
            self.hot = None;
        }
    }

    fn take_frames(
        &mut self,
        process: &Process,
        link: &mut Incoming,
    ) -> Result<bool, crate::frame::FrameError> {
        let mut any = false;
        while let Some((header, body)) = link.next_frame()? {
            any = true;
            match header.kind {
                Kind::Message => {
                    let message = wire::decode::<Message>(link.bytes(body))?;
                    // A direct link speaks for its peer only.
                    let from = if link.peer == ProcessId::HEAD { header.from } else { link.peer };
                    self.batch.push((from, message));
                }
                Kind::Control => {
                    let control = wire::decode::<Control>(link.bytes(body))?;
                    self.control(process, link, control);
                }
            }
        }
        Ok(any)
    }

    fn control(&mut self, process: &Process, link: &mut Incoming, control: Control) {
        match control {
            Control::Link { peer } => {
                let Some(socket) = link.take_descriptor() else { return };
                let socket = Arc::new(socket);
                if process.inner.lock().link_opened(peer, socket.clone()) {
                    let incoming = Incoming::new(socket, peer, false);
                    if let Err(error) = self.add(&process.poller, incoming) {
                        eprintln!("shoal: cannot watch the link to {peer:?}: {error}");
                        self.closed.push(peer);
                    }
                }
            }
            Control::LinkRefused { peer } => self.closed.push(peer),
            output @ Control::Output { .. } => self.outputs.push(output),
            // Nothing else is said to a process that has been let in.
            _ => {}
        }
    }

    /// Hand everything that was read to the machine.
    fn apply(&mut self, process: &Process) -> bool {
        let mut inner = process.inner.lock();
        for (from, message) in self.batch.drain(..) {
            inner.handle(Input::Received { from, message });
        }
        for peer in self.closed.drain(..) {
            if peer == ProcessId::HEAD {
                inner.disconnected = true;
                inner.fire_all_callbacks();
            } else {
                inner.link_closed(peer);
            }
        }
        if inner.exiting.is_some() && !process.is_worker && !inner.disconnected {
            inner.close();
        }
        if inner.is_dirty() {
            inner.flush_if_worthwhile();
        }
        let orphan = inner.disconnected && process.is_worker;
        process.finish(inner);
        if orphan {
            exit_now("the node daemon is gone");
        }
        for output in self.outputs.drain(..) {
            if let Control::Output { process: from, pid, error, lines } = output {
                process.hooks.output(from, pid, error, lines);
            }
        }
        process.progress.notify_all();
        true
    }

    /// Sockets that were full are written again when they have room.
    fn watch_full_links(&mut self, process: &Process) {
        let mut inner = process.inner.lock();
        if self.writable.is_empty() && inner.full_links().next().is_none() {
            return;
        }
        inner.flush();
        let full: Vec<_> = inner.full_links().map(|(name, socket)| (name, socket.clone())).collect();
        drop(inner);
        let modify = |name: ProcessId, socket: &OwnedFd, flags| {
            let _ = epoll::modify(&process.poller, socket.as_fd(), epoll::EventData::new_u64(name.0), flags);
        };
        for (name, socket) in self.writable.drain(..) {
            modify(name, &socket, epoll::EventFlags::IN);
        }
        for (name, socket) in full {
            modify(name, &socket, epoll::EventFlags::IN | epoll::EventFlags::OUT);
            self.writable.push((name, socket));
        }
    }
}
