//! The secret that lets nodes join.

use std::fmt;
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
    fn a_proof_is_of_these_parts_alone() {
        let secret = JoinSecret([7; 32]);
        let proof = secret.prove(&[b"ab", b"c"]);
        assert!(secret.is_proved(&[b"ab", b"c"], &proof));
        assert!(!secret.is_proved(&[b"a", b"bc"], &proof));
        assert!(!JoinSecret([8; 32]).is_proved(&[b"ab", b"c"], &proof));
    }
}
