//! What a head finds in etcd: rows that heads have written come back as they were, and what is none of
//! theirs is refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use shoal_core::head::{Key, Row};
use shoal_core::wire;
use shoal_state::fuzz::{PART_BYTES_MAX, PREFIX, Rows};

use crate::Log;
use crate::entropy::Entropy;
use crate::generate::generate;
use crate::tree::Dictionary;

/// The first byte says which of the two.
pub fn run(bytes: &[u8], log: Log<'_>) {
    let mut entropy = Entropy::new(bytes);
    match entropy.chance(128) {
        true => written(&mut entropy, log),
        false => found(&mut entropy, log),
    }
}

/// Heads write, and others read what they have written.
fn written(entropy: &mut Entropy<'_>, log: Log<'_>) {
    let mut rows = Rows::found(BTreeMap::new());
    let mut model: BTreeMap<Key, Row> = BTreeMap::new();
    let mut keys: Vec<Key> = Vec::new();
    while !entropy.is_spent() {
        let mut changes = Vec::new();
        for _ in 0..1 + entropy.index(4) {
            let key = match keys.is_empty() || entropy.chance(128) {
                true => generate(entropy, &Dictionary::default()),
                false => keys[entropy.index(keys.len())].clone(),
            };
            changes.push((key, (!entropy.chance(60)).then(|| row(entropy))));
        }
        rows.write(&changes).expect("rows can be encoded");
        for (key, row) in changes {
            keys.push(key.clone());
            match row {
                Some(row) => drop(model.insert(key, row)),
                None => drop(model.remove(&key)),
            }
        }
        if entropy.chance(100) {
            // The head dies, and the next one knows what it reads.
            rows = Rows::found(rows.contents().clone());
            assert_eq!(encoded(rows.read()), encoded(Ok(model.clone().into_iter().collect())));
        }
    }
    log.line("rows:", &model);
    assert_eq!(encoded(rows.read()), encoded(Ok(model.into_iter().collect())));
}

/// Most are short; some lie below several keys.
fn row(entropy: &mut Entropy<'_>) -> Row {
    if !entropy.chance(8) {
        return generate(entropy, &Dictionary::default());
    }
    let parts = 1 + entropy.index(3);
    let length = parts * PART_BYTES_MAX + entropy.index(16) - 8;
    Row::Value(Bytes::from(vec![entropy.byte(); length]))
}

/// Rows as bytes: what is no number is not equal to itself.
fn encoded(rows: Result<Vec<(Key, Row)>, String>) -> Vec<u8> {
    wire::encode(&rows.expect("what heads have written is readable")).expect("rows can be encoded")
}

/// Keys and values that nobody, or a head and somebody else, has written.
fn found(entropy: &mut Entropy<'_>, log: Log<'_>) {
    let mut contents: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    while !entropy.is_spent() {
        let (key, row): (Key, Row) = generate(entropy, &Dictionary::default());
        let name = wire::encode(&key).expect("a key can be encoded");
        let mut name: Vec<u8> = name.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect();
        let mut value = wire::encode(&row).expect("a row can be encoded");
        change(entropy, &mut name);
        change(entropy, &mut value);
        let part = entropy.pick(&["00000000", "00000000", "00000000", "00000001", "0", ""]);
        let key = [PREFIX.as_bytes(), &name, b".", part.as_bytes()].concat();
        contents.insert(key, value);
    }
    let mut rows = Rows::found(contents);
    let read = match rows.read() {
        Ok(read) => read,
        Err(error) => return log.line("refused:", &error),
    };
    log.line("rows:", &read);
    assert!(read.is_sorted_by(|(one, _), (other, _)| one < other), "each row is there once");
    // A head can delete what it has read.
    let changes = read.into_iter().map(|(key, _)| (key, None)).collect();
    rows.write(&changes).expect("keys can be encoded");
    assert!(rows.contents().is_empty(), "it stays: {:?}", rows.contents());
}

fn change(entropy: &mut Entropy<'_>, bytes: &mut Vec<u8>) {
    if bytes.is_empty() || !entropy.chance(60) {
        return;
    }
    let at = entropy.index(bytes.len());
    match entropy.byte() % 4 {
        0 => bytes[at] ^= entropy.byte(),
        1 => bytes[at] = entropy.pick(b"+-0aAfF.\xfb"),
        2 => bytes.truncate(at),
        _ => drop(bytes.splice(at..at, entropy.take(9).iter().copied())),
    }
}
