//! `cargo run -p shoal-fuzz-targets -- TARGET FILE...`: run inputs one by one and print what happens.

use std::process::ExitCode;

use shoal_fuzz_targets::{Log, TARGETS, target};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(target) = arguments.next().as_deref().and_then(target) else {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("usage: fuzz-replay TARGET FILE...\ntargets: {}", names.join(", "));
        return ExitCode::FAILURE;
    };
    for file in arguments {
        match std::fs::read(&file) {
            Ok(bytes) => {
                eprintln!("{file}: {} bytes", bytes.len());
                (target.run)(&bytes, Log::to(&|kind, thing| eprintln!("{kind} {thing:?}")));
            }
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
