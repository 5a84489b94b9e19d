//! Drives Shoal's machines: in processes over sockets, in the node daemon on tokio.

pub mod control;
#[cfg(not(madsim))]
pub mod daemon;
pub mod frame;
pub mod inbox;
pub mod outbox;
pub mod process;
pub mod socket;
mod spin;
pub mod template;
pub mod transport;
