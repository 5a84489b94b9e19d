use std::io;

use crate::StoreError;

/// Pages of a mapping that this process has touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residency {
    /// Bytes mapped.
    pub bytes: u64,
    /// Bytes of these that are mapped by huge pages.
    pub huge_bytes: u64,
}

impl Residency {
    /// The kernel's account of the mapping at this address, from `/proc/self/smaps`.
    pub(crate) fn of(start: *const u8) -> Result<Residency, StoreError> {
        let failed = |source| StoreError::System { operation: "reading /proc/self/smaps", source };
        let smaps = std::fs::read_to_string("/proc/self/smaps").map_err(failed)?;
        let heading = format!("{:x}-", start as usize);
        let bytes = |name: &str| {
            let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&heading));
            let value = lines.find_map(|line| line.strip_prefix(name))?;
            let kilobytes: u64 = value.split_whitespace().next()?.parse().ok()?;
            Some(kilobytes << 10)
        };
        match (bytes("Rss:"), bytes("ShmemPmdMapped:")) {
            (Some(bytes), Some(huge_bytes)) => Ok(Residency { bytes, huge_bytes }),
            _ => Err(failed(io::ErrorKind::NotFound.into())),
        }
    }
}
