//! The wire codec: of everything that travels, and of everything that traces and logs keep.

use core::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_core::message::Message;
use shoal_core::wire::WireError;
use shoal_core::{head, node, owner, wire};
use shoal_runtime::control::Control;
use shoal_runtime::daemon::fuzz::{Greeting, Reply};

use crate::Log;
use crate::entropy::Entropy;
use crate::generate::generate;
use crate::tree::Dictionary;

/// One byte says which type, and whether the rest is an encoding or the choices of a value.
pub fn run(bytes: &[u8], log: Log<'_>) {
    let mut entropy = Entropy::new(bytes);
    let which = entropy.byte();
    let check = match which % 12 {
        0 => both::<head::Input>,
        1 => both::<node::Input>,
        2 => both::<owner::Input>,
        3 => both::<head::Effect>,
        4 => both::<node::Effect>,
        5 => both::<owner::Effect>,
        6 => both::<Control>,
        7 => both::<(head::Key, head::Row)>,
        8 => both::<Greeting>,
        9 => both::<Reply>,
        _ => both::<Message>,
    };
    check(which >= 128, entropy, log);
}

/// What is announced costs nothing before it has come. An element of one byte may become a large value, and
/// of a list that is announced serde makes room for a megabyte.
fn within_bounds<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let mut decoded = None;
    let taken = allocation_counter::measure(|| decoded = Some(wire::decode(bytes)));
    let bound = bytes.len() as u64 * 1_024 + (8 << 20);
    assert!(taken.bytes_max <= bound, "{} bytes for {}", taken.bytes_max, bytes.len());
    decoded.expect("it was decoded just now")
}

fn both<T: Serialize + DeserializeOwned + Debug>(drawn: bool, mut entropy: Entropy<'_>, log: Log<'_>) {
    let value = match drawn {
        true => generate(&mut entropy, &Dictionary::default()),
        false => match within_bounds::<T>(entropy.rest()) {
            Ok(value) => value,
            Err(error) => return log.line("refused:", &error),
        },
    };
    log.line("value:", &value);
    // What was decoded says the same when it is encoded, and decoded again. Integers have longer
    // encodings than needed, so the bytes may differ the first time.
    let encoded = wire::encode(&value).expect("what was decoded can be encoded");
    let again: T = wire::decode(&encoded).expect("what was encoded can be decoded");
    let encoded_again = wire::encode(&again).expect("what was decoded can be encoded");
    assert_eq!(encoded, encoded_again, "{value:?} became {again:?}");
}
