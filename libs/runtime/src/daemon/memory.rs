//! How much memory the machine, or the control group that the node lives in, has left.

use std::fs;
use std::path::{Path, PathBuf};

/// A limit and what of it is in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Usage {
    /// Bytes that can be used in all.
    pub(crate) limit: u64,
    /// Bytes in use that cannot simply be dropped.
    pub(crate) used: u64,
}

impl Usage {
    /// Bytes that can still be had.
    pub(crate) fn available(self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// The part that is in use, from 0 to 1.
    pub(crate) fn fraction(self) -> f64 {
        if self.limit == 0 { 0.0 } else { self.used as f64 / self.limit as f64 }
    }
}

/// Reads memory usage. The control groups are looked up once.
#[derive(Debug)]
pub(crate) struct MemoryReader {
    meminfo: PathBuf,
    groups: Vec<ControlGroup>,
}

/// The files of one control group. The names differ between the two versions of the interface.
#[derive(Debug)]
struct ControlGroup {
    limit: PathBuf,
    usage: PathBuf,
    statistics: PathBuf,
    /// What `statistics` calls file pages that can be dropped at once.
    droppable: &'static str,
}

impl MemoryReader {
    /// For this process's groups.
    pub(crate) fn new() -> MemoryReader {
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        MemoryReader {
            meminfo: PathBuf::from("/proc/meminfo"),
            groups: control_groups(Path::new("/sys/fs/cgroup"), &membership),
        }
    }

    /// The tightest of the machine's and the groups' usages.
    pub(crate) fn read(&self) -> Option<Usage> {
        let machine = fs::read_to_string(&self.meminfo).ok().and_then(|text| machine_usage(&text))?;
        let groups = self.groups.iter().filter_map(|group| group.usage(machine.limit));
        groups.chain([machine]).min_by_key(|usage| usage.available())
    }
}

impl ControlGroup {
    /// `None` if the group has no limit below what the machine has.
    fn usage(&self, machine: u64) -> Option<Usage> {
        let limit = read_number(&self.limit)?;
        if limit >= machine {
            return None;
        }
        let statistics = fs::read_to_string(&self.statistics).unwrap_or_default();
        let droppable = field(&statistics, self.droppable, 1).unwrap_or(0);
        Some(Usage { limit, used: read_number(&self.usage)?.saturating_sub(droppable) })
    }
}

/// Resident bytes of a process that would be freed by its end: shared memory stays with the store.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = text.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok());
    let (resident, shared) = (pages.next()?, pages.next()?);
    Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
}

pub(super) fn machine_usage(meminfo: &str) -> Option<Usage> {
    let limit = field(meminfo, "MemTotal:", 1024)?;
    let available = field(meminfo, "MemAvailable:", 1024)?;
    Some(Usage { limit, used: limit.saturating_sub(available) })
}

/// The groups of this process and all that contain them, as any of them may have the limit.
fn control_groups(root: &Path, membership: &str) -> Vec<ControlGroup> {
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let version_two = controllers.is_empty();
        let mount = if version_two {
            root.to_owned()
        } else if controllers.split(',').any(|name| name == "memory") {
            root.join("memory")
        } else {
            continue;
        };
        let inside = Path::new(path.trim_start_matches('/'));
        // Inside a container the path may be one of the host's; the mount's own root is what counts.
        for ancestor in inside.ancestors() {
            let directory = mount.join(ancestor);
            let group = if version_two {
                ControlGroup {
                    limit: directory.join("memory.max"),
                    usage: directory.join("memory.current"),
                    statistics: directory.join("memory.stat"),
                    droppable: "inactive_file",
                }
            } else {
                ControlGroup {
                    limit: directory.join("memory.limit_in_bytes"),
                    usage: directory.join("memory.usage_in_bytes"),
                    statistics: directory.join("memory.stat"),
                    droppable: "total_inactive_file",
                }
            };
            if group.limit.exists() {
                found.push(group);
            }
        }
    }
    found
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(text: &str, name: &str, unit: u64) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', '\t']))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::testing::TemporaryDirectory;

    const MEMINFO: &str = "MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:   400 kB\n";

    fn reader(temp: &Path, membership: &str) -> MemoryReader {
        fs::write(temp.join("meminfo"), MEMINFO).expect("written");
        MemoryReader { meminfo: temp.join("meminfo"), groups: control_groups(temp, membership) }
    }

    fn group(directory: &Path, files: [(&str, &str); 3]) {
        fs::create_dir_all(directory).expect("a directory");
        for (name, text) in files {
            fs::write(directory.join(name), text).expect("written");
        }
    }

    #[test]
    fn without_groups_the_machine_counts() {
        let temp = TemporaryDirectory::new();
        let usage = reader(temp.path(), "0::/nowhere\n").read().expect("readable");
        assert_eq!(usage, Usage { limit: 1000 << 10, used: 600 << 10 });
        assert_eq!((usage.available(), usage.fraction()), (400 << 10, 0.6));
    }

    /// The limit may be set on a group further up.
    #[test]
    fn the_tightest_group_counts() {
        let temp = TemporaryDirectory::new();
        let statistics = "anon 1\ninactive_file 1024\nactive_file 7\n";
        group(
            &temp.path().join("outer/inner"),
            [("memory.max", "max\n"), ("memory.current", "1"), ("memory.stat", statistics)],
        );
        group(
            &temp.path().join("outer"),
            [("memory.max", "102400\n"), ("memory.current", "11264"), ("memory.stat", statistics)],
        );
        let usage = reader(temp.path(), "0::/outer/inner\n").read().expect("readable");
        assert_eq!(usage, Usage { limit: 102_400, used: 10_240 });
    }

    #[test]
    fn the_first_version_is_read_too() {
        let temp = TemporaryDirectory::new();
        group(
            &temp.path().join("memory"),
            [
                ("memory.limit_in_bytes", "204800\n"),
                ("memory.usage_in_bytes", "2048\n"),
                ("memory.stat", "inactive_file 9\ntotal_inactive_file 1024\n"),
            ],
        );
        let membership = "9:cpu:/\n4:memory:/of/the/host\n0::/\n";
        let usage = reader(temp.path(), membership).read().expect("readable");
        assert_eq!(usage, Usage { limit: 204_800, used: 1024 });
    }

    /// "No limit" is a very large number in the first version.
    #[test]
    fn a_limit_above_the_machine_is_none() {
        let temp = TemporaryDirectory::new();
        group(
            &temp.path().join("memory"),
            [
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.usage_in_bytes", "9999999999\n"),
                ("memory.stat", ""),
            ],
        );
        let usage = reader(temp.path(), "4:memory:/\n").read().expect("readable");
        assert_eq!(usage.limit, 1000 << 10);
    }

    #[test]
    fn this_machine_can_be_read() {
        let usage = MemoryReader::new().read().expect("Linux");
        assert!(usage.limit > 0 && usage.available() > 0);
        assert!(resident_bytes(std::process::id()).expect("we exist") > 0);
    }
}
