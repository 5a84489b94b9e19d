//! What comes over links: messages for the machines or for other processes, and control frames.

use shoal_core::ids::ProcessId;
use shoal_core::message::Message;
use shoal_core::value::Death;
use shoal_core::wire::{self, WireError};

use super::links::{LinkId, Role};
use super::log;
use super::state::Daemon;
use crate::control::Control;
use crate::frame::{FrameError, Header, Kind};

/// Before somebody has said who they are, a frame may have this size. A greeting holds the driver's
/// whole environment.
const GREETING_BYTES_MAX: usize = 16 << 20;

/// Why a link is closed.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Body(#[from] WireError),
    #[error("{0}")]
    OutOfPlace(String),
}

impl Daemon {
    /// Handle all frames that are complete.
    pub(super) fn handle_frames(&mut self, id: LinkId) {
        let mut inbox = self.take_inbox(id);
        let fault = loop {
            match inbox.next_frame() {
                Ok(Some((header, body))) => {
                    if let Err(fault) = self.handle_frame(id, header, body) {
                        break Some(fault);
                    }
                }
                Ok(None) => break self.check_announced(id, inbox.announced()).err(),
                Err(error) => break Some(error.into()),
            }
        };
        self.put_inbox(id, inbox);
        if let Some(fault) = fault {
            self.cut_off(id, &fault);
        }
    }

    fn check_announced(&self, id: LinkId, length: Option<usize>) -> Result<(), Fault> {
        let guest = self.links.get(&id).is_some_and(|link| matches!(link.role, Role::Guest(_)));
        match length {
            Some(length) if guest && length > GREETING_BYTES_MAX => Err(FrameError::TooLong(length).into()),
            _ => Ok(()),
        }
    }

    fn handle_frame(&mut self, id: LinkId, header: Header, body: &[u8]) -> Result<(), Fault> {
        // A frame before it may have closed the link.
        let Some(link) = self.links.get(&id) else {
            return Ok(());
        };
        let role = link.role.clone();
        match (header.kind, role) {
            (Kind::Message, Role::Process(from)) => self.pass_on(header, from, body),
            (Kind::Message, role) => {
                Err(Fault::OutOfPlace(format!("{role:?} is in no place to send messages")))
            }
            (Kind::Control, role) => self.handle_control(id, role, wire::decode(body)?),
        }
    }

    /// Give a message to the machine or to the process that it is for. One for a process that is dead,
    /// or was never there, is dropped: whoever needs to know of a death watches for it.
    fn pass_on(&mut self, mut header: Header, from: ProcessId, body: &[u8]) -> Result<(), Fault> {
        header.from = from;
        if header.to == ProcessId::HEAD && self.is_head_elsewhere() {
            self.forward_to_head(header, body);
        } else if header.to.node() != self.id && header.to != ProcessId::HEAD {
            self.forward_to_node(header, body);
        } else if self.is_own(header.to) {
            let message: Message = wire::decode(body)?;
            self.deliver(header.to, from, message);
        } else if let Some(link) = self.link_of(header.to) {
            self.queue_forward(link, header, body);
        }
        Ok(())
    }

    fn handle_control(&mut self, id: LinkId, role: Role, control: Control) -> Result<(), Fault> {
        match (role, control) {
            (Role::Guest(pid), Control::Hello { version, pid: _, namespace, launch, output }) => {
                self.driver_greets(id, pid, version, namespace, launch, output);
            }
            (Role::Guest(_), Control::AskStatus) => self.ask_status(id),
            (Role::Guest(_), Control::Drain { node, drain }) => self.ask_drain(id, node, drain),
            (Role::Guest(_), Control::Stop) => self.request_stop("the command line asked for it"),
            (Role::Process(process), Control::OpenLink { peer }) => self.open_link(process, peer),
            (Role::Template(_), Control::Forked { process, pid }) => self.forked(process, pid),
            (Role::Template(_), Control::ForkFailed { process, reason }) => {
                self.fork_failed(process, reason);
            }
            (Role::Template(_), Control::ChildExited { pid, status }) => {
                self.child_exited(pid, status);
            }
            (role, control) => {
                // Its name is enough: a greeting holds the user's whole environment.
                let control = format!("{control:?}");
                let name = control.split([' ', '(']).next().unwrap_or_default();
                return Err(Fault::OutOfPlace(format!("{role:?} is in no place to say {name}")));
            }
        }
        Ok(())
    }

    /// Close a link whose other end does not keep to the rules. It is the process's own fault, and it
    /// alone pays for it.
    fn cut_off(&mut self, id: LinkId, fault: &Fault) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        let role = link.role.clone();
        log!("the link of {role:?} is closed: {fault}");
        match role {
            Role::Process(process) => {
                let death = Death::Killed { reason: format!("it sent what cannot be understood: {fault}") };
                self.kill(process, death);
            }
            Role::Template(job) => self.kill_template(job),
            Role::Guest(_) | Role::Applicant(_) => {}
        }
        self.close_link(id);
    }

    /// The other end is closed, and everything that came over it has been handled.
    pub(super) fn link_ended(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        match link.role.clone() {
            // An applicant's end is noticed when it is let in.
            Role::Guest(_) | Role::Applicant(_) => self.close_link(id),
            Role::Process(process) => self.process_hung_up(process),
            Role::Template(job) => self.kill_template(job),
        }
    }
}
