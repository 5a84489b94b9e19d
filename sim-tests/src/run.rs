//! One run: a scenario from its start to its end, with every invariant looking on.

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

/// Run a scenario. With `text`, the trace can be read afterwards.
pub fn run(scenario: &Scenario, text: bool) -> Report {
    let trace = if text { Trace::with_text() } else { Trace::default() };
    let mut world = World::new(scenario, trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| Run::new(&mut world).finish()));
    let violation = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Some(Violation { property: String::from("assertions"), detail: text.unwrap_or_default() })
        }
    };
    Report {
        violation,
        virtual_time: world.cluster.now(),
        counters: std::mem::take(&mut world.cluster.counters),
        trace: std::mem::take(&mut world.cluster.trace),
    }
}

struct Run<'a> {
    world: &'a mut World,
    properties: Vec<Box<dyn Property>>,
    events: u64,
}

impl Run<'_> {
    fn new(world: &mut World) -> Run<'_> {
        Run { world, properties: properties::all(), events: 0 }
    }

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
        for property in &mut self.properties {
            check(property.as_mut(), self.world)
                .map_err(|detail| Violation { property: property.name().to_string(), detail })?;
        }
        Ok(())
    }

    fn stuck(&self) -> Violation {
        let detail = format!("programs do not end:\n{}", self.world.pending().join("\n"));
        Violation { property: String::from("liveness"), detail }
    }
}
