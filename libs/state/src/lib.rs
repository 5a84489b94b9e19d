//! Where the head keeps what must survive it: a table of rows, written under a condition.
//!
//! The head machine decides what a row is and when it is written
//! ([`Effect::Write`](shoal_core::head::Effect::Write)); a [`Log`] makes that durable. Each write names
//! the epoch of the head that asks for it, and is refused once a newer head has written: so a head that
//! was believed dead cannot change what its successor has read.
//!
//! | log | survives | used by |
//! |---|---|---|
//! | [`FileLog`] | the process, the machine's restart | `shoal start --head`, one head at a time |
//! | [`EtcdLog`] | the machine, too | `shoal start --head --state=etcd://...`, one head and any number of standbys |

mod error;
mod etcd;
mod file;

use shoal_core::head::{Key, Row, WriteResult};

pub use error::StateError;
#[cfg(feature = "fuzz")]
pub use etcd::fuzz;
pub use etcd::{
    Acting, Etcd, EtcdLocation, EtcdLog, EtcdTls, EtcdUser, InvalidLocation, InvalidUser, Standing, TENURE,
    Tenure,
};
pub use file::FileLog;

/// Rows as a head writes them: `None` deletes.
pub type Changes = Vec<(Key, Option<Row>)>;

/// What a head finds when it starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The epoch of the last head that has written; 0 if there was none.
    pub epoch: u64,
    /// Every row, in the order of keys.
    pub rows: Vec<(Key, Row)>,
}

/// Durable rows. All calls block until the answer is certain.
pub trait Log: Send {
    /// Everything that was written.
    fn load(&mut self) -> Result<Contents, StateError>;

    /// Make these changes, all or nothing, unless a head of a newer epoch has written. When this returns
    /// [`WriteResult::Done`] they survive any crash.
    ///
    /// An error leaves it open whether they were made; the caller must stop being the head.
    fn write(&mut self, epoch: u64, changes: &Changes) -> Result<WriteResult, StateError>;
}
