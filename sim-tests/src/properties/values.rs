//! History: a task gets the arguments that it was given, a program what some attempt really made, an exception that somebody really raised,
//! or a typed failure; never something out of thin air.

use super::{Check, Property};
use crate::observation::{Got, Observation};
use crate::world::World;

/// Nothing to remember: the world knows what every attempt made.
#[derive(Default)]
pub(super) struct Values;

impl Property for Values {
    fn name(&self) -> &'static str {
        "values"
    }

    fn observe(&mut self, world: &World, observation: &Observation) -> Check {
        let (process, object, result) = match observation {
            Observation::Given { process, task, arguments } => {
                let passed = world.users.passed.get(task).map(Vec::as_slice).unwrap_or_default();
                if passed == arguments {
                    return Ok(());
                }
                return Err(format!("{task:?} was given {passed:?} and gets {arguments:?} in {process:?}"));
            }
            Observation::Got { process, object, result } => (process, object, result),
            _ => return Ok(()),
        };
        let made = |object, attempt: u32, raised| {
            world.users.ended.get(&object).is_some_and(|ends| ends.contains(&(attempt, raised)))
        };
        match result {
            Got::Marker | Got::Failure(_) => Ok(()),
            Got::Garbage(what) => Err(format!("{process:?} got garbage for {object:?}: {what}")),
            Got::Value { object: found, attempt } if found != object => {
                Err(format!("{process:?} got {found:?} (attempt {attempt}) for {object:?}"))
            }
            Got::Value { attempt, .. } if !made(*object, *attempt, false) => {
                Err(format!("{process:?} got {object:?} of attempt {attempt}, which made nothing"))
            }
            // The exception may be that of an argument, or of an argument's argument.
            Got::Exception { object: source, attempt } if !made(*source, *attempt, true) => {
                Err(format!("{process:?} got an exception that {source:?} attempt {attempt} never raised"))
            }
            Got::Value { .. } | Got::Exception { .. } => Ok(()),
        }
    }
}
