//! Bugs that were found once, or that are easy to make, and that tests put back in to see that they
//! are caught. Without the feature `mutants` nothing of this is compiled.

/// One bug.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mutant {
    /// The first bug that every check of the net must catch: the attempt that was running when its
    /// worker died is run again as the same attempt.
    Canary,
    /// A call that fails before it is pushed leaves the calls behind it waiting.
    CallsBehindFailedOne,
    /// Code of a task that is given back is lost.
    CodeOfReturnedTask,
    /// The producer of a second attempt is not told what the consumer has taken.
    ConsumerProgress,
    /// A borrow is registered with, and fetched from, an owner that is known to be dead.
    AskTheDead,
    /// Grants of a dead owner's objects are still counted.
    CountForTheDead,
    /// A task whose argument was lost while it waited is pushed without a look.
    LostArgument,
    /// A worker that waits for a lost argument keeps its CPU.
    StarvedWorker,
    /// A holder in another process does not keep an object alive.
    ForgetHolders,
    /// Grants are not returned when the last reference goes.
    KeepGrants,
    /// Calls that are retried go to the end of their actor's queue.
    RetryOutOfOrder,
    /// The tasks behind the one that was running when a worker died count as started.
    BlameUnstarted,
    /// A finished task that was cancelled by force counts as crashed.
    CancelledIsCrashed,
    /// A returned lease does not free its resources when its worker must end.
    LeakLease,
    /// A worker whose lessee died is forgotten instead of being stopped.
    ForgetWorker,
    /// A freed object stays on the disk.
    LeakSpilled,
    /// An object that somebody reads is spilled.
    SpillPinned,
    /// A restarted actor keeps its incarnation.
    SameIncarnation,
    /// What a process of another node waits for is granted though that process is dead.
    StaleGrant,
    /// Work is sent to a node that is known to be dead.
    RedirectToDead,
    /// A node that is connected and slow counts as dead.
    SlowIsDead,
    /// A node whose connection broke counts as dead before it had the time to come back.
    HastyDeath,
    /// A new head does not look whether its predecessor's word to start an actor came through.
    ForgetStart,
    /// A new head does not take up restarts that its predecessor had put off.
    ForgetRestarts,
    /// A driver whose end is told again, for nobody had acknowledged it, ends its job again.
    EndJobTwice,
    /// What ends an actor before its creation was sent is forgotten.
    ForgetUnsent,
    /// The head hears of an actor only when the arguments of its constructor are there.
    QuietCreation,
    /// The arguments of a task are kept in a set, and lose their order.
    SortArguments,
    /// An actor is constructed before the bytes of its arguments are there.
    HastyConstruct,
    /// What one newcomer was told of another one counts as told to all.
    QuietArrival,
    /// What is free is told when CPUs are taken or freed, and not for the sake of anything else.
    ReportCpusOnly,
    /// Nodes hear when something becomes free on another node, and not when it is taken.
    IgnoreFalls,
    /// A detached placement group that is whole stays though it was removed.
    KeepDetached,
    /// Two placement groups that have lost bundles wait for what is left of each other.
    NoSurrender,
    /// That a placement group has lost bundles is not in the head's log.
    ForgetRescheduling,
    /// A copy of an object that its owner has freed meanwhile is kept.
    KeepStrayCopy,
    /// The devices of a worker that must end, for the process that leased it is gone, are free before it has ended.
    HastyDevices,
    /// The devices of a claim that is dropped while it waits for its worker are never free again.
    KeepDevices,
    /// A draining node hands over what it has when the drain begins, and nothing that it gets later.
    HandOverOnce,
    /// A head that was elected counts the daemon of the one before as dead, which may have lost its office only.
    BuryPredecessor,
    /// No heir is told of the copies that there are of what it inherits, nor of those that were being made.
    ForgetOrphanedCopy,
}

impl Mutant {
    /// All that one node is enough for.
    pub const ALL: [Mutant; 24] = [
        Mutant::Canary,
        Mutant::CallsBehindFailedOne,
        Mutant::CodeOfReturnedTask,
        Mutant::ConsumerProgress,
        Mutant::AskTheDead,
        Mutant::CountForTheDead,
        Mutant::LostArgument,
        Mutant::StarvedWorker,
        Mutant::ForgetHolders,
        Mutant::KeepGrants,
        Mutant::RetryOutOfOrder,
        Mutant::BlameUnstarted,
        Mutant::CancelledIsCrashed,
        Mutant::LeakLease,
        Mutant::ForgetWorker,
        Mutant::LeakSpilled,
        Mutant::SpillPinned,
        Mutant::SameIncarnation,
        Mutant::ForgetUnsent,
        Mutant::QuietCreation,
        Mutant::SortArguments,
        Mutant::HastyConstruct,
        Mutant::HastyDevices,
        Mutant::KeepDevices,
    ];

    /// Those that take several nodes to be seen.
    pub const OF_CLUSTERS: [Mutant; 17] = [
        Mutant::BuryPredecessor,
        Mutant::HandOverOnce,
        Mutant::QuietArrival,
        Mutant::StaleGrant,
        Mutant::RedirectToDead,
        Mutant::SlowIsDead,
        Mutant::HastyDeath,
        Mutant::ForgetStart,
        Mutant::ForgetRestarts,
        Mutant::EndJobTwice,
        Mutant::KeepStrayCopy,
        Mutant::ForgetOrphanedCopy,
        Mutant::NoSurrender,
        Mutant::ForgetRescheduling,
        Mutant::ReportCpusOnly,
        Mutant::IgnoreFalls,
        Mutant::KeepDetached,
    ];

    /// Whether the code behaves as if it had this bug.
    #[cfg(feature = "mutants")]
    pub(crate) fn is_active(self) -> bool {
        active::NUMBER.load(core::sync::atomic::Ordering::Relaxed) == self as u32 + 1
    }

    /// Whether the code behaves as if it had this bug: never.
    #[cfg(not(feature = "mutants"))]
    #[inline(always)]
    pub(crate) const fn is_active(self) -> bool {
        false
    }
}

#[cfg(feature = "mutants")]
mod active {
    use core::sync::atomic::{AtomicU32, Ordering};

    pub(super) static NUMBER: AtomicU32 = AtomicU32::new(0);

    /// From now on, everything in this process behaves as if it had this bug; or none again.
    pub fn activate(mutant: Option<super::Mutant>) {
        NUMBER.store(mutant.map_or(0, |mutant| mutant as u32 + 1), Ordering::Relaxed);
    }
}

#[cfg(feature = "mutants")]
pub use active::activate;
