//! Texts that people, files and the system give: an error or a value, and a value that is written is read
//! as itself again.

use core::fmt::Debug;
use core::str::FromStr;

use shoal_identity::join::fuzz as identity;
use shoal_identity::{ClusterId, JoinSecret, NodeName};
use shoal_runtime::daemon::fuzz::{PRINTED_BYTES_MAX, lines, memory};
use shoal_runtime::daemon::session::Description;
use shoal_state::EtcdLocation;

use crate::Log;
use crate::entropy::Entropy;

/// The first byte says what the text is for.
pub fn run(bytes: &[u8], log: Log<'_>) {
    let mut entropy = Entropy::new(bytes);
    let which = entropy.byte() % 8;
    if which == 0 {
        return printed(&mut entropy, log);
    }
    let text = text(&mut entropy, PATTERNS[usize::from(which)]);
    log.line("text:", &text);
    match which {
        1 => same(&text, JoinSecret::reveal),
        2 => same(&text, NodeName::to_string),
        3 => same(&text, ClusterId::to_string),
        4 => same(&text, EtcdLocation::to_string),
        5 => {
            if let Some(member) = identity::member(&text) {
                assert!(member.eq_ignore_ascii_case(&text), "{text} became {member}");
            }
        }
        6 => {
            if let Some((limit, used)) = memory(&text) {
                assert!(used <= limit);
            }
        }
        _ => {
            if let Ok(description) = serde_json::from_str::<Description>(&text) {
                let written = serde_json::to_string(&description).expect("paths from text are text");
                assert_eq!(serde_json::from_str::<Description>(&written).ok(), Some(description));
            }
        }
    }
}

/// Texts that are nearly right, by what they are for.
const PATTERNS: [&str; 8] = [
    "",
    "shoal-join-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "gpu-1.rack_2",
    "0123456789abcdef0123456789abcdef",
    "etcds://[::1]:2379,b:2380/x/y",
    "shoal://0123456789abcdef0123456789abcdef/node/gpu-1",
    "MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:   400 kB\n",
    r#"{"session":"/s","socket":"/s/n","spill":"/p","node":1,"pid":2,"version":"0","owned":false,
        "cluster":"127.0.0.1:6379","address":null}"#,
];

/// A pattern with a few changes, or anything.
fn text(entropy: &mut Entropy<'_>, pattern: &str) -> String {
    let mut bytes = Vec::from(pattern);
    if entropy.chance(20) {
        bytes.clear();
    }
    while !entropy.is_spent() {
        let at = entropy.index(bytes.len() + 1);
        match entropy.byte() % 5 {
            0 if at < bytes.len() => bytes[at] = entropy.byte(),
            1 if at < bytes.len() => bytes[at] = entropy.pick(b"+-/:.,0 \n[]@A"),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => bytes.truncate(at),
            _ => {
                let length = entropy.index(9);
                drop(bytes.splice(at..at, entropy.take(length).iter().copied()));
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn same<T: FromStr + Debug + PartialEq>(text: &str, write: impl Fn(&T) -> String) {
    let Ok(value) = text.parse::<T>() else { return };
    let written = write(&value);
    assert_eq!(written.parse::<T>().ok().as_ref(), Some(&value), "{text:?} was written as {written:?}");
}

/// What a worker prints: however it comes, the same lines, none too long, and nothing is lost.
fn printed(entropy: &mut Entropy<'_>, log: Log<'_>) {
    let cut = 1 + entropy.index(5_000);
    let mut bytes = Vec::new();
    while !entropy.is_spent() {
        let (length, times) = (entropy.index(9), entropy.pick(&[1, 1, 1, 40, 9_000]));
        bytes.extend(entropy.take(length).repeat(times));
        bytes.extend(entropy.pick(&["", "\n", "\r\n", "\u{20ac}"]).as_bytes());
        bytes.truncate(4 * PRINTED_BYTES_MAX);
    }
    let parts = lines(bytes.chunks(cut));
    log.line("lines:", &parts.len());
    assert!(parts.iter().all(|line| line.chars().count() <= PRINTED_BYTES_MAX), "cut at {cut}");
    // A long line may be cut where there is no character, and between the two bytes of its end.
    let left_out = |letter: &char| !matches!(letter, '\r' | '\n' | '\u{fffd}');
    let passed_on = parts.iter().flat_map(|line| line.chars()).filter(left_out);
    assert!(passed_on.eq(String::from_utf8_lossy(&bytes).chars().filter(left_out)), "cut at {cut}");
}
