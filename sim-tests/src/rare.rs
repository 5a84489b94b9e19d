//! Rare states: a run of many seeds that never reaches one of them proves nothing about it.

use std::collections::BTreeMap;

use shoal_transport_sim::cluster::rare as of_cluster;

/// An attempt makes again what was lost.
pub const REBUILDING: &str = "a lost object was made again";
/// An attempt makes again what was lost, from arguments that were.
pub const REBUILDING_FROM_REBUILT: &str = "a lost object was made again from one that was, too";
/// A retry races its cancellation.
pub const CANCELLED_RETRY: &str = "a task was cancelled while it was tried again";
/// Nobody is left to take a generator's items.
pub const CONSUMER_GONE: &str = "a generator's consumer died";

/// Somebody reads what a dead process owned.
pub const OUTLIVED_ITS_OWNER: &str = "an object was read whose owner was dead";

/// What a run of some thousands of seeds must have reached.
pub const STATES: [&str; 17] = [
    REBUILDING,
    REBUILDING_FROM_REBUILT,
    CANCELLED_RETRY,
    CONSUMER_GONE,
    OUTLIVED_ITS_OWNER,
    of_cluster::TWO_CANDIDATES,
    of_cluster::SPILLED_WITHOUT_HEAD,
    of_cluster::REDIRECTED_TO_DEAD,
    of_cluster::OWNER_DIED_DURING_COPY,
    of_cluster::COPIED_FOR_HEIR,
    of_cluster::UNBEGUN,
    of_cluster::DIED_WITH_DEVICES,
    of_cluster::SENT_ON,
    of_cluster::HANDED_OVER,
    of_cluster::EMPTIED,
    of_cluster::LOST_OFFICE,
    of_cluster::HEAD_CAME_DURING_PLACEMENT,
];

/// Those that were never reached.
pub fn missing(counters: &BTreeMap<&'static str, u64>) -> Vec<&'static str> {
    STATES.into_iter().filter(|state| !counters.contains_key(state)).collect()
}
