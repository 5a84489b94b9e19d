//! Extents: room that processes hold and allocate in.

use alloc::format;

use super::Store;
use super::outbox::Outbox;
use super::ranges::{OBJECT_ALIGNMENT, PAGE, Ranges, round_up};
use super::room::{Purpose, Room};
use crate::ids::{ProcessId, RequestId};
use crate::message::Message;
use crate::value::Failure;

/// The first extent of a process, unless it asks for more; each further one is twice as large.
const SLAB_MIN: u64 = 1 << 20;
/// No slab is larger than this.
const SLAB_DOUBLINGS: u32 = 5;
/// No slab is larger than this part of the store.
const SLAB_SHARE: u64 = 64;

/// What one process holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Holder {
    /// Room without sealed objects.
    pub(super) ranges: Ranges,
    /// How many extents it was granted.
    pub(super) grants: u32,
    /// It was asked to return room, and has got none since.
    pub(super) asked: bool,
}

/// How large an extent to give: more than asked while there is plenty, exactly that much otherwise.
pub(super) fn extent_size(asked: u64, grants: u32, free: u64, capacity: u64) -> u64 {
    let exact = round_up(asked.max(1), PAGE);
    let slab = (SLAB_MIN << grants.min(SLAB_DOUBLINGS)).min(capacity / SLAB_SHARE);
    let plenty = free > capacity / 2;
    if plenty { exact.max(round_up(slab, PAGE)) } else { exact }
}

impl Store {
    pub(in crate::node) fn request_extent(
        &mut self,
        from: ProcessId,
        request: RequestId,
        size: u64,
        out: &mut Outbox,
    ) {
        if size > self.capacity {
            let detail = format!(
                "{size} bytes are asked for, and the whole store has {}: start with a larger \
                 object_store_memory",
                self.capacity
            );
            let failure = Failure::StoreFull { detail };
            return out.send(from, Message::ExtentRefused { request, failure });
        }
        let size = round_up(size.max(1), PAGE);
        self.queue(Room::new(Purpose::Extent { process: from, request }, size, PAGE));
    }

    /// The room is there and backed.
    pub(super) fn grant_extent(
        &mut self,
        process: ProcessId,
        request: RequestId,
        offset: u64,
        size: u64,
        out: &mut Outbox,
    ) {
        let holder = self.holders.entry(process).or_default();
        holder.grants = holder.grants.saturating_add(1);
        self.hold(process, offset, size);
        out.send(process, Message::ExtentGranted { request, offset, size });
    }

    /// A live process gets room.
    pub(super) fn hold(&mut self, process: ProcessId, offset: u64, size: u64) {
        let holder = self.holders.entry(process).or_default();
        holder.ranges.insert(offset, size);
        holder.asked = false;
        self.held_bytes += size;
    }

    /// Room is taken from a process.
    pub(super) fn unhold(&mut self, process: ProcessId, offset: u64, size: u64) {
        let holder = self.holders.get_mut(&process).expect("it holds the range");
        holder.ranges.remove(offset, size);
        self.held_bytes -= size;
    }

    /// Whether a process holds all of a range that an object may fill.
    pub(super) fn holds(&self, process: ProcessId, offset: u64, size: u64) -> bool {
        let aligned =
            offset.is_multiple_of(OBJECT_ALIGNMENT) && size.is_multiple_of(OBJECT_ALIGNMENT) && size > 0;
        let holder = self.holders.get(&process);
        aligned && holder.is_some_and(|holder| holder.ranges.contains(offset, size))
    }

    pub(in crate::node) fn return_extent(&mut self, from: ProcessId, offset: u64, size: u64) {
        if self.holds(from, offset, size) {
            self.unhold(from, offset, size);
            self.set_free(offset, size);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::machine::Span;
    use crate::node::harness::{driver, process, send};
    use crate::node::store::harness::*;
    use crate::node::{Effect, Work, WorkResult};
    use crate::room::object_room;

    const MIB: u64 = 1 << 20;

    #[test]
    fn extents_grow_with_use_and_are_exact_when_room_is_scarce() {
        let gib = 1 << 30;
        let cases = [
            // asked, grants, free, capacity, expected
            (1, 0, 4 * gib, 4 * gib, MIB),
            (1, 1, 4 * gib, 4 * gib, 2 * MIB),
            (1, 5, 4 * gib, 4 * gib, 32 * MIB),
            (1, 50, 4 * gib, 4 * gib, 32 * MIB),
            (100 * MIB + 1, 0, 4 * gib, 4 * gib, 100 * MIB + 4_096),
            (1, 5, 2 * gib, 4 * gib, 4_096),
            (5_000, 5, gib, 4 * gib, 8_192),
            (1, 5, 64 * MIB, 64 * MIB, MIB),
            (0, 0, 0, gib, 4_096),
        ];
        for (asked, grants, free, capacity, expected) in cases {
            let size = extent_size(asked, grants, free, capacity);
            assert_eq!(size, expected, "{asked} {grants} {free} {capacity}");
        }
    }

    #[test]
    fn an_extent_is_granted_when_it_is_backed_and_at_once_when_it_was_before() {
        let mut store = StoreHarness::new(256 * MIB);
        let effects = store.ask(driver(), 100);
        let [Effect::Start { operation, work: Work::Reserve { offset, size } }] = effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!((offset, size), (4_096, MIB));
        let request = store.last_request();
        let granted = Message::ExtentGranted { request, offset, size };
        assert_eq!(store.node.finished(operation, WorkResult::Done), [send(driver(), granted)]);
        // Returned, it is granted again without further ado.
        store.node.receive(driver(), Message::ReturnExtent { offset, size });
        let effects = store.ask(driver(), MIB);
        let request = store.last_request();
        assert_eq!(effects, [send(driver(), Message::ExtentGranted { request, offset, size })]);
        store.node.receive(driver(), Message::ReturnExtent { offset, size });
        let effects = store.ask(driver(), 2 * MIB);
        let request = store.last_request();
        let [Effect::Start { operation, work: Work::Reserve { offset: more, size: rest } }] = effects[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!((more, rest), (4_096 + MIB, 3 * MIB), "only what was never backed");
        let granted = Message::ExtentGranted { request, offset, size: 4 * MIB };
        assert_eq!(store.node.finished(operation, WorkResult::Done), [send(driver(), granted)]);
    }

    /// One object at a time, of a size that never divides an extent.
    #[test]
    fn who_keeps_little_touches_little() {
        let mut store = StoreHarness::new(4 << 30);
        let (mut region, room) = (Vec::new(), object_room(MIB + 200).expect("room"));
        for number in 0..2_000 {
            let fits = |(_, size): &(u64, u64)| *size >= room;
            let index = region.iter().position(fits).unwrap_or_else(|| {
                region.push(store.extent(driver(), room));
                region.len() - 1
            });
            let (offset, size) = region.swap_remove(index);
            if size > room {
                region.push((offset + room, size - room));
            }
            let (object, size) = (object(number), MIB + 200);
            store.node.receive(driver(), Message::Seal { object, attempt: 0, offset, size });
            store.node.receive(driver(), Message::FreeObject { object, attempt: u32::MAX });
        }
        assert!(store.table().backed.total() < 128 * MIB, "{} MiB", store.table().backed.total() / MIB);
    }

    #[test]
    fn nonsense_is_ignored_or_refused() {
        let mut store = StoreHarness::new(64 * MIB);
        let effects = store.ask(driver(), u64::MAX);
        assert!(matches!(
            effects[..],
            [Effect::Send { message: Message::ExtentRefused { failure: Failure::StoreFull { .. }, .. }, .. }]
        ));
        let (offset, size) = store.extent(driver(), 100);
        for (offset, size) in [
            (offset, size + 64),
            (offset + 1, 64),
            (offset, 63),
            (offset, 0),
            (0, 64),
            (u64::MAX, 64),
            (u64::MAX - 63, 64),
            (offset, u64::MAX - 63),
        ] {
            assert_eq!(store.node.receive(driver(), Message::ReturnExtent { offset, size }), []);
        }
        store.node.receive(process(9), Message::ReturnExtent { offset, size });
        assert_eq!(store.table().held_bytes, size);
        store.node.receive(driver(), Message::ReturnExtent { offset, size });
        assert_eq!(store.table().held_bytes, 0);
    }

    #[test]
    fn memory_that_cannot_be_had_is_refused_with_the_reason_and_is_free_again() {
        let mut store = StoreHarness::new(64 * MIB);
        let effects = store.ask(driver(), 100);
        let [Effect::Start { operation, .. }] = effects[..] else { panic!("{effects:?}") };
        let failure = Failure::StoreFull { detail: "no pages".into() };
        let effects = store.node.finished(operation, WorkResult::Failed(failure.clone()));
        let request = store.last_request();
        assert_eq!(effects, [send(driver(), Message::ExtentRefused { request, failure })]);
        assert_eq!(store.table().free.total(), 64 * MIB);
    }

    #[test]
    fn a_process_that_dies_while_its_extent_is_backed_leaves_it_free() {
        let mut store = StoreHarness::new(64 * MIB);
        let worker = store.worker();
        let effects = store.ask(worker, 100);
        let [Effect::Start { operation, .. }] = effects[..] else { panic!("{effects:?}") };
        store.node.exited(worker, crate::node::harness::KILLED);
        assert_eq!(store.node.finished(operation, WorkResult::Done), []);
        assert_eq!(store.table().free.total(), 64 * MIB);
    }

    #[test]
    fn a_full_store_refuses_after_a_grace_and_says_what_fills_it() {
        let mut store = StoreHarness::new(64 * MIB);
        store.extent(driver(), 60 * MIB);
        let worker = store.worker();
        let effects = store.ask(worker, 10 * MIB);
        let request = store.last_request();
        assert_eq!(effects, [send(driver(), Message::ReturnRoom)]);
        assert_eq!(store.node.pass(Span::from_millis(1_900)), []);
        let effects = store.node.pass(Span::from_millis(200));
        let [Effect::Send { to, message: Message::ExtentRefused { request: refused, failure } }] =
            &effects[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!((*to, *refused), (worker, request));
        let Failure::StoreFull { detail } = failure else { panic!("{failure:?}") };
        assert!(detail.contains("held by processes"), "{detail}");
    }

    #[test]
    fn returned_room_is_enough() {
        let mut store = StoreHarness::new(64 * MIB);
        let (offset, size) = store.extent(driver(), 60 * MIB);
        let worker = store.worker();
        let effects = store.ask(worker, 10 * MIB);
        assert_eq!(effects, [send(driver(), Message::ReturnRoom)]);
        let (half, rest) = (round_up(size / 2, PAGE), size - round_up(size / 2, PAGE));
        let effects =
            store.node.receive(driver(), Message::ReturnExtent { offset: offset + half, size: rest });
        assert_eq!(store.settle(effects).len(), 1, "the extent is granted");
    }
}
