//! The program's functions: what owners know of them, and the closures that workers run.

use std::sync::Arc;

use bytes::Bytes;
use shoal_core::ids::FunctionId;
use shoal_core::resources::{Demand, Quantity, Resources};
use shoal_core::task::{Definition, RetryExceptions, Returns};

use crate::process::Closures;

const NAMES: [&str; 2] = ["square", "sum"];

/// What workers run. The square of 7 kills its worker the first time.
pub fn closures() -> Closures {
    let mut closures = Closures::new();
    closures.insert(
        "square",
        Box::new(|call| {
            let number = call.numbers[0];
            if number == 7 && call.attempt == 0 {
                // A panic without the message of one.
                std::panic::resume_unwind(Box::new("a bug in the user's code"));
            }
            number * number
        }),
    );
    closures.insert("sum", Box::new(|call| call.numbers.iter().sum()));
    closures
}

/// What the machines know of a function: it needs one CPU, and may be tried twice more.
pub fn definition(name: &'static str) -> Arc<Definition> {
    let mut resources = Resources::default();
    resources.set(Resources::CPU, Quantity::ONE);
    let number = NAMES.iter().position(|known| *known == name).expect("a function of this program");
    Arc::new(Definition {
        function: FunctionId(number as u128),
        code: Bytes::from_static(name.as_bytes()),
        name: name.into(),
        demand: Arc::new(Demand { resources, ..Demand::default() }),
        returns: Returns::Count(1),
        retries_max: 2,
        retry_exceptions: RetryExceptions::Never,
        calls_max: 0,
    })
}

/// The function of that id.
pub fn name_of(function: FunctionId) -> Option<&'static str> {
    NAMES.get(function.0 as usize).copied()
}
