//! The directory of a running node: where it is, who may use it, and how it goes away.
//!
//! A session is live while its daemon holds the lock file. Whatever the reason for which a daemon
//! ended, the next start on the machine finds the lock free and removes what is left: the directory,
//! spilled objects, and processes that carry the session's mark in their environment.

use std::fs::{self, DirBuilder, File, Permissions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::leftovers;

/// Every process of a session, and what those start, has the session's directory in this variable.
pub const SESSION_VARIABLE: &str = "SHOAL_SESSION";

/// What a worker starts has the worker's id in this variable.
pub const WORKER_VARIABLE: &str = "SHOAL_WORKER";

/// Where sessions are unless somebody says otherwise.
pub const DEFAULT_TEMP_DIRECTORY: &str = "/tmp";

const LOCK: &str = "lock";
const DESCRIPTION: &str = "node.json";
const CURRENT: &str = "current";
const SPILL: &str = "spill";
const HEAD_PORT: &str = "port";

/// What others need to know of a node in order to join it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The session's directory.
    pub session: PathBuf,
    /// The socket that drivers connect to.
    pub socket: PathBuf,
    /// Where spilled objects go.
    pub spill: PathBuf,
    /// The node's number.
    pub node: u32,
    /// The daemon's pid.
    pub pid: u32,
    /// The daemon's version; another one cannot join.
    pub version: String,
    /// It belongs to one driver and ends with it.
    pub owned: bool,
    /// Where the head of its cluster is reached; `None` if nobody can join it.
    pub cluster: Option<SocketAddr>,
    /// Where its own daemon is reached by others.
    pub address: Option<SocketAddr>,
}

impl Description {
    /// Whether the head of its cluster lives in it.
    pub fn is_head(&self) -> bool {
        self.cluster.is_some() && self.cluster == self.address
    }
}

/// The session of this daemon. Dropping it removes everything.
#[derive(Debug)]
pub struct Session {
    base: PathBuf,
    directory: PathBuf,
    spill: PathBuf,
    // Held for the life of the daemon; see `is_live`.
    _lock: File,
}

impl Session {
    /// Make a new session below `temp`, after removing sessions whose daemons are gone.
    ///
    /// Spilled objects go below `spill` if given, else into the session's directory.
    pub fn create(temp: &Path, spill: Option<&Path>) -> io::Result<Session> {
        let base = base_directory(temp);
        make_private(&base)?;
        // Keeps two starts apart: a directory whose lock is not held yet must not look stale.
        let starting = lock_file(&base.join(LOCK))?;
        flock(&starting, FlockOperation::LockExclusive)?;
        remove_stale(&base);

        let random = std::collections::hash_map::RandomState::new().build_hasher().finish() as u32;
        let name = format!("session-{}-{random:08x}", std::process::id());
        let directory = base.join(&name);
        make_private(&directory)?;
        let lock = lock_file(&directory.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let spill = match spill {
            Some(elsewhere) => {
                fs::create_dir_all(elsewhere)?;
                elsewhere.canonicalize()?.join(&name)
            }
            None => directory.join(SPILL),
        };
        let session = Session { base, directory, spill, _lock: lock };
        make_private(&session.logs())?;
        make_private(&session.spill)?;
        Ok(session)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
    /// The socket that drivers connect to.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("node.sock")
    }
    /// Where logs go.
    pub fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }
    /// Where spilled objects go.
    pub fn spill(&self) -> &Path {
        &self.spill
    }

    /// Say that the node is up. From now on drivers that name no address join it, unless it belongs to
    /// a single one.
    pub fn publish(&self, description: &Description) -> io::Result<()> {
        self.describe(description)?;
        if description.owned {
            return Ok(());
        }
        replace(&self.base.join(CURRENT), &description.socket.to_string_lossy())
    }

    /// Say something else of a node that is up.
    pub fn describe(&self, description: &Description) -> io::Result<()> {
        let text = serde_json::to_string(description)?;
        replace(&self.directory.join(DESCRIPTION), &text)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Processes are the daemon's business while it lives; only files are left here.
        remove_files(&self.directory, &self.spill);
        let current = self.base.join(CURRENT);
        if fs::read_to_string(&current).is_ok_and(|text| Path::new(&text) == self.socket()) {
            let _ = fs::remove_file(&current);
        }
    }
}

/// The directory that holds all sessions of this user below `temp`.
pub fn base_directory(temp: &Path) -> PathBuf {
    temp.join(format!("shoal-{}", rustix::process::getuid().as_raw()))
}

/// The newest live node of this user that drivers may join, if there is one.
pub fn newest(temp: &Path) -> Option<Description> {
    live(temp).into_iter().find(|description| !description.owned)
}

/// The node of this user below `temp` that drivers of the cluster with that head may join: the head's
/// own, else the newest.
pub fn of_cluster(temp: &Path, head: SocketAddr) -> Option<Description> {
    let mut found = live(temp);
    found.retain(|description| !description.owned && description.cluster == Some(head));
    found.sort_by_key(|description| !description.is_head());
    found.into_iter().next()
}

/// Where a head keeps what must survive it, unless somebody says otherwise. It is removed when the head is
/// stopped in order, so what a start finds there is of a head that was killed.
pub fn head_directory(temp: &Path) -> PathBuf {
    base_directory(temp).join("head")
}

/// The port at which the head of this state was reached last.
pub fn head_port(state: &Path) -> Option<u16> {
    fs::read_to_string(state.join(HEAD_PORT)).ok()?.trim().parse().ok()
}

/// Remember the port at which the head of this state is reached.
pub(super) fn remember_head_port(state: &Path, port: u16) -> io::Result<()> {
    replace(&state.join(HEAD_PORT), &port.to_string())
}

/// All live nodes of this user below `temp`, the newest first.
pub fn live(temp: &Path) -> Vec<Description> {
    let mut found: Vec<_> = sessions(&base_directory(temp))
        .into_iter()
        .filter_map(|directory| {
            let made = fs::metadata(&directory).and_then(|metadata| metadata.modified()).ok()?;
            Some((made, describe_live(&directory)?))
        })
        .collect();
    found.sort_by_key(|(made, _)| std::cmp::Reverse(*made));
    found.into_iter().map(|(_, description)| description).collect()
}

/// Remove what the daemons that are gone have left below `temp`.
pub fn clean(temp: &Path) -> io::Result<()> {
    let base = base_directory(temp);
    if !base.is_dir() {
        return Ok(());
    }
    let starting = lock_file(&base.join(LOCK))?;
    flock(&starting, FlockOperation::LockExclusive)?;
    remove_stale(&base);
    Ok(())
}

fn describe_live(directory: &Path) -> Option<Description> {
    if !is_live(directory) {
        return None;
    }
    let text = fs::read_to_string(directory.join(DESCRIPTION)).ok()?;
    serde_json::from_str(&text).ok()
}

/// Whether the daemon of a session still holds its lock.
fn is_live(directory: &Path) -> bool {
    let Ok(file) = File::open(directory.join(LOCK)) else {
        return false;
    };
    flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

fn sessions(base: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(base) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("session-"))
        .map(|entry| entry.path())
        .collect()
}

fn remove_stale(base: &Path) {
    for directory in sessions(base) {
        if is_live(&directory) {
            continue;
        }
        leftovers::kill_marked(SESSION_VARIABLE, &directory.to_string_lossy());
        let described = fs::read_to_string(directory.join(DESCRIPTION))
            .ok()
            .and_then(|text| serde_json::from_str::<Description>(&text).ok());
        let spill = described.map_or_else(|| directory.join(SPILL), |found| found.spill);
        remove_files(&directory, &spill);
    }
    let current = base.join(CURRENT);
    if fs::read_to_string(&current).is_ok_and(|socket| !Path::new(&socket).exists()) {
        let _ = fs::remove_file(&current);
    }
}

fn remove_files(directory: &Path, spill: &Path) {
    // A spill directory elsewhere is named after its session; anything else is not ours to remove.
    if spill.file_name() == directory.file_name() {
        let _ = fs::remove_dir_all(spill);
    }
    let _ = fs::remove_dir_all(directory);
}

/// Make a directory that only this user can enter, or check that it is one.
fn make_private(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).recursive(false).create(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => {
            let text = format!("cannot make the directory {}: {error}", directory.display());
            return Err(io::Error::new(error.kind(), text));
        }
    }
    // `/tmp` is everybody's: another user may have taken the name first.
    let metadata = fs::symlink_metadata(directory)?;
    if !metadata.is_dir() || metadata.uid() != rustix::process::getuid().as_raw() {
        let text = format!(
            "{} belongs to somebody else; remove it or choose another temporary directory",
            directory.display()
        );
        return Err(io::Error::new(ErrorKind::PermissionDenied, text));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn lock_file(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Replace a file's content as a whole: nobody reads half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::testing::TemporaryDirectory;

    fn description(session: &Session) -> Description {
        Description {
            session: session.directory().to_owned(),
            socket: session.socket(),
            spill: session.spill().to_owned(),
            node: 1,
            pid: std::process::id(),
            version: String::from("0"),
            owned: false,
            cluster: None,
            address: None,
        }
    }

    fn entries(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .expect("a directory")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_dropped_session_leaves_nothing() {
        let temp = TemporaryDirectory::new();
        let elsewhere = temp.path().join("disk");
        let session = Session::create(temp.path(), Some(&elsewhere)).expect("a session");
        session.publish(&description(&session)).expect("published");
        assert_eq!(newest(temp.path()), Some(description(&session)));
        assert_eq!(session.spill().parent(), Some(elsewhere.as_path()));
        let current = base_directory(temp.path()).join(CURRENT);
        assert_eq!(fs::read_to_string(&current).expect("it names us"), session.socket().to_string_lossy());
        fs::write(session.spill().join("objects"), "x").expect("a spilled file");
        drop(session);
        assert_eq!(newest(temp.path()), None);
        assert_eq!(entries(&base_directory(temp.path())), ["lock"]);
        assert_eq!(entries(&elsewhere), [""; 0]);
    }

    /// What a killed daemon left is removed at the next start; what belongs to a live one stays.
    #[test]
    fn stale_sessions_are_removed_and_live_ones_kept() {
        let temp = TemporaryDirectory::new();
        let disk = temp.path().join("disk");
        let live = Session::create(temp.path(), None).expect("a session");
        live.publish(&description(&live)).expect("published");
        let killed = Session::create(temp.path(), Some(&disk)).expect("a session");
        killed.publish(&description(&killed)).expect("published");
        let (stale, spill) = (killed.directory().to_owned(), killed.spill().to_owned());
        // A killed process drops its locks and nothing else.
        let Session { _lock, .. } = &killed;
        flock(_lock, FlockOperation::Unlock).expect("unlocked");
        assert!(stale.exists() && spill.exists());
        assert_eq!(newest(temp.path()), Some(description(&live)), "the stale one is not offered");

        let new = Session::create(temp.path(), None).expect("a session");
        assert!(!stale.exists() && !spill.exists());
        assert!(!base_directory(temp.path()).join(CURRENT).exists(), "it named the stale one");
        assert!(live.directory().exists() && new.directory().exists());
        std::mem::forget(killed);
    }

    /// A stale description must not make the next start delete somebody's files.
    #[test]
    fn only_a_spill_directory_of_the_session_is_removed() {
        let temp = TemporaryDirectory::new();
        let precious = temp.path().join("precious");
        fs::create_dir(&precious).expect("a directory");
        let stale = Session::create(temp.path(), None).expect("a session");
        let mut wrong = description(&stale);
        wrong.spill = precious.clone();
        stale.publish(&wrong).expect("published");
        flock(&stale._lock, FlockOperation::Unlock).expect("unlocked");
        clean(temp.path()).expect("cleaned");
        assert!(precious.exists());
        assert!(!stale.directory().exists());
    }

    /// What belongs to one driver is offered to no other.
    #[test]
    fn an_owned_session_is_not_offered() {
        let temp = TemporaryDirectory::new();
        let session = Session::create(temp.path(), None).expect("a session");
        let owned = Description { owned: true, ..description(&session) };
        session.publish(&owned).expect("published");
        assert_eq!(newest(temp.path()), None);
        assert_eq!(live(temp.path()), [owned]);
        assert!(!base_directory(temp.path()).join(CURRENT).exists());
    }

    #[test]
    fn a_directory_under_a_false_name_is_refused() {
        let temp = TemporaryDirectory::new();
        let elsewhere = temp.path().join("elsewhere");
        fs::create_dir(&elsewhere).expect("a directory");
        std::os::unix::fs::symlink(&elsewhere, base_directory(temp.path())).expect("a link");
        let error = Session::create(temp.path(), None).expect_err("a link is not ours");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("choose another temporary directory"), "{error}");
    }

    #[test]
    fn directories_are_private() {
        let temp = TemporaryDirectory::new();
        let session = Session::create(temp.path(), None).expect("a session");
        for directory in [session.directory(), session.spill(), &session.logs()] {
            let mode = fs::metadata(directory).expect("it exists").mode();
            assert_eq!(mode & 0o777, 0o700, "{}", directory.display());
        }
    }
}
