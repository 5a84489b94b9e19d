//! Sockets to local processes: accepting, reading, writing, and slowing down whoever sends too much.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{SocketFlags, accept_with, sockopt};
use shoal_core::ids::{JobId, ProcessId};
use shoal_core::message::Message;
use tokio::io::Interest;
use tokio::sync::Notify;

use super::drivers::Applicant;
use super::log;
use super::state::{Daemon, Shared, Source, Task, with};
use super::watched::{Watched, watch, writable};
use crate::control::Control;
use crate::frame::{Header, Kind};
use crate::inbox::{Inbox, READ_BYTES};
use crate::outbox::Outbox;
use crate::socket;
use crate::spin::Spin;

/// Over this many unsent bytes, the links that fill a link are not read any more.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Under this many unsent bytes, they are read again.
const WAITING_BYTES_RESUME: usize = 16 << 20;

/// How often to look whether a link that is not read has been closed by its other end.
const PAUSED_CHECK: Duration = Duration::from_secs(1);

/// How long to wait when there are no descriptors left for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Names a link in this daemon; never used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct LinkId(pub(super) u64);

/// Who is at the other end of a link.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Somebody who has not said what they want, with their pid.
    Guest(u32),
    /// A driver that waits to be let in.
    Applicant(Rc<Applicant>),
    /// A driver or worker.
    Process(ProcessId),
    /// The template of a job.
    Template(JobId),
}

pub(super) struct Link {
    pub(super) role: Role,
    socket: Rc<Watched>,
    inbox: Inbox,
    outbox: Outbox,
    /// The socket is full: the link's task waits until it is not.
    blocked: bool,
    /// In `Daemon::dirty`.
    dirty: bool,
    /// Nobody reads at the other end any more; what is still to be read counts.
    broken: bool,
    /// Close once everything is written.
    closing: bool,
    /// Not read for now, because a link that it fills is too full.
    paused: bool,
    /// Not read yet, because it is not known yet who is at the other end.
    held: bool,
    /// Links that are paused until this one has been written.
    filled_by: Vec<Source>,
    /// Tells the link's task that what it waits for has changed.
    changed: Rc<Notify>,
    _task: Task,
}

/// What a link's task waits for.
struct Interests {
    /// Until it can read.
    reads: bool,
    /// Until it can write.
    writes: bool,
    /// Until the other end is closed.
    paused: bool,
}

/// Accept connections from processes of the same user.
pub(super) fn listen(shared: &Shared, listener: UnixListener) -> io::Result<()> {
    let listener = watch(OwnedFd::from(listener), Interest::READABLE)?;
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        loop {
            let Ok(mut ready) = listener.readable().await else {
                return;
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let accepted = ready.try_io(|fd| Ok(accept_with(fd, flags)?));
            match accepted {
                Ok(Ok(socket)) => {
                    let mut daemon = shared.borrow_mut();
                    if daemon.stopping {
                        return;
                    }
                    daemon.greet(socket);
                }
                Ok(Err(error)) => {
                    log!("a connection could not be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(_would_block) => {}
            }
        }
    });
    Ok(())
}

/// Serve one link until it is closed.
async fn serve(shared: Shared, id: LinkId, socket: Rc<Watched>, changed: Rc<Notify>) {
    loop {
        let Some(Interests { reads, writes, paused }) = shared.borrow().interests(id) else {
            return;
        };
        tokio::select! {
            ready = socket.readable(), if reads => {
                let Ok(mut ready) = ready else { return };
                match with(&shared, |daemon| daemon.read(id)) {
                    // Whoever sends without end must not keep the others from being served.
                    Ok(READ_BYTES..) => tokio::task::yield_now().await,
                    // Nothing is left. What comes from now on makes it ready again.
                    Ok(1..) => ready.clear_ready(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                    Ok(0) | Err(_) => {
                        with(&shared, |daemon| daemon.link_ended(id));
                        return;
                    }
                }
            }
            () = writable(&socket), if writes => {
                shared.borrow_mut().write(id);
                tokio::task::yield_now().await;
            }
            () = changed.notified() => {}
            // Its end must be noticed even while it is not read.
            () = tokio::time::sleep(PAUSED_CHECK), if paused => {
                with(&shared, |daemon| daemon.read_if_hung_up(id));
            }
        }
    }
}

impl Daemon {
    /// A new connection to the socket: only this user's processes may stay.
    fn greet(&mut self, socket: OwnedFd) {
        let Ok(credentials) = sockopt::socket_peercred(&socket) else {
            return;
        };
        if credentials.uid != rustix::process::getuid() {
            log!("a process of user {} was turned away", credentials.uid.as_raw());
            return;
        }
        socket::enlarge_buffers(&socket);
        let pid = credentials.pid.as_raw_pid() as u32;
        if let Err(error) = self.add_link(socket, Role::Guest(pid)) {
            log!("a connection could not be served: {error}");
        }
    }

    /// Start to serve a socket.
    pub(super) fn add_link(&mut self, socket: OwnedFd, role: Role) -> io::Result<LinkId> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let socket = Rc::new(watch(socket, Interest::READABLE)?);
        let changed = Rc::new(Notify::new());
        self.links_made += 1;
        let id = LinkId(self.links_made);
        let task = Task::spawn(serve(self.shared(), id, Rc::clone(&socket), Rc::clone(&changed)));
        let link = Link {
            role,
            socket,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            blocked: false,
            dirty: false,
            broken: false,
            closing: false,
            paused: false,
            held: false,
            filled_by: Vec::new(),
            changed,
            _task: task,
        };
        self.links.insert(id, link);
        Ok(id)
    }

    /// The link of a local process.
    pub(super) fn link_of(&self, process: ProcessId) -> Option<LinkId> {
        self.processes.get(&process)?.link
    }

    /// Bytes that wait to be written to a link.
    pub(super) fn waiting_bytes(&self, id: LinkId) -> usize {
        self.links.get(&id).map_or(0, |link| link.outbox.waiting())
    }

    /// Queue a message.
    pub(super) fn queue_message(&mut self, id: LinkId, to: ProcessId, from: ProcessId, message: &Message) {
        self.queue(id, |outbox| match outbox.push(Kind::Message, to, from, message) {
            Ok(()) => {}
            Err(error) => log!("a message from {from:?} to {to:?} is lost: {error}"),
        });
    }

    /// Queue a message that is encoded already.
    pub(super) fn queue_forward(&mut self, id: LinkId, header: Header, body: &[u8]) {
        self.queue(id, |outbox| outbox.forward(header, body));
    }

    /// Queue a control frame with its descriptors.
    pub(super) fn queue_control(&mut self, id: LinkId, control: &Control, bring: Vec<OwnedFd>) {
        let from = self.daemon_process();
        self.queue(id, |outbox| match outbox.push_control(ProcessId::default(), from, control, bring) {
            Ok(()) => {}
            Err(error) => log!("a control frame is lost: {error}"),
        });
    }

    fn queue(&mut self, id: LinkId, push: impl FnOnce(&mut Outbox)) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.broken || link.closing {
            return;
        }
        push(&mut link.outbox);
        if !link.dirty && !link.blocked {
            link.dirty = true;
            self.dirty.push(id);
        }
        if link.outbox.waiting() > WAITING_BYTES_MAX {
            self.pause_source(|daemon, source| {
                if let Some(full) = daemon.links.get_mut(&id) {
                    full.filled_by.push(source);
                }
            });
        }
    }

    /// Do not read whoever has sent what is being handled before what it fills has room again; `note`
    /// remembers who waits for that.
    pub(super) fn pause_source(&mut self, note: impl FnOnce(&mut Daemon, Source)) {
        let Some(source) = self.source.clone() else { return };
        let paused = match &source {
            Source::Link(id) => {
                self.links.get_mut(id).is_some_and(|link| !std::mem::replace(&mut link.paused, true))
            }
            Source::Gate(gate) => gate.close(),
        };
        if paused {
            note(self, source);
        }
    }

    pub(super) fn resume(&mut self, sources: Vec<Source>) {
        for source in sources {
            match source {
                Source::Link(id) => {
                    if let Some(link) = self.links.get_mut(&id) {
                        link.paused = false;
                        link.changed.notify_one();
                    }
                }
                Source::Gate(gate) => gate.open(),
            }
        }
    }

    /// Go on reading a paused link that the other end has closed: what is left in it is bounded.
    fn read_if_hung_up(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let mut polled = [PollFd::new(link.socket.get_ref(), PollFlags::empty())];
        let hung_up = rustix::event::poll(&mut polled, Some(&rustix::event::Timespec::default()));
        if hung_up.is_ok_and(|count| count > 0) {
            link.paused = false;
        }
    }

    /// Write what waits on all links.
    pub(super) fn flush(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            if let Some(link) = self.links.get_mut(&id) {
                link.dirty = false;
                self.write(id);
            }
        }
    }

    /// Write what a link takes. Whether everything is gone.
    fn write(&mut self, id: LinkId) -> bool {
        let Some(link) = self.links.get_mut(&id) else {
            return true;
        };
        let all = match link.outbox.flush(link.socket.get_ref()) {
            Ok(all) => all,
            Err(error) => {
                // Its end is noticed when everything that it had sent has been read.
                if !matches!(link.role, Role::Guest(_)) {
                    log!("{:?} cannot be written to: {error}", link.role);
                }
                link.broken = true;
                link.outbox = Outbox::default();
                true
            }
        };
        if link.blocked == all {
            link.blocked = !all;
            link.changed.notify_one();
        }
        if link.outbox.waiting() < WAITING_BYTES_RESUME {
            let sources = std::mem::take(&mut link.filled_by);
            let closing = link.closing && all;
            self.resume(sources);
            if closing {
                self.close_link(id);
            }
        }
        all
    }

    /// Read once, and handle what came.
    pub(super) fn read(&mut self, id: LinkId) -> io::Result<usize> {
        let Some(link) = self.links.get_mut(&id) else {
            return Ok(0);
        };
        let count = link.inbox.fill(link.socket.get_ref())?;
        if count > 0 {
            self.source = Some(Source::Link(id));
            self.reads += 1;
            self.handle_frames(id);
        }
        Ok(count)
    }

    /// Look for a bounded time at the link of a process that another node has asked something: a short method
    /// answers before this thread would have slept, and waking it again takes longer than the method.
    pub(super) fn look_for_answer(&mut self) {
        let Some(id) = self.asked.take() else { return };
        if self.interests(id).is_none_or(|interests| !interests.reads || interests.writes) {
            return;
        }
        let mut spin = std::mem::replace(&mut self.spin, Spin::new(0));
        // What ends the link is for its task to find.
        spin.run(|| !matches!(self.read(id), Err(error) if error.kind() == io::ErrorKind::WouldBlock));
        self.spin = spin;
        self.settle();
    }

    /// Read what a dead process has left in its socket. Others may hold its end open, so the end of
    /// the stream is not waited for.
    pub(super) fn drain(&mut self, id: LinkId) {
        while let Ok(1..) = self.read(id) {}
        self.source = None;
    }

    /// Take the inbox out, so that its frames can be handled with the whole daemon at hand.
    pub(super) fn take_inbox(&mut self, id: LinkId) -> Inbox {
        self.links.get_mut(&id).map(|link| std::mem::take(&mut link.inbox)).unwrap_or_default()
    }

    /// Put the inbox back, unless the link was closed meanwhile.
    pub(super) fn put_inbox(&mut self, id: LinkId, inbox: Inbox) {
        if let Some(link) = self.links.get_mut(&id) {
            link.inbox = inbox;
        }
    }

    /// Close a link once everything that waits has been written.
    pub(super) fn close_when_written(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.outbox.is_empty() {
            self.close_link(id);
        } else {
            link.closing = true;
        }
    }

    /// Close a link now.
    pub(super) fn close_link(&mut self, id: LinkId) {
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        // The other end sees the end of the stream even while a task still holds the descriptor.
        let _ = rustix::net::shutdown(link.socket.get_ref().as_fd(), rustix::net::Shutdown::Both);
        self.resume(link.filled_by);
    }

    /// Do not read a link before [`Daemon::release_link`].
    pub(super) fn hold_link(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.held = true;
        }
    }

    pub(super) fn release_link(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.held = false;
            link.changed.notify_one();
        }
    }

    /// What a link's task should wait for; `None` if the link is closed.
    fn interests(&self, id: LinkId) -> Option<Interests> {
        let link = self.links.get(&id)?;
        Some(Interests { reads: !link.paused && !link.held, writes: link.blocked, paused: link.paused })
    }
}
