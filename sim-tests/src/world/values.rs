//! Values as simulated programs see them: bytes that say which object they are and who made them.

use bytes::Bytes;
use shoal_core::ids::{ActorId, ObjectId, ProcessId, RequestId, TaskId};
use shoal_core::owner::{self, Lookup};
use shoal_core::value::{INLINE_BYTES_MAX, Outcome, Payload, Value};
use shoal_transport_sim::cluster::Process;

use super::{Holding, Scene, Thread, Waits};
use crate::observation::{Content, Got, Observation};
use crate::program::Product;
use crate::rare;

/// What a program found when it asked for a value.
pub(super) enum Found {
    /// Not yet; wait for the object to change.
    NotYet,
    /// This.
    Value(Holding),
    /// An exception or a failure.
    Error,
    /// The process is gone.
    Gone,
}

/// What stands for a small value's bytes.
pub(super) fn encode(content: Content) -> Bytes {
    let ObjectId { task, index } = content.object;
    let mut bytes = Vec::with_capacity(24);
    bytes.extend(task.owner.0.to_le_bytes());
    bytes.extend(task.number.to_le_bytes());
    bytes.extend(index.to_le_bytes());
    bytes.extend(content.attempt.to_le_bytes());
    Bytes::from(bytes)
}

fn decode(bytes: &[u8]) -> Option<Content> {
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let task = TaskId { owner: ProcessId(word(0)?), number: word(8)? };
    let content = Content { object: task.object(half(16)?), attempt: half(20)? };
    (bytes.len() == 24).then_some(content)
}

impl Scene<'_> {
    /// Look for an object's value, as `get` does.
    pub(super) fn find(&mut self, id: ProcessId, object: ObjectId) -> Found {
        if !self.cluster.nodes.contains_key(&id.node()) {
            // Its daemon is gone, and the process will be, as soon as it notices.
            return Found::Gone;
        }
        for asked in [false, true] {
            let Some(process) = self.cluster.processes.get_mut(&id) else {
                return Found::Gone;
            };
            let got = match process.owner.lookup(object) {
                Lookup::NotReady if asked => return Found::NotYet,
                Lookup::NotReady => None,
                Lookup::Failed(failure) => Some(Got::Failure(failure.clone())),
                Lookup::Inline { bytes, exception } => Some(found(object, bytes, exception)),
                Lookup::Stored { exception } => Some(self.stored(id, object, exception)),
            };
            let Some(got) = got else {
                self.cluster.tell(id, owner::Input::Need { object });
                continue;
            };
            let mapped = self.is_mapped(id, object, &got);
            let value = matches!(got, Got::Value { .. } | Got::Marker);
            self.observe_got(id, object, got);
            if !value {
                return Found::Error;
            }
            let contains = self.contained_in(id, object);
            for inner in &contains {
                self.reference(id, *inner);
            }
            return Found::Value(Holding::Value { object, contains, mapped });
        }
        Found::NotYet
    }

    /// A program has found something behind a reference, or in an argument.
    pub(super) fn observe_got(&mut self, id: ProcessId, object: ObjectId, got: Got) {
        if matches!(got, Got::Value { .. }) && self.cluster.deaths.contains_key(&object.owner()) {
            self.cluster.count(rare::OUTLIVED_ITS_OWNER);
        }
        self.observe(Observation::Got { process: id, object, result: got });
    }

    fn is_mapped(&self, id: ProcessId, object: ObjectId, got: &Got) -> bool {
        let stored = |process: &Process| matches!(process.owner.lookup(object), Lookup::Stored { .. });
        matches!(got, Got::Value { .. }) && self.cluster.processes.get(&id).is_some_and(stored)
    }

    fn stored(&mut self, id: ProcessId, object: ObjectId, exception: bool) -> Got {
        let cannot = || Got::Garbage(format!("{object:?} is said to be pinned and cannot be opened"));
        self.open(id, object, exception).unwrap_or_else(cannot)
    }

    /// Look at the bytes of an object in the store; nothing if they are not mapped.
    pub(super) fn open(&mut self, id: ProcessId, object: ObjectId, exception: bool) -> Option<Got> {
        let (offset, size) = self.cluster.processes.get_mut(&id)?.owner.open(object)?;
        Some(match self.cluster.read(id, offset, size).copied() {
            Some(Content { object, attempt }) if exception => Got::Exception { object, attempt },
            Some(Content { object, attempt }) => Got::Value { object, attempt },
            None => Got::Garbage(format!("{object:?} is not at {offset}, {size} bytes")),
        })
    }

    /// The references inside a value that was looked up.
    fn contained_in(&self, id: ProcessId, object: ObjectId) -> Vec<ObjectId> {
        let process = self.cluster.processes.get(&id);
        process.map(|process| process.owner.contained(object).to_vec()).unwrap_or_default()
    }

    /// The program of a process makes one more reference.
    pub(super) fn reference(&mut self, id: ProcessId, object: ObjectId) {
        self.cluster.tell(id, owner::Input::AddReference { object });
        if self.is_actor(object) {
            self.cluster.tell(id, owner::Input::WatchActor { actor: ActorId(object.task) });
        }
    }

    pub(super) fn is_actor(&self, object: ObjectId) -> bool {
        self.users.is_actor(object)
    }

    /// A holding for a reference that is counted already.
    pub(super) fn holding(&self, object: ObjectId) -> Holding {
        if self.is_actor(object) {
            Holding::Actor { actor: ActorId(object.task), weak: false }
        } else {
            Holding::Reference(object)
        }
    }

    /// Let go of what a slot held.
    pub(super) fn release(&mut self, id: ProcessId, holding: Holding) {
        match holding {
            Holding::Nothing | Holding::Actor { weak: true, .. } => {}
            Holding::Group(group) => self.cluster.tell(id, owner::Input::UnwatchGroup { group }),
            Holding::Reference(object) => self.cluster.tell(id, owner::Input::RemoveReference { object }),
            Holding::Actor { actor, .. } => {
                let object = actor.handle_object();
                self.cluster.tell(id, owner::Input::RemoveReference { object });
            }
            Holding::Stream(task) => {
                self.cluster.tell(id, owner::Input::CloseStream { task });
                self.cluster.tell(id, owner::Input::RemoveReference { object: task.object(0) });
            }
            Holding::Value { object, contains, mapped } => {
                for inner in contains {
                    self.cluster.tell(id, owner::Input::RemoveReference { object: inner });
                }
                if mapped {
                    self.cluster.tell(id, owner::Input::RemoveReader { object });
                }
            }
        }
    }

    /// Make a value. `Err` says that the thread must wait for room first.
    pub(super) fn make(
        &mut self,
        id: ProcessId,
        thread: &mut Thread,
        product: &Product,
        content: Content,
    ) -> Result<Outcome, Waits> {
        let contains = thread.objects(&product.contains);
        if product.size <= INLINE_BYTES_MAX as u64 {
            let payload = Payload::Inline(encode(content));
            return Ok(Outcome::Value(Value { payload, contains }));
        }
        if let Some(failure) = thread.room_refused.take() {
            self.cluster.count("the store had no room");
            return Ok(Outcome::Failure(Box::new(failure)));
        }
        let Some(process) = self.cluster.processes.get_mut(&id) else {
            return Err(Waits::Nothing);
        };
        let size = product.size;
        let Some(offset) = process.owner.allocate(size) else {
            let request: RequestId = process.request();
            self.cluster.tell(id, owner::Input::RequestRoom { request, size });
            return Err(Waits::Room(request));
        };
        self.cluster.write(id, offset, size, content);
        let object = content.object;
        self.cluster.tell(id, owner::Input::Seal { object, offset, size });
        let payload = Payload::Stored { node: id.node(), size };
        Ok(Outcome::Value(Value { payload, contains }))
    }
}

/// What the bytes of a small value say that they are.
pub(super) fn found(object: ObjectId, bytes: &Bytes, exception: bool) -> Got {
    match decode(bytes) {
        None if bytes.is_empty() && object.index == 0 && !exception => Got::Marker,
        Some(Content { object, attempt }) if exception => Got::Exception { object, attempt },
        Some(Content { object, attempt }) => Got::Value { object, attempt },
        None => Got::Garbage(format!("{} bytes that no program wrote", bytes.len())),
    }
}
