//! What must hold: one file for each invariant of `docs/architecture.md`, checked while a run goes on.

mod actors;
mod arguments;
mod attempts;
mod deaths;
mod devices;
mod drains;
mod errors;
mod groups;
mod leftovers;
mod machines;
mod repairs;
mod resources;
mod values;
mod views;

use crate::observation::Observation;
use crate::world::World;

/// What a check says: nothing, or what is wrong.
pub type Check = Result<(), String>;

/// One invariant.
pub trait Property {
    /// Its name in reports and stored seeds.
    fn name(&self) -> &'static str;
    /// After each fact.
    fn observe(&mut self, _world: &World, _observation: &Observation) -> Check {
        Ok(())
    }
    /// After every event; must be cheap.
    fn after_event(&mut self, _world: &World) -> Check {
        Ok(())
    }
    /// Every now and then, and at the end; may look at everything.
    fn look_closely(&mut self, _world: &World) -> Check {
        Ok(())
    }
    /// All programs have ended, dropped what they held, and nothing moves any more.
    fn at_rest(&mut self, _world: &World) -> Check {
        Ok(())
    }
    /// The drivers are gone, too.
    fn at_end(&mut self, _world: &World) -> Check {
        Ok(())
    }
}

/// All of them.
pub fn all() -> Vec<Box<dyn Property>> {
    vec![
        Box::<machines::Machines>::default(),
        Box::<attempts::Attempts>::default(),
        Box::<actors::Actors>::default(),
        Box::<arguments::Arguments>::default(),
        Box::<values::Values>::default(),
        Box::<errors::Errors>::default(),
        Box::<deaths::Deaths>::default(),
        Box::<resources::Resources>::default(),
        Box::<devices::Devices>::default(),
        Box::<leftovers::Leftovers>::default(),
        Box::<views::Views>::default(),
        Box::<groups::Groups>::default(),
        Box::<repairs::Repairs>::default(),
        Box::<drains::Drains>::default(),
    ]
}
