//! Control frames between daemons: however their bytes are cut, the same frames come out, and the same error.

use bytes::{Bytes, BytesMut};
use shoal_core::session::Packet;
use shoal_runtime::transport::Control;
use shoal_runtime::transport::control::{decode, encode};

use crate::Log;
use crate::entropy::Entropy;

/// The first two bytes say how the stream is made and cut, the third how long a frame may be.
pub fn run(bytes: &[u8], log: Log<'_>) {
    let mut entropy = Entropy::new(bytes);
    let (cut, raw) = (usize::from(entropy.byte()) + 1, entropy.chance(128));
    let limit = usize::from(entropy.byte()) * 4;
    let (sent, stream) = match raw {
        true => (Vec::new(), Vec::from(entropy.rest())),
        false => packets(&mut entropy),
    };
    let whole = read(&stream, stream.len().max(1), limit);
    let parts = read(&stream, cut, limit);
    log.line("packets:", &whole);
    assert_eq!(whole, parts, "cut after every {cut} bytes");
    let (received, error) = whole;
    let mut again = BytesMut::new();
    for control in &received {
        encode(control, &mut again).expect("what was decoded can be encoded");
    }
    assert_eq!(again[..], stream[..again.len()], "each frame has one encoding");
    if !raw && limit > 400 {
        assert_eq!((received, error), (sent, None));
    }
}

/// A stream of arbitrary frames.
fn packets(entropy: &mut Entropy<'_>) -> (Vec<Control>, Vec<u8>) {
    let (mut sent, mut stream) = (Vec::new(), BytesMut::new());
    while !entropy.is_spent() {
        let kind = entropy.byte() % 4;
        let (one, other) = (entropy.integer() as u64, entropy.integer() as u64);
        let length = entropy.index(300);
        let bytes = Bytes::copy_from_slice(entropy.take(length));
        let control = match kind {
            0 => Control::Greeting(bytes),
            1 => Control::Packet(Packet::Resume { received: one, acknowledged: other }),
            2 => Control::Packet(Packet::Acknowledge { up_to: one }),
            _ => Control::Packet(Packet::Frame { number: one, frame: bytes }),
        };
        encode(&control, &mut stream).expect("short frames can be encoded");
        sent.push(control);
    }
    (sent, Vec::from(stream))
}

/// The frames of a stream that is read in parts, and the error that ended it.
fn read(stream: &[u8], part: usize, limit: usize) -> (Vec<Control>, Option<String>) {
    let (mut buffer, mut received) = (BytesMut::new(), Vec::new());
    for part in stream.chunks(part) {
        buffer.extend_from_slice(part);
        loop {
            match decode(&mut buffer, limit) {
                Ok(Some(control)) => received.push(control),
                Ok(None) => break,
                Err(error) => return (received, Some(error.to_string())),
            }
        }
    }
    (received, None)
}
