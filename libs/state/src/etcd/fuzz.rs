//! Rows as they lie in etcd, without an etcd: for the fuzzer, and for nobody else.

use std::collections::BTreeMap;

use shoal_core::head::{Key, Row};

use super::plan::{Layout, apply, transactions};
use crate::Changes;

/// What the keys of rows begin with here.
pub const PREFIX: &str = "fuzz/rows/";
/// A row that is longer lies below more than one key.
pub const PART_BYTES_MAX: usize = super::plan::PART_BYTES_MAX;

/// Keys and values, and what a head knows of them that has read or written them.
#[derive(Debug)]
pub struct Rows {
    layout: Layout,
    contents: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Rows {
    /// A head that finds these keys and values, and has not read them yet.
    pub fn found(contents: BTreeMap<Vec<u8>, Vec<u8>>) -> Rows {
        Rows { layout: Layout::new(Vec::from(PREFIX)), contents }
    }

    /// The keys and values that are there now.
    pub fn contents(&self) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.contents
    }

    /// The rows, in the order of their keys.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn read(&mut self) -> Result<Vec<(Key, Row)>, String> {
        self.layout.rows(self.contents.clone())
    }

    /// Make changes, as the transactions would that etcd is asked for.
    ///
    /// # Errors
    ///
    /// If a row cannot be encoded.
    pub fn write(&mut self, changes: &Changes) -> Result<(), String> {
        let operations = self.layout.operations(changes).map_err(|error| error.to_string())?;
        for operation in transactions(operations).into_iter().flatten() {
            apply(operation, &mut self.contents);
        }
        Ok(())
    }
}
