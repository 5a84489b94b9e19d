//! Direct links between two local processes.
//!
//! The daemon makes a pair of sockets and hands one to each. Both processes may ask at the same time,
//! and they get one link: a pair that has been linked stays linked until one of the two is dead.

use std::collections::{HashMap, HashSet};

use shoal_core::ids::ProcessId;

use super::log;
use super::state::Daemon;
use crate::control::Control;
use crate::socket;

/// Who has a link with whom. Both directions are kept.
#[derive(Debug, Default)]
pub(super) struct Pairs(HashMap<ProcessId, HashSet<ProcessId>>);

impl Pairs {
    /// Note a link; `false` if there is one.
    fn link(&mut self, one: ProcessId, other: ProcessId) -> bool {
        self.0.entry(one).or_default().insert(other) && self.0.entry(other).or_default().insert(one)
    }

    /// Take a link back that came to nothing.
    fn unlink(&mut self, one: ProcessId, other: ProcessId) {
        for (process, peer) in [(one, other), (other, one)] {
            if let Some(peers) = self.0.get_mut(&process) {
                peers.remove(&peer);
            }
        }
    }

    /// Forget a dead process.
    pub(super) fn forget(&mut self, process: ProcessId) {
        for peer in self.0.remove(&process).unwrap_or_default() {
            if let Some(peers) = self.0.get_mut(&peer) {
                peers.remove(&process);
                if peers.is_empty() {
                    self.0.remove(&peer);
                }
            }
        }
    }
}

impl Daemon {
    pub(super) fn open_link(&mut self, asker: ProcessId, peer: ProcessId) {
        let Some(asker_link) = self.link_of(asker) else {
            return;
        };
        let peer_link = match self.link_of(peer) {
            Some(link) if peer != asker => link,
            _ => return self.queue_control(asker_link, &Control::LinkRefused { peer }, Vec::new()),
        };
        if !self.pairs.link(asker, peer) {
            return;
        }
        match socket::pair() {
            Ok((one, other)) => {
                self.queue_control(asker_link, &Control::Link { peer }, vec![one]);
                self.queue_control(peer_link, &Control::Link { peer: asker }, vec![other]);
            }
            Err(error) => {
                log!("{asker:?} and {peer:?} cannot be linked: {error}");
                self.pairs.unlink(asker, peer);
                self.queue_control(asker_link, &Control::LinkRefused { peer }, Vec::new());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ProcessId = ProcessId(1);
    const B: ProcessId = ProcessId(2);
    const C: ProcessId = ProcessId(3);

    #[test]
    fn a_pair_is_linked_once_while_both_live() {
        let mut pairs = Pairs::default();
        assert!(pairs.link(A, B));
        assert!(!pairs.link(B, A) && !pairs.link(A, B));
        assert!(pairs.link(C, A));
        pairs.forget(A);
        assert!(pairs.0.is_empty());
        assert!(pairs.link(B, C));
    }

    #[test]
    fn a_link_that_could_not_be_made_can_be_asked_for_again() {
        let mut pairs = Pairs::default();
        assert!(pairs.link(A, B));
        pairs.unlink(B, A);
        assert!(pairs.link(A, B));
    }
}
