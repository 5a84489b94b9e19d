//! An owner whose program does what programs may do, and whose peers say anything.

use shoal_core::ids::{ActorId, JobId, ObjectId, ProcessId, TaskId};
use shoal_core::message::Message;
use shoal_core::node::Config as NodeConfig;
use shoal_core::owner::{Config, Effect, Input, NextItem, Owner};
use shoal_core::task::{Definition, Method, Returns, Target};
use shoal_core::{Effects, room};

use super::{NODE, Stage, check_message, take};
use crate::Log;
use crate::entropy::Entropy;
use crate::generate::generate;
use crate::tree::{Dictionary, Side, Tree};
use std::sync::Arc;

/// Results of a task at most; a program that asks for billions gets them.
const RETURNS_MAX: u32 = 4;

const ME: ProcessId = ProcessId::new(NODE, 1);

/// What the program and the node know that the machine relies on.
#[derive(Debug, Default)]
struct World {
    /// Tasks that run here.
    running: Vec<TaskId>,
    /// Somebody has pushed a task here.
    assigned: bool,
    /// A constructor runs here.
    constructing: bool,
    /// Threads that wait.
    blocked: u32,
    /// Places that the owner gave and that hold no object yet: offset and size.
    places: Vec<(u64, u64)>,
    /// Objects in places.
    sealed: Vec<(ObjectId, u64, u64)>,
    /// Where the node's next extent starts.
    extent: u64,
    /// The number of the latest task.
    last: u64,
    streams: Vec<TaskId>,
    /// Processes that were granted as workers.
    workers: Vec<ProcessId>,
    objects: Vec<ObjectId>,
}

/// What programs do most.
const TOLD: &[&str] = &[
    "Received",
    "Received",
    "Received",
    "Received",
    "Submit",
    "Submit",
    "CreateActor",
    "Put",
    "AddReference",
    "RemoveReference",
    "RemoveReference",
    "Need",
    "Cancel",
    "Ran",
    "Yielded",
    "LinkClosed",
];

/// What owners listen to.
const HEARD: &[&str] = &[
    "TaskFinished",
    "PushTask",
    "TasksReturned",
    "GeneratorItem",
    "GeneratorConsumed",
    "CancelTask",
    "TakeBack",
    "LeaseGranted",
    "LeaseGranted",
    "LeaseRefused",
    "LeaseRedirected",
    "LeaseRejected",
    "LeaseWanted",
    "LeaseEnded",
    "ActorUpdate",
    "BecomeActor",
    "Borrow",
    "Borrowed",
    "ReturnGrants",
    "FetchObject",
    "ObjectContent",
    "Pinned",
    "PinFailed",
    "ExtentGranted",
    "Freed",
    "ReturnRoom",
    "ProcessDied",
    "NodeDied",
    "CopyAdded",
    "KeepRecord",
    "DropRecord",
    "OfferRecord",
];

/// The bytes say what happens to the owner.
pub fn run(bytes: &[u8], log: Log<'_>) {
    let config = Config { lineage_bytes_max: 2_000, ..Config::new(ME, JobId(1), 2) };
    let mut stage = Stage::new(Owner::new(config), Owner::check, bytes, log);
    stage.dictionary.learn(Side::Machine, &ME);
    stage.dictionary.prefer("Input", TOLD);
    stage.dictionary.prefer("Message", HEARD);
    let mut world = World { extent: NodeConfig::new(NODE).store_start, ..World::default() };
    while !stage.entropy.is_spent() {
        let effects = match stage.entropy.byte() % 16 {
            0 | 1 => stage.pass(),
            2 => look(&mut stage, &mut world),
            3 => allocate(&mut stage, &mut world),
            4 => next_item(&mut stage, &mut world),
            _ => {
                let input = generate(&mut stage.entropy, &stage.dictionary);
                match world.conform(&mut stage, input) {
                    Some(input) => stage.tell(input),
                    None => continue,
                }
            }
        };
        for effect in effects {
            world.observe(effect);
        }
    }
}

impl World {
    /// The input as a program and a node would give it, if they may give it now.
    fn conform(&mut self, stage: &mut Stage<'_, Owner>, mut input: Input) -> Option<Input> {
        let nobody = TaskId { owner: ProcessId::HEAD, number: 0 };
        match &mut input {
            Input::Submit(submission) => submission.id = nobody,
            Input::CreateActor { spec, .. } => spec.id = ActorId(nobody),
            Input::Put { object, .. } => *object = nobody.object(0),
            Input::Received { from, message } => {
                if !stage.entropy.chance(24) {
                    self.conform_sender(&mut stage.entropy, from, message);
                }
                return self.conform_message(stage, *from, message).then_some(input);
            }
            _ => {}
        }
        if Dictionary::mentions(&input, "TaskId").iter().any(|id| self.is_to_come(id)) {
            return None;
        }
        match &mut input {
            Input::Submit(submission) => {
                submission.id = self.fresh(stage);
                if let Returns::Stream { .. } = bound_returns(&mut submission.target) {
                    self.streams.push(submission.id);
                }
                self.objects.push(submission.id.object(0));
            }
            Input::CreateActor { spec, .. } => spec.id = ActorId(self.fresh(stage)),
            Input::Put { object, .. } => {
                *object = self.fresh(stage).object(0);
                self.objects.push(*object);
            }
            Input::Ran { task, .. } => *task = take(&mut stage.entropy, &mut self.running)?,
            Input::Yielded { task, .. } => {
                *task = *self.running.get(stage.entropy.index(self.running.len().max(1)))?;
            }
            Input::Constructed { .. } => core::mem::take(&mut self.constructing).then_some(())?,
            Input::Blocked => self.blocked += 1,
            Input::Unblocked => self.blocked = self.blocked.checked_sub(1)?,
            Input::Seal { object, offset, size } => {
                (*offset, *size) = take(&mut stage.entropy, &mut self.places)?;
                self.sealed.push((*object, *offset, *size));
            }
            Input::Abandon { offset, size } => {
                (*offset, *size) = take(&mut stage.entropy, &mut self.places)?;
            }
            _ => {}
        }
        Some(input)
    }

    fn fresh(&mut self, stage: &mut Stage<'_, Owner>) -> TaskId {
        let id = stage.machine.next_task_id();
        self.last = id.number;
        id
    }

    /// A program names what it was given; a peer may make up anything.
    fn is_to_come(&self, id: &Tree) -> bool {
        match id {
            Tree::List(parts) => match &parts[..] {
                [Tree::Number(owner), Tree::Number(number)] => {
                    *owner == i128::from(ME.0) && *number > i128::from(self.last)
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Who says what: an owner does not listen to others.
    fn conform_sender(&mut self, entropy: &mut Entropy<'_>, from: &mut ProcessId, message: &mut Message) {
        match message {
            Message::LeaseGranted { lease, worker, .. } => {
                lease.node = if entropy.chance(180) { NODE } else { from.node() };
                *from = ProcessId::daemon(lease.node);
                *worker = ProcessId::new(lease.node, 2 + worker.number() % 8);
                self.workers.push(*worker);
            }
            Message::LeaseRedirected { .. }
            | Message::LeaseRejected { .. }
            | Message::LeaseRefused { .. }
            | Message::LeaseEnded { .. }
            | Message::LeaseWanted
            | Message::CopyAdded { .. }
            | Message::Answer { .. } => {
                *from = ProcessId::daemon(if entropy.chance(180) { NODE } else { from.node() });
            }
            Message::ActorUpdate { .. } | Message::GroupUpdate { .. } => *from = ProcessId::HEAD,
            Message::TaskFinished(_) | Message::TasksReturned { .. } | Message::GeneratorItem { .. }
                if !self.workers.is_empty() =>
            {
                *from = self.workers[entropy.index(self.workers.len())];
            }
            _ => {}
        }
    }

    /// Room in the store is given out by the node alone, once.
    fn conform_message(
        &mut self,
        stage: &mut Stage<'_, Owner>,
        from: ProcessId,
        message: &mut Message,
    ) -> bool {
        self.assigned |= matches!(message, Message::PushTask(_));
        if from != ProcessId::daemon(NODE) {
            return true;
        }
        match message {
            Message::ExtentGranted { offset, size, .. } => {
                *size = stage.entropy.pick(&[4_096, 65_536, 1 << 20]);
                *offset = self.extent;
                // Some extents touch.
                self.extent += *size + stage.entropy.pick(&[0, 4_096]);
            }
            // The node makes actors of idle workers.
            Message::BecomeActor { .. } => return !self.assigned,
            Message::Freed { offset, size } => {
                let Some((_, start, length)) = take(&mut stage.entropy, &mut self.sealed) else {
                    return false;
                };
                (*offset, *size) = (start, length);
            }
            _ => {}
        }
        true
    }

    fn observe(&mut self, effect: Effect) {
        match effect {
            Effect::Send { message, .. } => check_message(&message),
            Effect::Run { assignment, .. } => self.running.push(assignment.task),
            Effect::Construct { .. } => self.constructing = true,
            _ => {}
        }
    }
}

fn bound_returns(target: &mut Target) -> Returns {
    let bounded = |returns: Returns| match returns {
        Returns::Count(count) => Returns::Count(count % (RETURNS_MAX + 1)),
        stream => stream,
    };
    match target {
        Target::Function(definition) => {
            let returns = bounded(definition.returns);
            *definition = Arc::new(Definition { returns, ..definition.as_ref().clone() });
            returns
        }
        Target::Method { method, .. } => {
            let returns = bounded(method.returns);
            *method = Arc::new(Method { returns, ..method.as_ref().clone() });
            returns
        }
    }
}

/// What a program may ask at any time.
fn look(stage: &mut Stage<'_, Owner>, world: &mut World) -> Vec<Effect> {
    let owner = &mut stage.machine;
    if let Some(object) = world.objects.get(stage.entropy.index(world.objects.len().max(1))).copied() {
        let _ = (owner.lookup(object), owner.is_call(object), owner.contained(object).len());
        if let Some((offset, size)) = owner.open(object) {
            stage.log.line("open", &(object, offset, size));
        }
    }
    let _ = owner.inspect();
    Vec::new()
}

fn allocate(stage: &mut Stage<'_, Owner>, world: &mut World) -> Vec<Effect> {
    let size = stage.entropy.pick(&[0, 1, 100, 4_096, 70_000, 1 << 20, u64::MAX]);
    if let Some(offset) = stage.machine.allocate(size) {
        stage.log.line("allocated", &(offset, size));
        assert!(room::object_room(size).is_some_and(|room| offset + room <= world.extent));
        let overlap = |(start, length): &(u64, u64)| {
            let end = *start + room::object_room(*length).unwrap_or(0);
            *start < offset + room::object_room(size).unwrap_or(0) && offset < end
        };
        let held = world.sealed.iter().map(|(_, start, length)| (*start, *length));
        assert!(!held.chain(world.places.iter().copied()).any(|place| overlap(&place)), "{offset} is taken");
        world.places.push((offset, size));
    }
    (stage.check)(&stage.machine);
    Vec::new()
}

fn next_item(stage: &mut Stage<'_, Owner>, world: &mut World) -> Vec<Effect> {
    let Some(task) = world.streams.get(stage.entropy.index(world.streams.len().max(1))).copied() else {
        return Vec::new();
    };
    let mut effects = Effects::new();
    if let NextItem::Item(object) = stage.machine.next_item(task, &mut effects) {
        world.objects.push(object);
    }
    stage.heard(effects)
}
