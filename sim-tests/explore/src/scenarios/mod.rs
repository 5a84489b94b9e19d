//! All scenarios. Each comes in two sizes: one for every test run, and a deep one.

mod actors;
mod leases;
mod placements;
mod references;

use crate::placement::{Placement, PlacementModel};
use crate::program::{Slot, Step};
use crate::scenario::Scenario;
use crate::search::{Limits, Report, explore};
use crate::world::World;

/// Something to explore.
#[derive(Clone, Debug)]
pub enum Exploration {
    /// A cluster.
    Cluster(Scenario),
    /// A head and nodes that place groups.
    Placement(Placement),
}

impl Exploration {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Exploration::Cluster(scenario) => scenario.name,
            Exploration::Placement(placement) => placement.name,
        }
    }

    /// What is explored, in a line.
    pub fn about(&self) -> &'static str {
        match self {
            Exploration::Cluster(scenario) => scenario.about,
            Exploration::Placement(placement) => placement.about,
        }
    }

    /// What may go wrong in it at most, in words.
    pub fn bounds(&self) -> String {
        match self {
            Exploration::Cluster(scenario) => scenario.faults.describe(),
            Exploration::Placement(Placement { heads, deaths, .. }) => {
                format!("deaths of {heads} heads and {deaths} nodes")
            }
        }
    }

    /// Explore it.
    pub fn explore(&self, limits: Limits) -> Report {
        match self {
            Exploration::Cluster(scenario) => explore(&mut World::new(scenario.clone()), limits),
            Exploration::Placement(placement) => explore(&mut PlacementModel::new(placement.clone()), limits),
        }
    }
}

/// Everything that is explored; the larger variants if `deep`.
pub fn all(deep: bool) -> Vec<Exploration> {
    let clusters = [
        leases::returns,
        leases::nested,
        leases::cancel,
        leases::take_back,
        references::lender,
        references::owner,
        actors::restart,
        actors::kill,
        actors::failing,
    ];
    let clusters = clusters.into_iter().map(|scenario| Exploration::Cluster(scenario(deep)));
    let placements = [placements::heads, placements::repair];
    clusters.chain(placements.into_iter().map(|placement| Exploration::Placement(placement(deep)))).collect()
}

/// What does not hold yet: a reference is lost if its lender dies before its owner knows the borrower.
pub fn strict_lender() -> Exploration {
    Exploration::Cluster(Scenario { strict: true, ..references::lender(false) })
}

fn submit(function: usize, lends: &[Slot], into: Slot) -> Step {
    Step::Submit { function, passes: Vec::new(), lends: lends.to_vec(), into }
}

fn call(actor: Slot, class: usize, method: usize, lends: &[Slot], into: Slot) -> Step {
    Step::Call { actor, class, method, passes: Vec::new(), lends: lends.to_vec(), into }
}
