//! Rows as keys and values of etcd, and writes as transactions that etcd takes.

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use shoal_core::head::{Key, Row};
use shoal_core::wire::{self, WireError};

use super::rpc::{DeleteRangeRequest, Operation, PutRequest, Request};
use crate::Changes;

/// Etcd takes 128 operations in one transaction, unless it was set up otherwise.
pub(super) const OPERATIONS_MAX: usize = 100;
/// Etcd takes 1.5 MiB in one request, unless it was set up otherwise.
pub(super) const REQUEST_BYTES_MAX: usize = 1 << 20;
/// A row that is longer is kept in parts.
pub(super) const PART_BYTES_MAX: usize = 512 << 10;

/// How rows lie below a prefix of keys, and how many parts the long ones have.
#[derive(Debug)]
pub(super) struct Layout {
    prefix: Vec<u8>,
    /// Only rows of more than one part.
    parts: HashMap<Vec<u8>, usize>,
}

impl Layout {
    pub(super) fn new(prefix: Vec<u8>) -> Layout {
        Layout { prefix, parts: HashMap::new() }
    }

    /// All keys of rows.
    pub(super) fn range(&self) -> (Vec<u8>, Vec<u8>) {
        (self.prefix.clone(), after(&self.prefix))
    }

    /// What makes these changes.
    pub(super) fn operations(&mut self, changes: &Changes) -> Result<Vec<Operation>, WireError> {
        let mut operations = Vec::new();
        for (key, row) in changes {
            let name = self.name(key)?;
            let bytes = row.as_ref().map(wire::encode).transpose()?;
            let parts: Vec<&[u8]> = match &bytes {
                Some(bytes) if bytes.is_empty() => vec![&[]],
                Some(bytes) => bytes.chunks(PART_BYTES_MAX).collect(),
                None => Vec::new(),
            };
            let before = self.parts.remove(&name).unwrap_or(1);
            for (index, part) in parts.iter().enumerate() {
                let (key, value) = (self.key(&name, index), part.to_vec());
                operations.push(PutRequest { key, value, lease: 0 }.into());
            }
            if before > parts.len() {
                let (key, range_end) = (self.key(&name, parts.len()), self.key(&name, before));
                operations.push(DeleteRangeRequest { key, range_end }.into());
            }
            if parts.len() > 1 {
                self.parts.insert(name, parts.len());
            }
        }
        Ok(operations)
    }

    /// The rows that were found, in the order of keys; an error says what is wrong with them.
    pub(super) fn rows(&mut self, found: BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<(Key, Row)>, String> {
        let mut whole: BTreeMap<Vec<u8>, (usize, Vec<u8>)> = BTreeMap::new();
        for (key, value) in found {
            let name = key.strip_prefix(&self.prefix[..]).ok_or("a key of something else")?;
            let dot = name.iter().position(|letter| *letter == b'.').ok_or("a key without its part")?;
            let (name, part) = (&name[..dot], &name[dot + 1..]);
            let (parts, bytes) = whole.entry(name.to_vec()).or_default();
            if part != part_name(*parts).as_bytes() {
                return Err(format!("part {parts} of a row is missing"));
            }
            *parts += 1;
            bytes.extend_from_slice(&value);
        }
        let mut rows = Vec::new();
        for (name, (parts, bytes)) in whole {
            let key = from_hexadecimal(&name).ok_or("a key that nobody wrote")?;
            let key: Key = wire::decode(&key).map_err(|error| error.to_string())?;
            // Another name of the same key would be a row that no head can change any more.
            if self.name(&key).map_err(|error| error.to_string())? != name {
                return Err(String::from("a key that nobody wrote"));
            }
            let row = wire::decode(&bytes).map_err(|error| error.to_string())?;
            rows.push((key, row));
            if parts > 1 {
                self.parts.insert(name, parts);
            }
        }
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(rows)
    }

    fn name(&self, key: &Key) -> Result<Vec<u8>, WireError> {
        Ok(hexadecimal(&wire::encode(key)?))
    }

    fn key(&self, name: &[u8], part: usize) -> Vec<u8> {
        [&self.prefix[..], name, b".", part_name(part).as_bytes()].concat()
    }
}

fn part_name(part: usize) -> String {
    format!("{part:08}")
}

/// The key after all that begin with this one.
pub(super) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    // What ends in 0xff carries over; names of ours do not.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The operations in groups that fit into one transaction each.
pub(super) fn transactions(operations: Vec<Operation>) -> Vec<Vec<Operation>> {
    let mut groups: Vec<Vec<Operation>> = Vec::new();
    let mut bytes = 0;
    for operation in operations {
        let size = operation.encoded_len() + 16;
        let fits = bytes + size <= REQUEST_BYTES_MAX;
        match groups.last_mut() {
            Some(group) if fits && group.len() < OPERATIONS_MAX => group.push(operation),
            _ => {
                groups.push(vec![operation]);
                bytes = 0;
            }
        }
        bytes += size;
    }
    groups
}

/// Do to these keys and values what an operation says.
pub(super) fn apply(operation: Operation, contents: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    match operation.request {
        Some(Request::Put(put)) => drop(contents.insert(put.key, put.value)),
        Some(Request::Delete(delete)) => {
            contents.retain(|key, _| *key < delete.key || *key >= delete.range_end);
        }
        Some(Request::Range(_)) | None => {}
    }
}

fn hexadecimal(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

fn from_hexadecimal(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii() && text.len() % 2 == 0)?;
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn value(name: &str, size: usize) -> (Key, Option<Row>) {
        (Key::Value(String::from(name)), Some(Row::Value(Bytes::from(vec![7; size]))))
    }

    fn done(changes: &[Changes]) -> (Layout, BTreeMap<Vec<u8>, Vec<u8>>) {
        let (mut layout, mut contents) = (Layout::new(b"p/rows/".to_vec()), BTreeMap::new());
        for changes in changes {
            for operation in layout.operations(changes).expect("encodable") {
                apply(operation, &mut contents);
            }
        }
        (layout, contents)
    }

    #[test]
    fn long_rows_are_kept_in_parts_and_nothing_of_them_stays() {
        let long = 2 * PART_BYTES_MAX + 5;
        let first = vec![value("a", long), value("b", 3), value("", long)];
        let second = vec![value("a", 10), (Key::Value(String::new()), None), value("c", PART_BYTES_MAX * 2)];
        let (_, contents) = done(std::slice::from_ref(&first));
        assert_eq!(contents.len(), 7);
        let (mut layout, contents) = done(&[first, second]);
        assert_eq!(contents.len(), 1 + 1 + 3, "a, b, and what is a little longer than two parts");
        let expected = [value("a", 10), value("b", 3), value("c", PART_BYTES_MAX * 2)];
        let expected = expected.map(|(key, row)| (key, row.expect("a value")));
        assert_eq!(layout.rows(contents.clone()).as_deref(), Ok(&expected[..]));
        // Who reads it knows of the parts, too.
        let mut reader = Layout::new(b"p/rows/".to_vec());
        reader.rows(contents.clone()).expect("readable");
        assert_eq!(reader.parts, layout.parts);
        let mut contents = contents;
        for operation in reader.operations(&vec![value("c", 1)]).expect("encodable") {
            apply(operation, &mut contents);
        }
        assert_eq!(contents.len(), 3);
    }

    #[test]
    fn what_is_damaged_is_not_taken_for_rows() {
        let (mut layout, contents) = done(&[vec![value("a", PART_BYTES_MAX + 1)]]);
        let keys: Vec<Vec<u8>> = contents.keys().cloned().collect();
        assert_eq!(keys.len(), 2);
        let without = |key: &[u8]| {
            contents
                .iter()
                .filter(|(at, _)| *at != key)
                .map(|(at, value)| (at.clone(), value.clone()))
                .collect()
        };
        assert!(layout.rows(without(&keys[0])).is_err(), "the first part is missing");
        assert!(layout.rows(without(&keys[1])).is_err(), "the last part is missing");
        let meta = wire::encode(&Row::UnmadeGroup).expect("encodable");
        let right = BTreeMap::from([(Vec::from("p/rows/00.00000000"), meta.clone())]);
        assert!(layout.rows(right).is_ok());
        for key in [
            "p/rows/0",
            "p/rows/zz.00000000",
            "p/rows/é.00000000",
            "p/rows/+0.00000000",
            "p/rows/fb0000.00000000",
            "q",
        ] {
            let stranger = BTreeMap::from([(key.as_bytes().to_vec(), meta.clone())]);
            assert!(layout.rows(stranger).is_err(), "{key}");
        }
    }

    #[test]
    fn transactions_are_within_the_limits() {
        let rows: Changes = (0..350).map(|number| value(&number.to_string(), 10)).collect();
        let long: Changes = (0..5).map(|number| value(&number.to_string(), 400 << 10)).collect();
        for (changes, count) in [(rows, 4), (long, 3)] {
            let operations = Layout::new(Vec::new()).operations(&changes).expect("encodable");
            let groups = transactions(operations.clone());
            assert_eq!(groups.len(), count);
            assert!(groups.iter().all(|group| group.len() <= OPERATIONS_MAX));
            let size = |group: &Vec<Operation>| group.iter().map(Operation::encoded_len).sum::<usize>();
            assert!(groups.iter().all(|group| size(group) <= REQUEST_BYTES_MAX));
            assert_eq!(groups.concat(), operations);
        }
    }
}
