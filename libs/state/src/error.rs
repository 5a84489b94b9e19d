//! What can go wrong with a log.

/// Why a log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it open.
    #[error(
        "{place} is in use by another head. Two heads cannot share one log: stop the other one, or give this \
         head a state directory of its own"
    )]
    InUse {
        /// The file.
        place: String,
    },
    /// Another version of Shoal has written it.
    #[error(
        "{place} was written in format {found}, and this version reads format {expected}. Start it with the \
         version of Shoal that wrote it, or begin a new cluster with an empty state directory or another prefix"
    )]
    Format {
        /// The file, or where in etcd.
        place: String,
        /// The format of what is there.
        found: u64,
        /// The format of this version.
        expected: u64,
    },
    /// A row is not what was written.
    #[error("{place} holds a row that cannot be read ({detail}). It was damaged; restore it from a copy")]
    Damaged {
        /// The file, or where in etcd.
        place: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Another cluster keeps its log there.
    #[error(
        "{place} holds the log of another cluster ({found}; this head has the authority of {expected}). Give this \
         cluster another prefix, or this head the authority of that cluster: a copy of the authority.pem of its \
         first head, in its state directory"
    )]
    OtherCluster {
        /// Where in etcd.
        place: String,
        /// Whose log it is.
        found: String,
        /// Whose head this is.
        expected: String,
    },
    /// An etcd does not let this head do what it must.
    #[error(
        "{place} does not let this head in: {detail} (it says: {said}). A user of etcd is given by SHOAL_ETCD_USER and \
         SHOAL_ETCD_PASSWORD, or in a file by --etcd-user-file"
    )]
    Unauthorized {
        /// Where in etcd.
        place: String,
        /// What is missing.
        detail: &'static str,
        /// What etcd says.
        said: String,
    },
    /// The file system or the database refused something.
    #[error("the head's log {place} cannot be used: {detail}")]
    Storage {
        /// The file, or where in etcd.
        place: String,
        /// What was said.
        detail: String,
    },
}
