//! Records of TLS 1.3 with bytes of objects in them (RFC 8446, 5.2).
//!
//! TLS itself has made the connection, verified both certificates, and agreed on the keys. From then on a
//! stream that carries gigabytes is sealed and opened here, in place and a hundred records at a time, where
//! TLS would copy each record several times and read from the network four kilobytes at a time. What goes
//! over the network is what TLS would have sent.

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use tokio_rustls::rustls::ConnectionTrafficSecrets;

/// What one record holds at most.
pub(crate) const PLAIN_BYTES_MAX: usize = 16 << 10;
/// How long a record is at most, with all that TLS allows around its contents.
pub(crate) const RECORD_BYTES_MAX: usize = HEADER_BYTES + PLAIN_BYTES_MAX + 256;
pub(crate) const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;

const APPLICATION_DATA: u8 = 23;
/// A record looks like one of TLS 1.2.
const VERSION: [u8; 2] = [3, 3];
/// A key may seal 2^24.5 records (RFC 8446, 5.5): a stream that has sealed so many is used no more.
const RECORDS_MAX: u64 = 1 << 24;

/// How long records are that hold so much and are as full as they can be.
pub(crate) fn sealed_bytes(plain: usize) -> usize {
    plain + plain.div_ceil(PLAIN_BYTES_MAX) * (HEADER_BYTES + 1 + TAG_BYTES)
}

/// What came is no record that the other end has sealed, or the key is used up.
#[derive(Debug)]
pub(crate) struct Unsealed;

/// One direction of a stream: its key, and how many records have gone.
struct Key {
    key: LessSafeKey,
    mask: [u8; NONCE_BYTES],
    sequence: u64,
    last: u64,
}

impl Key {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Key, Unsealed> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Unsealed),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Unsealed)?;
        let mask = iv.as_ref().try_into().map_err(|_| Unsealed)?;
        Ok(Key { key: LessSafeKey::new(key), mask, sequence, last: sequence + RECORDS_MAX })
    }

    /// The next record's nonce; no two records of a key have the same (RFC 8446, 5.3).
    fn nonce(&mut self) -> Result<Nonce, Unsealed> {
        if self.sequence >= self.last {
            return Err(Unsealed);
        }
        let mut nonce = self.mask;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    fn is_spent(&self) -> bool {
        self.last - self.sequence < RECORDS_MAX / 2
    }
}

/// Seals what this end sends.
pub(crate) struct Sealer(Key);

/// Opens what the other end has sealed.
pub(crate) struct Opener(Key);

impl Sealer {
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Sealer, Unsealed> {
        Key::new(secrets).map(Sealer)
    }

    /// Whether the stream should be replaced before it is used again.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.is_spent()
    }

    /// Append records that hold `plain`.
    pub(crate) fn seal(&mut self, plain: &[u8], records: &mut Vec<u8>) -> Result<(), Unsealed> {
        for piece in plain.chunks(PLAIN_BYTES_MAX) {
            let sealed = piece.len() + 1 + TAG_BYTES;
            let [high, low] = (sealed as u16).to_be_bytes();
            let header = [APPLICATION_DATA, VERSION[0], VERSION[1], high, low];
            records.extend_from_slice(&header);
            let start = records.len();
            records.extend_from_slice(piece);
            records.push(APPLICATION_DATA);
            let nonce = self.0.nonce()?;
            let tag = self.0.key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut records[start..]);
            records.extend_from_slice(tag.map_err(|_| Unsealed)?.as_ref());
        }
        Ok(())
    }
}

impl Opener {
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Opener, Unsealed> {
        Key::new(secrets).map(Opener)
    }

    /// See [`Sealer::is_spent`].
    pub(crate) fn is_spent(&self) -> bool {
        self.0.is_spent()
    }

    /// Open a record in place. Gives where in it the contents are.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<std::ops::Range<usize>, Unsealed> {
        let (header, sealed) = record.split_first_chunk_mut::<HEADER_BYTES>().ok_or(Unsealed)?;
        let nonce = self.0.nonce()?;
        let plain = self.0.key.open_in_place(nonce, Aad::from(*header), sealed).map_err(|_| Unsealed)?;
        // Behind the contents are their kind and any number of zeros. Whatever is no data of objects (an
        // alert, a change of keys) ends the stream: neither end asks for that.
        let kind = plain.iter().rposition(|byte| *byte != 0).ok_or(Unsealed)?;
        if plain[kind] == APPLICATION_DATA { Ok(HEADER_BYTES..HEADER_BYTES + kind) } else { Err(Unsealed) }
    }
}

impl Opener {
    /// Open records that lie at the front of `bytes` and hold `plain` bytes, as full as they can be. What
    /// they hold is at the front of `bytes` then, one record's behind the other's; what is behind it is
    /// nothing.
    pub(crate) fn open_together(&mut self, bytes: &mut [u8], plain: usize) -> Result<(), Unsealed> {
        let (mut from, mut to) = (0, 0);
        while to < plain {
            let held = (plain - to).min(PLAIN_BYTES_MAX);
            let end = from + sealed_bytes(held);
            let header: [u8; HEADER_BYTES] = *bytes[from..end].first_chunk().ok_or(Unsealed)?;
            if length(&header)? != Some(end - from) {
                return Err(Unsealed);
            }
            let nonce = self.0.nonce()?;
            // It moves down by what surrounded the records before it, and by its own header.
            let sealed = from - to + HEADER_BYTES..;
            let opened = self.0.key.open_within(nonce, Aad::from(header), &mut bytes[to..end], sealed);
            if opened.map_err(|_| Unsealed)?.last() != Some(&APPLICATION_DATA) {
                return Err(Unsealed);
            }
            (from, to) = (end, to + held);
        }
        Ok(())
    }
}

/// How long the record is that starts here, as soon as that has come.
pub(crate) fn length(bytes: &[u8]) -> Result<Option<usize>, Unsealed> {
    let Some([kind, _, _, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    if *kind == APPLICATION_DATA && length <= RECORD_BYTES_MAX { Ok(Some(length)) } else { Err(Unsealed) }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn secrets() -> (u64, ConnectionTrafficSecrets) {
        (3, ConnectionTrafficSecrets::Chacha20Poly1305 { key: AeadKey::from([7; 32]), iv: Iv::from([9; 12]) })
    }

    fn opened(opener: &mut Opener, mut records: &mut [u8]) -> Result<Vec<u8>, Unsealed> {
        let mut plain = Vec::new();
        while !records.is_empty() {
            let length = length(records)?.ok_or(Unsealed)?;
            let (record, rest) = records.split_at_mut_checked(length).ok_or(Unsealed)?;
            let range = opener.open(record)?;
            plain.extend_from_slice(&record[range]);
            records = rest;
        }
        Ok(plain)
    }

    #[test]
    fn what_was_sealed_is_opened_in_order_and_nothing_else_is() {
        let (mut sealer, mut opener) = (Sealer::new(secrets()).unwrap(), Opener::new(secrets()).unwrap());
        let plain: Vec<u8> = (0..PLAIN_BYTES_MAX * 2 + 5).map(|index| (index % 251) as u8).collect();
        for plain in [&plain[..], &plain[..1], &[0; 40]] {
            let mut records = Vec::new();
            sealer.seal(plain, &mut records).unwrap();
            assert_eq!(opened(&mut opener, &mut records).unwrap(), plain);
        }
        let mut records = Vec::new();
        sealer.seal(&plain, &mut records).unwrap();
        for wrong in [0, 6, 100, records.len() - 1] {
            let mut changed = records.clone();
            changed[wrong] ^= 1;
            assert!(opened(&mut Opener::new(secrets()).unwrap(), &mut changed).is_err());
        }
        // The second time it is another record's turn.
        assert!(opened(&mut opener, &mut records.clone()).is_ok());
        assert!(opened(&mut opener, &mut records).is_err());
    }

    #[test]
    fn records_are_opened_where_their_contents_belong() {
        let plain: Vec<u8> = (0..PLAIN_BYTES_MAX * 3 + 5).map(|index| (index % 241) as u8).collect();
        for length in [0, 1, PLAIN_BYTES_MAX, PLAIN_BYTES_MAX + 1, plain.len()] {
            let mut records = Vec::new();
            Sealer::new(secrets()).unwrap().seal(&plain[..length], &mut records).unwrap();
            assert_eq!(records.len(), sealed_bytes(length));
            let mut opener = Opener::new(secrets()).unwrap();
            opener.open_together(&mut records, length).unwrap();
            assert!(records[..length] == plain[..length], "{length} bytes");
        }
        let mut records = Vec::new();
        Sealer::new(secrets()).unwrap().seal(&plain, &mut records).unwrap();
        for wrong in [0, 6, PLAIN_BYTES_MAX + 30, records.len() - 1] {
            let mut changed = records.clone();
            changed[wrong] ^= 1;
            let mut opener = Opener::new(secrets()).unwrap();
            assert!(opener.open_together(&mut changed, plain.len()).is_err(), "byte {wrong}");
        }
    }

    #[test]
    fn a_key_is_used_for_a_bounded_number_of_records() {
        let mut sealer = Sealer::new(secrets()).unwrap();
        assert!(!sealer.is_spent());
        sealer.0.sequence = sealer.0.last - 1;
        assert!(sealer.is_spent());
        assert!(sealer.seal(b"last", &mut Vec::new()).is_ok());
        assert!(sealer.seal(b"one more", &mut Vec::new()).is_err());
    }
}
