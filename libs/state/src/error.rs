//! What can go wrong with a log.

use std::path::PathBuf;

/// Why a log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it open.
    #[error(
        "{path} is in use by another head. Two heads cannot share one log: stop the other one, or give this \
         head a state directory of its own"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Another version of Shoal has written it.
    #[error(
        "{path} was written in format {found}, and this version reads format {expected}. Start it with the \
         version of Shoal that wrote it, or begin a new cluster with an empty state directory"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: u64,
        /// The format of this version.
        expected: u64,
    },
    /// A row is not what was written.
    #[error(
        "{path} holds a row that cannot be read ({detail}). The file was damaged; restore it from a copy"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file system or the database refused something.
    #[error("the head's log {path} cannot be used: {detail}")]
    Storage {
        /// The file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
}
