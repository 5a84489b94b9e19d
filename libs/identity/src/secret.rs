//! The secret that lets nodes join.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

const PREFIX: &str = "shoal-join-";

/// 256 random bits that the cluster's authority and those who may join it share.
///
/// A proof of it can be tried against guesses by whoever sees one, so a secret is made by
/// [`JoinSecret::generate`] and never chosen by people.
#[derive(Clone, Eq, PartialEq)]
pub struct JoinSecret([u8; 32]);

/// Text that is no join secret.
#[derive(Debug, thiserror::Error)]
#[error("this is no join secret: one starts with {PREFIX:?}, followed by 64 hexadecimal digits")]
pub struct InvalidSecret;

impl JoinSecret {
    /// A new secret; none if the system has no randomness.
    pub fn generate() -> Option<JoinSecret> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).ok()?;
        Some(JoinSecret(bytes))
    }

    /// The secret that a file holds. If there is no file, it is made with a new secret, readable by this user
    /// alone; of several processes that do this at once on a file system that they share, all get the same.
    ///
    /// # Errors
    ///
    /// What the system says; [`ErrorKind::InvalidData`] if the file holds something else.
    pub fn read_or_create(path: &Path) -> io::Result<JoinSecret> {
        match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            text => return text?.parse().map_err(|error| io::Error::new(ErrorKind::InvalidData, error)),
        }
        let no_randomness = || io::Error::other("the system has no randomness");
        let secret = JoinSecret::generate().ok_or_else(no_randomness)?;
        // Processes of different machines may have the same process id.
        let name = JoinSecret::generate().ok_or_else(no_randomness)?.reveal();
        let unfinished = path.with_extension(&name[PREFIX.len()..][..16]);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        writeln!(file, "{}", secret.reveal())?;
        file.sync_all()?;
        // Unlike a rename, a link does not replace what another process has made meanwhile.
        let linked = fs::hard_link(&unfinished, path);
        fs::remove_file(&unfinished)?;
        match linked {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => JoinSecret::read_or_create(path),
            linked => linked.map(|()| secret),
        }
    }

    /// The secret as people pass it on. Whoever has it can join.
    pub fn reveal(&self) -> String {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{PREFIX}{digits}")
    }

    /// A proof of knowing the secret, for what these parts say.
    pub(crate) fn prove(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut proof = [0; 32];
        proof.copy_from_slice(self.digest(parts).sign().as_ref());
        proof
    }

    /// Whether a proof is right. Takes the same time whatever it is.
    pub(crate) fn is_proved(&self, parts: &[&[u8]], proof: &[u8; 32]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::verify(&key, &joined(parts), proof).is_ok()
    }

    fn digest(&self, parts: &[&[u8]]) -> hmac::Context {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        context.update(&joined(parts));
        context
    }
}

/// Parts with their lengths, so that no two lists of parts are the same bytes.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(part);
    }
    all
}

impl FromStr for JoinSecret {
    type Err = InvalidSecret;
    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(InvalidSecret)?.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(InvalidSecret);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let value = |digit: u8| (digit as char).to_digit(16).unwrap_or_default() as u8;
            *byte = value(pair[0]) << 4 | value(pair[1]);
        }
        Ok(JoinSecret(bytes))
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_secret_is_passed_on_as_text_and_never_logged() {
        let secret = JoinSecret::generate().unwrap();
        let text = secret.reveal();
        assert_eq!(format!("  {text}\n").parse::<JoinSecret>().unwrap(), secret);
        assert!(!format!("{secret:?}").contains(&text[PREFIX.len()..]));
        for wrong in ["", "shoal-join-", &text[1..], &text[..74], &text.replace('-', "_")] {
            assert!(wrong.parse::<JoinSecret>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_who_want_a_secret_at_once_get_the_same() {
        let directory = std::env::temp_dir().join(format!("shoal-identity-{}-secret", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("secret");
        let secrets: Vec<JoinSecret> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| JoinSecret::read_or_create(&path).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0]));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing unfinished stays");
        fs::write(&path, "guess").unwrap();
        let error = JoinSecret::read_or_create(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_proof_is_of_these_parts_alone() {
        let secret = JoinSecret([7; 32]);
        let proof = secret.prove(&[b"ab", b"c"]);
        assert!(secret.is_proved(&[b"ab", b"c"], &proof));
        assert!(!secret.is_proved(&[b"a", b"bc"], &proof));
        assert!(!JoinSecret([8; 32]).is_proved(&[b"ab", b"c"], &proof));
    }
}
