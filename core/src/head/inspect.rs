//! A look inside, for simulations, dashboards and `shoal why`: nothing here changes anything.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::Head;
use super::nodes::{Link, Node};
use crate::actor::ActorState;
use crate::group::GroupState;
use crate::ids::{ActorId, GroupId, JobId, NodeId, ProcessId};

/// What a head knows, sorted by id.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Its epoch.
    pub epoch: u64,
    /// A newer head acts.
    pub fenced: bool,
    /// Effects that wait for the log.
    pub held: usize,
    /// Every node that is remembered.
    pub nodes: Vec<NodeView>,
    /// Every actor that is not dead.
    pub actors: Vec<ActorView>,
    /// Every placement group that is not removed.
    pub groups: Vec<GroupView>,
    /// Every job that is not over for good: its driver, and whether that is gone.
    pub jobs: Vec<(JobId, ProcessId, bool)>,
}

/// A node as the head sees it.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// The node.
    pub node: NodeId,
    /// Not declared dead.
    pub alive: bool,
    /// It is connected, and what is on it is known.
    pub settled: bool,
    /// Nothing new is placed there.
    pub draining: bool,
    /// Of a dead node: who has in the end inherited from it.
    pub heir: Option<NodeId>,
}

/// A placement group as the head sees it.
#[derive(Clone, Debug)]
pub struct GroupView {
    /// The group.
    pub group: GroupId,
    /// Where its bundles are, by index; what has no node waits for room, or for the answers of nodes.
    pub nodes: Vec<Option<NodeId>>,
    /// How it is.
    pub state: GroupState,
}

/// An actor as the head sees it.
#[derive(Clone, Debug)]
pub struct ActorView {
    /// The actor.
    pub actor: ActorId,
    /// Where it was sent.
    pub node: Option<NodeId>,
    /// Which start of it.
    pub incarnation: u32,
    /// Restarts that are left, -1 for no limit.
    pub restarts_left: i32,
    /// Where it is in its life.
    pub state: ActorState,
}

impl Head {
    /// Its epoch; 0 before it has one.
    pub fn epoch(&self) -> u64 {
        self.meta.epoch
    }

    /// What this head knows.
    pub fn inspect(&self) -> Inspection {
        let nodes = self.nodes.iter().map(|(id, node)| NodeView {
            node: id,
            alive: node.is_alive(),
            settled: node.is_settled(),
            draining: node.draining.is_some(),
            heir: self.nodes.living_heir(id),
        });
        let actors = self.actors.live().map(|actor| ActorView {
            actor: actor.spec.id,
            node: actor.node,
            incarnation: actor.incarnation,
            restarts_left: actor.restarts_left,
            state: actor.state.clone(),
        });
        Inspection {
            epoch: self.meta.epoch,
            fenced: self.journal.is_closed(),
            held: self.journal.held(),
            nodes: nodes.collect(),
            actors: actors.collect(),
            groups: self.groups.views().collect(),
            jobs: self.jobs.iter().map(|(id, job)| (id, job.driver, job.ended)).collect(),
        }
    }

    /// One line for everything that waits, and what it waits for.
    pub fn pending(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.journal.held() > 0 {
            lines.push(format!("{} effects wait for the log", self.journal.held()));
        }
        for (id, node) in self.nodes.alive() {
            lines.extend(describe(node).map(|what| format!("node {} {what}", id.0)));
        }
        for actor in self.actors.live().filter(|actor| !matches!(actor.state, ActorState::Alive { .. })) {
            let id = actor.spec.id;
            let what = match actor.node {
                Some(node) if actor.killed => format!("is being killed on node {}", node.0),
                Some(node) => format!("is being started on node {}", node.0),
                None => self.why_unplaced(id),
            };
            lines.push(format!("{id:?} incarnation {} {what}", actor.incarnation));
        }
        for view in self.groups.views() {
            if let GroupState::Pending { detail } | GroupState::Rescheduling { detail } = &view.state {
                let held = view.nodes.iter().flatten().count();
                lines.push(format!(
                    "{:?} has {held} of its {} bundles: {detail}",
                    view.group,
                    view.nodes.len()
                ));
            }
        }
        for id in self.actors.awaited.keys() {
            lines.push(format!("{id:?} was asked for and is not made yet"));
        }
        lines
    }

    fn why_unplaced(&self, id: ActorId) -> String {
        if !self.actors.unplaced.contains_key(&id) {
            return "waits for its restart, for those before it ended soon".to_string();
        }
        let demand = self.actors.get(id).map(|actor| &actor.spec.placement);
        match demand.and_then(|demand| self.hopeless(demand)) {
            Some(detail) => format!("fits no node: {detail}"),
            None => "waits for a node".to_string(),
        }
    }
}

/// Why nothing can be placed on a node.
fn describe(node: &Node) -> Option<&'static str> {
    match node.link {
        Link::Awaited { .. } => Some("has not come to this head yet"),
        Link::Cut { .. } => Some("has no connection"),
        Link::Up if !node.known => Some("has not said yet what is on it"),
        Link::Up if node.draining.is_some() => Some("is draining"),
        Link::Up => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Input;
    use crate::head::harness::*;
    use crate::ids::RequestId;
    use crate::message::{Message, Query};

    #[test]
    fn what_waits_says_why() {
        let mut head = Harness::durable();
        head.join();
        let drain = crate::message::Drain { grace: None, reason: String::new() };
        let drain = Query::Drain { node: NodeId(2), drain: Some(drain) };
        let other = head.join();
        let id = |number| ActorId(crate::ids::TaskId { owner: ProcessId::new(other, 1), number });
        head.tell(Input::NodeLost { node: NODE });
        head.daemon_says(other, Message::Ask { request: RequestId(1), query: drain });
        head.write_all();
        head.create(&spec_of(id(1), &[("CPU", 1)]));
        head.create(&spec_of(id(2), &[("GPU", 1)]));
        let expected =
            ["is draining", "effects wait for the log", "node 1 has no connection", "waits for a node"];
        let lines = head.head.pending();
        assert!(expected.iter().all(|text| lines.iter().any(|line| line.contains(text))), "{lines:?}");
        head.write_all();
        head.tell(Input::NodeReturns { connection: 1, node: NODE });
        head.write_all();
        let lines = head.head.pending();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].contains("is being started on node 1") && lines[2].contains("GPU"), "{lines:?}");
        let seen = head.head.inspect();
        assert_eq!((seen.epoch, seen.held, seen.nodes.len(), seen.actors.len()), (1, 0, 2, 2));
    }
}
