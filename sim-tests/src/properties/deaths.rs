//! Invariant 5 of nodes: a head tells of a node's death only if the node is gone, or has been silent or
//! without a connection for as long as that takes, or was drained and had its time or nothing left. Slow is not dead.

use shoal_core::Span;
use shoal_core::head::Config;

use shoal_transport_sim::cluster::Fact;

use super::{Check, Property};
use crate::observation::Observation;
use crate::world::World;

/// Nothing to remember: the cluster knows what each head has heard.
#[derive(Default)]
pub(super) struct Deaths;

impl Property for Deaths {
    fn name(&self) -> &'static str {
        "deaths"
    }

    fn observe(&mut self, _: &World, observation: &Observation) -> Check {
        let Observation::Fact(Fact::NodeBuried { node, lives: true, empty, silent, cut, drained }) =
            observation
        else {
            return Ok(());
        };
        let Config { silence_grace, reconnect_grace, .. } = Config::new(0);
        if *silent >= nearly(silence_grace) || cut.is_some_and(|cut| cut >= nearly(reconnect_grace)) {
            return Ok(());
        }
        if drained.iter().any(|(since, grace)| *empty || *since >= nearly(*grace)) {
            return Ok(());
        }
        Err(format!("a head tells of {node:?}'s death, of which it has heard {silent:?} ago (cut: {cut:?})"))
    }
}

/// Clocks drift.
fn nearly(span: Span) -> Span {
    Span(span.0 / 20 * 19)
}
