//! What the fuzzer runs, as plain functions of bytes.
//!
//! A target panics if what it tests is broken, and returns otherwise, whatever the bytes. `cargo fuzz`
//! looks for bytes that reach new code (`fuzz/`); [`bounded`] runs a fixed number of inputs that a seed
//! determines, on any toolchain, as a part of the tests.

#![forbid(unsafe_code)]

pub mod bounded;
pub mod decoders;
pub mod entropy;
pub mod generate;
pub mod log;
pub mod machines;
pub mod tree;

pub use log::Log;

/// A function for the fuzzer.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of the fuzzer's binary, and of the folder of its corpus.
    pub name: &'static str,
    /// What it does with bytes.
    pub run: fn(&[u8], Log<'_>),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "messages", run: decoders::messages::run },
    Target { name: "frames", run: decoders::frames::run },
    Target { name: "packets", run: decoders::packets::run },
    Target { name: "join", run: decoders::join::run },
    Target { name: "bulk", run: decoders::bulk::run },
    Target { name: "rows", run: decoders::rows::run },
    Target { name: "texts", run: decoders::texts::run },
    Target { name: "spill", run: decoders::spill::run },
    Target { name: "process_table", run: decoders::process_table::run },
    Target { name: "head", run: machines::head::run },
    Target { name: "node", run: machines::node::run },
    Target { name: "owner", run: machines::owner::run },
    Target { name: "session", run: machines::session::run },
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}

/// For the fuzzer's binaries: run a target quietly.
///
/// # Panics
///
/// If the target finds something, or does not exist.
pub fn run(name: &str, bytes: &[u8]) {
    match target(name) {
        Some(target) => (target.run)(bytes, Log::off()),
        None => panic!("there is no target {name}"),
    }
}
