//! Random programs of submit, put, get, take, drop and crash, run by real machines, against a page that
//! knows what they must see.

#![allow(missing_docs, unreachable_pub, reason = "a test has no outside")]

mod cluster;
mod reference;

use proptest::prelude::*;

use crate::cluster::Cluster;
use crate::reference::Model;

/// One operation of the driver's program. References are named by their place among those that it
/// holds.
#[derive(Clone, Debug)]
pub enum Operation {
    Put {
        salt: u8,
    },
    Submit(Task),
    Get {
        which: usize,
    },
    /// Get a value and keep the first reference inside it.
    Take {
        which: usize,
    },
    Drop {
        which: usize,
    },
}

/// What a task does when it runs.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its value is this and the sum of its arguments' values.
    pub salt: u8,
    pub dependencies: Vec<usize>,
    pub borrows: Vec<usize>,
    /// So many attempts end their worker.
    pub crashes: u32,
    pub retries: u32,
    /// It raises instead of returning.
    pub raises: bool,
    pub returns: Inside,
}

/// The reference inside a task's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Inside {
    Nothing,
    /// The first of those that the task borrowed.
    Borrowed,
    /// Of something that the task has put: its worker owns it.
    Put,
}

fn operations() -> impl Strategy<Value = Operation> {
    let places = || prop::collection::vec(any::<usize>(), 0..3);
    let inside = prop::sample::select(vec![Inside::Nothing, Inside::Nothing, Inside::Borrowed, Inside::Put]);
    let task = (any::<u8>(), places(), places(), 0u32..3, 0u32..3, prop::bool::weighted(0.2), inside)
        .prop_map(|(salt, dependencies, borrows, crashes, retries, raises, returns)| {
            Operation::Submit(Task { salt, dependencies, borrows, crashes, retries, raises, returns })
        });
    prop_oneof![
        1 => any::<u8>().prop_map(|salt| Operation::Put { salt }),
        4 => task,
        2 => any::<usize>().prop_map(|which| Operation::Get { which }),
        1 => any::<usize>().prop_map(|which| Operation::Take { which }),
        2 => any::<usize>().prop_map(|which| Operation::Drop { which }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Every `get` gives what the model says, whatever order messages arrive in, and nothing is left
    /// when the program has dropped all that it held.
    #[test]
    fn programs_see_what_the_model_says(
        operations in prop::collection::vec(operations(), 1..30),
        seed in any::<u64>(),
    ) {
        let mut model = Model::default();
        let mut cluster = Cluster::new(seed);
        for operation in &operations {
            cluster.perform(operation, &mut model);
        }
        cluster.drop_all();
        cluster.settle(&mut model);
        cluster.check_empty();
    }
}
