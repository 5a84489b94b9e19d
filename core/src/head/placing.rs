//! Which node gets an actor, and the actors that no node can take.

use alloc::string::String;
use alloc::vec::Vec;

use super::lifecycle::restart_delay;
use super::{Head, Outbox};
use crate::actor::ActorState;
use crate::ids::{ActorId, NodeId};
use crate::machine::Wakeup;
use crate::message::{Message, NodeSummary};
use crate::placement;
use crate::resources::Demand;
use crate::value::ActorDeath;

impl Head {
    /// Send the present incarnation to a node, if one can take it, now or later.
    pub(super) fn place(&mut self, id: ActorId, out: &mut Outbox) {
        let Some(actor) = self.actors.get(id) else { return };
        let demand = &actor.spec.placement;
        if let Some(group) = demand.group {
            return self.place_in_group(id, group, out);
        }
        let available = self.nodes.alive().filter(|(_, node)| node.is_available());
        let candidates: Vec<&NodeSummary> = available.map(|(_, node)| &node.summary).collect();
        let Some(node) = placement::choose(&candidates, demand, self.turn) else {
            return self.put_off(id, out);
        };
        self.turn = node;
        self.send_to(id, node, out);
    }

    /// The actor waits for a node.
    pub(super) fn put_off(&mut self, id: ActorId, out: &Outbox) {
        let since = *self.actors.unplaced.entry(id).or_insert(out.now);
        self.deadlines.arm(Wakeup::Unschedulable, since + self.config.infeasible_grace);
    }

    /// The actor goes to this node.
    pub(super) fn send_to(&mut self, id: ActorId, node: NodeId, out: &mut Outbox) {
        self.actors.unplaced.remove(&id);
        let actor = self.actors.edit(id, out).expect("it lives");
        actor.node = Some(node);
        self.view_changed(node);
        self.start(id, out);
    }

    /// Have the present incarnation started where it was placed.
    pub(super) fn start(&mut self, id: ActorId, out: &mut Outbox) {
        let Some(actor) = self.actors.get(id) else { return };
        let Some(node) = actor.node else { return };
        let Some(target) = self.nodes.get_mut(node) else { return };
        let order = target.order(&actor.spec.placement.resources);
        let (spec, incarnation) = (actor.spec.clone(), actor.incarnation);
        self.view_changed(node);
        out.send_to_node(node, Message::StartActor { spec, incarnation, order });
    }

    /// Something has changed for actors that no node could take, and for groups that wait for room.
    pub(super) fn place_unplaced(&mut self, out: &mut Outbox) {
        self.groups.stir();
        let waiting: Vec<ActorId> = self.actors.unplaced.keys().copied().collect();
        for id in waiting {
            self.place(id, out);
        }
    }

    /// Some have waited long enough for the cluster to change.
    pub(super) fn unplaced_due(&mut self, out: &mut Outbox) {
        let grace = self.config.infeasible_grace;
        let waiting: Vec<ActorId> = self.actors.unplaced.keys().copied().collect();
        for id in waiting {
            let demand = &self.actors.get(id).expect("the unplaced live").spec.placement;
            let detail = self.hopeless(demand);
            let since = self.actors.unplaced.get_mut(&id).expect("it waits");
            if detail.is_none() {
                *since = out.now;
            }
            let due = *since + grace;
            match detail {
                Some(detail) if due <= out.now => {
                    self.actors.bury(id, ActorDeath::Unschedulable(detail), out);
                }
                _ => self.deadlines.arm(Wakeup::Unschedulable, due),
            }
        }
    }

    /// Why no node can ever run work of this demand. It is not known while a node that could is not
    /// there; and work of a placement group waits for the group to be whole.
    pub(super) fn hopeless(&self, demand: &Demand) -> Option<String> {
        let nodes: Vec<&NodeSummary> = self.nodes.alive().map(|(_, node)| &node.summary).collect();
        let home = self.nodes.alive().find(|(_, node)| node.is_available())?.1;
        let hope = match demand.group {
            Some(group) => !self.groups.is_whole(group),
            None => nodes.iter().any(|node| placement::is_feasible(node, demand)),
        };
        (!hope).then(|| placement::shortage(&nodes, demand, &home.summary))
    }

    /// Actors that had no node when the last head ended get one, or wait again for their restart.
    pub(super) fn resume_waiting(&mut self, out: &mut Outbox) {
        for id in self.actors.without_node() {
            let actor = self.actors.get(id).expect("it waits");
            let delay = match actor.state {
                ActorState::Restarting => restart_delay(actor.quick_ends),
                _ => restart_delay(0),
            };
            self.actors.restarts.insert((out.now + delay, id));
            self.deadlines.arm(Wakeup::RestartActor, out.now + delay);
        }
    }
}
