//! Spilled objects whose files were damaged: an object comes back as it was, or not at all.

use std::cell::RefCell;
use std::path::PathBuf;

use shoal_store::{SpillDirectory, SpilledObject};

use crate::Log;
use crate::entropy::Entropy;

/// A directory of this thread, which goes with it.
struct Scratch {
    spill: SpillDirectory,
    path: PathBuf,
}

impl Scratch {
    fn new() -> Scratch {
        let name = format!("shoal-fuzz-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name.replace(['(', ')'], "-"));
        let spill = SpillDirectory::open(&path, 1.0).expect("the temporary directory can be written");
        Scratch { spill, path }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// Write some objects, damage the files, ask for objects that are there and for others.
pub fn run(bytes: &[u8], log: Log<'_>) {
    SCRATCH.with_borrow(|scratch| {
        let mut entropy = Entropy::new(bytes);
        let mut written: Vec<(SpilledObject, Vec<u8>)> = Vec::new();
        while !entropy.is_spent() {
            match entropy.byte() % 6 {
                0 | 1 => write(&scratch.spill, &mut entropy, &mut written),
                2 => damage(scratch, &mut entropy, &written, log),
                3 => stranger(&scratch.spill, &mut entropy),
                4 if !written.is_empty() => {
                    let (object, _) = written.swap_remove(entropy.index(written.len()));
                    // Its file may be gone, and then nothing is left to delete.
                    let _ = scratch.spill.delete(object);
                    assert!(scratch.spill.delete(object).is_err(), "{object:?} was deleted twice");
                }
                _ => written.iter().for_each(|object| restore(&scratch.spill, object, log)),
            }
        }
        for (object, _) in written {
            let _ = scratch.spill.delete(object);
        }
        let usage = scratch.spill.usage();
        assert_eq!((usage.files, usage.objects, usage.bytes), (0, 0, 0));
    });
}

fn write(spill: &SpillDirectory, entropy: &mut Entropy<'_>, written: &mut Vec<(SpilledObject, Vec<u8>)>) {
    let mut objects: Vec<Vec<u8>> = Vec::new();
    for _ in 0..1 + entropy.index(3) {
        let length = entropy.pick(&[0, 1, 100, 4_095, 4_096, 4_097, 9_000]);
        let filler = entropy.byte();
        let mut object = Vec::from(entropy.take(16));
        object.resize(length, filler);
        objects.push(object);
    }
    let slices: Vec<&[u8]> = objects.iter().map(Vec::as_slice).collect();
    let places = spill.write(&slices).expect("a few pages can be written");
    written.extend(places.into_iter().zip(objects));
}

/// A flipped byte, a torn end, more bytes at the end, or no file at all.
fn damage(scratch: &Scratch, entropy: &mut Entropy<'_>, written: &[(SpilledObject, Vec<u8>)], log: Log<'_>) {
    if written.is_empty() {
        return;
    }
    let (object, _) = &written[entropy.index(written.len())];
    let path = scratch.path.join(format!("{}.spill", object.file));
    let Ok(mut contents) = std::fs::read(&path) else {
        return;
    };
    let at = entropy.index(contents.len().max(1));
    log.line("damage:", &(&path, at));
    match entropy.byte() % 4 {
        0 if at < contents.len() => contents[at] ^= entropy.byte(),
        1 => contents.truncate(at),
        2 => contents.extend_from_slice(entropy.take(9)),
        _ => return drop(std::fs::remove_file(path)),
    }
    std::fs::write(&path, contents).expect("a file of ours can be written");
}

fn restore(spill: &SpillDirectory, (object, contents): &(SpilledObject, Vec<u8>), log: Log<'_>) {
    let mut read = vec![0xee; contents.len()];
    match spill.restore(*object, &mut read) {
        Ok(()) => assert!(read == *contents, "{object:?} came back as something else"),
        Err(error) => log.line("refused:", &error),
    }
    let mut wrong = vec![0; contents.len() + 1];
    assert!(spill.restore(*object, &mut wrong).is_err(), "{object:?} is not so long");
}

/// A place that nobody was given.
fn stranger(spill: &SpillDirectory, entropy: &mut Entropy<'_>) {
    let object = SpilledObject { file: u64::MAX - 7, offset: entropy.integer() as u64, length: 8 };
    assert!(spill.restore(object, &mut [0; 8]).is_err());
    assert!(spill.delete(object).is_err());
}
