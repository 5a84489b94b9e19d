//! Placement groups that the program made, asked for, or runs tasks in: what the head last said of each.
//!
//! Where its tasks can run the nodes know; that a group is gone for good the head tells everybody who
//! has something to do with it, for a node that has none of its bundles does not hear of it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::questions::Question;
use super::{Effect, Out, Owner};
use crate::group::{GroupSpec, GroupState, bundles_for, misfit};
use crate::ids::{GroupId, ProcessId, RequestId};
use crate::message::Message;
use crate::resources::Resources;
use crate::value::{Failure, Outcome};

/// How many groups that are gone are remembered.
const REMOVED_MAX: usize = 1_000;

/// What is known of a group.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    /// What the head said last.
    state: Option<GroupState>,
    /// What its bundles have; empty until the head has said so.
    bundles: Vec<Resources>,
}

impl Watched {
    fn is_removed(&self) -> bool {
        matches!(self.state, Some(GroupState::Removed))
    }
}

impl Owner {
    /// The program makes a group; it watches it from now on.
    pub(super) fn create_group(&mut self, spec: Box<GroupSpec>, request: RequestId, out: Out<'_>) {
        let group = spec.id;
        self.ask(request, Question::CreateGroup(spec), out);
        self.watch_group(group, out);
    }

    pub(super) fn watch_group(&mut self, group: GroupId, out: Out<'_>) {
        if !self.groups.contains_key(&group) {
            self.groups.insert(group, Watched::default());
            self.send(ProcessId::HEAD, Message::SubscribeGroup { group }, out);
        }
    }

    /// The program does not ask for it any more. Its tasks that wait must hear of its end.
    pub(super) fn unwatch_group(&mut self, group: GroupId, out: Out<'_>) {
        let waits = |class: usize| !self.leases.classes[class].is_unused();
        if self.classes_of(group).into_iter().any(waits) {
            return;
        }
        if self.groups.shift_remove(&group).is_some() {
            self.send(ProcessId::HEAD, Message::UnsubscribeGroup { group }, out);
        }
    }

    pub(super) fn remove_group(&mut self, group: GroupId, out: Out<'_>) {
        self.send(ProcessId::HEAD, Message::RemoveGroup { group }, out);
    }

    /// The head says how the group is. It never comes back once it is removed.
    pub(super) fn group_update(&mut self, group: GroupId, state: GroupState, out: Out<'_>) {
        let Some(known) = self.groups.get_mut(&group) else {
            return;
        };
        if known.is_removed() || known.state.as_ref() == Some(&state) {
            return;
        }
        known.state = Some(state.clone());
        if state == GroupState::Removed {
            for class in self.classes_of(group) {
                self.refuse_tasks_of(class, group, out);
            }
            self.cancel_idle_requests(out);
            self.remember_removed(group);
        }
        out.push(Effect::GroupChanged { group, state });
    }

    /// The head says what the group consists of. It never changes.
    pub(super) fn group_made(&mut self, group: GroupId, bundles: Vec<Resources>, out: Out<'_>) {
        let Some(known) = self.groups.get_mut(&group) else {
            return;
        };
        known.bundles = bundles;
        for class in self.classes_of(group) {
            if let Some(failure) = self.misfit(class) {
                self.refuse_tasks(class, &failure, out);
            }
        }
        self.cancel_idle_requests(out);
    }

    fn classes_of(&self, group: GroupId) -> Vec<usize> {
        let classes = self.leases.classes.iter().enumerate();
        classes.filter(|(_, class)| class.demand.group == Some(group)).map(|(number, _)| number).collect()
    }

    /// Why tasks of the class can never run in their group, if that is so.
    pub(super) fn misfit(&self, class: usize) -> Option<Failure> {
        let demand = &self.leases.classes[class].demand;
        let group = demand.group?;
        let bundles = &self.groups.get(&group)?.bundles;
        if bundles.is_empty() || !bundles_for(bundles.iter(), &demand.resources, group).is_empty() {
            return None;
        }
        Some(Failure::Unschedulable { detail: misfit(bundles.iter(), &demand.resources, group) })
    }

    /// So many groups that are gone are remembered; whoever asks for another one asks the head again.
    fn remember_removed(&mut self, group: GroupId) {
        self.removed_groups.push_back(group);
        if self.removed_groups.len() > REMOVED_MAX
            && let Some(oldest) = self.removed_groups.pop_front()
        {
            self.groups.swap_remove(&oldest);
        }
    }

    /// Tasks of a group that is gone.
    pub(super) fn refuse_tasks_of(&mut self, class: usize, group: GroupId, out: Out<'_>) {
        self.refuse_tasks(class, &Failure::GroupRemoved { group }, out);
        self.leases.retired.insert(class);
    }

    /// The group that tasks of this class were to run in, if it is gone.
    pub(super) fn removed_group(&self, class: usize) -> Option<GroupId> {
        let group = self.leases.classes[class].demand.group?;
        (self.group_state(group) == Some(&GroupState::Removed)).then_some(group)
    }

    /// No task of the class that waits for a worker will ever get one.
    pub(super) fn refuse_tasks(&mut self, class: usize, failure: &Failure, out: Out<'_>) {
        for id in core::mem::take(&mut self.leases.classes[class].queue) {
            self.fail(self.now, id, Outcome::Failure(failure.clone().into()), out);
        }
    }

    /// Whether this process is told of the group, or knows that it is gone.
    pub fn watches_group(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// What the head last said of a group that this process watches.
    pub fn group_state(&self, group: GroupId) -> Option<&GroupState> {
        self.groups.get(&group)?.state.as_ref()
    }

    pub(super) fn subscribe_groups(&self, out: Out<'_>) {
        let groups: Vec<GroupId> =
            self.groups.iter().filter(|(_, known)| !known.is_removed()).map(|(group, _)| *group).collect();
        for group in groups {
            self.send(ProcessId::HEAD, Message::SubscribeGroup { group }, out);
        }
    }
}
