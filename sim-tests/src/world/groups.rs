//! Programs and their placement groups.

use shoal_core::group::{self, GroupSpec, GroupState};
use shoal_core::ids::{GroupId, ProcessId};
use shoal_core::message::{Answer, Query};
use shoal_core::owner;
use shoal_core::resources::Demand;

use super::calls::Passed;
use super::steps::Next;
use super::{Holding, Scene, Thread, Waits, Within};
use crate::observation::Observation;
use crate::program::{Slot, Step};

impl Scene<'_> {
    pub(super) fn group_step(&mut self, id: ProcessId, number: u32, thread: &mut Thread, step: Step) -> Next {
        match step {
            Step::CreateGroup { .. } => self.create_group(id, thread, step),
            Step::FindGroup { name, into } => self.find_group(id, thread, name, into),
            Step::AwaitGroup { group, micros } => {
                let Some(group) = thread.group(group) else { return Next::Go };
                self.await_group(id, number, thread, group, micros)
            }
            Step::RemoveGroup { group } => {
                if let Some(group) = thread.group(group) {
                    self.remove_group(id, group);
                }
                Next::Go
            }
            Step::SubmitWithin { function, group, bundle, into } => {
                if let Some(group) = thread.group(group) {
                    self.submit_within(id, thread, &function, group, bundle, into);
                }
                Next::Go
            }
            Step::SubmitCaptured { function, into } => {
                match self.captured_group(id, thread) {
                    Some(group) => self.submit_within(id, thread, &function, group, None, into),
                    None => self.submit(id, thread, &function, Passed::default(), into),
                }
                Next::Go
            }
            Step::ActorWithin { class, group, bundle, into } => {
                if let Some(group) = thread.group(group)
                    && let Some(actor) = self.create_actor_within(id, thread, &class, group, bundle)
                {
                    let within = Within { group, bundle, demand: class.placement.clone() };
                    self.users.within.insert(actor.0, within);
                    self.set(id, thread, into, Holding::Actor { actor, weak: false });
                }
                Next::Go
            }
            _ => Next::Go,
        }
    }

    /// The group in which a task or an actor runs.
    fn captured_group(&self, id: ProcessId, thread: &Thread) -> Option<GroupId> {
        let actor = self.cluster.processes.get(&id)?.actor.map(|(actor, _)| actor.0);
        self.users.within.get(&actor.or(thread.task())?).map(|within| within.group)
    }

    fn create_group(&mut self, id: ProcessId, thread: &mut Thread, step: Step) -> Next {
        let Step::CreateGroup { bundles, strategy, name, detached, into } = step else { return Next::Go };
        if let (Some(answer), Some(group)) = (thread.answer.take(), thread.pending_group.take()) {
            if answer == Answer::GroupCreated {
                self.cluster.count("a placement group was made");
                self.cluster.tell(id, owner::Input::WatchGroup { group });
                self.set(id, thread, into, Holding::Group(group));
            }
            return Next::Go;
        }
        let Some(process) = self.cluster.processes.get_mut(&id) else { return Next::Over };
        let group = GroupId(process.owner.next_task_id());
        let request = process.request();
        let creator = process.actor.map(|(actor, _)| actor);
        let namespace = String::from("everybody");
        let spec =
            GroupSpec { id: group, job: process.job, creator, name, namespace, detached, bundles, strategy };
        self.observe(Observation::GroupMade { spec: spec.clone() });
        self.cluster.tell(id, owner::Input::CreateGroup { spec: Box::new(spec), request });
        thread.pending_group = Some(group);
        Next::Wait(Waits::Answer(request))
    }

    fn find_group(&mut self, id: ProcessId, thread: &mut Thread, name: String, into: Slot) -> Next {
        if let Some(answer) = thread.answer.take() {
            if let Answer::Groups(found) = answer
                && let Some((spec, _)) = found.first()
            {
                let group = spec.id;
                self.cluster.tell(id, owner::Input::WatchGroup { group });
                self.set(id, thread, into, Holding::Group(group));
            }
            return Next::Go;
        }
        let Some(process) = self.cluster.processes.get_mut(&id) else { return Next::Over };
        let request = process.request();
        let query = Query::GroupByName { name, namespace: String::from("everybody") };
        self.cluster.tell(id, owner::Input::Ask { request, to: ProcessId::HEAD, query });
        Next::Wait(Waits::Answer(request))
    }

    fn await_group(
        &mut self,
        id: ProcessId,
        number: u32,
        thread: &mut Thread,
        group: GroupId,
        micros: u64,
    ) -> Next {
        let Some(process) = self.cluster.processes.get(&id) else { return Next::Over };
        match process.owner.group_state(group) {
            Some(GroupState::Placed { .. }) => {
                self.cluster.count("a placement group was placed");
                return Next::Go;
            }
            Some(GroupState::Removed) => return Next::Go,
            _ => {}
        }
        let now = self.cluster.now();
        let until = match thread.waits {
            Waits::Group(of, until) if of == group => until,
            _ => now + super::micros(micros),
        };
        if now >= until {
            self.cluster.count("a placement group was given up");
            self.remove_group(id, group);
            return Next::Go;
        }
        thread.wake += 1;
        self.cluster.wake_after(id, until - now, super::token(number, thread.wake));
        Next::Wait(Waits::Group(group, until))
    }

    fn remove_group(&mut self, id: ProcessId, group: GroupId) {
        self.observe(Observation::GroupRemoved { group, by: id });
        self.cluster.tell(id, owner::Input::RemoveGroup { group });
    }
}

/// What work asks for in a group.
pub(super) fn within(demand: &Demand, group: GroupId, bundle: Option<u32>) -> Demand {
    let resources = group::demanded(&demand.resources, group, bundle);
    Demand { resources, group: Some(group), ..demand.clone() }
}
