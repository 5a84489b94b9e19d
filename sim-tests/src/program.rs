//! What simulated users write: small programs of operations on numbered slots.

use std::rc::Rc;

use shoal_core::actor::ConcurrencyGroup;
use shoal_core::group::{Bundle, GroupStrategy};
use shoal_core::ids::FunctionId;
use shoal_core::resources::{Demand, Resources};
use shoal_core::task::{Definition, Method};

/// Where a program keeps what it holds.
pub type Slot = u16;

/// The steps of a program, and what it returns.
#[derive(Debug, Default)]
pub struct Script {
    /// In order.
    pub steps: Vec<Step>,
    /// One per result.
    pub results: Vec<Product>,
}

/// A value that a program makes.
#[derive(Clone, Debug, Default)]
pub struct Product {
    /// Bytes; big ones go to the store.
    pub size: u64,
    /// Slots whose references it contains.
    pub contains: Vec<Slot>,
}

/// A remote function.
#[derive(Debug)]
pub struct Function {
    /// What its owner is told.
    pub definition: std::sync::Arc<Definition>,
    /// What it does. Its arguments are in the first slots: dependencies, then borrows.
    pub script: Rc<Script>,
}

/// An actor class.
#[derive(Clone, Debug)]
pub struct Class {
    /// Its id.
    pub id: FunctionId,
    /// Runs first.
    pub constructor: Rc<Script>,
    /// Methods by number; a method's name is its number.
    pub methods: Vec<(std::sync::Arc<Method>, Rc<Script>)>,
    /// What a node must have free to place it.
    pub placement: Demand,
    /// What it holds while it lives.
    pub running: Resources,
    /// Restarts after a crash; -1 is no limit.
    pub restarts_max: i32,
    /// The default group first.
    pub groups: Vec<ConcurrencyGroup>,
    /// Calls may start in another order than they were made.
    pub out_of_order: bool,
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Step {
    /// Use the CPU.
    Compute {
        /// For so long.
        micros: u64,
    },
    /// Call a remote function; references to its results go to `into` and the slots after.
    Submit {
        /// Which.
        function: Rc<Function>,
        /// Passed by value.
        dependencies: Vec<Slot>,
        /// Passed as references.
        borrows: Vec<Slot>,
        /// Where the first result goes.
        into: Slot,
    },
    /// Make a placement group; the program waits for the head's answer.
    CreateGroup {
        /// What it consists of.
        bundles: Vec<Bundle>,
        /// How they lie.
        strategy: GroupStrategy,
        /// Empty for none.
        name: String,
        /// Outlives its creator.
        detached: bool,
        /// Where it goes, if it is possible.
        into: Slot,
    },
    /// Find a placement group by its name.
    FindGroup {
        /// Its name.
        name: String,
        /// Where it goes, if there is one.
        into: Slot,
    },
    /// Wait until a placement group is there, and remove it if that takes too long.
    AwaitGroup {
        /// The group.
        group: Slot,
        /// How long is too long.
        micros: u64,
    },
    /// Remove a placement group.
    RemoveGroup {
        /// The group.
        group: Slot,
    },
    /// Call a remote function in a placement group.
    SubmitWithin {
        /// Which.
        function: Rc<Function>,
        /// The group.
        group: Slot,
        /// In that bundle, or in any.
        bundle: Option<u32>,
        /// Where the first result goes.
        into: Slot,
    },
    /// Call a remote function where this task or actor runs: in its placement group, if it is in one.
    SubmitCaptured {
        /// Which.
        function: Rc<Function>,
        /// Where the first result goes.
        into: Slot,
    },
    /// Make an actor in a placement group.
    ActorWithin {
        /// Its class.
        class: Rc<Class>,
        /// The group.
        group: Slot,
        /// In that bundle, or in any.
        bundle: Option<u32>,
        /// Where its handle goes.
        into: Slot,
    },
    /// Keep a value.
    Put {
        /// The value.
        product: Product,
        /// Where its reference goes.
        into: Slot,
    },
    /// Wait for a reference's value.
    Get {
        /// The reference.
        slot: Slot,
        /// Where the value goes.
        into: Slot,
    },
    /// Wait until so many of these have outcomes.
    Wait {
        /// The references.
        slots: Vec<Slot>,
        /// How many.
        count: usize,
    },
    /// Copy a reference out of a value.
    Take {
        /// The value.
        slot: Slot,
        /// Which of its references.
        index: usize,
        /// Where the copy goes.
        into: Slot,
    },
    /// Let go of whatever is in the slot.
    Drop {
        /// The slot.
        slot: Slot,
    },
    /// Wait for the next item of a stream; its reference, or nothing at the end, goes to `into`.
    Next {
        /// The stream.
        slot: Slot,
        /// Where.
        into: Slot,
    },
    /// Make an actor.
    CreateActor {
        /// Its class.
        class: Rc<Class>,
        /// Passed to the constructor by value.
        dependencies: Vec<Slot>,
        /// Passed to the constructor as references.
        borrows: Vec<Slot>,
        /// Empty for none; the program waits for the head's answer otherwise.
        name: String,
        /// Outlives its creator.
        detached: bool,
        /// Where its handle goes.
        into: Slot,
    },
    /// Find an actor by its name.
    FindActor {
        /// Its name.
        name: String,
        /// Where its handle goes, if there is one.
        into: Slot,
        /// Its class.
        class: Rc<Class>,
    },
    /// Call a method.
    Call {
        /// The handle.
        actor: Slot,
        /// Which method of its class.
        method: usize,
        /// Passed by value.
        dependencies: Vec<Slot>,
        /// Passed as references.
        borrows: Vec<Slot>,
        /// Where the first result goes.
        into: Slot,
    },
    /// Kill an actor.
    Kill {
        /// The handle.
        actor: Slot,
        /// For good.
        no_restart: bool,
    },
    /// Cancel the task of a reference or stream.
    Cancel {
        /// The reference.
        slot: Slot,
        /// Kill its worker if it runs.
        force: bool,
        /// Cancel what it submitted, too.
        recursive: bool,
    },
    /// Hand one item of a generator to its consumer.
    Yield {
        /// The item.
        product: Product,
    },
    /// Keep what is in a slot beyond the end of this call, in the actor's state.
    Keep {
        /// The slot.
        slot: Slot,
    },
    /// Copy a reference out of the actor's state, if it has that many.
    Recall {
        /// Which.
        index: usize,
        /// Where the copy goes.
        into: Slot,
    },
    /// Raise an exception.
    Raise,
    /// Raise an exception in the first attempts.
    RaiseUntil {
        /// Attempts that raise.
        attempts: u32,
    },
    /// End the process as a crash would, in the first attempts.
    CrashUntil {
        /// Attempts that crash.
        attempts: u32,
    },
    /// End this actor after the running calls.
    ExitActor,
}
