//! An unnamed file on a private tmpfs with huge pages.
//!
//! The system's own tmpfs (`/dev/shm`, memfd) gives 4 KiB pages unless the administrator decided
//! otherwise, and then page faults take nine tenths of a first write. A tmpfs of our own may ask
//! for huge pages. The mount is never attached to a path: it lives as long as the file in it, so
//! nothing is left behind however the processes end.
//!
//! `huge=always` and not `advise`, although every mapping asks with `MADV_HUGEPAGE`: `fallocate`
//! knows no mapping, and with `advise` it fills the file with 4 KiB pages.

use std::ffi::{CStr, CString};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::thread::UnshareFlags;

use crate::StoreError;

const BACKING: &str = "a private tmpfs with huge pages";

/// The calls on the way to a file, for errors. The forked child reports them to its parent as a
/// byte.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Step {
    UserNamespace,
    MapUser,
    OpenTmpfs,
    ConfigureTmpfs,
    Mount,
    OpenFile,
    Send,
}

impl Step {
    const ALL: [Step; 7] = [
        Step::UserNamespace,
        Step::MapUser,
        Step::OpenTmpfs,
        Step::ConfigureTmpfs,
        Step::Mount,
        Step::OpenFile,
        Step::Send,
    ];

    fn name(self) -> &'static str {
        match self {
            Step::UserNamespace => "making a user namespace",
            Step::MapUser => "mapping the user into the namespace",
            Step::OpenTmpfs => "opening tmpfs",
            Step::ConfigureTmpfs => "asking tmpfs for huge pages",
            Step::Mount => "mounting tmpfs",
            Step::OpenFile => "opening an unnamed file in tmpfs",
            Step::Send => "passing the file on",
        }
    }
}

/// A failed step. Small and free of memory, because it is also made after `fork`.
type Failed = (Step, Errno);

fn unavailable(step: &'static str, source: impl Into<io::Error>) -> StoreError {
    StoreError::BackingUnavailable { backing: BACKING, step, source: source.into() }
}

/// An empty unnamed file on a tmpfs of `size` bytes: with the rights of this process if they
/// suffice, else with those of a new user namespace.
pub(crate) fn open(size: u64) -> Result<OwnedFd, StoreError> {
    match open_directly(size) {
        Ok(file) => Ok(file),
        Err(_) => open_in_user_namespace(size),
    }
}

/// For processes that may mount: root, outside of most containers.
pub(crate) fn open_directly(size: u64) -> Result<OwnedFd, StoreError> {
    let size = decimal(size);
    mount_and_open(&size).map_err(|(step, errno)| unavailable(step.name(), errno))
}

/// For everyone else: a forked child enters a user namespace, in which it may mount, and sends the
/// file.
///
/// The child never executes a program. It runs as the `pre_exec` hook of a command, which is the
/// way that the standard library offers to run code after `fork`: it reaps the child and lets no
/// other code run in it. The hook always ends in an error, which ends the child. Between `fork` and
/// that end the child only makes system calls on memory prepared before, so this is sound in a
/// process with threads, too.
pub(crate) fn open_in_user_namespace(size: u64) -> Result<OwnedFd, StoreError> {
    let failed = |errno: Errno| unavailable(Step::Send.name(), errno);
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    let namespace = Namespace {
        user_map: identity_map(user),
        group_map: identity_map(group),
        size: decimal(size),
        socket: theirs,
    };
    let mut command = Command::new("/proc/self/exe");
    // SAFETY: the hook only makes system calls, through rustix, which makes them without the C
    // library, and touches only memory of `namespace`: no allocation, no lock, no environment.
    unsafe { command.pre_exec(move || Err(namespace.report(namespace.open()).into())) };
    let refused = match command.spawn() {
        Err(error) => error,
        Ok(mut child) => {
            // Unreachable, since the hook fails; but a child must not be left alone.
            child.wait().map_err(|error| unavailable(Step::Send.name(), error))?;
            io::Error::from(Errno::PROTO)
        }
    };
    drop(command);
    let (step, file) = receive(ours.as_fd()).map_err(failed)?;
    file.ok_or_else(|| unavailable(step.name(), refused))
}

/// What the child needs, all of it made before the fork.
struct Namespace {
    user_map: CString,
    group_map: CString,
    size: CString,
    socket: OwnedFd,
}

impl Namespace {
    fn open(&self) -> Result<OwnedFd, Failed> {
        // SAFETY: the file descriptor table stays shared with nobody else: this is a process of its
        // own.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }
            .map_err(|errno| (Step::UserNamespace, errno))?;
        // tmpfs refuses files of a user that its namespace does not know. A user without rights may
        // map only itself, and its group only after giving up `setgroups`.
        write_all(c"/proc/self/setgroups", c"deny")
            .and_then(|()| write_all(c"/proc/self/uid_map", &self.user_map))
            .and_then(|()| write_all(c"/proc/self/gid_map", &self.group_map))
            .map_err(|errno| (Step::MapUser, errno))?;
        mount_and_open(&self.size)
    }

    /// Sends the outcome to the parent and returns the error that ends the child.
    fn report(&self, outcome: Result<OwnedFd, Failed>) -> Errno {
        let (step, errno) = match &outcome {
            Ok(_) => (Step::Send, Errno::CANCELED),
            Err(failed) => *failed,
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = outcome.as_ref().map(|file| [file.as_fd()]);
        if let Ok(files) = &files {
            control.push(SendAncillaryMessage::ScmRights(files));
        }
        let payload = [step as u8];
        match rustix::net::sendmsg(&self.socket, &[IoSlice::new(&payload)], &mut control, SendFlags::NOSIGNAL)
        {
            Ok(_) => errno,
            Err(errno) => errno,
        }
    }
}

/// Reads what the child sent; it has ended, so that there is nothing to wait for.
fn receive(socket: BorrowedFd<'_>) -> rustix::io::Result<(Step, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut payload = [u8::MAX];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut payload)], &mut control, flags) {
        // The child could not be made, or died before it could say anything.
        Err(Errno::AGAIN) => return Ok((Step::UserNamespace, None)),
        received => received?,
    };
    let step = Step::ALL.get(usize::from(payload[0])).copied().unwrap_or(Step::UserNamespace);
    let file = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .next();
    Ok((step, file))
}

/// Runs after `fork`: system calls only.
fn mount_and_open(size: &CStr) -> Result<OwnedFd, Failed> {
    let filesystem = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| (Step::OpenTmpfs, errno))?;
    let set = |key: &CStr, value: &CStr| rustix::mount::fsconfig_set_string(filesystem.as_fd(), key, value);
    set(c"huge", c"always")
        .and_then(|()| set(c"size", size))
        .and_then(|()| set(c"mode", c"0700"))
        .and_then(|()| rustix::mount::fsconfig_create(filesystem.as_fd()))
        .map_err(|errno| (Step::ConfigureTmpfs, errno))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = rustix::mount::fsmount(filesystem.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|errno| (Step::Mount, errno))?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(&mount, c".", flags, Mode::RUSR | Mode::WUSR).map_err(|errno| (Step::OpenFile, errno))
}

/// Runs after `fork`: system calls only.
fn write_all(path: &CStr, content: &CStr) -> rustix::io::Result<()> {
    let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The files of /proc take their content in one write or not at all.
    match rustix::io::write(&file, content.to_bytes())? {
        written if written == content.to_bytes().len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

fn decimal(number: u64) -> CString {
    CString::new(number.to_string()).expect("digits contain no zero byte")
}

fn identity_map(id: u32) -> CString {
    CString::new(format!("{id} {id} 1")).expect("digits contain no zero byte")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_namespace_gives_the_same_file_or_names_the_step_that_failed() {
        match open_in_user_namespace(8 << 20) {
            Ok(file) => {
                let status = rustix::fs::fstat(&file).unwrap();
                assert_eq!((status.st_size, status.st_nlink), (0, 0));
                assert_eq!(status.st_uid, rustix::process::geteuid().as_raw());
                rustix::fs::ftruncate(&file, 8 << 20).unwrap();
                // The mount has a size of its own: one byte more than it does not fit.
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 8 << 20).unwrap();
                let beyond = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 8 << 20, 1);
                assert_eq!(beyond, Err(Errno::NOSPC));
            }
            Err(StoreError::BackingUnavailable { step, source, .. }) => {
                assert!(Step::ALL.iter().any(|known| known.name() == step));
                assert_ne!(source.raw_os_error(), Some(Errno::CANCELED.raw_os_error()), "{step}: {source}");
                println!("skipped: this system allows no user namespaces ({step}: {source})");
            }
            Err(other) => panic!("unexpected error: {other}"),
        }
    }
}
