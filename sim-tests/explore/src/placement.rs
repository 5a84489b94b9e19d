//! Two-phase placement: a head with its log and real nodes, whose messages, writes and deaths come in every
//! order. Programs are left out: what is asked for is a list, and what counts is who holds what.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use shoal_core::group::GroupStrategy;
use shoal_core::head::world::World;

use crate::fingerprint::Printer;
use crate::search::{Check, Model, Story, Violation};

/// When nothing but deadlines was left to wait for so often, what is still left stays for ever.
const WAITS_MAX: u16 = 300;

/// What is asked for, and what may go wrong meanwhile.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is explored, in a line.
    pub about: &'static str,
    /// CPUs of each node.
    pub nodes: Vec<i64>,
    /// What is asked for, in order.
    pub requests: Vec<Request>,
    /// Heads that die, with what they were writing or without it.
    pub heads: u8,
    /// Nodes that die.
    pub deaths: u8,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Request {
    /// A group of that number, whose bundles have so many CPUs and lie on different nodes.
    Create(u64, Vec<i64>),
    /// Its end.
    Remove(u64),
}

#[derive(Clone, Debug)]
struct Cluster {
    world: World,
    /// How many requests were made.
    asked: usize,
    heads_left: u8,
    deaths_left: u8,
    waited: u16,
}

/// A state of the cluster.
#[derive(Clone)]
pub struct State {
    cluster: Rc<Cluster>,
    fingerprint: u64,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.fingerprint);
    }
}

/// One thing that can happen.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// The next request is made.
    Ask,
    /// The head gets the next message of a node.
    Up(u32),
    /// A node gets the next message of the head.
    Down(u32),
    /// What is being written is in the log.
    Write,
    /// The head dies, and another one takes over.
    HeadDies {
        /// What it was writing is in the log.
        written: bool,
    },
    /// A node dies.
    NodeDies(u32),
    /// Nothing else can happen: the next deadline comes.
    Wait,
}

/// The model of a placement.
pub struct PlacementModel {
    placement: Placement,
    printer: Printer,
}

impl PlacementModel {
    /// Nothing has happened yet.
    pub fn new(placement: Placement) -> PlacementModel {
        PlacementModel { placement, printer: Printer::default() }
    }

    fn state(&mut self, cluster: Cluster) -> State {
        let fingerprint = self.printer.fingerprint(&cluster, cluster.world.now());
        State { cluster: Rc::new(cluster), fingerprint }
    }
}

impl Model for PlacementModel {
    type State = State;
    type Action = Action;

    fn start(&mut self, _: &mut Story) -> Check<State> {
        let placement = self.placement.clone();
        let cluster = guarded(|| {
            let mut cluster = Cluster::new(&placement);
            placement.nodes.iter().for_each(|cpus| cluster.world.join(*cpus));
            // Nothing is placed yet.
            cluster.world.deliver_all().map(|()| cluster)
        })?
        .map_err(atomicity)?;
        Ok(self.state(cluster))
    }

    fn actions(&mut self, state: &State, actions: &mut Vec<Action>) {
        let cluster = &state.cluster;
        let world = &cluster.world;
        for id in world.nodes() {
            actions.extend(world.next_up(id).map(|_| Action::Up(id)));
            actions.extend(world.next_down(id).map(|_| Action::Down(id)));
        }
        actions.extend(world.is_writing().then_some(Action::Write));
        let quiet = actions.is_empty();
        let more = cluster.asked < self.placement.requests.len();
        actions.extend(more.then_some(Action::Ask));
        if quiet && !more {
            let over = world.settled().is_ok() || cluster.waited >= WAITS_MAX;
            if over {
                return;
            }
            actions.push(Action::Wait);
        }
        if cluster.heads_left > 0 {
            actions.push(Action::HeadDies { written: false });
            actions.extend(world.is_writing().then_some(Action::HeadDies { written: true }));
        }
        if cluster.deaths_left > 0 {
            // Who asks for groups lives on the first one.
            actions.extend(world.nodes().into_iter().filter(|id| *id != 1).map(Action::NodeDies));
        }
    }

    fn step(&mut self, state: &State, action: &Action, story: &mut Story) -> Check<State> {
        story.line(|| format!("    {}", state.cluster.tell(action, &self.placement)));
        let mut cluster = Cluster::clone(&state.cluster);
        let requests = &self.placement.requests;
        let cluster = guarded(move || {
            cluster.act(*action, requests)?;
            Ok(cluster)
        })??;
        Ok(self.state(cluster))
    }

    fn at_end(&mut self, state: &State) -> Check {
        state.cluster.world.settled().map_err(|detail| Violation::new("placement", detail))
    }
}

/// Assertions of machines end in violations.
fn guarded<T>(step: impl FnOnce() -> T) -> Check<T> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        Violation::new("assertions", text.unwrap_or_default())
    })
}

fn atomicity(detail: String) -> Violation {
    Violation::new("atomicity", detail)
}

impl Cluster {
    fn new(placement: &Placement) -> Cluster {
        Cluster {
            world: World::default(),
            asked: 0,
            heads_left: placement.heads,
            deaths_left: placement.deaths,
            waited: 0,
        }
    }

    fn act(&mut self, action: Action, requests: &[Request]) -> Check {
        let world = &mut self.world;
        match action {
            Action::Ask => {
                match &requests[self.asked] {
                    Request::Create(number, bundles) => {
                        world.create(*number, GroupStrategy::StrictSpread, bundles);
                    }
                    Request::Remove(number) => world.remove(*number),
                }
                self.asked += 1;
            }
            Action::Up(id) => assert!(world.go_up(id), "it has something to say"),
            Action::Down(id) => {
                assert!(world.go_down(id).map_err(atomicity)?, "it is told something");
            }
            Action::Write => assert!(world.finish_write(), "something is written"),
            Action::HeadDies { written } => {
                self.heads_left -= 1;
                world.restart(written);
            }
            Action::NodeDies(id) => {
                self.deaths_left -= 1;
                world.kill(id);
            }
            Action::Wait => {
                self.waited += 1;
                if let Some(due) = world.next_deadline() {
                    world.pass(due.max(world.now()));
                }
            }
        }
        Ok(())
    }

    /// An action in words.
    fn tell(&self, action: &Action, placement: &Placement) -> String {
        match action {
            Action::Ask => format!("asked: {:?}", placement.requests[self.asked]),
            Action::Up(id) => format!("node {id} -> head: {:?}", self.world.next_up(*id)),
            Action::Down(id) => format!("head -> node {id}: {:?}", self.world.next_down(*id)),
            other => format!("{other:?}"),
        }
    }
}
