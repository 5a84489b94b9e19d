//! Bytes of objects between nodes: requests for them, and chunks in sealed records. The other end says
//! anything, and so may the network.

use bytes::{Bytes, BytesMut};
use shoal_runtime::transport::bulk::{CHUNK_BYTES, OBJECT_BYTES_MAX, checksum};
use shoal_runtime::transport::{BulkError, BulkRequest, Priority};
use shoal_transport_grpc::fuzz;

use crate::Log;
use crate::entropy::Entropy;

/// The first byte says which of the three.
pub fn run(bytes: &[u8], log: Log<'_>) {
    let mut entropy = Entropy::new(bytes);
    match entropy.byte() % 3 {
        0 => one_request(entropy.rest()),
        1 => requests(&mut entropy, log),
        _ => object(&mut entropy, log),
    }
}

/// What is no request is refused; what is one has one encoding.
fn one_request(bytes: &[u8]) {
    let Ok(request) = BulkRequest::decode(Bytes::copy_from_slice(bytes)) else { return };
    assert!(request.is_valid() && request.object.len() <= OBJECT_BYTES_MAX);
    let mut again = BytesMut::new();
    request.encode(&mut again);
    assert_eq!(again, bytes);
}

/// Who gives bytes reads one request after the other.
fn requests(entropy: &mut Entropy<'_>, log: Log<'_>) {
    let cut = 1 + entropy.index(300);
    let (mut asked, mut parts, mut honest) = (Vec::new(), Vec::new(), true);
    while !entropy.is_spent() && honest {
        let mut encoded = BytesMut::new();
        let request = request(entropy);
        request.encode(&mut encoded);
        honest = request.is_valid() && !entropy.chance(30);
        let length = if honest { encoded.len() } else { entropy.integer() as usize };
        parts.push(Vec::from((length as u16).to_le_bytes()));
        parts.push(Vec::from(encoded));
        asked.extend(honest.then_some(request));
    }
    let mut network = seal(&parts);
    let damaged = damage(entropy, &mut network);
    let (read, error) = block_on(fuzz::requests(network, cut));
    log.line("requests:", &(&read, &error));
    match honest && !damaged {
        true => assert_eq!(read, asked),
        // What comes before the lie, or the damage, is good.
        false => asked.iter().zip(&read).for_each(|(asked, read)| assert_eq!(asked, read)),
    }
    if damaged {
        assert!(read.len() <= asked.len(), "nothing is read that was not sealed");
    }
}

fn request(entropy: &mut Entropy<'_>) -> BulkRequest {
    let length = entropy.pick(&[0, 8, 40, OBJECT_BYTES_MAX, OBJECT_BYTES_MAX + 1]);
    let mut object = Vec::from(entropy.take(length));
    object.resize(length, 0);
    let (offset, length) = (entropy.integer() as u64, entropy.integer() as u64);
    BulkRequest { object: object.into(), offset, length, priority: Priority(entropy.byte()) }
}

/// Who takes bytes reads an answer, and the chunks of the object.
fn object(entropy: &mut Entropy<'_>, log: Log<'_>) {
    let length = entropy.pick(&[0, 1, 100, 16_384, 16_385, 70_000, CHUNK_BYTES, CHUNK_BYTES + 9]);
    let cut = entropy.pick(&[1, 5, 21, 1_000, 16_384, 16_406, 100_000, 1 << 20]) + entropy.index(9);
    let filler = entropy.byte();
    let object: Vec<u8> = (0..length).map(|at| (at % 251) as u8 ^ filler).collect();
    let (mut network, honest) = answer(entropy, &object);
    // Nobody has patience for a hundred thousand reads of one byte.
    let cut = cut.max(network.len() / 4_096);
    let damaged = damage(entropy, &mut network);
    let mut request = request(entropy);
    request.length = length as u64;
    let mut into = vec![!filler; length];
    let fetched = block_on(fuzz::fetched(network, cut, &request, &mut into));
    log.line("fetched:", &(length, honest, damaged, &fetched));
    match fetched {
        Ok(()) if honest => assert!(into == object, "the object came as something else"),
        Err(error) if honest && !damaged => panic!("{error}"),
        Err(BulkError::Corrupt { offset }) => assert!(offset < length as u64),
        _ => {}
    }
}

/// An answer in records; of somebody who may lie about the status, lengths and checksums.
fn answer(entropy: &mut Entropy<'_>, object: &[u8]) -> (Vec<u8>, bool) {
    let mut lie = |one_in_256| entropy.chance(one_in_256).then(|| entropy.integer());
    let mut honest = true;
    let mut parts = vec![vec![0]];
    if let Some(status) = lie(20) {
        (parts[0][0], honest) = (status as u8, status as u8 == 0);
    }
    for chunk in object.chunks(CHUNK_BYTES) {
        let (mut said, mut sum) = (chunk.len() as u32, checksum(chunk));
        let mut sent = chunk;
        if let Some(length) = lie(20) {
            honest &= said == length as u32;
            said = length as u32;
        }
        if let Some(wrong) = lie(20) {
            honest &= sum == wrong as u32;
            sum = wrong as u32;
        }
        if let Some(shorter) = lie(20) {
            sent = &chunk[..(shorter as usize).min(chunk.len())];
            honest &= sent.len() == chunk.len();
        }
        parts.push([said.to_le_bytes(), sum.to_le_bytes()].concat());
        parts.push(Vec::from(sent));
    }
    if let Some(more) = lie(20) {
        // It is not read: the object has come.
        parts.push(Vec::from((more as u64).to_le_bytes()));
    }
    (seal(&parts), honest)
}

fn seal(parts: &[Vec<u8>]) -> Vec<u8> {
    fuzz::sealed(parts.iter().map(Vec::as_slice)).expect("a few records can be sealed")
}

/// What may happen to bytes on the network. Says whether it did.
fn damage(entropy: &mut Entropy<'_>, network: &mut Vec<u8>) -> bool {
    if network.is_empty() || !entropy.chance(100) {
        return false;
    }
    let at = (entropy.integer() as usize).min(network.len() - 1);
    let before = network.clone();
    match entropy.byte() % 3 {
        0 => network[at] ^= entropy.byte(),
        1 => network.truncate(at),
        _ => drop(network.splice(at..at, entropy.take(30).iter().copied())),
    }
    *network != before
}

fn block_on<F: Future>(future: F) -> F::Output {
    super::RUNTIME.with(|runtime| runtime.block_on(future))
}
