//! Whatever bytes come: a decoder gives a value or an error, and never more than what it was given.

pub mod frames;
pub mod messages;
pub mod process_table;
pub mod spill;
