//! Finding processes that nobody is responsible for any more.
//!
//! A worker's own process group dies with it. What left the group is found by a mark in the
//! environment, which every process inherits from the one that started it.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Kill every process of this user whose environment has `variable` set to `value`, except this one
/// and its ancestors. Returns how many there were.
pub(crate) fn kill_marked(variable: &str, value: &str) -> usize {
    let own = ancestors();
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    let user = rustix::process::getuid().as_raw();
    entries
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() == user))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| !own.contains(pid) && kill_if_marked(*pid, variable, value))
        .count()
}

/// Kill a process if its environment has `variable` set to `value`.
pub(crate) fn kill_if_marked(pid: u32, variable: &str, value: &str) -> bool {
    // The descriptor comes first: whatever is looked at afterwards is the process that is killed.
    let Some(process) = Pid::from_raw(pid as i32) else {
        return false;
    };
    let Ok(descriptor) = pidfd_open(process, PidfdFlags::empty()) else {
        return false;
    };
    marked_value(pid, variable).as_deref() == Some(value)
        && pidfd_send_signal(descriptor, Signal::KILL).is_ok()
}

/// What the environment that a process was started with has for `variable`.
pub(crate) fn marked_value(pid: u32, variable: &str) -> Option<String> {
    let environment = environment(pid)?;
    environment.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(variable.as_bytes())?.strip_prefix(b"=")?;
        Some(String::from_utf8_lossy(value).into_owned())
    })
}

/// The environment that a process was started with.
///
/// It reads as empty while a process replaces its program (`execve`), so that what hides behind a
/// chain of launchers could be missed: a process that runs a program and seems to have none is
/// asked again. Kernel threads and what has ended run no program.
fn environment(pid: u32) -> Option<Vec<u8>> {
    const TRIES: usize = 20;
    for _ in 0..TRIES {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        if !environment.is_empty() || fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            return Some(environment);
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// The processes whose parent is this one, adopted ones included.
pub(crate) fn children() -> Vec<u32> {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| parent(*pid) == Some(own))
        .collect()
}

fn ancestors() -> HashSet<u32> {
    let mut found = HashSet::new();
    let mut next = Some(std::process::id());
    while let Some(pid) = next.filter(|pid| *pid > 0) {
        if !found.insert(pid) {
            break;
        }
        next = parent(pid);
    }
    found
}

fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything: what follows its end is well formed.
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    /// Only what carries the mark is killed, in whatever session and group it hides, and also while
    /// it replaces its program.
    #[test]
    fn the_mark_decides() {
        let mark = format!("/nowhere/{}", std::process::id());
        let sleeper = |value: &str| {
            Command::new("setsid")
                .args(["sleep", "600"])
                .env("SHOAL_TEST_MARK", value)
                .stdin(Stdio::null())
                .spawn()
                .expect("setsid exists")
        };
        let mut marked = sleeper(&mark);
        let mut other = sleeper(&format!("{mark}-other"));
        assert_eq!(kill_marked("SHOAL_TEST_MARK", &mark), 1);
        let status = marked.wait().expect("it is our child");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        assert!(other.try_wait().expect("it is our child").is_none(), "the other one lives");
        assert!(children().contains(&other.id()));
        other.kill().expect("it is our child");
        other.wait().expect("it is our child");
    }
}
