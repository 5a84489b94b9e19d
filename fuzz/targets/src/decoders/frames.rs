//! Frames out of a stream: however it is cut, the same frames come out, and the same error.

use shoal_core::ids::ProcessId;
use shoal_core::message::Message;
use shoal_core::wire;
use shoal_runtime::control::Control;
use shoal_runtime::frame::{self, HEADER_BYTES, Header, Kind};
use shoal_runtime::inbox::Inbox;

use crate::Log;
use crate::entropy::Entropy;

/// The first two bytes say how the stream is made and cut; the rest is the stream, or what its frames
/// hold.
pub fn run(bytes: &[u8], log: Log<'_>) {
    let mut entropy = Entropy::new(bytes);
    let (cut, raw) = (usize::from(entropy.byte()) + 1, entropy.chance(128));
    let stream = if raw { Vec::from(entropy.rest()) } else { frames(&mut entropy) };
    let whole = read(&stream, stream.len().max(1));
    let parts = read(&stream, cut);
    log.line("frames:", &whole);
    assert_eq!(whole, parts, "cut after every {cut} bytes");
    let bytes: usize = whole.0.iter().map(|(_, body)| HEADER_BYTES + body.len()).sum();
    assert!(bytes <= stream.len(), "frames are no longer than what came");
    for (header, body) in &whole.0 {
        log.line("header:", header);
        let _ = (wire::decode::<Control>(body), wire::decode::<Message>(body));
    }
}

/// A stream of frames with arbitrary headers' fields and bodies, then something that is cut off.
fn frames(entropy: &mut Entropy<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !entropy.is_spent() {
        let kind = if entropy.chance(128) { Kind::Message } else { Kind::Control };
        let (to, from) = (ProcessId(entropy.integer() as u64), ProcessId(entropy.integer() as u64));
        let length = entropy.index(300);
        let body = Vec::from(entropy.take(length));
        let start = stream.len();
        frame::append(&mut stream, kind, to, from, &body).expect("bytes fit into a frame");
        let parsed = Header::parse(&stream[start..]).expect("what was appended is a frame");
        let header = parsed.expect("a whole header was appended");
        assert_eq!((header.kind, header.to, header.from), (kind, to, from));
        assert_eq!(header.to_bytes(), stream[start..start + HEADER_BYTES]);
        if entropy.chance(16) {
            stream.truncate(start + entropy.index(stream.len() - start));
        }
    }
    stream
}

type Frames = (Vec<(String, Vec<u8>)>, Option<String>);

/// The frames of a stream that is read in parts, and the error that ended it.
fn read(stream: &[u8], part: usize) -> Frames {
    let mut inbox = Inbox::default();
    let mut frames = Vec::new();
    for part in stream.chunks(part) {
        inbox.extend(part);
        loop {
            match inbox.next_frame() {
                Ok(Some((header, body))) => frames.push((format!("{header:?}"), Vec::from(body))),
                Ok(None) => break,
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
    }
    (frames, None)
}
