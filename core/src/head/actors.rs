//! What the head knows of actors, and who wants to hear of it.
//!
//! An actor is on record as live from its creation to its burial, whatever its process does; a dead
//! one is remembered, with the cause, as long as there is room.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::rows::{ActorRow, DeadActorRow, EarlyEnd};
use super::{Key, Outbox, Row};
use crate::actor::{ActorSpec, ActorState, ActorSummary};
use crate::ids::{ActorId, GroupId, JobId, NodeId, ProcessId};
use crate::machine::Time;
use crate::message::Message;
use crate::resources::Resources;
use crate::value::ActorDeath;

/// How many dead actors are remembered.
const DEAD_MAX: usize = 100_000;

/// An actor that is not dead.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    pub(super) spec: Box<ActorSpec>,
    /// Which start of it.
    pub(super) incarnation: u32,
    /// -1 for no limit.
    pub(super) restarts_left: i32,
    pub(super) state: ActorState,
    /// Where this incarnation was sent; `None` while it waits for a node or for its restart.
    pub(super) node: Option<NodeId>,
    /// Somebody had this incarnation killed, to be started again.
    pub(super) killed: bool,
    /// When this incarnation came alive.
    pub(super) alive_since: Option<Time>,
    /// Incarnations in a row that ended soon.
    pub(super) quick_ends: u32,
    pub(super) pid: u32,
}

impl Actor {
    /// What it holds where it was sent: what it needs to be placed until it is alive.
    pub(super) fn held(&self) -> &Resources {
        match self.state {
            ActorState::Alive { .. } => &self.spec.running,
            _ => &self.spec.placement.resources,
        }
    }

    pub(super) fn new(spec: Box<ActorSpec>) -> Actor {
        Actor {
            incarnation: 0,
            restarts_left: spec.restarts_max.max(-1),
            spec,
            state: ActorState::Starting,
            node: None,
            killed: false,
            alive_since: None,
            quick_ends: 0,
            pid: 0,
        }
    }

    /// As the log knows it. That it came alive a while ago counts as now: clocks do not outlive heads.
    fn restore(spec: Box<ActorSpec>, row: ActorRow) -> Actor {
        let ActorRow { incarnation, restarts_left, state, node, killed, quick_ends, pid } = row;
        let alive_since = None;
        Actor { spec, incarnation, restarts_left, state, node, killed, alive_since, quick_ends, pid }
    }

    fn row(&self) -> ActorRow {
        ActorRow {
            incarnation: self.incarnation,
            restarts_left: self.restarts_left,
            state: self.state.clone(),
            node: self.node,
            killed: self.killed,
            quick_ends: self.quick_ends,
            pid: self.pid,
        }
    }

    fn summary(&self) -> ActorSummary {
        ActorSummary { pid: self.pid, ..self.spec.summary(self.incarnation, self.state.clone()) }
    }
}

/// An actor that somebody asked for, or that its creator has spoken of, and that is not made.
#[derive(Clone, Debug)]
pub(super) struct Awaited {
    /// Until when its creation may still be on its way here, if it was ever sent.
    pub(super) deadline: Time,
    /// Its creator has said that it will be made: it is awaited as long as that one lives.
    pub(super) announced: Option<Box<ActorSummary>>,
    /// It is to be ended as soon as it is made.
    pub(super) end: Option<EarlyEnd>,
}

/// All actors.
#[derive(Clone, Debug, Default)]
pub(super) struct Actors {
    live: BTreeMap<ActorId, Actor>,
    names: BTreeMap<(String, String), ActorId>,
    by_creator: BTreeMap<ProcessId, BTreeSet<ActorId>>,
    /// How many live actors each job has.
    by_job: BTreeMap<JobId, usize>,
    /// Those that live in a placement group.
    by_group: BTreeMap<GroupId, BTreeSet<ActorId>>,
    /// Those that died just now: placement groups may end with them.
    pub(super) ended: Vec<ActorId>,
    dead: BTreeMap<ActorId, DeadActorRow>,
    /// The dead in the order of their deaths.
    graves: VecDeque<ActorId>,
    /// How many were ever buried.
    buried: u64,
    subscribers: BTreeMap<ActorId, BTreeSet<ProcessId>>,
    subscriptions: BTreeMap<ProcessId, BTreeSet<ActorId>>,
    pub(super) awaited: BTreeMap<ActorId, Awaited>,
    /// Actors that wait for a node that can take them, and since when.
    pub(super) unplaced: BTreeMap<ActorId, Time>,
    /// Restarts that are put off.
    pub(super) restarts: BTreeSet<(Time, ActorId)>,
}

impl Actors {
    pub(super) fn get(&self, id: ActorId) -> Option<&Actor> {
        self.live.get(&id)
    }
    /// A live actor, to be changed.
    pub(super) fn edit(&mut self, id: ActorId, out: &mut Outbox) -> Option<&mut Actor> {
        let actor = self.live.get_mut(&id)?;
        out.touch(Key::Actor(id));
        Some(actor)
    }
    /// Whether an actor of that id was ever made, as far as is remembered.
    pub(super) fn is_known(&self, id: ActorId) -> bool {
        self.live.contains_key(&id) || self.dead.contains_key(&id)
    }

    /// The live actor of that name.
    pub(super) fn by_name(&self, namespace: &str, name: &str) -> Option<&Actor> {
        let key = (String::from(namespace), String::from(name));
        self.names.get(&key).and_then(|id| self.live.get(id))
    }

    /// The actor that had the name of this one, so that it was never made.
    pub(super) fn namesake(&self, id: ActorId) -> Option<ActorId> {
        self.dead.get(&id).and_then(|dead| dead.namesake)
    }

    pub(super) fn add(&mut self, actor: Actor, out: &mut Outbox) {
        out.touch(Key::ActorSpec(actor.spec.id));
        out.touch(Key::Actor(actor.spec.id));
        self.insert(actor);
    }

    fn insert(&mut self, actor: Actor) {
        let spec = &actor.spec;
        if !spec.name.is_empty() {
            self.names.insert((spec.namespace.clone(), spec.name.clone()), spec.id);
        }
        if !spec.detached {
            self.by_creator.entry(spec.id.creator()).or_default().insert(spec.id);
        }
        *self.by_job.entry(spec.job).or_default() += 1;
        if let Some(group) = spec.placement.group {
            self.by_group.entry(group).or_default().insert(spec.id);
        }
        self.live.insert(spec.id, actor);
    }

    /// The actors that die with this process.
    pub(super) fn made_by(&self, creator: ProcessId) -> Vec<ActorId> {
        self.by_creator.get(&creator).into_iter().flatten().copied().collect()
    }

    /// The actors that live in a placement group.
    pub(super) fn in_group(&self, group: GroupId) -> impl Iterator<Item = ActorId> {
        self.by_group.get(&group).into_iter().flatten().copied()
    }

    /// Record a new state of a live actor, and tell its subscribers.
    pub(super) fn change(&mut self, id: ActorId, state: ActorState, out: &mut Outbox) {
        self.edit(id, out).expect("only live actors change").state = state;
        self.announce(id, out);
    }

    /// Record that a live actor is dead for good, and tell its subscribers.
    pub(super) fn bury(&mut self, id: ActorId, cause: ActorDeath, out: &mut Outbox) {
        self.edit(id, out).expect("only live actors are buried").restarts_left = 0;
        self.change(id, ActorState::Dead { cause }, out);
        let actor = self.live.remove(&id).expect("only live actors are buried");
        let spec = &actor.spec;
        if !spec.name.is_empty() {
            self.names.remove(&(spec.namespace.clone(), spec.name.clone()));
        }
        if let Some(made) = self.by_creator.get_mut(&id.creator()) {
            made.remove(&id);
            if made.is_empty() {
                self.by_creator.remove(&id.creator());
            }
        }
        let of_job = self.by_job.get_mut(&spec.job).expect("its actors are counted");
        *of_job -= 1;
        if *of_job == 0 {
            self.by_job.remove(&spec.job);
        }
        if let Some(group) = spec.placement.group
            && let Some(members) = self.by_group.get_mut(&group)
        {
            members.remove(&id);
            if members.is_empty() {
                self.by_group.remove(&group);
            }
        }
        self.ended.push(id);
        self.restarts.retain(|(_, restarting)| *restarting != id);
        self.unplaced.remove(&id);
        self.unsubscribe_all(id);
        out.touch(Key::ActorSpec(id));
        self.remember_dead(actor.summary(), None, out);
    }

    /// Remember an actor that is dead, as long as there is room.
    pub(super) fn remember_dead(
        &mut self,
        summary: ActorSummary,
        namesake: Option<ActorId>,
        out: &mut Outbox,
    ) {
        let id = summary.id;
        out.touch(Key::Actor(id));
        self.buried += 1;
        self.graves.push_back(id);
        self.dead.insert(id, DeadActorRow { order: self.buried, summary, namesake });
        if self.graves.len() > DEAD_MAX
            && let Some(oldest) = self.graves.pop_front()
        {
            self.dead.remove(&oldest);
            out.touch(Key::Actor(oldest));
        }
    }

    /// What the log must hold of an actor.
    pub(super) fn row(&self, id: ActorId) -> Option<Row> {
        let live = || self.live.get(&id).map(|actor| Row::Actor(actor.row()));
        let dead = || self.dead.get(&id).map(|dead| Row::DeadActor(Box::new(dead.clone())));
        let early = || self.awaited.get(&id).and_then(|awaited| awaited.end).map(Row::EarlyEnd);
        live().or_else(dead).or_else(early)
    }

    /// What the log must hold of what was asked for.
    pub(super) fn spec_row(&self, id: ActorId) -> Option<Row> {
        self.live.get(&id).map(|actor| Row::ActorSpec(actor.spec.clone()))
    }

    /// All actors as the log knows them.
    pub(super) fn restore(
        specs: BTreeMap<ActorId, Box<ActorSpec>>,
        mut live: BTreeMap<ActorId, ActorRow>,
        mut dead: Vec<DeadActorRow>,
        early: BTreeMap<ActorId, EarlyEnd>,
    ) -> Actors {
        let mut actors = Actors::default();
        // They are given their time when the head begins.
        let awaited = |(id, end)| (id, Awaited { deadline: Time(0), announced: None, end: Some(end) });
        actors.awaited = early.into_iter().map(awaited).collect();
        for (id, spec) in specs {
            let row = live.remove(&id).expect("an actor's two rows come and go together");
            actors.insert(Actor::restore(spec, row));
        }
        dead.sort_by_key(|dead| dead.order);
        actors.buried = dead.last().map_or(0, |dead| dead.order);
        for dead in dead {
            actors.graves.push_back(dead.summary.id);
            actors.dead.insert(dead.summary.id, dead);
        }
        actors
    }

    pub(super) fn subscribe(&mut self, subscriber: ProcessId, id: ActorId) {
        self.subscribers.entry(id).or_default().insert(subscriber);
        self.subscriptions.entry(subscriber).or_default().insert(id);
    }

    /// The process is gone.
    pub(super) fn unsubscribe(&mut self, subscriber: ProcessId) {
        for id in self.subscriptions.remove(&subscriber).unwrap_or_default() {
            if let Some(subscribers) = self.subscribers.get_mut(&id) {
                subscribers.remove(&subscriber);
                if subscribers.is_empty() {
                    self.subscribers.remove(&id);
                }
            }
        }
    }

    fn unsubscribe_all(&mut self, id: ActorId) -> BTreeSet<ProcessId> {
        let subscribers = self.subscribers.remove(&id).unwrap_or_default();
        for subscriber in &subscribers {
            if let Some(subscriptions) = self.subscriptions.get_mut(subscriber) {
                subscriptions.remove(&id);
                if subscriptions.is_empty() {
                    self.subscriptions.remove(subscriber);
                }
            }
        }
        subscribers
    }

    /// Tell all subscribers the present state.
    pub(super) fn announce(&self, id: ActorId, out: &mut Outbox) {
        for subscriber in self.subscribers.get(&id).into_iter().flatten() {
            self.tell(*subscriber, id, out);
        }
    }

    /// Tell one process the present state.
    pub(super) fn tell(&self, to: ProcessId, id: ActorId, out: &mut Outbox) {
        if let Some(Actor { incarnation, state, restarts_left, .. }) = self.live.get(&id) {
            let (incarnation, restarts_left) = (*incarnation, *restarts_left);
            let state = state.clone();
            out.send(to, Message::ActorUpdate { actor: id, incarnation, state, restarts_left });
        } else {
            let unknown = || (0, ActorState::Dead { cause: ActorDeath::Unknown });
            let dead = self.dead.get(&id).map(|dead| &dead.summary);
            let (incarnation, state) =
                dead.map_or_else(unknown, |dead| (dead.incarnation, dead.state.clone()));
            out.send(to, Message::ActorUpdate { actor: id, incarnation, state, restarts_left: 0 });
        }
    }

    /// Nobody will make this actor, and why is known.
    pub(super) fn never_made(&mut self, summary: ActorSummary, namesake: Option<ActorId>, out: &mut Outbox) {
        let id = summary.id;
        self.remember_dead(summary, namesake, out);
        self.give_up(id, out);
    }

    /// Nobody will make this actor: those who asked for it are told why, or else that it is unknown.
    pub(super) fn give_up(&mut self, id: ActorId, out: &mut Outbox) {
        self.no_longer_await(id, out);
        for subscriber in self.unsubscribe_all(id) {
            self.tell(subscriber, id, out);
        }
    }

    /// The actors on a node, with their incarnation.
    pub(super) fn placed_on(&self, node: NodeId) -> Vec<(ActorId, u32)> {
        let placed = self.live.iter().filter(|(_, actor)| actor.node == Some(node));
        placed.map(|(id, actor)| (*id, actor.incarnation)).collect()
    }

    /// Why an actor is dead, if it is.
    pub(super) fn ended_for(&self, id: ActorId) -> Option<&ActorDeath> {
        match &self.dead.get(&id)?.summary.state {
            ActorState::Dead { cause } => Some(cause),
            _ => None,
        }
    }

    /// The actors that are not dead.
    pub(super) fn live(&self) -> impl Iterator<Item = &Actor> {
        self.live.values()
    }

    /// Whether live actors belong to a job.
    pub(super) fn has(&self, job: JobId) -> bool {
        self.by_job.contains_key(&job)
    }

    /// Those of these processes that made something, wait for something or want to hear of something.
    pub(super) fn processes_in(&self, range: RangeInclusive<ProcessId>) -> BTreeSet<ProcessId> {
        let creators = self.by_creator.range(range.clone()).map(|(process, _)| *process);
        let subscribers = self.subscriptions.range(range.clone()).map(|(process, _)| *process);
        let awaited = self.awaited.keys().map(|id| id.creator()).filter(|id| range.contains(id));
        creators.chain(subscribers).chain(awaited).collect()
    }

    /// The actors that wait for a node or for their restart.
    pub(super) fn without_node(&self) -> Vec<ActorId> {
        let waiting = self.live.values().filter(|actor| actor.node.is_none());
        waiting.map(|actor| actor.spec.id).collect()
    }

    /// Whatever is to become of an actor that was asked for is certain now: how it is to end, if it was made.
    pub(super) fn no_longer_await(&mut self, id: ActorId, out: &mut Outbox) -> Option<EarlyEnd> {
        let end = self.awaited.remove(&id)?.end;
        if end.is_some() {
            out.touch(Key::Actor(id));
        }
        end
    }

    /// All actors that are not dead, or all that are remembered.
    pub(super) fn list(&self, dead: bool) -> Vec<ActorSummary> {
        let unmade = self.awaited.values().filter_map(|awaited| awaited.announced.as_deref().cloned());
        let live = self.live.values().map(Actor::summary).chain(unmade);
        let buried = self.dead.values().filter(|_| dead).map(|dead| dead.summary.clone());
        live.chain(buried).collect()
    }

    /// What the tables say of each other must be true.
    pub(super) fn check(&self) {
        for (key, id) in &self.names {
            let actor = self.live.get(id).expect("names are of live actors");
            assert_eq!((&actor.spec.namespace, &actor.spec.name), (&key.0, &key.1));
        }
        assert!(self.dead.keys().all(|id| !self.live.contains_key(id)), "nobody is live and dead");
        assert!(
            self.subscribers.keys().all(|id| self.live.contains_key(id) || self.awaited.contains_key(id))
        );
        assert!(self.restarts.iter().all(|(_, id)| self.live.contains_key(id)));
        assert!(self.unplaced.keys().all(|id| self.live[id].node.is_none()), "what has a node is placed");
        assert!(self.awaited.keys().all(|id| !self.is_known(*id)), "what is awaited is not known");
    }
}
