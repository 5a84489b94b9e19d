//! What happened in a run: a rolling hash of everything, and the text if somebody wants to read it.

use serde::Serialize;
use shoal_core::ids::ProcessId;
use shoal_core::{Time, wire};

/// Collects what happens.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    count: u64,
    buffer: Vec<u8>,
    lines: Option<Vec<Line>>,
    /// Hashes after each event, to find the first difference of two runs.
    checkpoints: Option<Vec<u64>>,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Line {
    /// When.
    pub at: Time,
    /// To whom, or by whom.
    pub process: ProcessId,
    /// An input comes in (`<`), an effect goes out (`>`), or the world acts (`!`).
    pub kind: char,
    /// In words.
    pub text: String,
}

impl Trace {
    /// A trace that keeps the text, too.
    pub fn with_text() -> Trace {
        Trace { lines: Some(Vec::new()), checkpoints: Some(Vec::new()), ..Trace::default() }
    }

    /// Something happened.
    pub fn record<T: Serialize + std::fmt::Debug>(
        &mut self,
        at: Time,
        process: ProcessId,
        kind: char,
        what: &T,
    ) {
        self.buffer.clear();
        // What cannot be encoded still counts by its place.
        let _ = wire::encode_into(what, &mut self.buffer);
        self.mix(at.0);
        self.mix(process.0 ^ u64::from(u32::from(kind)));
        let buffer = std::mem::take(&mut self.buffer);
        for chunk in buffer.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        self.buffer = buffer;
        self.count += 1;
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at, process, kind, text: format!("{what:?}") });
        }
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.push(self.hash);
        }
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Stands for the whole run so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many things happened.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The text, if it was kept.
    pub fn lines(&self) -> &[Line] {
        self.lines.as_deref().unwrap_or_default()
    }

    /// Where two runs part, if they do.
    pub fn first_difference(&self, other: &Trace) -> Option<usize> {
        let (one, two) = (self.checkpoints.as_deref()?, other.checkpoints.as_deref()?);
        let differ = one.iter().zip(two).position(|(a, b)| a != b);
        differ.or((one.len() != two.len()).then_some(one.len().min(two.len())))
    }

    /// How something came to its state: every line that names `id`, which is written as in the
    /// trace (`p1.2/7` for a task, `p1.2/7#0` for an object, `p1.2` for a process).
    pub fn story<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Line> {
        self.lines().iter().filter(move |line| names(line, id))
    }
}

fn names(line: &Line, id: &str) -> bool {
    format!("{:?}", line.process) == id
        || line.text.match_indices(id).any(|(at, found)| {
            let rest = line.text[at + found.len()..].chars().next();
            let before = line.text[..at].chars().next_back();
            !rest.is_some_and(|c| c.is_ascii_digit()) && !before.is_some_and(|c| c.is_alphanumeric())
        })
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Line { at, process, kind, text } = self;
        let micros = at.0 / 1_000;
        write!(
            f,
            "{:>6}.{:06}  {:<8} {kind} {text}",
            micros / 1_000_000,
            micros % 1_000_000,
            format!("{process:?}")
        )
    }
}
