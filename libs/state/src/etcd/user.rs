//! As whom a head speaks with an etcd that wants to know.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A file that is longer holds something else.
const FILE_BYTES_MAX: u64 = 4096;

/// A user of etcd. Neither the name nor the password is ever shown.
#[derive(Clone, Eq, PartialEq)]
pub struct EtcdUser {
    pub(super) name: String,
    pub(super) password: String,
}

/// Why there is no user. Says nothing of what was given.
#[derive(Debug, thiserror::Error)]
pub enum InvalidUser {
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others could have read it.
    #[error(
        "{} can be read or written by others than its owner, so the password in it may be known; `chmod 600` it, \
         and change the password if that matters", _0.display()
    )]
    Exposed(PathBuf),
    /// It holds something else.
    #[error("{} does not hold a user of etcd as one line USER:PASSWORD", _0.display())]
    Malformed(PathBuf),
    /// A part is missing.
    #[error("a user of etcd has a name and a password, and neither is empty")]
    Empty,
}

impl EtcdUser {
    /// A user of this name and password.
    ///
    /// # Errors
    ///
    /// If one of them is empty.
    pub fn new(name: String, password: String) -> Result<EtcdUser, InvalidUser> {
        if name.is_empty() || password.is_empty() {
            return Err(InvalidUser::Empty);
        }
        Ok(EtcdUser { name, password })
    }

    /// The user that a file holds, as one line `USER:PASSWORD`. The name ends at the first colon.
    ///
    /// # Errors
    ///
    /// If it cannot be read, holds something else, or can be read by others than its owner.
    pub fn read(path: &Path) -> Result<EtcdUser, InvalidUser> {
        let failed = |source| InvalidUser::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
            return Err(InvalidUser::Exposed(path.to_owned()));
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let malformed = || InvalidUser::Malformed(path.to_owned());
        let (name, password) = line.split_once(':').filter(|_| !line.contains('\n')).ok_or_else(malformed)?;
        EtcdUser::new(String::from(name), String::from(password)).map_err(|_| malformed())
    }
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EtcdUser(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_holds_one_user_and_is_read_only_if_nobody_else_can_read_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("user");
        let read = |text: &str, mode: u32| {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
            EtcdUser::read(&path)
        };
        for (text, name, password) in [
            ("shoal:secret\n", "shoal", "secret"),
            ("shoal:se:cr et ", "shoal", "se:cr et "),
            ("a:b\r\n", "a", "b"),
        ] {
            let user = read(text, 0o600).expect("a user");
            assert_eq!((&*user.name, &*user.password), (name, password));
        }
        for text in ["", "secret", ":secret", "shoal:", "shoal:secret\nmore"] {
            let error = read(text, 0o600).expect_err(text);
            assert!(matches!(error, InvalidUser::Malformed(_)), "{error:?}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for mode in [0o640, 0o604, 0o620] {
            let error = read("shoal:secret", mode).expect_err("others can read it");
            assert!(matches!(error, InvalidUser::Exposed(_)), "{error:?}");
        }
        read("shoal:secret", 0o400).expect("it need not be writable");
        let error = EtcdUser::read(&directory.path().join("nothing")).expect_err("no such file");
        assert!(error.to_string().contains("nothing"), "{error}");
    }

    #[test]
    fn a_user_is_not_shown() {
        let user = EtcdUser::new(String::from("shoal"), String::from("secret")).expect("a user");
        assert_eq!(format!("{user:?}"), "EtcdUser(..)");
        EtcdUser::new(String::from("shoal"), String::new()).expect_err("no password");
    }
}
