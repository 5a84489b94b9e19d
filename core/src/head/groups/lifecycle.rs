//! How groups come and go, and who is told.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Awaited, Group, Phase, REMOVED_MAX};
use crate::group::{GroupSpec, GroupState};
use crate::head::{Head, Key, Outbox};
use crate::ids::{ActorId, GroupId, JobId, NodeId, ProcessId, RequestId};
use crate::machine::{Span, Wakeup};
use crate::message::{Answer, Message};
use crate::mutants::Mutant;
use crate::value::ActorDeath;

/// How long a group that somebody asks for may stay unknown.
const UNKNOWN_GRACE: Span = Span::from_secs(10);
/// A group has at most so many bundles.
const BUNDLES_MAX: usize = 10_000;

impl Head {
    pub(in crate::head) fn create_group(
        &mut self,
        from: ProcessId,
        spec: Box<GroupSpec>,
        request: RequestId,
        out: &mut Outbox,
    ) {
        let id = spec.id;
        if id.creator() != from {
            return;
        }
        let answer = if self.groups.groups.contains_key(&id) {
            Answer::GroupCreated
        } else {
            match self.wrong_with(&spec) {
                Some(detail) => Answer::GroupRefused { detail },
                None => Answer::GroupCreated,
            }
        };
        let refused = answer != Answer::GroupCreated;
        out.send(from, Message::Answer { request, answer });
        if refused {
            return self.groups.give_up(id, out);
        }
        if self.groups.groups.contains_key(&id) {
            return;
        }
        let order = self.groups.last_order + 1;
        self.groups.insert(Group::new(spec, order, out.now));
        out.touch(Key::Group(id));
        let remove = self.groups.awaited.remove(&id).is_some_and(|awaited| awaited.remove);
        if remove {
            return self.remove_group(id, out);
        }
        for subscriber in self.groups.subscribers.get(&id).into_iter().flatten() {
            self.groups.introduce(*subscriber, id, out);
        }
        self.try_group(id, out);
        self.groups.announce(id, out);
    }

    fn wrong_with(&self, spec: &GroupSpec) -> Option<String> {
        let (namespace, name) = (&spec.namespace, &spec.name);
        if !name.is_empty() && self.groups.by_name(namespace, name).is_some() {
            return Some(format!("a placement group has the name {name:?} in namespace {namespace:?}"));
        }
        let bundles = spec.bundles.len();
        if !(1..=BUNDLES_MAX).contains(&bundles) {
            return Some(format!("a placement group has 1 to {BUNDLES_MAX} bundles, not {bundles}"));
        }
        let is_wrong = |amounts: &crate::resources::Resources| {
            amounts.is_empty() || amounts.0.values().any(|amount| amount.0 < 0)
        };
        if spec.bundles.iter().any(|bundle| is_wrong(&bundle.resources)) {
            return Some(String::from("a bundle needs an amount above zero, and none below"));
        }
        if !spec.detached && self.maker_is_gone(spec) {
            return Some(String::from("whoever made it has ended"));
        }
        None
    }

    /// Whether what the group ends with has ended already.
    fn maker_is_gone(&self, spec: &GroupSpec) -> bool {
        match spec.creator {
            Some(actor) => self.actors.is_known(actor) && self.actors.get(actor).is_none(),
            None => self.jobs.is_over(spec.job),
        }
    }

    pub(in crate::head) fn subscribe_group(&mut self, from: ProcessId, id: GroupId, out: &mut Outbox) {
        let known = self.groups.groups.contains_key(&id);
        if !known && (id.creator() == from || self.groups.was_removed(id)) {
            // What it made it had made before.
            return self.groups.tell(from, id, out);
        }
        self.groups.subscribe(from, id);
        if known {
            self.groups.introduce(from, id, out);
            self.groups.tell(from, id, out);
        } else {
            self.expect_group(id, out);
        }
    }

    pub(in crate::head) fn unsubscribe_group(&mut self, from: ProcessId, id: GroupId) {
        self.groups.unsubscribe(from, id);
    }

    /// Somebody knows of the group before the head does: give its creation some time.
    pub(in crate::head) fn expect_group(&mut self, id: GroupId, out: &Outbox) {
        let deadline = out.now + UNKNOWN_GRACE;
        self.deadlines.arm(Wakeup::UnknownGroup, deadline);
        self.groups.awaited.entry(id).or_insert(Awaited { deadline, remove: false });
    }

    /// A new head begins: time counts from now.
    pub(in crate::head) fn resume_groups(&mut self, out: &Outbox) {
        for group in self.groups.groups.values_mut() {
            group.since = out.now;
        }
        let deadline = out.now + UNKNOWN_GRACE;
        for awaited in self.groups.awaited.values_mut() {
            awaited.deadline = deadline;
            self.deadlines.arm(Wakeup::UnknownGroup, deadline);
        }
    }

    pub(in crate::head) fn awaited_groups_due(&mut self, out: &mut Outbox) {
        let mut late = Vec::new();
        for (id, awaited) in &self.groups.awaited {
            if awaited.deadline <= out.now {
                late.push(*id);
            } else {
                self.deadlines.arm(Wakeup::UnknownGroup, awaited.deadline);
            }
        }
        for id in late {
            self.forget_awaited(id, out);
        }
    }

    fn forget_awaited(&mut self, id: GroupId, out: &mut Outbox) {
        self.groups.give_up(id, out);
        self.bury_actors_of(id, out);
    }

    pub(in crate::head) fn remove_group_asked(&mut self, from: ProcessId, id: GroupId, out: &mut Outbox) {
        if let Some(group) = self.groups.groups.get(&id) {
            let kept = group.spec.detached && matches!(group.phase, Phase::Placed);
            if !(kept && Mutant::KeepDetached.is_active()) {
                self.remove_group(id, out);
            }
        } else if id.creator() != from {
            self.expect_group(id, out);
            if let Some(awaited) = self.groups.awaited.get_mut(&id) {
                awaited.remove = true;
                out.touch(Key::Group(id));
            }
        }
    }

    /// The group is gone for good, and its work with it.
    pub(in crate::head) fn remove_group(&mut self, id: GroupId, out: &mut Outbox) {
        let Some(group) = self.groups.take(id) else { return };
        out.touch(Key::Group(id));
        self.bury_actors_of(id, out);
        for node in group.involved() {
            let attempt = group.attempt;
            self.tell_node(node, Message::ReturnBundles { group: id, attempt, removed: true }, out);
        }
        self.credit(&group, group.held().chain(group.being_placed()));
        self.groups.give_up(id, out);
        self.groups.stir();
    }

    /// Actors end with the group that they live in.
    fn bury_actors_of(&mut self, id: GroupId, out: &mut Outbox) {
        for actor in self.actors.in_group(id).collect::<Vec<ActorId>>() {
            self.stop(actor, false, out);
            self.actors.bury(actor, ActorDeath::GroupRemoved, out);
        }
    }

    /// The group ends with the actor that made it.
    pub(in crate::head) fn remove_groups_of_dead_actors(&mut self, out: &mut Outbox) {
        while let Some(actor) = self.actors.ended.pop() {
            let made = self.groups.by_maker.get(&actor).cloned().unwrap_or_default();
            made.into_iter().for_each(|id| self.remove_group(id, out));
        }
    }

    /// The group ends with its job.
    pub(in crate::head) fn remove_groups_of_job(&mut self, job: JobId, out: &mut Outbox) {
        let ends = |spec: &GroupSpec| !spec.detached && spec.creator.is_none() && spec.job == job;
        let ended = self.groups.groups.values().filter(|group| ends(&group.spec));
        for id in ended.map(|group| group.spec.id).collect::<Vec<GroupId>>() {
            self.remove_group(id, out);
        }
    }

    /// A process is gone: what it wanted to know, and what it was about to make.
    pub(in crate::head) fn group_process_ended(&mut self, process: ProcessId, out: &mut Outbox) {
        self.groups.unsubscribe_all(process);
        let never_made = self.groups.awaited.keys().filter(|id| id.creator() == process);
        for id in never_made.copied().collect::<Vec<GroupId>>() {
            self.forget_awaited(id, out);
        }
    }

    pub(in crate::head) fn group_named(&self, name: &str, namespace: &str) -> Answer {
        match self.groups.by_name(namespace, name) {
            Some(group) => Answer::Groups(alloc::vec![((*group.spec).clone(), group.state())]),
            None => Answer::NotFound,
        }
    }

    pub(in crate::head) fn list_groups(&self) -> Answer {
        let groups = self.groups.groups.values().map(|group| ((*group.spec).clone(), group.state()));
        let removed = self.groups.removed.iter().map(|spec| ((**spec).clone(), GroupState::Removed));
        Answer::Groups(groups.chain(removed.take(REMOVED_MAX)).collect())
    }

    /// Say something to a node, unless it is dead or is told everything when it comes.
    pub(super) fn tell_node(&self, node: NodeId, message: Message, out: &mut Outbox) {
        if self.nodes.is_within_reach(node) {
            out.send_to_node(node, message);
        }
    }
}
