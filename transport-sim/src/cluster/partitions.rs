//! Machines between which nothing comes through.

use super::{Cluster, Event, micros};
use crate::{Content, Way};

impl<C: Content> Cluster<C> {
    /// Whether nothing comes through from one machine to another.
    pub(super) fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.contains_key(&(from, to))
    }

    /// Nothing comes through from one machine to another for so long.
    pub fn block(&mut self, from: usize, to: usize, micros_long: u64) {
        if from == to || self.blocked.contains_key(&(from, to)) {
            return;
        }
        self.blocked.insert((from, to), Vec::new());
        let now = self.now();
        self.schedule(now + micros(micros_long), Event::Unblock { from, to });
        if micros_long < self.settings.keepalive_micros {
            return;
        }
        for (link, serial) in self.connections_between(from, to) {
            let at = now + micros(self.settings.keepalive_micros);
            self.schedule(at, Event::Keepalive { link, serial });
        }
    }

    /// Everything comes through between all machines again.
    pub fn unblock_all(&mut self) {
        let blocked: Vec<(usize, usize)> = self.blocked.keys().copied().collect();
        for (from, to) in blocked {
            self.unblock(from, to);
        }
    }

    pub(super) fn unblock(&mut self, from: usize, to: usize) {
        for event in self.blocked.remove(&(from, to)).unwrap_or_default() {
            self.schedule_in(1_000, event);
        }
    }

    /// Keep what comes on a way that is blocked until it is not.
    pub(super) fn hold_if_blocked(&mut self, way: Way, quiet: bool) -> bool {
        if self.blocked.is_empty() {
            return false;
        }
        let (Some(from), Some(to)) = (self.host_of(way.from), self.host_of(way.to)) else { return false };
        match self.blocked.get_mut(&(from, to)) {
            Some(held) => {
                held.push(Event::Arrive { way, quiet });
                true
            }
            None => false,
        }
    }
}
