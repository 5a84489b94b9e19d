//! The end of a process: what it made, and what it wanted to know.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::{Head, Outbox};
use crate::ids::{ActorId, NodeId, ProcessId};
use crate::message::Message;
use crate::value::ActorDeath;

impl Head {
    /// Actors die with their creator unless they are detached; what those made follows as the nodes
    /// report the ends of their processes.
    pub(super) fn process_ended(&mut self, process: ProcessId, out: &mut Outbox) {
        self.actors.unsubscribe(process);
        for id in self.actors.made_by(process) {
            self.stop(id, false, out);
            self.actors.bury(id, ActorDeath::CreatorDied, out);
        }
        let never_made: Vec<ActorId> =
            self.actors.awaited.keys().filter(|id| id.creator() == process).copied().collect();
        for id in never_made {
            self.actors.give_up(id, out);
        }
        if let Some(job) = self.jobs.end(process) {
            // The driver's node has something of the job even if it has not reported itself yet.
            let mut nodes: BTreeSet<NodeId> = self.nodes.keys().copied().collect();
            nodes.insert(process.node());
            for node in nodes {
                out.send(ProcessId::daemon(node), Message::JobEnded { job });
            }
        }
    }
}
