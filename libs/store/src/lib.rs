//! Shared memory and spill files of a Shoal node: mechanism, no decisions.
//!
//! * [`Segment`]: one unnamed memory file per node, with huge pages where the system gives them.
//! * [`ReadMapping`] and [`WriteMapping`]: the segment in the address space of a process; the
//!   second also reserves memory before it is written, faults it in ahead of use and gives it back.
//! * [`ProcessTable`]: what each worker was running when it died.
//! * [`SpillDirectory`]: objects on disk, checked when they are read back.
//!
//! Which extent belongs to which process, what is pinned and what is spilled is decided by the
//! machines of `shoal-core`. All calls block; none starts a thread.

mod backed;
pub mod copy;
mod error;
mod layout;
pub mod mapping;
mod process_table;
mod residency;
mod segment;
mod spill;
mod tmpfs;

pub use error::StoreError;
pub use layout::{CHUNK, FIRST_OFFSET};
pub use mapping::{ReadMapping, WriteMapping};
pub use process_table::{ProcessSlot, ProcessTable};
pub use residency::Residency;
pub use segment::{Backing, Segment};
pub use spill::{SpillDirectory, SpillUsage, SpilledObject};
