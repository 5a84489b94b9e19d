//! An operator who has nodes emptied, and calls that off.

use shoal_core::ids::{NodeId, ProcessId, RequestId};
use shoal_core::message::{Drain, Message, Query};
use shoal_core::node::Inspection;
use shoal_core::{Span, Time};

use super::{Cluster, Envelope, Event, micros};
use crate::{Content, Fault};

/// How often the operator looks whether a drain was called off.
const LOOKS_EVERY: Span = Span::from_secs(1);
/// So long after the time of faults the operator looks at least.
const LOOKS_FOR: Span = Span::from_secs(30);

impl<C: Content> Cluster<C> {
    /// A node is to be emptied: after so long it ends, or the drain is called off.
    pub(super) fn drain(&mut self, node: NodeId, length: Span, ends: bool) {
        self.count(if ends { "a node was drained and ended" } else { "a node was drained for a while" });
        let drain = Drain { grace: ends.then_some(length), reason: String::new() };
        self.order(node, Some(drain));
        if ends {
            let now = self.now();
            self.ending.entry(node).or_default().push((now, length));
        } else {
            let at = self.now() + length;
            self.schedule(at, Event::CallOff(node));
        }
    }

    /// Somebody types a command on a machine that has a connection to the head.
    fn order(&mut self, node: NodeId, drain: Option<Drain>) {
        let connected = self.nodes.iter().find(|(_, daemon)| daemon.head.connected);
        let Some(via) = connected.map(|(id, _)| *id) else { return };
        let message = Message::Ask { request: RequestId(1), query: Query::Drain { node, drain } };
        self.send_to_head(via, Envelope { from: ProcessId::daemon(via), to: ProcessId::HEAD, message });
    }

    /// The operator sees whether a head lists a drain that is to be over, and has it called off then. Looks
    /// again later: the order of the drain may still be on its way, or a head may come that knows it.
    pub(super) fn call_off(&mut self, node: NodeId) {
        let lists = self.heads.values().any(|head| {
            head.head.inspect().nodes.iter().any(|view| view.node == node && view.alive && view.draining)
        });
        if lists {
            self.order(node, None);
        }
        if lists || self.now() < Time(micros(self.settings.heal_at_micros).0) + LOOKS_FOR {
            let at = self.now() + LOOKS_EVERY;
            self.schedule(at, Event::CallOff(node));
        }
    }

    /// Whether nothing runs on a node, waits there or is kept by it alone.
    pub(super) fn is_empty(&self, node: NodeId) -> bool {
        let Some(daemon) = self.nodes.get(&node) else { return true };
        let Inspection { leases, bundles, held, claimants, workers, store, pulls, offers, .. } =
            daemon.node.inspect();
        let serves = |(_, state): &(ProcessId, &str)| !["starting", "idle", "exiting"].contains(state);
        leases.is_empty()
            && bundles.is_empty()
            && held.is_empty()
            && claimants.is_empty()
            && !workers.iter().any(serves)
            && store.kept == 0
            && pulls.is_empty()
            && offers.is_empty()
    }

    /// The time of faults is over, and of drains, too.
    pub(super) fn heal_drains(&mut self) {
        if self.faults.iter().any(Fault::is_drain) {
            let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
            nodes.into_iter().for_each(|node| self.schedule(self.now(), Event::CallOff(node)));
        }
    }
}
