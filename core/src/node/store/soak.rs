//! The store under random use, with a model of what each process may believe.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use proptest::prelude::{Strategy, any, prop, proptest};

use super::harness::*;
use crate::ids::{ObjectId, OperationId, ProcessId};
use crate::machine::Span;
use crate::message::Message;
use crate::node::harness::{KILLED, driver};
use crate::node::{Effect, Input, SpillLocation, Work, WorkResult};
use crate::value::Failure;

const CAPACITY: u64 = 1 << 20;

#[derive(Clone, Debug)]
enum Step {
    Request { who: usize, size: u64 },
    Return { who: usize, pick: usize },
    Seal { who: usize, pick: usize, object: u64 },
    Pin { who: usize, object: u64 },
    Unpin { who: usize, pick: usize },
    Free { object: u64 },
    Finish { pick: usize, fail: bool },
    Die { who: usize },
    Pass { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0usize..3;
    let pick = any::<usize>();
    let object = 0u64..12;
    let finish = (pick, prop::bool::weighted(0.15)).prop_map(|(pick, fail)| Step::Finish { pick, fail });
    prop::strategy::Union::new_weighted(alloc::vec![
        (4, (who.clone(), 1u64..400_000).prop_map(|(who, size)| Step::Request { who, size }).boxed()),
        (2, (who.clone(), pick).prop_map(|(who, pick)| Step::Return { who, pick }).boxed()),
        (
            6,
            (who.clone(), pick, object.clone())
                .prop_map(|(who, pick, object)| Step::Seal { who, pick, object })
                .boxed()
        ),
        (4, (who.clone(), object.clone()).prop_map(|(who, object)| Step::Pin { who, object }).boxed()),
        (4, (who.clone(), pick).prop_map(|(who, pick)| Step::Unpin { who, pick }).boxed()),
        (3, object.prop_map(|object| Step::Free { object }).boxed()),
        (8, finish.boxed()),
        (1, who.prop_map(|who| Step::Die { who }).boxed()),
        (2, (0u64..4_000).prop_map(|millis| Step::Pass { millis }).boxed()),
    ])
}

/// What the processes and the disk know.
struct Model {
    store: StoreHarness,
    processes: Vec<ProcessId>,
    /// Room that each may write in.
    room: BTreeMap<ProcessId, Vec<(u64, u64)>>,
    /// What each reads, and where.
    reads: BTreeMap<ProcessId, Vec<(ObjectId, u64, u64)>>,
    work: BTreeMap<OperationId, Work>,
    disk: BTreeSet<(u64, u64)>,
    files: u64,
}

impl Model {
    fn new() -> Model {
        let mut store = StoreHarness::new(CAPACITY);
        let processes = alloc::vec![driver(), store.worker(), store.worker()];
        let (room, reads, work) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Model { store, processes, room, reads, work, disk: BTreeSet::new(), files: 0 }
    }

    fn learn(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start { work: Work::DeleteSpilled { location }, .. } => {
                    assert!(self.disk.remove(&(location.file, location.offset)), "deleted once");
                }
                Effect::Start { operation, work } => {
                    if let Work::Restore { from, .. } = &work {
                        assert!(self.disk.contains(&(from.file, from.offset)), "it is on disk");
                    }
                    if let Work::ReleasePages { offset, size }
                    | Work::Restore { offset, from: SpillLocation { size, .. }, .. } = work
                    {
                        self.assert_unused(offset, size);
                    }
                    self.work.insert(operation, work);
                }
                Effect::Send { to, message } => self.told(to, message),
                _ => {}
            }
        }
        // Nobody writes where somebody reads, or where somebody else writes.
        let mut all: Vec<(u64, u64)> = self.room.values().flatten().copied().collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "rooms overlap");
        for (_, offset, size) in self.reads.values().flatten() {
            assert!(all.iter().all(|(o, s)| offset + size <= *o || o + s <= *offset), "read is overwritten");
        }
    }

    fn assert_unused(&self, offset: u64, size: u64) {
        let apart = |o: u64, s: u64| offset + size <= o || o + s <= offset;
        assert!(self.room.values().flatten().all(|(o, s)| apart(*o, *s)), "somebody writes there");
        assert!(self.reads.values().flatten().all(|(_, o, s)| apart(*o, *s)), "somebody reads there");
    }

    fn told(&mut self, to: ProcessId, message: Message) {
        if !self.processes.contains(&to) {
            return;
        }
        match message {
            Message::ExtentGranted { offset, size, .. } | Message::Freed { offset, size } => {
                self.room.entry(to).or_default().push((offset, size));
            }
            Message::Pinned { object, offset, size } => {
                self.reads.entry(to).or_default().push((object, offset, size));
            }
            _ => {}
        }
    }

    fn receive(&mut self, from: ProcessId, message: Message) {
        let effects = self.store.node.receive(from, message);
        self.learn(effects);
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Request { who, size } => {
                let effects = self.store.ask(self.processes[who], size);
                self.learn(effects);
            }
            Step::Return { who, pick } => {
                let rooms = self.room.entry(self.processes[who]).or_default();
                if !rooms.is_empty() {
                    let (offset, size) = rooms.swap_remove(pick % rooms.len());
                    self.receive(self.processes[who], Message::ReturnExtent { offset, size });
                }
            }
            Step::Seal { who, pick, object: number } => {
                let rooms = self.room.entry(self.processes[who]).or_default();
                if !rooms.is_empty() {
                    let (offset, size) = rooms.swap_remove(pick % rooms.len());
                    let used = (size / 2).next_multiple_of(64).min(size);
                    if used < size {
                        rooms.push((offset + used, size - used));
                    }
                    let seal = Message::Seal { object: object(number), attempt: 0, offset, size: used };
                    self.receive(self.processes[who], seal);
                }
            }
            Step::Pin { who, object: number } => self.receive(self.processes[who], pin(object(number))),
            Step::Unpin { who, pick } => {
                let reads = self.reads.entry(self.processes[who]).or_default();
                if !reads.is_empty() {
                    let (object, ..) = reads.swap_remove(pick % reads.len());
                    self.receive(self.processes[who], Message::Unpin { object });
                }
            }
            Step::Free { object: number } => {
                self.receive(driver(), Message::FreeObject { object: object(number), attempt: u32::MAX });
            }
            Step::Finish { pick, fail } => self.finish(pick, fail),
            Step::Die { who } => self.die(who),
            Step::Pass { millis } => {
                let effects = self.store.node.pass(Span::from_millis(millis));
                self.learn(effects);
            }
        }
    }

    fn finish(&mut self, pick: usize, fail: bool) {
        let Some(operation) = self.work.keys().nth(pick % self.work.len().max(1)).copied() else { return };
        let work = self.work.remove(&operation).expect("it was just listed");
        let result = match work {
            _ if fail => WorkResult::Failed(Failure::OutOfDisk { detail: "full".into() }),
            Work::Spill { objects } => WorkResult::Spilled(self.write(&objects)),
            _ => WorkResult::Done,
        };
        let effects = self.store.node.finished(operation, result);
        self.learn(effects);
    }

    fn write(&mut self, objects: &[(ObjectId, u64, u64)]) -> Vec<SpillLocation> {
        self.files += 1;
        let file = self.files;
        let mut offset = 0;
        let mut locations = Vec::new();
        for (_, _, size) in objects {
            locations.push(SpillLocation { file, offset, size: *size });
            self.disk.insert((file, offset));
            offset += size;
        }
        locations
    }

    /// A worker dies, and another one takes its place. The driver lives.
    fn die(&mut self, who: usize) {
        let process = self.processes[who];
        if process != driver() {
            self.room.remove(&process);
            self.reads.remove(&process);
            let last_started = Some(object(0).task);
            let death = KILLED;
            let effects = self.store.node.input(Input::ProcessExited { process, death, last_started });
            self.learn(effects);
            self.processes[who] = self.store.worker();
        }
    }
}

proptest! {
    /// Nobody writes where others read or write, nothing is deleted twice, and when all is freed and
    /// finished every byte of memory is free and nothing is left on disk.
    #[test]
    fn no_room_is_lost_or_given_twice(steps in prop::collection::vec(step(), 1..150)) {
        let mut model = Model::new();
        for step in &steps {
            model.apply(step);
        }
        for who in 1..3 {
            model.die(who);
        }
        for number in 0..12 {
            model.apply(&Step::Free { object: number });
        }
        while !model.reads.entry(driver()).or_default().is_empty() {
            model.apply(&Step::Unpin { who: 0, pick: 0 });
        }
        for _ in 0..1_000 {
            model.apply(&Step::Finish { pick: 0, fail: false });
            model.apply(&Step::Pass { millis: 100 });
            while !model.room.entry(driver()).or_default().is_empty() {
                model.apply(&Step::Return { who: 0, pick: 0 });
            }
            if model.work.is_empty() && model.store.table().waiting.is_empty() {
                break;
            }
        }
        let table = model.store.table();
        assert!(table.objects.is_empty(), "{:?}", table.objects);
        assert!(model.disk.is_empty(), "{:?}", model.disk);
        let idle = table.transit.total();
        assert_eq!(table.free.total() + idle, CAPACITY);
    }
}
