//! What the users of an explored cluster write: a few operations on numbered slots.

use std::sync::Arc;

use bytes::Bytes;
use shoal_core::actor::{ActorSpec, ConcurrencyGroup};
use shoal_core::ids::{ActorId, FunctionId, JobId};
use shoal_core::resources::{Demand, Quantity, Resources};
use shoal_core::task::{Definition, Method, RetryExceptions, Returns};

/// Where a program keeps what it holds.
pub type Slot = usize;

/// One operation. Each is one step of an exploration.
#[derive(Clone, Debug)]
pub enum Step {
    /// Call a function; the reference to its result goes to `into`.
    Submit {
        /// Which function of the scenario.
        function: usize,
        /// Passed by value.
        passes: Vec<Slot>,
        /// Passed as references.
        lends: Vec<Slot>,
        /// Where the reference goes.
        into: Slot,
    },
    /// Call a method of an actor.
    Call {
        /// Its handle.
        actor: Slot,
        /// Its class.
        class: usize,
        /// Which method of that.
        method: usize,
        /// Passed by value.
        passes: Vec<Slot>,
        /// Passed as references.
        lends: Vec<Slot>,
        /// Where the reference to the result goes.
        into: Slot,
    },
    /// Make an actor; its handle goes to `into`.
    Create {
        /// Which class of the scenario.
        class: usize,
        /// Where the handle goes.
        into: Slot,
    },
    /// Keep a value that contains these references.
    Put {
        /// What it contains.
        contains: Vec<Slot>,
        /// Where its reference goes.
        into: Slot,
    },
    /// Wait for a value. A task raises what it gets instead of a value; a driver goes on without.
    Get {
        /// The reference.
        slot: Slot,
        /// Where the value goes.
        into: Slot,
    },
    /// Copy a reference out of a value.
    Take {
        /// The value.
        slot: Slot,
        /// Where the first reference in it goes.
        into: Slot,
    },
    /// Let go of what is in the slot.
    Drop {
        /// The slot.
        slot: Slot,
    },
    /// Move what is in the slot to the actor's state, where it outlives the call.
    Keep {
        /// The slot.
        slot: Slot,
    },
    /// Move what the actor's state holds back to a slot.
    Recall {
        /// The slot.
        into: Slot,
    },
    /// Do not want the result of this reference's task any more.
    Cancel {
        /// The reference.
        slot: Slot,
        /// Kill its worker if it runs.
        force: bool,
    },
    /// Raise an exception.
    Raise,
    /// Kill an actor.
    Kill {
        /// The handle.
        actor: Slot,
        /// For good.
        no_restart: bool,
    },
}

/// The operations of a driver, a function, a constructor or a method.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// In order. References that came with a call are in the first slots: values, then references.
    pub steps: Vec<Step>,
    /// Slots whose references are in the value that is returned.
    pub returns: Vec<Slot>,
}

/// A remote function.
#[derive(Clone, Debug)]
pub struct Function {
    /// What its owner is told.
    pub definition: Arc<Definition>,
    /// What it does.
    pub script: Script,
}

/// An actor class.
#[derive(Clone, Debug)]
pub struct Class {
    /// Methods by number; a method's name is its number.
    pub methods: Vec<(Arc<Method>, Script)>,
    /// Restarts after a crash.
    pub restarts_max: i32,
}

impl Script {
    /// These operations, and a value without references.
    pub fn new(steps: impl Into<Vec<Step>>) -> Script {
        Script { steps: steps.into(), returns: Vec::new() }
    }
}

impl Function {
    /// A function that takes one CPU and may be tried again so often after a crash.
    pub fn new(number: usize, retries_max: i32, script: Script) -> Function {
        Function::with_demand(number, retries_max, one_cpu(), script)
    }

    /// A function that needs this.
    pub fn with_demand(number: usize, retries_max: i32, demand: Demand, script: Script) -> Function {
        let definition = Definition {
            function: FunctionId(number as u128),
            code: Bytes::from_static(b"code"),
            name: format!("function{number}").into(),
            demand: Arc::new(demand),
            returns: Returns::Count(1),
            retries_max,
            retry_exceptions: RetryExceptions::Never,
            calls_max: 0,
        };
        Function { definition: Arc::new(definition), script }
    }
}

impl Class {
    /// A class with an empty constructor; a method's call may be tried again so often.
    pub fn new(restarts_max: i32, retries_max: i32, methods: impl Into<Vec<Script>>) -> Class {
        let method = |(number, script): (usize, Script)| {
            let method = Method {
                name: number.to_string().into(),
                label: format!("method{number}").into(),
                returns: Returns::Count(1),
                retries_max,
                retry_exceptions: RetryExceptions::Never,
                group: "".into(),
                any_order: false,
            };
            (Arc::new(method), script)
        };
        Class { methods: methods.into().into_iter().enumerate().map(method).collect(), restarts_max }
    }

    /// What the head is told of an actor of class `number`.
    pub fn spec(&self, number: usize, id: ActorId, job: JobId) -> ActorSpec {
        let mut spec = ActorSpec::new(id, job);
        spec.class = FunctionId(number as u128);
        spec.placement = one_cpu();
        spec.restarts_max = self.restarts_max;
        spec.groups = vec![ConcurrencyGroup { name: "".into(), limit: 1 }];
        spec
    }
}

/// What most work needs.
pub fn one_cpu() -> Demand {
    Demand { resources: cpus(1), ..Demand::default() }
}

/// So many CPUs.
pub fn cpus(count: i64) -> Resources {
    let mut resources = Resources::default();
    resources.set(Resources::CPU, Quantity(count * Quantity::ONE.0));
    resources
}
