//! Who still waits, and for what.

use super::{Cluster, Daemon, Host, HostState};
use crate::Content;

/// So many events that are still to happen are shown.
const EVENTS_SHOWN: usize = 12;

impl<C: Content> Cluster<C> {
    /// Whether there is one head, which all members can speak with, and nothing is slow or stands still.
    pub fn is_undisturbed(&self) -> bool {
        let now = self.now();
        let one = self.heads.len() == 1 && self.heads.values().all(|head| head.paused_until <= now);
        let speaks = |daemon: &Daemon<C>| daemon.head.connected && daemon.paused_until <= now;
        let quick = |host: &Host| host.slow_until <= now && host.clogged_until <= now;
        one && self.blocked.is_empty() && self.nodes.values().all(speaks) && self.hosts.iter().all(quick)
    }

    /// One line for everything that machines wait for: tasks, actors, leases, work.
    pub fn pending(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            match host.state {
                HostState::Down if host.has_daemon => lines.push(format!("host {number} is down")),
                HostState::Joining => lines.push(format!("host {number} is not a member")),
                _ => {}
            }
        }
        for (id, daemon) in &self.nodes {
            if !daemon.head.connected {
                lines.push(format!("{id:?} has no connection to a head"));
            }
        }
        for (id, process) in &self.processes {
            let inspection = process.owner.inspect();
            for task in inspection.tasks.iter().filter(|task| !task.done) {
                lines.push(format!("{id:?} task {:?} attempt {} {}", task.id, task.attempt, task.stage));
            }
            for actor in inspection.actors.iter().filter(|actor| actor.queued + actor.in_flight > 0) {
                lines.push(format!(
                    "{id:?} {:?} is {} ({} calls wait, {} are in flight)",
                    actor.id, actor.state, actor.queued, actor.in_flight
                ));
            }
            if inspection.lease_requests > 0 {
                lines.push(format!("{id:?} waits for {} leases", inspection.lease_requests));
            }
        }
        for (id, daemon) in &self.nodes {
            lines.extend(daemon.operations().map(|work| format!("{id:?} work {work:?}")));
        }
        let busy = self.heap.iter().filter(|(_, event)| event.is_busy());
        lines.extend(busy.take(EVENTS_SHOWN).map(|(at, event)| format!("at {} ns: {event:?}", at.0)));
        lines
    }
}
