//! Whatever bytes come: a decoder gives a value or an error, and never more than what it was given.

pub mod bulk;
pub mod frames;
pub mod join;
pub mod messages;
pub mod packets;
pub mod process_table;
pub mod rows;
pub mod spill;
pub mod texts;

thread_local! {
    /// Runs decoders that wait for bytes; all of them are there.
    static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without threads can be made");
}
