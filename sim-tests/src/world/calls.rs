//! How programs call functions and actors, and how calls begin and end where they run.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use shoal_core::actor::ActorSpec;
use shoal_core::group;
use shoal_core::ids::{ActorId, FunctionId, GroupId, ObjectId, ProcessId, TaskId};
use shoal_core::owner::{self, RunResult};
use shoal_core::resources::Demand;
use shoal_core::task::{
    Assignment, Callee, Definition, Dependency, RetryExceptions, Returns, Submission, Target,
};
use shoal_core::value::{ActorDeath, Outcome, Payload, Value};

use super::groups::within;
use super::program::ActorPart;
use super::values::{encode, found};
use super::{Given, Holding, Role, Scene, Thread, Within};
use crate::observation::{Content, Observation};
use crate::program::{Class, Function, Slot};
use crate::rare;

/// What a call passes on.
#[derive(Default)]
pub(super) struct Passed<'a> {
    pub(super) dependencies: &'a [Slot],
    pub(super) borrows: &'a [Slot],
}

impl Scene<'_> {
    pub(super) fn submit(
        &mut self,
        id: ProcessId,
        thread: &mut Thread,
        function: &Rc<Function>,
        passed: Passed<'_>,
        into: Slot,
    ) {
        self.users.functions.entry(function.definition.function).or_insert_with(|| function.clone());
        let target = Target::Function(function.definition.clone());
        self.submit_target(id, thread, target, function.definition.returns, passed, into);
    }

    /// Call a function where a placement group is.
    pub(super) fn submit_within(
        &mut self,
        id: ProcessId,
        thread: &mut Thread,
        function: &Rc<Function>,
        group: GroupId,
        bundle: Option<u32>,
        into: Slot,
    ) {
        self.users.functions.entry(function.definition.function).or_insert_with(|| function.clone());
        let definition = &function.definition;
        let demand = Arc::new(within(&definition.demand, group, bundle));
        let target = Target::Function(Arc::new(Definition { demand, ..(**definition).clone() }));
        self.submit_target(id, thread, target, definition.returns, Passed::default(), into);
        if let Some(result) = thread.slot(into).object() {
            let demand = Demand::clone(&definition.demand);
            self.users.within.insert(result.task, Within { group, bundle, demand });
        }
    }

    /// Describe an actor that lives where a placement group is. Says which it is.
    pub(super) fn create_actor_within(
        &mut self,
        id: ProcessId,
        thread: &Thread,
        class: &Rc<Class>,
        group: GroupId,
        bundle: Option<u32>,
    ) -> Option<ActorId> {
        let placement = within(&class.placement, group, bundle);
        let running = group::demanded(&class.running, group, bundle);
        let mut class = Class::clone(class);
        class.placement = placement;
        class.running = running;
        self.create_actor(id, thread, &Rc::new(class), Passed::default(), "", false).map(|(actor, _)| actor)
    }

    pub(super) fn call(
        &mut self,
        id: ProcessId,
        thread: &mut Thread,
        slot: Slot,
        method: usize,
        passed: Passed<'_>,
        into: Slot,
    ) {
        let Holding::Actor { actor, .. } = *thread.slot(slot) else {
            return;
        };
        let Some((method, _)) = self.users.classes.get(&actor).and_then(|class| class.methods.get(method))
        else {
            return;
        };
        let target = Target::Method { actor, method: method.clone() };
        let returns = method.returns;
        self.submit_target(id, thread, target, returns, passed, into);
    }

    fn submit_target(
        &mut self,
        id: ProcessId,
        thread: &mut Thread,
        target: Target,
        returns: Returns,
        passed: Passed<'_>,
        into: Slot,
    ) {
        let dependencies = thread.objects(passed.dependencies);
        let borrows = thread.objects(passed.borrows);
        let Some(process) = self.cluster.processes.get_mut(&id) else {
            return;
        };
        let task = process.owner.next_task_id();
        self.users.submitted.insert(task, !dependencies.is_empty());
        self.pass(task, &dependencies);
        let submission = Submission {
            id: task,
            target,
            arguments: Bytes::new(),
            dependencies,
            borrows,
            parent: thread.task(),
        };
        self.cluster.tell(id, owner::Input::Submit(Box::new(submission)));
        match returns {
            Returns::Stream { .. } => self.set(id, thread, into, Holding::Stream(task)),
            Returns::Count(count) => {
                for index in 0..count {
                    let reference = Holding::Reference(task.object(index));
                    self.set(id, thread, into + index as Slot, reference);
                }
            }
        }
    }

    fn pass(&mut self, task: TaskId, dependencies: &[ObjectId]) {
        if !dependencies.is_empty() {
            self.users.passed.insert(task, dependencies.to_vec());
        }
    }

    /// What a task or a constructor begins with. Programs look at the bytes of small values here; those of
    /// large ones must be mapped by now, and are looked at where they are opened.
    fn given(&mut self, process: ProcessId, task: TaskId, arguments: &[Dependency]) {
        let objects = arguments.iter().map(|given| given.object).collect();
        self.observe(Observation::Given { process, task, arguments: objects });
        for Dependency { object, outcome } in arguments {
            let Outcome::Value(value) = outcome else { continue };
            match &value.payload {
                Payload::Inline(bytes) => {
                    let result = found(*object, bytes, false);
                    self.observe(Observation::Got { process, object: *object, result });
                }
                Payload::Stored { .. } => {
                    let at = self.cluster.processes.get(&process);
                    if at.is_some_and(|at| !at.owner.is_pinned(*object)) {
                        self.observe(Observation::Unmapped { process, task, argument: *object });
                    }
                }
            }
        }
    }

    pub(super) fn set(&mut self, id: ProcessId, thread: &mut Thread, slot: Slot, holding: Holding) {
        let old = thread.put_slot(slot, holding);
        self.release(id, old);
    }

    /// Describe an actor to its owner. Says which it is.
    pub(super) fn create_actor(
        &mut self,
        id: ProcessId,
        thread: &Thread,
        class: &Rc<Class>,
        passed: Passed<'_>,
        name: &str,
        detached: bool,
    ) -> Option<(ActorId, Option<shoal_core::ids::RequestId>)> {
        let dependencies = thread.objects(passed.dependencies);
        let borrows = thread.objects(passed.borrows);
        let process = self.cluster.processes.get_mut(&id)?;
        let actor = ActorId(process.owner.next_task_id());
        let request = (!name.is_empty()).then(|| process.request());
        let spec = ActorSpec {
            id: actor,
            job: process.job,
            class: class.id,
            code: Bytes::new(),
            label: "Simulated".into(),
            arguments: Bytes::new(),
            dependencies: Vec::new(),
            borrows,
            placement: class.placement.clone(),
            running: class.running.clone(),
            restarts_max: class.restarts_max,
            name: name.to_string(),
            namespace: String::from("everybody"),
            detached,
            asynchronous: false,
            groups: class.groups.clone(),
            out_of_order: class.out_of_order,
            handle: Bytes::new(),
        };
        self.users.classes.insert(actor, class.clone());
        self.pass(actor.0, &dependencies);
        if detached {
            self.users.detached.insert(actor);
        }
        let spec = Box::new(spec);
        self.cluster.tell(id, owner::Input::CreateActor { spec, dependencies, request });
        Some((actor, request))
    }

    /// An owner says that an assigned task runs now.
    pub(super) fn run_task(&mut self, id: ProcessId, assignment: Assignment) {
        self.note_rebuilding(&assignment);
        self.given(id, assignment.task, &assignment.dependencies);
        let Assignment { task, attempt, callee, dependencies, borrows, returns, retry_exceptions, .. } =
            assignment;
        let now = self.cluster.now();
        let Some(program) = self.users.programs.get_mut(&id) else {
            return;
        };
        let (script, function) = match callee {
            Callee::Function { function, code, calls_max, .. } => {
                if code.is_some() {
                    program.code.insert(function);
                } else if !program.code.contains(&function) {
                    self.cluster.broken = Some(format!("{task:?} runs on {id:?}, which never got its code"));
                }
                let script = self.users.functions.get(&function).map(|function| function.script.clone());
                (script, Some((function, calls_max)))
            }
            Callee::Method { actor, name, .. } => {
                let class = self.users.classes.get(&actor);
                let method = class.and_then(|class| class.methods.get(name.parse::<usize>().ok()?));
                let script = method.map(|(_, script)| script.clone());
                (script, None)
            }
        };
        let role = Role::Task {
            task,
            attempt,
            returns,
            retryable: retry_exceptions != RetryExceptions::Never,
            function,
            started: now,
            yielded: 0,
            consumed: 0,
        };
        let given = Some(Given { task, arguments: dependencies, borrows });
        match script {
            Some(script) => self.start_thread(id, Thread { given, ..Thread::new(script, role) }),
            None => self.cluster.broken = Some(format!("{task:?} calls something that nobody defined")),
        }
    }

    /// The owner of a process says that it is an actor now.
    pub(super) fn construct(&mut self, id: ProcessId, spec: ActorSpec) {
        let actor = spec.id;
        let Some(class) = self.users.classes.get(&actor).cloned() else {
            self.cluster.broken = Some(format!("{actor:?} is constructed, and nobody made it"));
            return;
        };
        self.given(id, actor.0, &spec.dependencies);
        let script = class.constructor.clone();
        if let Some(program) = self.users.programs.get_mut(&id) {
            program.actor = Some(ActorPart { state: Vec::new() });
        }
        let given = Some(Given { task: actor.0, arguments: spec.dependencies, borrows: spec.borrows });
        self.start_thread(id, Thread { given, ..Thread::new(script, Role::Constructor) });
    }

    /// The steps of a thread are done: make its results, then end it. Says whether it has ended.
    pub(super) fn thread_returns(&mut self, id: ProcessId, thread: &mut Thread) -> bool {
        let script = thread.script.clone();
        match thread.role.clone() {
            Role::Driver => self.thread_ends(id, thread, Vec::new(), false),
            Role::Constructor => self.constructor_ends(id, thread, None),
            Role::Task { returns: Returns::Stream { .. }, .. } => {
                self.thread_ends(id, thread, Vec::new(), false);
            }
            Role::Task { task, attempt, .. } => {
                while thread.made.len() < script.results.len() {
                    let object = task.object(thread.made.len() as u32);
                    let product = &script.results[thread.made.len()];
                    match self.make(id, thread, product, Content { object, attempt }) {
                        Ok(outcome) => {
                            if matches!(outcome, Outcome::Value(_)) {
                                self.users.ended.entry(object).or_default().push((attempt, false));
                            }
                            thread.made.push(outcome);
                        }
                        Err(waits) => {
                            thread.waits = waits;
                            return false;
                        }
                    }
                }
                let outcomes = std::mem::take(&mut thread.made);
                self.thread_ends(id, thread, outcomes, false);
            }
        }
        true
    }

    /// The program raises.
    pub(super) fn raise(&mut self, id: ProcessId, thread: &mut Thread) {
        match thread.role {
            Role::Driver => self.thread_ends(id, thread, Vec::new(), false),
            Role::Constructor => {
                let actor = self.cluster.processes.get(&id).and_then(|p| p.actor);
                let (object, attempt) = match actor {
                    Some((actor, incarnation)) => (actor.handle_object(), incarnation),
                    None => return,
                };
                self.users.ended.entry(object).or_default().push((attempt, true));
                let value = Value::inline(encode(Content { object, attempt }));
                self.constructor_ends(id, thread, Some(ActorDeath::Constructor(value)));
            }
            Role::Task { task, attempt, .. } => {
                let object = task.object(0);
                self.users.ended.entry(object).or_default().push((attempt, true));
                let value = Value::inline(encode(Content { object, attempt }));
                self.thread_ends(id, thread, vec![Outcome::Exception(value)], true);
            }
        }
    }

    fn constructor_ends(&mut self, id: ProcessId, thread: &mut Thread, failed: Option<ActorDeath>) {
        self.release_slots(id, thread, &[]);
        self.cluster.tell(id, owner::Input::Constructed { failed });
    }

    pub(super) fn thread_ends(
        &mut self,
        id: ProcessId,
        thread: &mut Thread,
        outcomes: Vec<Outcome>,
        raised: bool,
    ) {
        let Role::Task { task, retryable, function, started, yielded, .. } = thread.role.clone() else {
            self.release_slots(id, thread, &[]);
            return;
        };
        if thread.blocked {
            thread.blocked = false;
            self.cluster.tell(id, owner::Input::Unblocked);
        }
        let returned: Vec<ObjectId> = outcomes.iter().flat_map(contained).copied().collect();
        self.release_slots(id, thread, &returned);
        let exiting = self.counts_as_last(id, function);
        let micros = ((self.cluster.now() - started).0 / 1_000) as u32;
        let retryable = retryable && raised;
        let result = RunResult {
            outcomes,
            items: yielded,
            retryable,
            started: started.0 / 1_000,
            micros,
            exiting,
            silent: false,
        };
        self.cluster.tell(id, owner::Input::Ran { task, result: Box::new(result) });
        self.release_slots(id, thread, &[]);
    }

    /// A worker ends after so many calls of some functions.
    fn counts_as_last(&mut self, id: ProcessId, function: Option<(FunctionId, u32)>) -> bool {
        let (Some((function, calls_max)), Some(program)) = (function, self.users.programs.get_mut(&id))
        else {
            return false;
        };
        let calls = program.calls.entry(function).or_default();
        *calls += 1;
        calls_max > 0 && *calls >= calls_max
    }

    /// Let go of every slot, except of what the results refer to.
    fn release_slots(&mut self, id: ProcessId, thread: &mut Thread, except: &[ObjectId]) {
        for at in 0..thread.slots.len() {
            if thread.slots[at].object().is_none_or(|object| !except.contains(&object)) {
                let holding = std::mem::take(&mut thread.slots[at]);
                self.release(id, holding);
            }
        }
    }

    /// The number of the last task that a process has submitted.
    pub(super) fn last_submitted(&self, owner: ProcessId) -> u64 {
        let (first, last) = (TaskId { owner, number: 0 }, TaskId { owner, number: u64::MAX });
        self.users.submitted.range(first..=last).next_back().map_or(0, |(task, _)| task.number)
    }

    /// Count attempts that make again what was made before, and of these the ones whose arguments were.
    fn note_rebuilding(&mut self, assignment: &Assignment) {
        let ends = self.users.ended.get(&assignment.task.object(0));
        let made =
            |ends: &Vec<(u32, bool)>| ends.iter().any(|(at, raised)| *at < assignment.attempt && !raised);
        if !ends.is_some_and(made) {
            return;
        }
        self.users.rebuilt.insert(assignment.task);
        let rebuilt = |given: &Dependency| self.users.rebuilt.contains(&given.object.task);
        let again = assignment.dependencies.iter().any(rebuilt);
        self.cluster.count(rare::REBUILDING);
        if again {
            self.cluster.count(rare::REBUILDING_FROM_REBUILT);
        }
    }

    pub(super) fn cancelled(&mut self, id: ProcessId, task: TaskId, recursive: bool) {
        let process = self.cluster.processes.get(&id).filter(|_| task.owner == id);
        let view = process.and_then(|process| {
            process.owner.inspect().tasks.into_iter().find(|view| view.id == task && !view.done)
        });
        let attempt = view.map(|view| view.attempt);
        if attempt.is_some_and(|attempt| attempt > 0) {
            self.cluster.count(rare::CANCELLED_RETRY);
        }
        self.observe(Observation::Cancelled { task, recursive, attempt });
    }
}

fn contained(outcome: &Outcome) -> &[ObjectId] {
    match outcome {
        Outcome::Value(value) | Outcome::Exception(value) => &value.contains,
        Outcome::Failure(_) => &[],
    }
}
