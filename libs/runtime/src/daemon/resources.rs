//! What this machine offers to tasks and actors, unless the user says otherwise.

use std::collections::BTreeMap;
use std::env;
use std::fs;

use shoal_core::resources::{Quantity, Resources};

use super::DaemonError;
use super::memory::Usage;

/// The part of the available memory that the object store may take.
const STORE_SHARE: f64 = 0.3;

/// A store below this size cannot hold the extents of a few processes.
const STORE_BYTES_MIN: u64 = 16 << 20;

/// The most a default store takes; a larger one has to be asked for.
const STORE_BYTES_DEFAULT_MAX: u64 = 200 << 30;

/// What the user wants the node to offer. `None` is: find out.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Logical CPUs.
    pub num_cpus: Option<f64>,
    /// Logical GPUs.
    pub num_gpus: Option<f64>,
    /// Bytes of memory that tasks and actors may ask for.
    pub memory: Option<u64>,
    /// Bytes of the object store.
    pub object_store_memory: Option<u64>,
    /// Resources by other names.
    pub resources: BTreeMap<String, f64>,
}

/// What the node offers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Offer {
    pub(crate) resources: Resources,
    pub(crate) store_bytes: u64,
}

/// What there is on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) cpus: u32,
    pub(crate) gpus: u32,
    pub(crate) memory: Usage,
}

impl Found {
    /// Look at this machine.
    pub(crate) fn here(memory: Usage) -> Found {
        // Counts the CPUs that this process may run on, and heeds the quota of its control group.
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        let visible = env::var("CUDA_VISIBLE_DEVICES").ok();
        Found { cpus, gpus: gpus(visible.as_deref(), present_gpus()), memory }
    }
}

/// Combine what there is with what the user wants.
pub(crate) fn offer(wanted: &Wanted, found: Found) -> Result<Offer, DaemonError> {
    let available = found.memory.available();
    let store_bytes = wanted.object_store_memory.unwrap_or_else(|| {
        let share = (available as f64 * STORE_SHARE) as u64;
        share.clamp(STORE_BYTES_MIN, STORE_BYTES_DEFAULT_MAX)
    });
    if store_bytes < STORE_BYTES_MIN {
        return Err(DaemonError::Options(format!(
            "the object store needs at least {STORE_BYTES_MIN} bytes, not {store_bytes}"
        )));
    }
    if store_bytes > found.memory.limit {
        return Err(DaemonError::Options(format!(
            "an object store of {store_bytes} bytes is larger than the machine's memory of {} bytes",
            found.memory.limit
        )));
    }
    let memory = wanted.memory.unwrap_or_else(|| available.saturating_sub(store_bytes));

    let mut resources = Resources::default();
    for (name, amount) in &wanted.resources {
        if matches!(name.as_str(), Resources::CPU | Resources::GPU | Resources::MEMORY | STORE) {
            return Err(DaemonError::Options(format!("the resource {name:?} has an option of its own")));
        }
        resources.set(name, amount_of(name, *amount)?);
    }
    let cpus = wanted.num_cpus.unwrap_or(f64::from(found.cpus));
    let gpus = wanted.num_gpus.unwrap_or(f64::from(found.gpus));
    resources.set(Resources::CPU, amount_of(Resources::CPU, cpus)?);
    resources.set(Resources::GPU, amount_of(Resources::GPU, gpus)?);
    resources.set(Resources::MEMORY, amount_of(Resources::MEMORY, memory as f64)?);
    resources.set(STORE, amount_of(STORE, store_bytes as f64)?);
    Ok(Offer { resources, store_bytes })
}

/// The object store's name among the resources (bytes); for lists, nothing asks for it.
const STORE: &str = "object_store_memory";

fn amount_of(name: &str, amount: f64) -> Result<Quantity, DaemonError> {
    // Amounts are kept in ten-thousandths, and sums of them must not overflow.
    if (0.0..=1e14).contains(&amount) {
        Ok(Quantity::from_f64(amount))
    } else {
        Err(DaemonError::Options(format!("{amount} is no possible amount of {name:?}")))
    }
}

/// How many GPUs a process may use: those that the variable lists, or all that are there.
fn gpus(visible: Option<&str>, present: u32) -> u32 {
    match visible.map(str::trim) {
        None => present,
        Some("" | "-1" | "NoDevFiles") => 0,
        // The list ends at the first invalid entry, as CUDA reads it.
        Some(list) => list.split(',').take_while(|entry| !entry.trim().starts_with('-')).count() as u32,
    }
}

fn present_gpus() -> u32 {
    fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |entries| entries.count() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const FOUND: Found = Found { cpus: 8, gpus: 2, memory: Usage { limit: 20 * GIB, used: 10 * GIB } };

    #[test]
    fn the_machine_is_offered() {
        let offer = offer(&Wanted::default(), FOUND).expect("possible");
        assert_eq!(offer.store_bytes, 3 * GIB);
        assert_eq!(offer.resources.get("CPU").as_f64(), 8.0);
        assert_eq!(offer.resources.get("GPU").as_f64(), 2.0);
        assert_eq!(offer.resources.get("memory").as_f64(), (7 * GIB) as f64);
        assert_eq!(offer.resources.get("object_store_memory").as_f64(), (3 * GIB) as f64);
    }

    #[test]
    fn wishes_count() {
        let wanted = Wanted {
            num_cpus: Some(0.5),
            num_gpus: Some(0.0),
            memory: Some(5),
            object_store_memory: Some(GIB),
            resources: BTreeMap::from([(String::from("license"), 2.5)]),
        };
        let offer = offer(&wanted, FOUND).expect("possible");
        assert_eq!(offer.store_bytes, GIB);
        let amounts: Vec<_> =
            offer.resources.0.iter().map(|(name, amount)| (&**name, amount.as_f64())).collect();
        assert_eq!(
            amounts,
            [("CPU", 0.5), ("license", 2.5), ("memory", 5.0), ("object_store_memory", GIB as f64)]
        );
    }

    #[test]
    fn impossible_wishes_are_refused() {
        let refused = |wanted: Wanted| {
            let error = offer(&wanted, FOUND).expect_err("impossible");
            assert!(matches!(error, DaemonError::Options(_)), "{error}");
            error.to_string()
        };
        let store = |bytes| Wanted { object_store_memory: Some(bytes), ..Wanted::default() };
        let custom = |name: &str, amount| Wanted {
            resources: BTreeMap::from([(String::from(name), amount)]),
            ..Wanted::default()
        };
        assert!(refused(store(1)).contains("at least"));
        assert!(refused(store(21 * GIB)).contains("larger than the machine's memory"));
        assert!(refused(custom("CPU", 1.0)).contains("option of its own"));
        for amount in [-1.0, f64::NAN, f64::INFINITY, 1e15] {
            refused(custom("license", amount));
            refused(Wanted { num_cpus: Some(amount), ..Wanted::default() });
        }
    }

    #[test]
    fn gpus_are_those_that_are_visible() {
        assert_eq!(gpus(None, 4), 4);
        assert_eq!(gpus(Some(""), 4), 0);
        assert_eq!(gpus(Some("-1"), 4), 0);
        assert_eq!(gpus(Some("0"), 4), 1);
        assert_eq!(gpus(Some("2,3"), 4), 2);
        assert_eq!(gpus(Some("GPU-8932f937,GPU-8932f938"), 4), 2);
        assert_eq!(gpus(Some("0,-1,1"), 4), 1);
    }
}
