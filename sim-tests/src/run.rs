//! One run: a scenario from its start to its end, with every invariant looking on.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use shoal_core::{Span, Time};
use shoal_transport_sim::Trace;

use crate::properties::{self, Property};
use crate::scenario::Scenario;
use crate::world::World;

/// After the time of faults everything must come to its end within this much virtual time.
const LIVENESS: Span = Span::from_secs(900);
/// So long after the last program's end there is nothing left to do.
const REST: Span = Span::from_secs(60);
/// A run of more events than this goes in circles.
const EVENTS_MAX: u64 = 3_000_000;
/// Expensive checks take place once in so many events.
const LOOK_EVERY: u64 = 512;

/// What is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// The property that does not hold.
    pub property: String,
    /// In words.
    pub detail: String,
}

/// What became of a run.
pub struct Report {
    /// What is wrong, if anything.
    pub violation: Option<Violation>,
    /// Everything that happened.
    pub trace: Trace,
    /// How long it took in virtual time.
    pub virtual_time: Time,
    /// Rare states that were reached.
    pub counters: BTreeMap<&'static str, u64>,
}

/// Run a scenario up to the first violation. With `text`, the trace can be read afterwards.
pub fn run(scenario: &Scenario, text: bool) -> Report {
    let trace = if text { Trace::with_text() } else { Trace::default() };
    let (mut world, violations) = play(scenario, trace, false);
    Report {
        violation: violations.into_iter().next(),
        virtual_time: world.cluster.now(),
        counters: std::mem::take(&mut world.cluster.counters),
        trace: std::mem::take(&mut world.cluster.trace),
    }
}

/// Run a scenario and go on after violations, as far as possible: what each check finds when the others
/// are not there. After the first failed assertion of a machine there is no going on.
pub fn examine(scenario: &Scenario) -> Vec<Violation> {
    play(scenario, Trace::default(), true).1
}

fn play(scenario: &Scenario, trace: Trace, thorough: bool) -> (World, Vec<Violation>) {
    let mut world = World::new(scenario, trace);
    let mut violations = Vec::new();
    let run = Run {
        world: &mut world,
        properties: properties::all(),
        events: 0,
        found: thorough.then_some(&mut violations),
    };
    match catch_unwind(AssertUnwindSafe(|| run.finish())) {
        Ok(Ok(())) => {}
        Ok(Err(violation)) => violations.push(violation),
        Err(panic) => {
            violations.push(Violation { property: String::from("assertions"), detail: said(&*panic) });
        }
    }
    (world, violations)
}

/// What an assertion said that failed.
pub(crate) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default()
}

struct Run<'a> {
    world: &'a mut World,
    properties: Vec<Box<dyn Property>>,
    events: u64,
    /// If it goes on after violations, those so far.
    found: Option<&'a mut Vec<Violation>>,
}

impl Run<'_> {
    fn finish(mut self) -> Result<(), Violation> {
        let deadline = Time(self.world.cluster.settings.heal_at_micros * 1_000) + LIVENESS;
        while !self.world.drivers_finished() {
            if self.world.cluster.now() > deadline || !self.step()? {
                return Err(self.stuck());
            }
        }
        self.rest()?;
        self.each(|property, world| property.at_rest(world))?;
        self.world.dismiss_drivers();
        self.rest()?;
        self.each(|property, world| property.at_end(world))
    }

    /// Go on until nothing has been under way for a while.
    fn rest(&mut self) -> Result<(), Violation> {
        let mut until = self.world.cluster.now() + REST;
        while self.world.cluster.next_at().is_some_and(|at| at <= until) {
            self.step()?;
            if self.world.cluster.is_busy() {
                until = until.max(self.world.cluster.now() + REST);
            }
        }
        self.each(|property, world| property.look_closely(world))
    }

    fn step(&mut self) -> Result<bool, Violation> {
        if !self.world.step() {
            return Ok(false);
        }
        self.events += 1;
        if self.events > EVENTS_MAX {
            let detail = format!("no end after {EVENTS_MAX} events\n{}", self.world.pending().join("\n"));
            return Err(Violation { property: String::from("liveness"), detail });
        }
        for observation in self.world.observations() {
            self.each(|property, world| property.observe(world, &observation))?;
        }
        self.each(|property, world| property.after_event(world))?;
        if self.events.is_multiple_of(LOOK_EVERY) {
            self.each(|property, world| property.look_closely(world))?;
        }
        Ok(true)
    }

    fn each(
        &mut self,
        mut check: impl FnMut(&mut dyn Property, &World) -> properties::Check,
    ) -> Result<(), Violation> {
        let mut at = 0;
        while let Some(property) = self.properties.get_mut(at) {
            let Err(detail) = check(property.as_mut(), self.world) else {
                at += 1;
                continue;
            };
            let violation = Violation { property: property.name().to_string(), detail };
            match &mut self.found {
                Some(found) => found.push(violation),
                None => return Err(violation),
            }
            // It has had its say.
            self.properties.remove(at);
        }
        Ok(())
    }

    fn stuck(&self) -> Violation {
        let detail = format!("programs do not end:\n{}", self.world.pending().join("\n"));
        Violation { property: String::from("liveness"), detail }
    }
}
