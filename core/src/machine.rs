//! What every role of Shoal is: a deterministic state machine that does no I/O.

use alloc::vec::Vec;
use core::fmt::Debug;
use core::ops::{Add, Sub};
use serde::{Deserialize, Serialize};

/// Nanoseconds since the start of the run. `core` never reads a clock: a driver passes the time in.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Time(pub u64);

/// A length of time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Span(pub u64);

impl Span {
    /// A span of whole microseconds.
    pub const fn from_micros(micros: u64) -> Span {
        Span(micros * 1_000)
    }
    /// A span of whole milliseconds.
    pub const fn from_millis(millis: u64) -> Span {
        Span(millis * 1_000_000)
    }
    /// A span of whole seconds.
    pub const fn from_secs(secs: u64) -> Span {
        Span(secs * 1_000_000_000)
    }
}

impl Add<Span> for Time {
    type Output = Time;
    fn add(self, span: Span) -> Time {
        Time(self.0.saturating_add(span.0))
    }
}

impl Sub<Time> for Time {
    type Output = Span;
    fn sub(self, earlier: Time) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// Why a machine wants to be woken. Drivers only use it for traces.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Wakeup {
    /// Idle leases go back to their node.
    ReturnIdleLeases,
    /// Tasks queued behind a slow one are taken back.
    TakeBack,
    /// A failed task's retry delay is over.
    Retry,
    /// An idle worker has been idle long enough to be stopped.
    StopIdleWorkers,
    /// A process that was asked to exit has had its grace period.
    KillAfterGrace,
    /// A full store has had its grace period.
    StoreFull,
    /// A request that may have been lost is sent again.
    Resend,
    /// An actor restart is due.
    RestartActor,
    /// After failed starts, another worker may be started.
    StartWorker,
    /// Leases have been held for a time slice while others wait.
    ShareLeases,
    /// One more small task may run than the cap allows, for those that run may wait for it.
    RaiseCap,
    /// CPUs are held back, or no longer, for work that needs many of them at once.
    HoldBack,
    /// A demand that cannot be met here has had its grace period.
    Unschedulable,
    /// Work that is not to wait for room has waited for a moment.
    NoRoom,
    /// Guesses about other nodes are given up: work that waits here may fit there.
    Redirect,
    /// A change of what is free is reported.
    Report,
    /// The head has not heard of this node for a while.
    Heartbeat,
    /// Holders of store room were asked for it; objects are spilled instead.
    MakeRoom,
    /// Store memory has been free for long enough to go back to the operating system.
    ReleasePages,
    /// A draining node looks again for objects that others should keep.
    HandOver,
    /// A draining node has been empty for long enough to say so.
    Emptied,
    /// An object that somebody wants to read should have been sealed by now.
    Unsealed,
    /// An actor that somebody asked for should have been made by now.
    UnknownActor,
    /// A placement group that somebody asked for should have been made by now.
    UnknownGroup,
    /// Placement groups that wait are looked at again.
    PlaceGroups,
    /// A head begins to act.
    TakeOver,
    /// A node of which nothing is heard is dead.
    SilentNodes,
    /// The time of a draining node is up.
    DrainOver,
    /// What has changed of the nodes is told to all.
    TellView,
}

/// Where a machine appends what must happen. The driver owns and reuses the buffer.
#[derive(Debug)]
pub struct Effects<E> {
    list: Vec<E>,
}

impl<E> Default for Effects<E> {
    fn default() -> Self {
        Effects { list: Vec::new() }
    }
}

impl<E> Effects<E> {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }
    /// Append one effect.
    pub fn push(&mut self, effect: E) {
        self.list.push(effect);
    }
    /// Take the effects out, in order, keeping the buffer.
    pub fn drain(&mut self) -> impl Iterator<Item = E> + '_ {
        self.list.drain(..)
    }
    /// The effects so far.
    pub fn as_slice(&self) -> &[E] {
        &self.list
    }
    /// Whether nothing must happen.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// A deterministic role: the same calls in the same order yield the same effects.
///
/// `handle` and `handle_timeout` apply something, `poll_timeout` only looks. Time never goes back.
/// Every machine is a plain value: it can be cloned, and equal machines, which print alike with
/// `Debug`, go on alike. Exhaustive exploration relies on that.
pub trait Machine {
    /// What can happen to the role.
    type Input: Debug + Serialize;
    /// What the role asks of the world.
    type Effect: Debug + Serialize;

    /// Apply one input. Every consequence is appended to `effects`, in order.
    fn handle(&mut self, now: Time, input: Self::Input, effects: &mut Effects<Self::Effect>);

    /// Fire every deadline at or before `now`. A spurious call is a no-op.
    fn handle_timeout(&mut self, now: Time, effects: &mut Effects<Self::Effect>);

    /// The earliest deadline, and what it is for.
    fn poll_timeout(&self) -> Option<(Time, Wakeup)>;
}
