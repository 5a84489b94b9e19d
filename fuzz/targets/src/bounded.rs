//! A bounded run without a fuzzer: the corpus, and inputs that a seed determines.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use shoal_transport_sim::Random;

use crate::{Log, Target};

/// Inputs grow up to this many bytes.
const BYTES_MAX: u64 = 4_096;

/// An input that breaks a target.
#[derive(Debug)]
pub struct Finding {
    /// The smallest one that was found.
    pub bytes: Vec<u8>,
    /// What the target said of it.
    pub message: String,
}

/// The corpus of a target.
///
/// # Errors
///
/// If its folder cannot be read; one that is not there is empty.
pub fn corpus(target: Target) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target.name);
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        files.push((path.clone(), std::fs::read(path)?));
    }
    files.sort();
    Ok(files)
}

/// Run a target over its corpus and `inputs` more inputs of this seed; the first finding ends it.
///
/// # Errors
///
/// If the corpus cannot be read.
pub fn run(target: Target, seed: u64, inputs: u64) -> io::Result<Option<Finding>> {
    let corpus: Vec<Vec<u8>> = corpus(target)?.into_iter().map(|(_, bytes)| bytes).collect();
    let mut random = Random::new(seed);
    let fresh = (0..inputs).map(|_| match corpus.is_empty() || random.chance(500) {
        true => {
            // Short inputs are quick, long ones get further.
            let length = if random.chance(700) { random.skewed(BYTES_MAX) } else { BYTES_MAX };
            noise(&mut random, length)
        }
        false => mutate(&mut random, &corpus),
    });
    for bytes in corpus.iter().cloned().chain(fresh) {
        if let Some(message) = panics(target, &bytes) {
            return Ok(Some(shrink(target, bytes, message)));
        }
    }
    Ok(None)
}

/// So many random bytes.
pub fn noise(random: &mut Random, length: u64) -> Vec<u8> {
    (0..length).map(|_| random.draw() as u8).collect()
}

/// A file of the corpus with a few changes.
fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(corpus).clone();
    for _ in 0..random.between(1, 8) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        match random.below(5) {
            0 if at < bytes.len() => bytes[at] = random.draw() as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => {
                let length = random.skewed(32);
                bytes.splice(at..at, noise(random, length));
            }
            _ => {
                let other = random.pick(corpus);
                let from = random.below(other.len() as u64 + 1) as usize;
                bytes.splice(at.., other[from..].iter().copied());
            }
        }
    }
    bytes
}

/// What the target says if these bytes break it.
fn panics(target: Target, bytes: &[u8]) -> Option<String> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(bytes, Log::off())));
    let payload = outcome.err()?;
    let message = payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|text| String::from(*text)));
    Some(message.unwrap_or_else(|| String::from("a panic without a message")))
}

/// Leave out parts, smaller and smaller ones, for as long as the target still breaks.
fn shrink(target: Target, mut bytes: Vec<u8>, mut message: String) -> Finding {
    // Every attempt that breaks would tell its story again.
    let loud = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let mut part = bytes.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < bytes.len() {
            let mut shorter = bytes.clone();
            shorter.drain(at..(at + part).min(bytes.len()));
            match panics(target, &shorter) {
                Some(said) => (bytes, message) = (shorter, said),
                None => at += part,
            }
        }
        part /= 2;
    }
    panic::set_hook(loud);
    Finding { bytes, message }
}
