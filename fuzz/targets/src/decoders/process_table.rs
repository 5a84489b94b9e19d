//! The process table: several processes write into their slots, and the node reads them all.

use std::collections::BTreeMap;

use shoal_store::{Backing, ProcessTable, Segment, WriteMapping};

use crate::Log;
use crate::entropy::Entropy;

thread_local! {
    static MAPPING: WriteMapping = {
        let segment = Segment::create(16 << 20, Backing::Memfd).expect("a memory file can be made");
        WriteMapping::new(&segment).expect("a memory file can be mapped")
    };
}

/// Stores, loads and clearings of slots by arbitrary process numbers, compared with a map.
pub fn run(bytes: &[u8], log: Log<'_>) {
    MAPPING.with(|mapping| {
        let table = ProcessTable::new(mapping);
        let mut entropy = Entropy::new(bytes);
        let mut model: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        while !entropy.is_spent() {
            let process = entropy.integer() as u64;
            let place = process % ProcessTable::SLOTS;
            match entropy.byte() % 4 {
                0 => {
                    table.slot(process).clear();
                    model.remove(&place);
                }
                1 => assert_eq!(table.slot(process).load(), model.get(&place).copied()),
                _ => {
                    let (owner, number) = (entropy.integer() as u64, entropy.integer() as u64);
                    table.slot(process).store(owner, number);
                    model.insert(place, (owner, number));
                }
            }
        }
        log.line("table:", &model);
        for (place, expected) in &model {
            assert_eq!(table.slot(*place).load(), Some(*expected));
            table.slot(*place).clear();
        }
    });
}
