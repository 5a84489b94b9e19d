//! Equal states have equal fingerprints, whenever they are reached.
//!
//! A machine is what it prints with `Debug`: every table of it derives that, maps with a defined order
//! print in that order, and hash maps in the order of their buckets, which may tell equal maps apart
//! (that costs states) but never takes different ones for equal. Times print as `Time(nanoseconds)`;
//! they count relative to the machine's clock, so that a state which comes again later is the same.

use std::fmt::{Debug, Write};
use std::hash::{DefaultHasher, Hasher};

use shoal_core::Time;

const TIME: &[u8] = b"Time(";

/// Prints into a buffer that is kept.
#[derive(Default)]
pub struct Printer {
    text: String,
}

impl Printer {
    /// The fingerprint of a value that belongs to somebody whose clock says `now`.
    pub fn fingerprint(&mut self, value: &dyn Debug, now: Time) -> u64 {
        self.text.clear();
        // Writing to a string does not fail, and no `Debug` of ours does.
        let _ = write!(self.text, "{value:?}");
        let bytes = self.text.as_bytes();
        let mut hasher = DefaultHasher::new();
        let mut rest = 0;
        let mut at = 0;
        while let Some(found) = find(&bytes[at..], TIME) {
            let start = at + found;
            at = start + TIME.len();
            let whole_word = start == 0 || !is_of_a_word(bytes[start - 1]);
            let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let Some(nanoseconds) = self.text.get(at..at + digits).and_then(|text| text.parse::<u64>().ok())
            else {
                continue;
            };
            if whole_word {
                hasher.write(&bytes[rest..at]);
                hasher.write_i128(i128::from(nanoseconds) - i128::from(now.0));
                at += digits;
                rest = at;
            }
        }
        hasher.write(&bytes[rest..]);
        hasher.finish()
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn is_of_a_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::Span;

    #[derive(Debug)]
    #[expect(dead_code, reason = "only what they print counts")]
    struct Machine {
        name: &'static str,
        due: Option<Time>,
        pause: Span,
    }

    #[test]
    fn times_count_from_now_and_nothing_else_is_left_out() {
        let mut printer = Printer::default();
        let mut of = |name, due: Option<u64>, pause, now| {
            let machine = Machine { name, due: due.map(Time), pause: Span(pause) };
            printer.fingerprint(&machine, Time(now))
        };
        let first = of("a", Some(30), 5, 10);
        assert_eq!(of("a", Some(50), 5, 30), first);
        for other in [
            of("a", Some(50), 5, 10),
            of("a", None, 5, 10),
            of("b", Some(30), 5, 10),
            of("a", Some(30), 6, 10),
            of("MyTime(7)", Some(30), 5, 10),
        ] {
            assert_ne!(other, first);
        }
        assert_ne!(of("MyTime(7)", None, 5, 0), of("MyTime(8)", None, 5, 1), "not a time of ours");
    }
}
