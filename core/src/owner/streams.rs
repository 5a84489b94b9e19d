//! Streaming generators, at the consumer: items arrive in order, wait here, and are handed out once.

use super::copies::named_location;
use super::objects::State;
use super::tasks::Stage;
use super::{Effect, Out, Owner};
use crate::ids::{ObjectId, ProcessId, TaskId};
use crate::machine::Time;
use crate::message::Message;
use crate::value::Outcome;

/// What is known of a stream.
#[derive(Clone, Debug)]
pub(super) struct StreamState {
    /// The producer pauses when this many items wait; 0 is no limit.
    backpressure: u32,
    /// Items that have arrived.
    received: u32,
    /// Items that were handed out.
    taken: u32,
    /// How many there are, once that is known.
    total: Option<u32>,
    /// The consumer wants no more.
    closed: bool,
}

impl StreamState {
    pub(super) fn new(backpressure: u32) -> StreamState {
        StreamState { backpressure, received: 0, taken: 0, total: None, closed: false }
    }

    /// Indices of items that wait to be handed out.
    pub(super) fn untaken(&self) -> impl Iterator<Item = u32> + use<> {
        let waiting = if self.closed { 0..0 } else { self.taken..self.received };
        waiting.map(|item| item + 1)
    }

    /// Whether the consumer wants no more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// What the producer of a new attempt must know of the consumer, if it is news to it.
    pub(super) fn progress(&self) -> Option<u32> {
        if self.closed {
            return Some(u32::MAX);
        }
        (self.backpressure > 0 && self.taken > 0).then_some(self.taken)
    }
}

/// What [`Owner::next_item`] finds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NextItem {
    /// This object is the next item; the caller holds one reference to it.
    Item(ObjectId),
    /// It will have this id, or the stream ends before; wait until that changes.
    NotYet(ObjectId),
    /// There are no more.
    End,
}

impl Owner {
    /// Take the next item of a stream of this process.
    pub fn next_item(&mut self, task: TaskId, out: &mut crate::Effects<Effect>) -> NextItem {
        let peek = self.peek_item(task);
        let NextItem::Item(object) = peek else {
            return peek;
        };
        let Some(record) = self.tasks.get_mut(&task) else {
            return NextItem::End;
        };
        let to = match record.stage {
            Stage::Pushed { to } => Some(to),
            _ => None,
        };
        let Some(stream) = record.stream.as_mut() else {
            return NextItem::End;
        };
        stream.taken += 1;
        let (consumed, limited) = (stream.taken, stream.backpressure > 0);
        if let Some(record) = self.objects.get_mut(&object) {
            record.local += 1;
            record.uses -= 1;
        }
        if let (Some(to), true) = (to, limited) {
            self.send(to, Message::GeneratorConsumed { task, consumed }, out);
        }
        peek
    }

    /// What [`Owner::next_item`] would find, without taking it.
    pub fn peek_item(&self, task: TaskId) -> NextItem {
        let Some(record) = self.tasks.get(&task) else {
            return NextItem::End;
        };
        let Some(stream) = &record.stream else {
            return NextItem::End;
        };
        let object = task.object(stream.taken + 1);
        if stream.taken < stream.received {
            NextItem::Item(object)
        } else if stream.total.is_some() {
            NextItem::End
        } else {
            NextItem::NotYet(object)
        }
    }

    pub(super) fn items_received(&self, id: TaskId) -> u32 {
        let stream = self.tasks.get(&id).and_then(|task| task.stream.as_ref());
        stream.map_or(0, |stream| stream.received)
    }

    pub(super) fn item_received(
        &mut self,
        from: ProcessId,
        task: TaskId,
        attempt: u32,
        index: u32,
        outcome: Outcome,
        out: Out<'_>,
    ) {
        self.receive_contained(&outcome, from, out);
        let object = task.object(index.saturating_add(1));
        let expected = self
            .tasks
            .get_mut(&task)
            .filter(|record| record.attempt == attempt && record.stage == (Stage::Pushed { to: from }));
        let stream = expected.and_then(|record| record.stream.as_mut());
        // A repeated attempt yields its first items again.
        let Some(stream) = stream.filter(|s| s.received == index && !s.closed) else {
            return self.item_repeated(object, attempt, outcome, out);
        };
        stream.received += 1;
        self.add_item(object, attempt, outcome, out);
    }

    /// An item came that is not the next one. Where the bytes of the one that is known are, those of the
    /// repeated one count as theirs; elsewhere nobody else frees them.
    fn item_repeated(&mut self, object: ObjectId, attempt: u32, outcome: Outcome, out: Out<'_>) {
        if !self.objects.contains_key(&object) {
            return self.release_attempt(object, attempt, outcome, out);
        }
        if let Some(node) = named_location(&outcome) {
            if self.locations(object).contains(&node) {
                self.record(object).remade = true;
            } else {
                self.send(ProcessId::daemon(node), Message::FreeObject { object, attempt }, out);
            }
        }
        self.release_copy(outcome);
    }

    /// Let go of what a second copy of an outcome contains, without touching the first one's bytes.
    pub(super) fn release_copy(&mut self, outcome: Outcome) {
        for inner in super::borrowing::contained(&outcome) {
            self.unuse(*inner);
        }
    }

    fn add_item(&mut self, object: ObjectId, attempt: u32, outcome: Outcome, out: Out<'_>) {
        let record = self.own(object, State::Ready(outcome));
        (record.uses, record.attempt) = (record.uses + 1, attempt);
        out.push(Effect::Changed { object });
    }

    /// The generator ended with `items` items; if it broke, what broke it is one more item.
    pub(super) fn stream_finished(
        &mut self,
        now: Time,
        id: TaskId,
        broke: Option<Outcome>,
        items: u32,
        out: Out<'_>,
    ) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let (id, attempt) = (task.id(), task.attempt);
        let Some(stream) = task.stream.as_mut() else {
            return;
        };
        let closed = stream.closed;
        let next = stream.received;
        if broke.is_some() && !closed {
            stream.received += 1;
        }
        stream.total = Some(items.max(stream.received));
        let end = stream.received;
        // Whoever waits for the generator as a whole learns what broke it, too.
        let whole = broke.clone().unwrap_or(Outcome::Value(crate::value::Value::inline(END)));
        self.use_all(super::borrowing::contained(&whole));
        match broke {
            Some(outcome) if closed => self.release_outcome(id.object(next + 1), outcome, out),
            Some(outcome) => self.add_item(id.object(next + 1), attempt, outcome, out),
            None => {}
        }
        self.resolve(now, id.object(0), whole, out);
        out.push(Effect::Changed { object: id.object(end.saturating_add(1)) });
    }

    /// The consumer is gone: drop what it has not taken and let the producer run to its end.
    pub(super) fn close_stream(&mut self, task: TaskId, out: Out<'_>) {
        let Some(record) = self.tasks.get_mut(&task) else {
            return;
        };
        let stage = record.stage;
        let Some(stream) = record.stream.as_mut().filter(|s| !s.closed) else {
            return;
        };
        stream.closed = true;
        let untaken = stream.taken..stream.received;
        for index in untaken {
            self.unuse(task.object(index + 1));
        }
        match stage {
            Stage::Done => {
                self.forget_task(task, out);
            }
            Stage::Pushed { to } => {
                self.send(to, Message::GeneratorConsumed { task, consumed: u32::MAX }, out)
            }
            Stage::Waiting { .. } | Stage::Queued => {}
        }
    }
}

/// The value that a generator itself stands for once it has ended: a serialised `None`.
const END: &[u8] = b"";
