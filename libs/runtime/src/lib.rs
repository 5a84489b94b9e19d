//! Drives Shoal's machines: in processes over sockets, in the node daemon on tokio.

pub mod control;
pub mod frame;
pub mod process;
