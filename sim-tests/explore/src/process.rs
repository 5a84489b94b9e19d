//! A driver or worker: its `Owner`, and the threads of its program.

use bytes::Bytes;
use shoal_core::actor::ActorSpec;
use shoal_core::ids::{ActorId, FunctionId, JobId, ObjectId, ProcessId, TaskId};
use shoal_core::owner::{self, Lookup, Owner, RunResult};
use shoal_core::task::{Assignment, Callee, Submission, Target};
use shoal_core::value::{Failure, Outcome, Payload, Value};
use shoal_core::{Effects, Machine, Time};

use crate::history::{Got, Observation};
use crate::part::Output;
use crate::program::{Script, Slot, Step};
use crate::scenario::Programs;

/// Every task takes so long, as far as its owner is told.
const TASK_MICROS: u32 = 500;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its machine.
    pub owner: Owner,
    job: JobId,
    threads: Vec<Thread>,
    /// The actor that lives here, its incarnation, its class, and what it keeps between calls.
    actor: Option<(ActorId, u32, usize, Holding)>,
    /// What the process table says that it started last.
    pub last_started: Option<TaskId>,
    /// Functions whose code has come here.
    codes: Vec<FunctionId>,
}

/// A program that runs.
#[derive(Clone, Debug)]
struct Thread {
    runs: Runs,
    at: usize,
    slots: Vec<Holding>,
    /// It has asked for this object and waits.
    waits: Option<ObjectId>,
    interrupted: bool,
}

/// Whose script it is.
#[derive(Clone, Copy, Debug)]
enum Runs {
    Driver(usize),
    Function { task: TaskId, attempt: u32, function: usize },
    Method { task: TaskId, attempt: u32, method: usize },
    Constructor,
}

/// What a slot holds.
#[derive(Clone, Debug, Default)]
enum Holding {
    #[default]
    Nothing,
    /// One counted reference; an actor's handle is the one to its handle object.
    Reference(ObjectId),
    /// A value's references, each counted once.
    Value(Vec<ObjectId>),
}

impl Runs {
    fn task(self) -> Option<TaskId> {
        match self {
            Runs::Function { task, .. } | Runs::Method { task, .. } => Some(task),
            Runs::Driver(_) | Runs::Constructor => None,
        }
    }
}

impl Holding {
    fn objects(&self) -> &[ObjectId] {
        match self {
            Holding::Reference(object) => std::slice::from_ref(object),
            Holding::Value(contains) => contains,
            Holding::Nothing => &[],
        }
    }
}

/// The moment in which a process acts, and where its acts go.
pub struct Acts<'a> {
    /// The process's clock.
    pub now: Time,
    /// What the scenario's users wrote.
    pub programs: &'a Programs,
    /// What the process does.
    pub outputs: &'a mut Vec<Output>,
}

impl Process {
    /// A worker, or with a script a driver.
    pub fn new(owner: Owner, job: JobId, driver: Option<usize>) -> Process {
        let (threads, codes) = (Vec::new(), Vec::new());
        let mut process = Process { owner, job, threads, actor: None, last_started: None, codes };
        process.threads.extend(driver.map(|script| Thread::new(Runs::Driver(script))));
        process
    }

    /// The machine gets an input, and its effects take place.
    pub fn tell(&mut self, input: owner::Input, acts: &mut Acts) {
        let mut effects = Effects::new();
        self.owner.handle(acts.now, input, &mut effects);
        self.perform(effects, acts);
    }

    /// The machine's deadline has come.
    pub fn time_out(&mut self, acts: &mut Acts) {
        let mut effects = Effects::new();
        self.owner.handle_timeout(acts.now, &mut effects);
        self.perform(effects, acts);
    }

    fn perform(&mut self, mut effects: Effects<owner::Effect>, acts: &mut Acts) {
        for effect in effects.drain() {
            match effect {
                owner::Effect::Send { to, message } => acts.outputs.push(Output::Send { to, message }),
                owner::Effect::Run { assignment, .. } => self.run(*assignment, acts),
                owner::Effect::Construct { spec, incarnation, .. } => {
                    self.construct(&spec, incarnation, acts);
                }
                owner::Effect::Interrupt { task } => {
                    for thread in self.threads.iter_mut().filter(|t| t.runs.task() == Some(task)) {
                        thread.interrupted = true;
                    }
                }
                owner::Effect::Exit { force, .. } => {
                    acts.outputs.push(Output::Exit { code: i32::from(force) });
                }
                // Threads look for themselves whether they can go on.
                owner::Effect::Changed { .. } => {}
                other => unreachable!("no program asks for {other:?}"),
            }
        }
    }

    fn run(&mut self, assignment: Assignment, acts: &mut Acts) {
        let Assignment { task, attempt, callee, dependencies, borrows, .. } = assignment;
        let (runs, call) = match callee {
            Callee::Function { function, code, .. } => {
                if code.is_some() && !self.codes.contains(&function) {
                    self.codes.push(function);
                }
                assert!(self.codes.contains(&function), "{task:?} runs here, and its code never came");
                (Runs::Function { task, attempt, function: function.0 as usize }, None)
            }
            Callee::Method { actor, incarnation, name, .. } => {
                let method = name.parse().expect("methods are called by number");
                (Runs::Method { task, attempt, method }, Some((actor, incarnation)))
            }
        };
        self.last_started = Some(task);
        acts.outputs.push(Output::Observe(Observation::Started { task, attempt, call }));
        let mut thread = Thread::new(runs);
        for given in dependencies {
            let contains = match given.outcome {
                Outcome::Value(value) => value.contains,
                other => unreachable!("{task:?} runs with {other:?} for an argument"),
            };
            self.add_references(&contains, acts);
            thread.slots.push(Holding::Value(contains));
        }
        self.add_references(&borrows, acts);
        thread.slots.extend(borrows.into_iter().map(Holding::Reference));
        self.threads.push(thread);
    }

    fn construct(&mut self, spec: &ActorSpec, incarnation: u32, acts: &mut Acts) {
        let actor = spec.id;
        acts.outputs.push(Output::Observe(Observation::Constructing { actor, incarnation }));
        self.actor = Some((actor, incarnation, spec.class.0 as usize, Holding::Nothing));
        self.threads.push(Thread::new(Runs::Constructor));
    }

    fn add_references(&mut self, objects: &[ObjectId], acts: &mut Acts) {
        for object in objects {
            self.tell(owner::Input::AddReference { object: *object }, acts);
        }
    }

    /// Let go of what a slot held.
    fn release(&mut self, holding: Holding, acts: &mut Acts) {
        for object in holding.objects() {
            self.tell(owner::Input::RemoveReference { object: *object }, acts);
        }
    }

    /// Threads that can go on now.
    pub fn runnable(&self) -> Vec<u8> {
        let can = |thread: &Thread| {
            thread.interrupted
                || thread.waits.is_none_or(|object| !matches!(self.owner.lookup(object), Lookup::NotReady))
        };
        (0_u8..).zip(&self.threads).filter(|(_, thread)| can(thread)).map(|(number, _)| number).collect()
    }

    /// Whether nothing of a program runs here.
    pub fn is_idle(&self) -> bool {
        self.threads.is_empty()
    }

    /// What each thread waits for.
    pub fn waiting(&self) -> Vec<String> {
        self.threads.iter().map(|thread| format!("{:?} waits for {:?}", thread.runs, thread.waits)).collect()
    }

    /// The objects that the program here refers to.
    pub fn referred(&self) -> Vec<ObjectId> {
        let slots = self.threads.iter().flat_map(|thread| &thread.slots);
        let kept = self.actor.as_ref().map(|(_, _, _, kept)| kept);
        let mut objects: Vec<ObjectId> = slots.chain(kept).flat_map(Holding::objects).copied().collect();
        objects.sort_unstable();
        objects.dedup();
        objects
    }

    fn script<'a>(&self, runs: Runs, programs: &'a Programs) -> &'a Script {
        match runs {
            Runs::Driver(number) => &programs.drivers[number],
            Runs::Function { function, .. } => &programs.functions[function].script,
            Runs::Method { method, .. } => {
                let (_, _, class, _) = self.actor.as_ref().expect("methods run in actors");
                &programs.classes[*class].methods[method].1
            }
            Runs::Constructor => &programs.nothing,
        }
    }

    /// A thread takes its next step.
    pub fn go(&mut self, number: u8, acts: &mut Acts) {
        let number = usize::from(number);
        let mut thread = self.threads.remove(number);
        if std::mem::take(&mut thread.interrupted) {
            self.stop_waiting(&mut thread, acts);
            self.raise(thread, acts);
            return;
        }
        let script = self.script(thread.runs, acts.programs);
        let Some(step) = script.steps.get(thread.at).cloned() else {
            let returns = script.returns.clone();
            self.return_from(thread, &returns, acts);
            return;
        };
        match self.take_step(&mut thread, step, acts) {
            Next::Go => {
                thread.at += 1;
                self.threads.insert(number, thread);
            }
            Next::Wait => self.threads.insert(number, thread),
            Next::Raise => self.raise(thread, acts),
        }
    }

    fn take_step(&mut self, thread: &mut Thread, step: Step, acts: &mut Acts) -> Next {
        match step {
            Step::Submit { function, passes, lends, into } => {
                let target = Target::Function(acts.programs.functions[function].definition.clone());
                let reference = self.submit(thread, target, &passes, &lends, acts);
                self.set(thread, into, reference, acts);
            }
            Step::Call { actor, class, method, passes, lends, into } => {
                let Holding::Reference(handle) = *thread.slot(actor) else { return Next::Go };
                let actor = ActorId(handle.task);
                let method = acts.programs.classes[class].methods[method].0.clone();
                let reference = self.submit(thread, Target::Method { actor, method }, &passes, &lends, acts);
                self.set(thread, into, reference, acts);
            }
            Step::Create { class, into } => {
                let actor = ActorId(self.owner.next_task_id());
                let spec = Box::new(acts.programs.classes[class].spec(class, actor, self.job));
                let input = owner::Input::CreateActor { spec, dependencies: Vec::new(), request: None };
                self.tell(input, acts);
                self.set(thread, into, Holding::Reference(actor.handle_object()), acts);
            }
            Step::Put { contains, into } => {
                let object = self.owner.next_task_id().object(0);
                let value = written(object, 0, thread.objects(&contains));
                self.tell(owner::Input::Put { object, value }, acts);
                self.set(thread, into, Holding::Reference(object), acts);
            }
            Step::Get { slot, into } => return self.get(thread, slot, into, acts),
            Step::Take { slot, into } => {
                if let Holding::Value(contains) = thread.slot(slot)
                    && let Some(object) = contains.first().copied()
                {
                    self.add_references(&[object], acts);
                    self.set(thread, into, Holding::Reference(object), acts);
                }
            }
            Step::Drop { slot } => self.set(thread, slot, Holding::Nothing, acts),
            Step::Keep { slot } => {
                let holding = thread.put(slot, Holding::Nothing);
                let (_, _, _, kept) = self.actor.as_mut().expect("only actors keep");
                let earlier = std::mem::replace(kept, holding);
                self.release(earlier, acts);
            }
            Step::Recall { into } => {
                let (_, _, _, kept) = self.actor.as_mut().expect("only actors keep");
                let holding = std::mem::take(kept);
                self.set(thread, into, holding, acts);
            }
            Step::Cancel { slot, force } => {
                if let Holding::Reference(object) = *thread.slot(slot) {
                    let task = object.task;
                    let tasks = self.owner.inspect().tasks;
                    let view = tasks.iter().find(|view| view.id == task && !view.done);
                    let cancelled = Observation::Cancelled { task, attempt: view.map(|view| view.attempt) };
                    acts.outputs.push(Output::Observe(cancelled));
                    self.tell(owner::Input::Cancel { object, force, recursive: false }, acts);
                }
            }
            Step::Raise => return Next::Raise,
            Step::Kill { actor, no_restart } => {
                if let Holding::Reference(handle) = *thread.slot(actor) {
                    let actor = ActorId(handle.task);
                    acts.outputs.push(Output::Observe(Observation::Killed { actor }));
                    self.tell(owner::Input::KillActor { actor, no_restart }, acts);
                }
            }
        }
        Next::Go
    }

    fn submit(
        &mut self,
        thread: &Thread,
        target: Target,
        passes: &[Slot],
        lends: &[Slot],
        acts: &mut Acts,
    ) -> Holding {
        let id = self.owner.next_task_id();
        let dependencies = thread.objects(passes);
        if !dependencies.is_empty() {
            acts.outputs.push(Output::Observe(Observation::Depends { task: id }));
        }
        let submission = Submission {
            id,
            target,
            arguments: Bytes::new(),
            dependencies,
            borrows: thread.objects(lends),
            parent: thread.runs.task(),
        };
        self.tell(owner::Input::Submit(Box::new(submission)), acts);
        Holding::Reference(id.object(0))
    }

    fn set(&mut self, thread: &mut Thread, slot: Slot, holding: Holding, acts: &mut Acts) {
        let earlier = thread.put(slot, holding);
        self.release(earlier, acts);
    }

    fn get(&mut self, thread: &mut Thread, slot: Slot, into: Slot, acts: &mut Acts) -> Next {
        let Holding::Reference(object) = *thread.slot(slot) else { return Next::Go };
        if matches!(self.owner.lookup(object), Lookup::NotReady) {
            self.tell(owner::Input::Need { object }, acts);
        }
        let result = match self.owner.lookup(object) {
            Lookup::NotReady => {
                let first = thread.waits.replace(object).is_none();
                if first && thread.runs.task().is_some() {
                    self.tell(owner::Input::Blocked, acts);
                }
                return Next::Wait;
            }
            Lookup::Inline { bytes, exception } => Ok((bytes.clone(), exception)),
            Lookup::Failed(failure) => Err(failure.clone()),
            Lookup::Stored { .. } => unreachable!("nothing that is explored is large"),
        };
        let contains = self.owner.contained(object).to_vec();
        self.stop_waiting(thread, acts);
        let value = matches!(result, Ok((_, false)));
        acts.outputs.push(Output::Observe(Observation::Got { object, result: got(result) }));
        if value {
            self.add_references(&contains, acts);
            self.set(thread, into, Holding::Value(contains), acts);
        } else if thread.runs.task().is_some() {
            return Next::Raise;
        }
        Next::Go
    }

    fn stop_waiting(&mut self, thread: &mut Thread, acts: &mut Acts) {
        if thread.waits.take().is_some() && thread.runs.task().is_some() {
            self.tell(owner::Input::Unblocked, acts);
        }
    }

    fn return_from(&mut self, thread: Thread, returns: &[Slot], acts: &mut Acts) {
        match thread.runs {
            Runs::Driver(_) => self.release_all(thread, acts),
            Runs::Constructor => {
                self.release_all(thread, acts);
                self.tell(owner::Input::Constructed { failed: None }, acts);
            }
            Runs::Function { task, attempt, .. } | Runs::Method { task, attempt, .. } => {
                let value = written(task.object(0), attempt, thread.objects(returns));
                self.end(thread, task, Outcome::Value(value), acts);
            }
        }
    }

    /// The program raises. Only tasks do.
    fn raise(&mut self, thread: Thread, acts: &mut Acts) {
        let Some(task) = thread.runs.task() else { return self.release_all(thread, acts) };
        let exception = Value::inline(Bytes::from_static(b"raised"));
        self.end(thread, task, Outcome::Exception(exception), acts);
    }

    fn end(&mut self, thread: Thread, task: TaskId, outcome: Outcome, acts: &mut Acts) {
        let returned = match &outcome {
            Outcome::Value(value) => value.contains.clone(),
            _ => Vec::new(),
        };
        let held = self.release_all_but(thread, &returned, acts);
        let result = RunResult {
            outcomes: vec![outcome],
            items: 0,
            retryable: false,
            started: 0,
            micros: TASK_MICROS,
            exiting: false,
            silent: false,
        };
        self.tell(owner::Input::Ran { task, result: Box::new(result) }, acts);
        for holding in held {
            self.release(holding, acts);
        }
    }

    fn release_all(&mut self, thread: Thread, acts: &mut Acts) {
        let held = self.release_all_but(thread, &[], acts);
        debug_assert!(held.is_empty(), "nothing is excepted");
    }

    /// Let go of every slot but those that hold what is returned.
    fn release_all_but(&mut self, thread: Thread, returned: &[ObjectId], acts: &mut Acts) -> Vec<Holding> {
        let mut held = Vec::new();
        for holding in thread.slots {
            if holding.objects().iter().any(|object| returned.contains(object)) {
                held.push(holding);
            } else {
                self.release(holding, acts);
            }
        }
        held
    }

    /// Its address.
    pub fn id(&self) -> ProcessId {
        self.owner.process()
    }
}

/// What a step led to.
enum Next {
    /// The next step.
    Go,
    /// This step again, when something has changed.
    Wait,
    /// The program raises.
    Raise,
}

impl Thread {
    fn new(runs: Runs) -> Thread {
        Thread { runs, at: 0, slots: Vec::new(), waits: None, interrupted: false }
    }

    fn slot(&self, slot: Slot) -> &Holding {
        self.slots.get(slot).unwrap_or(&Holding::Nothing)
    }

    fn put(&mut self, slot: Slot, holding: Holding) -> Holding {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, Holding::Nothing);
        }
        std::mem::replace(&mut self.slots[slot], holding)
    }

    /// What these slots refer to.
    fn objects(&self, slots: &[Slot]) -> Vec<ObjectId> {
        let object = |slot: &Slot| match self.slot(*slot) {
            Holding::Reference(object) => Some(*object),
            Holding::Nothing | Holding::Value(_) => None,
        };
        slots.iter().filter_map(object).collect()
    }
}

/// A value says which object it is and which attempt made it.
fn written(object: ObjectId, attempt: u32, contains: Vec<ObjectId>) -> Value {
    let payload = Payload::Inline(Bytes::from(format!("{object:?} of attempt {attempt}")));
    Value { payload, contains }
}

fn got(result: Result<(Bytes, bool), Failure>) -> Got {
    match result {
        Ok((bytes, false)) => Got::Value(String::from_utf8_lossy(&bytes).into_owned()),
        Ok((_, true)) => Got::Exception,
        Err(failure) => Got::Failure(failure),
    }
}
