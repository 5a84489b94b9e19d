//! Invariant 1 between nodes: at rest, what the head and every node believe to be free on a node is what is
//! free there. Otherwise work waits for what is there, or is sent where nothing is.

use shoal_core::ids::NodeId;
use shoal_core::resources::Resources;

use super::{Check, Property};
use crate::world::World;

/// Nothing to remember.
#[derive(Default)]
pub(super) struct Views;

impl Property for Views {
    fn name(&self) -> &'static str {
        "views"
    }

    fn at_rest(&mut self, world: &World) -> Check {
        for (id, daemon) in &world.cluster.nodes {
            let free = positive(&daemon.node.inspect().free);
            for head in world.cluster.heads.values() {
                compare("the head", head.head.believed_free(*id), *id, &free)?;
            }
            for (other, observer) in world.cluster.nodes.iter().filter(|(other, _)| *other != id) {
                compare(&format!("{other:?}"), observer.node.believed_free(*id), *id, &free)?;
            }
        }
        Ok(())
    }

    fn at_end(&mut self, world: &World) -> Check {
        self.at_rest(world)
    }
}

fn compare(who: &str, believed: Option<&Resources>, node: NodeId, free: &Resources) -> Check {
    match believed.map(positive) {
        Some(believed) if believed == *free => Ok(()),
        Some(believed) => Err(format!("{who} believes {believed:?} to be free on {node:?}, and {free:?} is")),
        None => Err(format!("{who} does not know {node:?}")),
    }
}

fn positive(resources: &Resources) -> Resources {
    let mut positive = resources.clone();
    positive.0.retain(|_, amount| amount.0 > 0);
    positive
}
