//! Placement groups that the program made, asked for, or runs tasks in: what the head last said of each.
//!
//! Where its tasks can run the nodes know; that a group is gone for good the head tells everybody who
//! has something to do with it, for a node that has none of its bundles does not hear of it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::questions::Question;
use super::{Effect, Out, Owner};
use crate::group::{GroupSpec, GroupState};
use crate::ids::{GroupId, ProcessId, RequestId};
use crate::message::Message;
use crate::value::{Failure, Outcome};

/// How many groups that are gone are remembered.
const REMOVED_MAX: usize = 1_000;

impl Owner {
    /// The program makes a group; it watches it from now on.
    pub(super) fn create_group(&mut self, spec: Box<GroupSpec>, request: RequestId, out: Out<'_>) {
        let group = spec.id;
        self.ask(request, Question::CreateGroup(spec), out);
        self.watch_group(group, out);
    }

    pub(super) fn watch_group(&mut self, group: GroupId, out: Out<'_>) {
        if !self.groups.contains_key(&group) {
            self.groups.insert(group, None);
            self.send(ProcessId::HEAD, Message::SubscribeGroup { group }, out);
        }
    }

    pub(super) fn unwatch_group(&mut self, group: GroupId, out: Out<'_>) {
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
        let over = matches!(known, Some(GroupState::Removed));
        if over || known.as_ref() == Some(&state) {
            return;
        }
        *known = Some(state.clone());
        if state == GroupState::Removed {
            for class in 0..self.leases.classes.len() {
                if self.leases.classes[class].demand.group == Some(group) {
                    self.refuse_tasks_of(class, group, out);
                }
            }
            self.cancel_idle_requests(out);
            self.remember_removed(group);
        }
        out.push(Effect::GroupChanged { group, state });
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
        for number in core::mem::take(&mut self.leases.classes[class].queue) {
            self.fail(self.now, number, Outcome::Failure(failure.clone().into()), out);
        }
    }

    /// Whether this process is told of the group, or knows that it is gone.
    pub fn watches_group(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// What the head last said of a group that this process watches.
    pub fn group_state(&self, group: GroupId) -> Option<&GroupState> {
        self.groups.get(&group)?.as_ref()
    }

    pub(super) fn subscribe_groups(&self, out: Out<'_>) {
        let over = |state: &Option<GroupState>| matches!(state, Some(GroupState::Removed));
        let groups: Vec<GroupId> =
            self.groups.iter().filter(|(_, state)| !over(state)).map(|(group, _)| *group).collect();
        for group in groups {
            self.send(ProcessId::HEAD, Message::SubscribeGroup { group }, out);
        }
    }
}
