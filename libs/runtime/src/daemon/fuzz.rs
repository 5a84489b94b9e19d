//! Decoders of the daemon, for the fuzzer, and for nobody else.

use std::path::PathBuf;

use super::memory::machine_usage;
use super::output::{LINE_BYTES_MAX, Stream};

pub use super::cluster::fuzz::{Greeting, Reply};

/// No line of what a worker prints is passed on that is longer.
pub const PRINTED_BYTES_MAX: usize = LINE_BYTES_MAX;

/// The lines of what a worker has printed, that came in these parts.
pub fn lines<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut stream = Stream::new(PathBuf::new());
    let mut lines = Vec::new();
    for part in parts {
        stream.split(part, &mut lines);
    }
    stream.finish(&mut lines);
    lines
}

/// The machine's memory and what of it is in use, as the system's text says.
pub fn memory(meminfo: &str) -> Option<(u64, u64)> {
    machine_usage(meminfo).map(|usage| (usage.limit, usage.used))
}
