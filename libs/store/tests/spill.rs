//! Spill files on a real file system: round trips, damage, full disks.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FallocateFlags;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use shoal_store::{SpillDirectory, SpillUsage, SpilledObject, StoreError};

/// A directory that goes when the test ends, also by a panic.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Scratch(std::env::temp_dir().join(format!("shoal-spill-test-{}-{number}", std::process::id())))
    }

    fn open(&self) -> SpillDirectory {
        SpillDirectory::open(&self.0, 1.0).expect("the directory for temporary files is writable")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn files(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path).expect("the directory exists").map(|entry| entry.expect("readable").path()).collect()
}

fn bytes(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|index| ((index + seed) * (index + 7) % 251) as u8).collect()
}

fn restore(spill: &SpillDirectory, object: SpilledObject) -> Result<Vec<u8>, StoreError> {
    let mut restored = vec![0xEE; object.length as usize];
    spill.restore(object, &mut restored).map(|()| restored)
}

#[test]
fn objects_fused_into_one_file_come_back_and_the_file_goes_with_the_last() {
    let scratch = Scratch::new();
    let spill = scratch.open();
    let contents = [bytes(1, 1), bytes(0, 0), bytes(4096, 2), bytes(3 << 20, 3), bytes(100_001, 4)];
    let slices: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let objects = spill.write(&slices).unwrap();
    assert_eq!(files(&scratch.0).len(), 1);
    let total = contents.iter().map(Vec::len).sum::<usize>() as u64;
    assert_eq!(spill.usage(), SpillUsage { files: 1, objects: 5, bytes: total });
    for (object, content) in objects.iter().zip(&contents) {
        assert!(restore(&spill, *object).unwrap() == *content, "{object:?}");
    }
    let other = spill.write(&[b"other"]).unwrap()[0];
    assert_ne!(other.file, objects[0].file);

    for (index, object) in objects.iter().enumerate() {
        assert_eq!(files(&scratch.0).len(), 2);
        spill.delete(*object).unwrap();
        assert!(matches!(restore(&spill, *object), Err(StoreError::NotSpilled { .. })));
        assert!(matches!(spill.delete(*object), Err(StoreError::NotSpilled { .. })));
        for (object, content) in objects.iter().zip(&contents).skip(index + 1) {
            assert!(restore(&spill, *object).unwrap() == *content, "{object:?}");
        }
    }
    assert_eq!(spill.usage(), SpillUsage { files: 1, objects: 1, bytes: 5 });
    assert_eq!(files(&scratch.0).len(), 1);
    drop(spill);
    assert!(files(&scratch.0).is_empty());
}

/// Whether the file system can free a part of a file.
fn can_punch(directory: &Path) -> bool {
    let file = fs::File::create(directory.join("probe")).expect("the directory is writable");
    file.write_all_at(&[1; 8192], 0).expect("there is space");
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched = rustix::fs::fallocate(&file, flags, 0, 4096);
    punched.inspect_err(|error| println!("skipped: no holes in files here: {error}")).is_ok()
}

#[test]
fn deleting_an_object_frees_its_blocks_at_once() {
    let scratch = Scratch::new();
    let spill = scratch.open();
    let large = bytes(2 << 20, 5);
    let objects = spill.write(&[&large, b"small"]).unwrap();
    let blocks = |file: &Path| fs::metadata(file).unwrap().blocks() * 512;
    let file = files(&scratch.0).remove(0);
    assert!(blocks(&file) >= 2 << 20);
    spill.delete(objects[0]).unwrap();
    if can_punch(&scratch.0) {
        assert!(blocks(&file) < 1 << 20);
    }
    assert_eq!(restore(&spill, objects[1]).unwrap(), b"small");
}

#[test]
fn damage_is_told_apart_and_hits_only_the_damaged_object() {
    let scratch = Scratch::new();
    let spill = scratch.open();
    let objects = spill.write(&[&bytes(5000, 1), &bytes(5000, 2), &bytes(5000, 3)]).unwrap();
    let path = files(&scratch.0).remove(0);
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();

    let mut byte = [0];
    let position = objects[1].offset + 4321;
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], position).unwrap();
    match restore(&spill, objects[1]).unwrap_err() {
        StoreError::SpillCorrupt { path: named, offset, expected, found } => {
            assert_eq!((named, offset), (path.clone(), objects[1].offset));
            assert_ne!(expected, found);
        }
        other => panic!("{other}"),
    }
    assert_eq!(restore(&spill, objects[0]).unwrap(), bytes(5000, 1));

    file.set_len(objects[2].offset + 1234).unwrap();
    let torn = restore(&spill, objects[2]).unwrap_err();
    assert!(matches!(torn, StoreError::SpillTorn { expected: 5000, found: 1234, .. }), "{torn}");
    assert_eq!(restore(&spill, objects[0]).unwrap(), bytes(5000, 1));

    fs::remove_file(&path).unwrap();
    assert!(
        matches!(restore(&spill, objects[0]), Err(StoreError::SpillMissing { path: named }) if named == path)
    );
    for object in objects {
        spill.delete(object).unwrap();
    }
    assert_eq!(spill.usage(), SpillUsage::default());
}

#[test]
fn a_destination_of_the_wrong_size_is_refused() {
    let scratch = Scratch::new();
    let spill = scratch.open();
    let object = spill.write(&[b"12345"]).unwrap()[0];
    for given in [4, 6] {
        let error = spill.restore(object, &mut vec![0; given]).unwrap_err();
        assert!(
            matches!(error, StoreError::WrongLength { expected: 5, given: wrong } if wrong == given as u64)
        );
    }
    assert!(spill.write(&[]).unwrap().is_empty());
    assert_eq!(files(&scratch.0).len(), 1);
}

#[test]
fn a_directory_has_one_user_and_what_a_dead_one_left_is_removed() {
    let scratch = Scratch::new();
    fs::create_dir(&scratch.0).unwrap();
    fs::write(scratch.0.join("9.spill"), "left over").unwrap();
    fs::write(scratch.0.join("notes.txt"), "not ours").unwrap();
    let spill = scratch.open();
    assert_eq!(files(&scratch.0), [scratch.0.join("notes.txt")]);
    assert!(matches!(SpillDirectory::open(&scratch.0, 1.0), Err(StoreError::SpillDirectoryInUse { .. })));
    let object = spill.write(&[b"private"]).unwrap()[0];
    let mode = fs::metadata(scratch.0.join(format!("{}.spill", object.file))).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(spill);
    scratch.open();
    for limit in [0.0, -1.0, 1.01, f64::NAN] {
        assert!(matches!(SpillDirectory::open(&scratch.0, limit), Err(StoreError::InvalidSpillLimit { .. })));
    }
}

#[test]
fn threads_write_restore_and_delete_at_once() {
    let scratch = Scratch::new();
    let spill = scratch.open();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let spill = &spill;
            scope.spawn(move || {
                for round in 0..20 {
                    let content = bytes(10_000 + round, thread * 100 + round);
                    let objects = spill.write(&[&content, &content[..500]]).unwrap();
                    assert!(restore(spill, objects[0]).unwrap() == content);
                    spill.delete(objects[0]).unwrap();
                    assert!(restore(spill, objects[1]).unwrap() == content[..500]);
                    spill.delete(objects[1]).unwrap();
                }
            });
        }
    });
    assert_eq!(spill.usage(), SpillUsage::default());
    assert!(files(&scratch.0).is_empty());
}

/// A small disk: a tmpfs that is attached nowhere and is reached through its descriptor. Needs the
/// right to mount.
struct SmallDisk(OwnedFd);

impl SmallDisk {
    fn new(options: &[(&str, &str)]) -> Option<SmallDisk> {
        let mount = || {
            let filesystem = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
            for (name, value) in options {
                fsconfig_set_string(filesystem.as_fd(), *name, *value)?;
            }
            fsconfig_create(filesystem.as_fd())?;
            fsmount(filesystem.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        };
        mount()
            .inspect_err(|error| println!("skipped: no right to mount a small disk: {error}"))
            .ok()
            .map(SmallDisk)
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/spill", self.0.as_raw_fd()).into()
    }
}

#[test]
fn a_full_disk_is_an_error_before_anything_is_written() {
    let Some(disk) = SmallDisk::new(&[("size", "8m")]) else {
        return;
    };
    let spill = SpillDirectory::open(disk.path(), 0.75).unwrap();
    let before = spill.available().unwrap();
    assert!((5 << 20..=6 << 20).contains(&before), "{before}");
    let object = spill.write(&[&bytes(4 << 20, 1)]).unwrap()[0];
    match spill.write(&[&bytes(1 << 20, 2), &bytes(2 << 20, 3)]).unwrap_err() {
        StoreError::OutOfDisk { path, needed, available } => {
            assert_eq!((path, needed), (disk.path(), 3 << 20));
            assert!(available < needed && available == spill.available().unwrap());
        }
        other => panic!("{other}"),
    }
    assert_eq!(files(&disk.path()).len(), 1);
    spill.delete(object).unwrap();
    assert_eq!(spill.available().unwrap(), before);
    spill.write(&[&bytes(1 << 20, 2), &bytes(2 << 20, 3)]).unwrap();
}

#[test]
fn a_disk_that_fills_up_after_the_check_is_the_same_error_and_leaves_no_file() {
    // Room for bytes, but for one file besides the two directories.
    let Some(disk) = SmallDisk::new(&[("size", "8m"), ("nr_inodes", "3")]) else {
        return;
    };
    let spill = SpillDirectory::open(disk.path(), 1.0).unwrap();
    let first = spill.write(&[b"first"]).unwrap()[0];
    let error = spill.write(&[b"second"]).unwrap_err();
    assert!(matches!(error, StoreError::OutOfDisk { needed: 4096, .. }), "{error}");
    assert_eq!(spill.usage().files, 1);
    spill.delete(first).unwrap();
    assert!(files(&disk.path()).is_empty());
    spill.write(&[b"third"]).unwrap();
}
