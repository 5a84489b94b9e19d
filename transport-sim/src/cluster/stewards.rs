//! Stewards: the owners inside daemons, which inherit what dead processes owned. They share everything
//! with their daemon: its pauses, its clock, and its end.

use shoal_core::ids::{NodeId, ProcessId};
use shoal_core::message::Message;
use shoal_core::{Effects, Machine, Time, owner};

use super::{Cluster, Envelope, Event};
use crate::Content;

impl<C: Content> Cluster<C> {
    /// Somebody says something to the steward of a node.
    pub(super) fn tell_steward(&mut self, node: NodeId, from: ProcessId, message: Message) {
        let now = self.now();
        let Some(daemon) = self.nodes.get_mut(&node) else { return };
        if daemon.paused_until > now {
            let at = daemon.paused_until;
            let envelope = Envelope { from, to: ProcessId::steward(node), message };
            self.schedule(at, Event::Steward(Box::new(envelope)));
            return;
        }
        let input = owner::Input::Received { from, message };
        self.trace.record(now, ProcessId::steward(node), '<', &input);
        let mut effects = Effects::new();
        let local = self.hosts[daemon.host].clock.shows(now);
        daemon.steward.handle(local, input, &mut effects);
        self.perform_steward(node, effects);
    }

    pub(super) fn steward_timer(&mut self, node: NodeId) {
        let now = self.now();
        let Some(daemon) = self.nodes.get_mut(&node) else { return };
        if daemon.steward_timer.is_none_or(|due| due > now) {
            return;
        }
        let address = ProcessId::steward(node);
        if daemon.paused_until > now {
            daemon.steward_timer = Some(daemon.paused_until);
            self.heap.schedule(daemon.paused_until, Event::Timer(address));
            return;
        }
        daemon.steward_timer = None;
        self.trace.record(now, address, '<', &"timeout");
        let mut effects = Effects::new();
        let local = self.hosts[daemon.host].clock.shows(now);
        daemon.steward.handle_timeout(local, &mut effects);
        if let Some((due, wakeup)) = daemon.steward.poll_timeout()
            && due <= local
        {
            self.broken = Some(format!("{address:?}: the deadline {wakeup:?} is still due after it fired"));
        }
        self.perform_steward(node, effects);
    }

    fn perform_steward(&mut self, node: NodeId, mut effects: Effects<owner::Effect>) {
        let now = self.now();
        let address = ProcessId::steward(node);
        for effect in effects.drain() {
            self.trace.record(now, address, '>', &effect);
            match effect {
                owner::Effect::Send { to, message } => {
                    let envelope = Envelope { from: address, to, message };
                    self.send_from_daemon(node, envelope);
                }
                owner::Effect::Changed { .. } | owner::Effect::GroupChanged { .. } => {}
                other => self.broken = Some(format!("{address:?} runs no program, but wants {other:?}")),
            }
        }
        let Some(daemon) = self.nodes.get_mut(&node) else { return };
        let Some((due, _)) = daemon.steward.poll_timeout() else { return };
        let due: Time = self.hosts[daemon.host].clock.moment(due).max(self.heap.now());
        if daemon.steward_timer.is_none_or(|armed| due < armed) {
            daemon.steward_timer = Some(due);
            self.heap.schedule(due, Event::Timer(address));
        }
    }
}
