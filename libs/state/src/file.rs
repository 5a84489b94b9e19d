//! A log in one file on a local disk, in redb: an embedded, transactional B-tree.

use std::fmt::Display;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use shoal_core::head::{Key, Row, WriteResult};
use shoal_core::wire;

use crate::{Changes, Contents, Log, StateError};

/// Rows by encoded key.
const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
/// The file's own numbers.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");

const EPOCH: &str = "epoch";
const FORMAT: &str = "format";

/// Counts up when rows of an older version cannot be read any more.
const FORMAT_VERSION: u64 = 2;

/// See the module's text. The file belongs to one process at a time.
#[derive(Debug)]
pub struct FileLog {
    path: PathBuf,
    database: Database,
}

impl FileLog {
    /// Open the log in `directory`, making both if they are not there. Only this user can read them:
    /// rows hold what programs were started with.
    pub fn open(directory: &Path) -> Result<FileLog, StateError> {
        let path = directory.join("head.redb");
        let storage = |error: std::io::Error| StateError::Storage {
            place: path.display().to_string(),
            detail: error.to_string(),
        };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(storage)?;
        let database = Database::create(&path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StateError::InUse { place: path.display().to_string() },
            error => StateError::Storage { place: path.display().to_string(), detail: error.to_string() },
        })?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(storage)?;
        let log = FileLog { path, database };
        log.prepare()?;
        Ok(log)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Make the tables, or see that they are of this format.
    fn prepare(&self) -> Result<(), StateError> {
        let transaction = self.ok(self.database.begin_write())?;
        self.ok(transaction.open_table(ROWS))?;
        let found = {
            let mut numbers = self.ok(transaction.open_table(NUMBERS))?;
            let found = self.ok(numbers.get(FORMAT))?.map(|format| format.value());
            if found.is_none() {
                self.ok(numbers.insert(FORMAT, FORMAT_VERSION))?;
            }
            found.unwrap_or(FORMAT_VERSION)
        };
        if found != FORMAT_VERSION {
            return Err(StateError::Format { place: self.place(), found, expected: FORMAT_VERSION });
        }
        self.ok(transaction.commit())
    }

    fn ok<T, E: Display>(&self, result: Result<T, E>) -> Result<T, StateError> {
        result.map_err(|error| StateError::Storage { place: self.place(), detail: error.to_string() })
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn damaged(&self, error: impl Display) -> StateError {
        StateError::Damaged { place: self.place(), detail: error.to_string() }
    }
}

impl Log for FileLog {
    fn load(&mut self) -> Result<Contents, StateError> {
        let transaction = self.ok(self.database.begin_read())?;
        let numbers = self.ok(transaction.open_table(NUMBERS))?;
        let epoch = self.ok(numbers.get(EPOCH))?.map_or(0, |epoch| epoch.value());
        let table = self.ok(transaction.open_table(ROWS))?;
        let mut rows: Vec<(Key, Row)> = Vec::new();
        for entry in self.ok(table.iter())? {
            let (key, row) = self.ok(entry)?;
            let name = key.value();
            let key = wire::decode(name).map_err(|error| self.damaged(error))?;
            // Another encoding of the same key would be a row that no head can change any more.
            if wire::encode(&key).map_err(|error| self.damaged(error))? != name {
                return Err(self.damaged("a key that nobody wrote"));
            }
            let row = wire::decode(row.value()).map_err(|error| self.damaged(error))?;
            rows.push((key, row));
        }
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Contents { epoch, rows })
    }

    fn write(&mut self, epoch: u64, changes: &Changes) -> Result<WriteResult, StateError> {
        let transaction = self.ok(self.database.begin_write())?;
        {
            let mut numbers = self.ok(transaction.open_table(NUMBERS))?;
            let newest = self.ok(numbers.get(EPOCH))?.map_or(0, |newest| newest.value());
            if newest > epoch {
                return Ok(WriteResult::Fenced);
            }
            if newest < epoch {
                self.ok(numbers.insert(EPOCH, epoch))?;
            }
            let mut rows = self.ok(transaction.open_table(ROWS))?;
            for (key, row) in changes {
                let key = wire::encode(key).map_err(|error| self.damaged(error))?;
                match row {
                    Some(row) => {
                        let row = wire::encode(row).map_err(|error| self.damaged(error))?;
                        self.ok(rows.insert(key.as_slice(), row.as_slice()))?;
                    }
                    None => {
                        self.ok(rows.remove(key.as_slice()))?;
                    }
                }
            }
        }
        self.ok(transaction.commit())?;
        Ok(WriteResult::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::os::unix::fs::MetadataExt;

    fn key(name: &str) -> Key {
        Key::Value(String::from(name))
    }

    fn row(value: &'static str) -> Row {
        Row::Value(Bytes::from_static(value.as_bytes()))
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut log = FileLog::open(directory.path()).expect("a log");
        assert_eq!(log.load().expect("readable"), Contents::default());
        let changes = vec![(key("b"), Some(row("2"))), (key("a"), Some(row("1")))];
        assert_eq!(log.write(1, &changes).expect("written"), WriteResult::Done);
        let changes = vec![(key("b"), None), (key("c"), Some(row("3"))), (key("a"), Some(row("4")))];
        assert_eq!(log.write(2, &changes).expect("written"), WriteResult::Done);
        drop(log);
        let mut log = FileLog::open(directory.path()).expect("a log");
        let rows = vec![(key("a"), row("4")), (key("c"), row("3"))];
        assert_eq!(log.load().expect("readable"), Contents { epoch: 2, rows });
    }

    #[test]
    fn an_older_head_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut log = FileLog::open(directory.path()).expect("a log");
        log.write(3, &vec![(key("a"), Some(row("new")))]).expect("written");
        let late = vec![(key("a"), Some(row("old"))), (key("b"), Some(row("old")))];
        assert_eq!(log.write(2, &late).expect("an answer"), WriteResult::Fenced);
        assert_eq!(log.load().expect("readable"), Contents { epoch: 3, rows: vec![(key("a"), row("new"))] });
    }

    #[test]
    fn a_log_has_one_user_and_is_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path().join("state");
        let log = FileLog::open(&directory).expect("a log");
        let error = FileLog::open(&directory).expect_err("it is open");
        assert!(matches!(error, StateError::InUse { .. }), "{error}");
        let mode = |path: &Path| std::fs::metadata(path).expect("it exists").mode() & 0o777;
        assert_eq!((mode(&directory), mode(log.path())), (0o700, 0o600));
    }

    #[test]
    fn what_is_no_log_is_refused_with_a_reason() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("head.redb"), b"something else").expect("written");
        let error = FileLog::open(directory.path()).expect_err("no log");
        assert!(matches!(error, StateError::Storage { .. }), "{error}");

        let row = wire::encode(&Row::UnmadeGroup).expect("encodable");
        // The last one is the key of the head's own numbers, in an encoding that is longer than needed.
        for key in [&b"?"[..], &[251, 0, 0]] {
            let directory = tempfile::tempdir().expect("a directory");
            let mut log = FileLog::open(directory.path()).expect("a log");
            let transaction = log.database.begin_write().expect("a transaction");
            transaction.open_table(ROWS).expect("a table").insert(key, &row[..]).expect("inserted");
            transaction.commit().expect("committed");
            let error = log.load().expect_err("a row that nobody wrote");
            assert!(matches!(error, StateError::Damaged { .. }), "{error}");
        }
    }
}
