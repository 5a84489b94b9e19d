//! How messages travel, and what a death does to them.

use shoal_core::ids::{ProcessId, TaskId};
use shoal_core::message::Message;
use shoal_core::owner;
use shoal_core::value::Death;
use shoal_core::{Time, head, node};
use shoal_transport_sim::Way;

use super::{DriverState, Event, Frame, NODE, World, micros};
use crate::observation::Observation;

const DAEMON: ProcessId = ProcessId::daemon(NODE);

impl World {
    /// A process sends: to the daemon, or to another process by a direct link or through the daemon.
    pub(super) fn send(&mut self, from: ProcessId, to: ProcessId, message: Message) {
        let frame = |message| Frame::Message { from, to, message };
        if to.is_daemon() {
            self.dispatch(Way { from, to: DAEMON }, frame(message));
            return;
        }
        let link = (from.min(to), from.max(to));
        let linked = self.links.contains(&link);
        let detour = if linked {
            self.random.chance(self.scenario.cluster.detour_per_mille)
        } else {
            // Whether a first message waits for a link is the transport's business.
            self.random.chance(500)
        };
        if detour && !belongs_to_link(&message) {
            self.count("a message took a detour");
            self.dispatch(Way { from, to: DAEMON }, frame(message));
            return;
        }
        if !self.processes.contains_key(&to) {
            // There is no such process any more: the link is refused, which is a closed one.
            self.dispatch(Way { from: to, to: from }, Frame::Closed);
            return;
        }
        self.links.insert(link);
        self.dispatch(Way { from, to }, frame(message));
    }

    pub(super) fn dispatch(&mut self, way: Way, frame: Frame) {
        let now = self.now();
        let at = self.network.send(now, way, frame);
        self.schedule(at, Event::Arrive(way));
    }

    /// From inside the daemon to a process.
    pub(super) fn send_from_daemon(&mut self, from: ProcessId, to: ProcessId, message: Message) {
        if self.processes.contains_key(&to) {
            self.dispatch(Way { from: DAEMON, to }, Frame::Message { from, to, message });
        }
    }

    pub(super) fn arrive(&mut self, way: Way) {
        let paused_until = self.paused_until(way.to);
        if paused_until > self.now() {
            self.schedule(paused_until, Event::Arrive(way));
            return;
        }
        let Some(frame) = self.network.arrive(way) else {
            return;
        };
        match frame {
            Frame::Message { from, to, message } if way.to == DAEMON => self.route(from, to, message),
            Frame::Message { from, message, .. } => {
                if self.processes.get(&way.to).is_some_and(|process| !process.ending) {
                    self.tell(way.to, owner::Input::Received { from, message });
                }
            }
            Frame::Closed => {
                self.network.forget(way);
                if self.processes.get(&way.to).is_some_and(|process| !process.ending) {
                    self.tell(way.to, owner::Input::LinkClosed { peer: way.from });
                }
            }
            Frame::Exited { death, last_started } => {
                self.network.forget(way);
                let process = way.from;
                self.tell_node(node::Input::ProcessExited { process, death, last_started });
            }
        }
    }

    fn paused_until(&self, id: ProcessId) -> Time {
        if id == DAEMON {
            return self.daemon.paused_until;
        }
        self.processes.get(&id).map_or(Time(0), |process| process.paused_until)
    }

    /// The daemon got a message from a process.
    fn route(&mut self, from: ProcessId, to: ProcessId, message: Message) {
        if to == ProcessId::HEAD {
            self.tell_head(head::Input::Received { via: NODE, from, message });
        } else if to == DAEMON {
            self.tell_node(node::Input::Received { from, message });
        } else {
            self.send_from_daemon(from, to, message);
        }
    }

    /// A process ends. One that crashes or is killed takes along what it had not sent.
    pub(super) fn die(&mut self, id: ProcessId, death: Death, abruptly: bool) {
        let Some(process) = self.processes.remove(&id) else {
            return;
        };
        let now = self.now();
        self.trace.record(now, id, '!', &("dies", &death));
        self.deaths.insert(id, death.clone());
        self.observations.push(Observation::Died { process: id, death: death.clone() });
        if let Some(number) = process.driver {
            self.drivers[number] = DriverState::Gone;
        }
        if abruptly {
            self.network.lose_unsent(id);
        }
        self.network.forget_receiver(id);
        let ends = |link: &(ProcessId, ProcessId)| link.0 == id || link.1 == id;
        let links: Vec<_> = self.links.iter().copied().filter(ends).collect();
        for link in links {
            self.links.remove(&link);
            let peer = if link.0 == id { link.1 } else { link.0 };
            self.dispatch(Way { from: id, to: peer }, Frame::Closed);
        }
        self.report_death(id, death, process.last_started);
    }

    /// The daemon learns of a death some time later, after all that the process had sent it.
    pub(super) fn report_death(&mut self, id: ProcessId, death: Death, last_started: Option<TaskId>) {
        let way = Way { from: id, to: DAEMON };
        let now = self.now();
        let noticed = now + self.random.span(micros(0), micros(self.scenario.cluster.reap_micros));
        let at = self.network.send(noticed, way, Frame::Exited { death, last_started });
        self.schedule(at, Event::Arrive(way));
    }
}

/// Messages about assigned tasks: they only make sense on the link that the task was pushed on.
fn belongs_to_link(message: &Message) -> bool {
    matches!(
        message,
        Message::PushTask(_)
            | Message::TakeBack { .. }
            | Message::TaskFinished(_)
            | Message::TasksReturned { .. }
            | Message::GeneratorItem { .. }
            | Message::GeneratorConsumed { .. }
    )
}
