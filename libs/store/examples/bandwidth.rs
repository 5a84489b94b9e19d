//! How fast objects get into and out of shared memory here, for each backing, beside the machine's
//! own limit.
//!
//! ```text
//! cargo run --release -p shoal-store --example bandwidth
//! ```
//!
//! Every figure is the best of several rounds, in GB (10^9 bytes) per second, followed by its ratio
//! to a warm memory-to-memory copy of the same size in the same run.

use std::hint::black_box;
use std::time::Instant;

use shoal_store::{Backing, CHUNK, FIRST_OFFSET, ReadMapping, Segment, StoreError, WriteMapping, copy};

const BYTES: usize = 128 << 20;
const ROUNDS: usize = 5;
/// Objects of the second part.
const OBJECT_SIZES: [usize; 4] = [128 << 10, 1 << 20, 8 << 20, 64 << 20];

fn main() -> Result<(), StoreError> {
    let source = vec![7_u8; BYTES];
    touch_guest_memory();
    let limit = heap_copy(&source);
    println!(
        "machine: memcpy {limit:.1} GB/s, one object of {} MiB, warm memory to warm memory",
        BYTES >> 20
    );
    println!();
    for backing in [Backing::HugeTmpfs, Backing::Memfd] {
        match Segment::create(FIRST_OFFSET + 2 * BYTES as u64, backing) {
            Ok(segment) => measure(&segment, backing, &source, limit)?,
            Err(error) => println!("{backing:?}: not here: {error}\n"),
        }
    }
    Ok(())
}

/// In a virtual machine the first touch of memory may cost the host a page fault, too. That is no
/// property of a backing, so it is paid before the first figure.
fn touch_guest_memory() {
    drop(black_box(vec![1_u8; 6 * BYTES]));
}

fn heap_copy(source: &[u8]) -> f64 {
    let mut destination = vec![1_u8; source.len()];
    best(source.len(), || {
        // SAFETY: the destination is as long as the source.
        unsafe { copy::copy_cached(destination.as_mut_ptr(), source) };
        black_box(&destination);
    })
}

/// The best rate of some rounds, in GB/s.
fn best(bytes: usize, mut round: impl FnMut()) -> f64 {
    (0..ROUNDS).map(|_| rate(bytes, &mut round)).fold(0.0, f64::max)
}

fn rate(bytes: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    bytes as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn measure(segment: &Segment, backing: Backing, source: &[u8], limit: f64) -> Result<(), StoreError> {
    println!("{backing:?}, huge pages: {}", segment.huge_pages());
    let mapping = WriteMapping::new(segment)?;
    measure_cold(segment, &mapping, source, limit)?;
    mapping.reserve(FIRST_OFFSET, BYTES as u64)?;
    measure_warm(segment, &mapping, source, limit)?;
    let residency = mapping.residency()?;
    let (huge, all) = (residency.huge_bytes >> 20, residency.bytes >> 20);
    println!("  mapped by huge pages: {huge} of {all} MiB");
    measure_objects(&mapping, source)?;
    let calls = 1_000_000;
    let start = Instant::now();
    for _ in 0..calls {
        mapping.reserve(black_box(FIRST_OFFSET + CHUNK / 2), 1 << 20)?;
    }
    let each = start.elapsed().as_nanos() as f64 / f64::from(calls);
    println!("  reserve of 1 MiB that is backed: {each:.1} ns");
    println!();
    Ok(())
}

fn print(name: &str, rate: f64, limit: f64) {
    println!("  {name:58} {rate:8.2} GB/s {:8.2} x", rate / limit);
}

/// What happens the first time that memory is used.
fn measure_cold(
    segment: &Segment,
    mapping: &WriteMapping,
    source: &[u8],
    limit: f64,
) -> Result<(), StoreError> {
    let length = source.len() as u64;
    let mut best = [0_f64; 5];
    for _ in 0..ROUNDS {
        let cold = rate(BYTES, || write(mapping, FIRST_OFFSET, source));
        let release = rate(BYTES, || free(mapping, length));
        let reserve = rate(BYTES, || {
            mapping.reserve(FIRST_OFFSET, length).expect("there is memory");
        });
        let reserved = rate(BYTES, || write(mapping, FIRST_OFFSET, source));
        let other = WriteMapping::new(segment)?;
        let populate = rate(BYTES, || {
            other.populate(FIRST_OFFSET, length).expect("there is memory");
        });
        free(mapping, length);
        for (best, rate) in best.iter_mut().zip([cold, reserve, reserved, populate, release]) {
            *best = best.max(rate);
        }
    }
    let [cold, reserve, reserved, populate, release] = best;
    print("write, cold and not reserved", cold, limit);
    print("reserve: back a cold range and fault it in", reserve, limit);
    print("write, after reserve", reserved, limit);
    print("populate, of a range that another mapping backed", populate, limit);
    print("release", release, limit);
    Ok(())
}

/// What happens to memory that is backed.
fn measure_warm(
    segment: &Segment,
    mapping: &WriteMapping,
    source: &[u8],
    limit: f64,
) -> Result<(), StoreError> {
    let warm = best(BYTES, || write(mapping, FIRST_OFFSET, source));
    print("write, warm", warm, limit);
    let start = mapping.pointer(FIRST_OFFSET, source.len() as u64)?;
    // SAFETY: the range was checked, and nothing else uses it.
    let plain = best(BYTES, || unsafe { copy::copy_cached(start, source) });
    print("write, warm, memcpy instead", plain, limit);
    let fresh = best(BYTES, || {
        let fresh = WriteMapping::new(segment).expect("it was mapped before");
        write(&fresh, FIRST_OFFSET, source);
    });
    print("write, backed, through a new mapping", fresh, limit);
    let reader = ReadMapping::new(segment)?;
    print("read, through a new mapping", rate(BYTES, || sum(&reader)), limit);
    print("read, warm", best(BYTES, || sum(&reader)), limit);
    Ok(())
}

/// Many objects one after another into a warm range that no cache holds.
fn measure_objects(mapping: &WriteMapping, source: &[u8]) -> Result<(), StoreError> {
    let start = mapping.pointer(FIRST_OFFSET, source.len() as u64)?;
    let run = |copy: unsafe fn(*mut u8, &[u8]), size: usize| {
        best(BYTES, || {
            for (index, object) in source.chunks(size).enumerate() {
                // SAFETY: the range at `start` is as long as the source, and nothing else uses it.
                unsafe { copy(start.add(index * size), object) };
            }
        })
    };
    println!("  objects into a warm range of {} MiB; memcpy and streaming stores:", BYTES >> 20);
    for size in OBJECT_SIZES {
        let (cached, streaming) = (run(copy::copy_cached, size), run(copy::copy_streaming, size));
        println!("    {:6} KiB {cached:8.2} GB/s {streaming:8.2} GB/s", size >> 10);
    }
    Ok(())
}

fn write(mapping: &WriteMapping, offset: u64, source: &[u8]) {
    // SAFETY: this process alone uses the segment, and holds no slice of it now.
    unsafe { mapping.write_at(offset, &[source]) }.expect("the range is in the segment");
}

fn free(mapping: &WriteMapping, length: u64) {
    // SAFETY: this process alone uses the segment, and holds no slice of it now.
    unsafe { mapping.release(FIRST_OFFSET, length) }.expect("the range is in the segment");
}

fn sum(reader: &ReadMapping) {
    // SAFETY: nothing writes meanwhile.
    let bytes = unsafe { reader.slice(FIRST_OFFSET, BYTES as u64) }.expect("the range is in the segment");
    let words =
        bytes.chunks_exact(8).map(|word| word.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte)));
    black_box(words.fold(0, u64::wrapping_add));
}
