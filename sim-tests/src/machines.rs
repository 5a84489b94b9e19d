//! The machines under test that live in the daemon.

pub use shoal_core::head::Head;
pub use shoal_core::node::Node;
