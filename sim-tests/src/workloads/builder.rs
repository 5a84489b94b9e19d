//! Writing programs.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use shoal_core::actor::ConcurrencyGroup;
use shoal_core::ids::{FunctionId, NodeId};
use shoal_core::resources::{Demand, LabelSelector, Quantity, Resources, Strategy};
use shoal_core::task::{Definition, Method, RetryExceptions, Returns};
use shoal_transport_sim::Random;
use shoal_transport_sim::cluster::HostSettings;

use crate::program::{Class, Function, Product, Script, Slot, Step};
use crate::scenario::{SPECIAL, ZONE};

/// Writes one program, and the functions and classes that it uses.
pub struct Builder {
    /// Gives the program its shape.
    pub random: Random,
    number: u64,
    /// How many machines there are.
    pub hosts: usize,
    /// Decides where work goes. Apart, so that shapes do not depend on it.
    places: Random,
    scatters: bool,
    /// The most numbered devices that a machine has.
    pub devices: u32,
    /// Decides what uses them. Apart, for the same reason.
    users: Random,
    equips: bool,
    definitions: u64,
    steps: Vec<Step>,
    next_slot: Slot,
}

/// How a function is declared, apart from what it does.
#[derive(Clone, Debug)]
pub struct Options {
    /// CPUs in ten-thousandths.
    pub cpu: i64,
    /// Devices in ten-thousandths.
    pub gpu: i64,
    /// How many results, or items one after the other.
    pub returns: Returns,
    /// Attempts after the first; -1 is no limit.
    pub retries_max: i32,
    /// Exceptions use up retries, too.
    pub retry_exceptions: bool,
    /// The worker exits after so many calls; 0 is never.
    pub calls_max: u32,
    /// Where it runs; anywhere if that is not said.
    pub place: Option<Place>,
}

/// Where work runs.
#[derive(Clone, Debug)]
pub enum Place {
    /// Where there is room.
    Anywhere,
    /// Somewhere else each time.
    Spread,
    /// On a node, dead or alive; elsewhere if `soft`.
    Node {
        /// Its number.
        number: u32,
        /// Another one will do.
        soft: bool,
    },
    /// On nodes whose [`ZONE`] is this.
    Zone(&'static str),
    /// On nodes that have so much of [`SPECIAL`].
    Special(i64),
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cpu: Quantity::ONE.0,
            gpu: 0,
            returns: Returns::Count(1),
            retries_max: 3,
            retry_exceptions: false,
            calls_max: 0,
            place: None,
        }
    }
}

impl Builder {
    pub(super) fn new(seed: u64, number: u64, machines: &[HostSettings]) -> Builder {
        let hosts = machines.len();
        let mut places = Random::new(seed ^ 0x0091_ace5);
        let mut users = Random::new(seed ^ 0x0de_71ce5);
        let resources = machines.iter().flat_map(|machine| &machine.resources);
        let devices = resources.filter(|(name, _)| name == Resources::GPU).map(|(_, count)| *count);
        Builder {
            random: Random::new(seed),
            number,
            hosts,
            scatters: hosts > 1 && places.chance(600),
            places,
            devices: devices.max().unwrap_or(0),
            equips: users.chance(500),
            users,
            definitions: 0,
            steps: Vec::new(),
            next_slot: 0,
        }
    }

    pub(super) fn script(self) -> Script {
        Script { steps: self.steps, results: Vec::new() }
    }

    /// A slot that nothing uses yet.
    pub fn slot(&mut self) -> Slot {
        self.slots(1)
    }

    /// The first of so many slots that nothing uses yet.
    pub fn slots(&mut self, count: u32) -> Slot {
        let slot = self.next_slot;
        self.next_slot += count as Slot;
        slot
    }

    /// The next step.
    pub fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Submit a function; the slot of its first result or of its stream.
    pub fn submit(&mut self, function: &Rc<Function>, dependencies: &[Slot], borrows: &[Slot]) -> Slot {
        let count = match function.definition.returns {
            Returns::Count(count) => count.max(1),
            Returns::Stream { .. } => 1,
        };
        let into = self.slots(count);
        self.step(Step::Submit {
            function: function.clone(),
            dependencies: dependencies.to_vec(),
            borrows: borrows.to_vec(),
            into,
        });
        into
    }

    /// Call a method; the slot of its result.
    pub fn call(&mut self, actor: Slot, method: usize, dependencies: &[Slot], borrows: &[Slot]) -> Slot {
        let into = self.slot();
        let (dependencies, borrows) = (dependencies.to_vec(), borrows.to_vec());
        self.step(Step::Call { actor, method, dependencies, borrows, into });
        into
    }

    /// Make an actor; the slot of its handle.
    pub fn actor(&mut self, class: &Rc<Class>, borrows: &[Slot]) -> Slot {
        let into = self.slot();
        self.step(Step::CreateActor {
            class: class.clone(),
            dependencies: Vec::new(),
            borrows: borrows.to_vec(),
            name: String::new(),
            detached: false,
            into,
        });
        into
    }

    /// Get a value; its slot.
    pub fn get(&mut self, slot: Slot) -> Slot {
        let into = self.slot();
        self.step(Step::Get { slot, into });
        into
    }

    /// Put a value; the slot of its reference.
    pub fn put(&mut self, size: u64, contains: &[Slot]) -> Slot {
        let into = self.slot();
        self.step(Step::Put { product: Product { size, contains: contains.to_vec() }, into });
        into
    }

    /// Let go of a slot.
    pub fn drop(&mut self, slot: Slot) {
        self.step(Step::Drop { slot });
    }

    /// Some place.
    pub fn place(&mut self) -> Place {
        let number = self.places.between(1, self.hosts as u64 + 1) as u32;
        match self.places.below(10) {
            0..4 => Place::Spread,
            4..6 => Place::Node { number, soft: self.places.chance(800) },
            6 => Place::Zone("even"),
            7 if self.hosts > 1 => Place::Zone("odd"),
            _ => Place::Special(self.places.between(1, 20_000) as i64),
        }
    }

    /// What work asks for besides CPUs. Half of what does not say where it runs is scattered.
    fn demand(&mut self, place: &Option<Place>) -> Demand {
        let mut demand = Demand::default();
        let somewhere = self.scatters && self.places.chance(500);
        let place = match place {
            None if somewhere => Some(self.place()),
            place => place.clone(),
        };
        match place {
            None | Some(Place::Anywhere) => {}
            Some(Place::Spread) => demand.strategy = Strategy::Spread,
            Some(Place::Node { number, soft }) => {
                // Half of those that may go elsewhere do so if there is no room.
                let at_once = soft && number.is_multiple_of(2);
                demand.strategy = Strategy::Node { node: NodeId(number), soft, at_once };
            }
            Some(Place::Zone(value)) => demand.labels.push(LabelSelector {
                key: String::from(ZONE),
                values: vec![String::from(value)],
                excludes: false,
            }),
            Some(Place::Special(amount)) => demand.resources.set(SPECIAL, Quantity(amount)),
        }
        demand
    }

    /// Where there are devices, half of the items use them now and then in what does not say where it runs.
    fn some_devices(&mut self, place: &Option<Place>) -> i64 {
        if self.devices == 0 || !self.equips || place.is_some() || !self.users.chance(300) {
            return 0;
        }
        self.amount()
    }

    /// So much of devices as some machine has: a part of one, or whole ones.
    pub fn amount(&mut self) -> i64 {
        let whole = Quantity::ONE.0 * i64::from(self.devices);
        *self.users.pick(&[2_500, 5_000, 5_000, Quantity::ONE.0, Quantity::ONE.0, whole])
    }

    fn id(&mut self) -> FunctionId {
        self.definitions += 1;
        FunctionId(u128::from(self.number) << 64 | u128::from(self.definitions))
    }

    /// A function that does this.
    pub fn function(&mut self, options: &Options, script: Script) -> Rc<Function> {
        let id = self.id();
        let mut demand = self.demand(&options.place);
        if script.steps.iter().any(waits_for_others) {
            // A task that waits lends out its CPUs and nothing else: one that holds what those for which
            // it waits ask for would wait for ever, and that is its program's fault.
            demand.resources.set(SPECIAL, Quantity(0));
        } else {
            let gpu = if options.gpu > 0 { options.gpu } else { self.some_devices(&options.place) };
            demand.resources.set(Resources::GPU, Quantity(gpu));
        }
        demand.resources.set(Resources::CPU, Quantity(options.cpu));
        let definition = Definition {
            function: id,
            code: Bytes::from_static(b"code"),
            name: "simulated".into(),
            demand: Arc::new(demand),
            returns: options.returns,
            retries_max: options.retries_max,
            retry_exceptions: if options.retry_exceptions {
                RetryExceptions::Always
            } else {
                RetryExceptions::Never
            },
            calls_max: options.calls_max,
        };
        Rc::new(Function { definition: Arc::new(definition), script: Rc::new(script) })
    }

    /// A class whose constructor and methods do this. Methods have one result each.
    pub fn class(
        &mut self,
        restarts_max: i32,
        task_retries_max: i32,
        limit: u32,
        constructor: Script,
        methods: Vec<Script>,
    ) -> Rc<Class> {
        let id = self.id();
        let method = |(number, script): (usize, Script)| {
            let method = Method {
                name: number.to_string().into(),
                label: format!("Simulated.{number}").into(),
                returns: Returns::Count(1),
                retries_max: task_retries_max,
                retry_exceptions: RetryExceptions::Never,
                group: "".into(),
                any_order: false,
            };
            (Arc::new(method), Rc::new(script))
        };
        let mut placement = self.demand(&None);
        placement.resources.set(Resources::CPU, Quantity::ONE);
        Rc::new(Class {
            id,
            constructor: Rc::new(constructor),
            methods: methods.into_iter().enumerate().map(method).collect(),
            placement,
            running: Resources::default(),
            restarts_max,
            groups: vec![ConcurrencyGroup { name: "".into(), limit }],
            out_of_order: false,
        })
    }
}

fn waits_for_others(step: &Step) -> bool {
    matches!(step, Step::Get { .. } | Step::Wait { .. } | Step::Next { .. })
}

/// A body that computes and returns one small value.
pub(crate) fn body(steps: Vec<Step>) -> Script {
    Script { steps, results: vec![Product::default()] }
}
