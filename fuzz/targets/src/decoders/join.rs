//! How a node joins: whoever stands between the two ends, one of them is let in only if the other has said
//! every word that it heard.

use shoal_identity::join::fuzz;
use shoal_identity::{ClusterAuthority, ClusterId, Credentials, JoinSecret, NodeName, Role, Validity};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::Log;
use crate::entropy::Entropy;

/// A cluster, and the certificate of one of its nodes.
struct Cluster {
    authority: ClusterAuthority,
    text: String,
    other: JoinSecret,
    name: NodeName,
    node: Credentials,
}

impl Cluster {
    fn new() -> Cluster {
        let (authority, text) = fuzz::authority(ClusterId([0xc1; 16])).expect("there is randomness");
        let other = JoinSecret::generate().expect("there is randomness");
        let name: NodeName = "worker-1".parse().expect("a plain name");
        let validity = Validity::starting_now(Validity::NODE_LIFETIME);
        let node = authority.credentials(Role::Node, &name, validity).expect("there is randomness");
        Cluster { authority, text, other, name, node }
    }
}

thread_local! {
    static CLUSTER: Cluster = Cluster::new();
}

/// The first byte says which of these.
pub fn run(bytes: &[u8], log: Log<'_>) {
    let mut entropy = Entropy::new(bytes);
    CLUSTER.with(|cluster| match entropy.byte() % 8 {
        0 => words(entropy.rest()),
        1 => certificates(cluster, &mut entropy, log),
        2 => file(cluster, &mut entropy, log),
        3 | 4 => renewing(cluster, &mut entropy, log),
        _ => joining(cluster, &mut entropy, log),
    });
}

/// Each word has one encoding.
fn words(bytes: &[u8]) {
    for read in [fuzz::request(bytes), fuzz::challenge(bytes)].into_iter().flatten() {
        assert_eq!(read, bytes);
    }
}

/// A node whose authority is mad takes a certificate for its key, or nothing.
fn certificates(cluster: &Cluster, entropy: &mut Entropy<'_>, log: Log<'_>) {
    let mut changed = false;
    let taken = fuzz::certificates(&cluster.authority, &cluster.name, |bytes| {
        let before = bytes.clone();
        while !entropy.is_spent() {
            change(entropy, bytes);
        }
        changed = *bytes != before;
    });
    let taken = taken.expect("there is randomness");
    log.line("taken:", &(changed, &taken));
    assert!(changed || taken.is_some_and(|member| member.name == cluster.name));
}

/// The file of an authority that was damaged.
fn file(cluster: &Cluster, entropy: &mut Entropy<'_>, log: Log<'_>) {
    let mut text = Vec::from(cluster.text.as_str());
    while !entropy.is_spent() {
        change(entropy, &mut text);
    }
    let opened = fuzz::opened(&String::from_utf8_lossy(&text));
    log.line("opened:", &opened);
    if text == cluster.text.as_bytes() {
        let (of, secret, certificate) = opened.expect("it is whole");
        assert_eq!((of, secret), (cluster.authority.cluster(), cluster.authority.secret().clone()));
        assert_eq!(certificate, *cluster.authority.certificate());
    }
}

/// What came of an introduction.
#[derive(Debug)]
struct Outcome {
    node: Result<(), String>,
    authority: Result<(), String>,
    /// How many words went from one end to the other before the first one that somebody changed.
    unchanged: usize,
}

fn joining(cluster: &Cluster, entropy: &mut Entropy<'_>, log: Log<'_>) {
    let (stranger, elsewhere) = (entropy.chance(30), entropy.chance(30));
    let secret = if stranger { &cluster.other } else { cluster.authority.secret() };
    let (mut here, node_end) = duplex(1 << 16);
    let (mut there, authority_end) = duplex(1 << 16);
    let node = async move {
        let joined = fuzz::join(&mut here, &[1; 32], secret, &cluster.name).await;
        joined.map(|credentials| assert_eq!(credentials.member().name, cluster.name))
    };
    let authority = async move {
        let binding = [1 + u8::from(elsewhere); 32];
        let admitted = fuzz::answer(&mut there, &binding, &cluster.authority, None).await;
        admitted.map(|member| assert_eq!(member.role, Role::Node, "the secret makes nobody head"))
    };
    let (node, authority, unchanged) = super::RUNTIME.with(|runtime| {
        runtime.block_on(async { tokio::join!(node, authority, pass_on(node_end, authority_end, entropy)) })
    });
    let text = |error: shoal_identity::join::JoinError| error.to_string();
    let outcome = Outcome { node: node.map_err(text), authority: authority.map_err(text), unchanged };
    log.line("joining:", &outcome);
    let trusted = !stranger && !elsewhere;
    assert_eq!(outcome.node.is_ok(), trusted && outcome.unchanged == 4, "{outcome:?}");
    assert_eq!(outcome.authority.is_ok(), trusted && outcome.unchanged >= 3, "{outcome:?}");
}

/// TLS has verified who it is, so that nobody stands in between; but either end may be mad.
fn renewing(cluster: &Cluster, entropy: &mut Entropy<'_>, log: Log<'_>) {
    let shown = (!entropy.chance(40)).then(|| cluster.node.member());
    let (mut here, node_end) = duplex(1 << 16);
    let (mut there, authority_end) = duplex(1 << 16);
    let node = async move { fuzz::renew(&mut here, &cluster.node).await };
    let authority =
        async move { fuzz::answer(&mut there, &[1; 32], &cluster.authority, shown).await.map(|_| ()) };
    let (node, authority, unchanged) = super::RUNTIME.with(|runtime| {
        runtime.block_on(async { tokio::join!(node, authority, pass_on(node_end, authority_end, entropy)) })
    });
    let text = |error: shoal_identity::join::JoinError| error.to_string();
    let outcome = Outcome { node: node.map_err(text), authority: authority.map_err(text), unchanged };
    log.line("renewing:", &outcome);
    if outcome.unchanged >= 2 {
        assert_eq!(outcome.node.is_ok(), shown.is_some(), "{outcome:?}");
        assert_eq!(outcome.authority.is_ok(), shown.is_some(), "{outcome:?}");
    }
    assert_eq!(cluster.node.member().name, cluster.name);
}

/// Pass on what the two ends say, in turn, until one of them ends. Says how many words went through before
/// the first one that was changed.
async fn pass_on(mut node: DuplexStream, mut authority: DuplexStream, entropy: &mut Entropy<'_>) -> usize {
    let (mut unchanged, mut honest) = (0, true);
    for turn in 0.. {
        let (from, to) = match turn % 2 {
            0 => (&mut node, &mut authority),
            _ => (&mut authority, &mut node),
        };
        let Some(word) = word(from).await else { return unchanged };
        let mut said = word.clone();
        if entropy.chance(30) {
            change(entropy, &mut said);
        }
        honest &= said == word;
        let mut length = said.len() as u32;
        let lies = entropy.chance(8);
        if lies {
            length = entropy.integer() as u32;
        }
        let cut_off = length as usize != said.len();
        honest &= !cut_off;
        unchanged += usize::from(honest);
        if to.write_all(&[&length.to_be_bytes()[..], &said].concat()).await.is_err() || cut_off {
            return unchanged;
        }
    }
    unchanged
}

async fn word(stream: &mut DuplexStream) -> Option<Vec<u8>> {
    let length = stream.read_u32().await.ok()?;
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

fn change(entropy: &mut Entropy<'_>, bytes: &mut Vec<u8>) {
    let at = entropy.index(bytes.len() + 1);
    match entropy.byte() % 5 {
        0 if at < bytes.len() => bytes[at] ^= entropy.byte(),
        1 if at < bytes.len() => bytes[at] = entropy.byte(),
        2 => bytes.truncate(at),
        3 => {
            let length = entropy.index(64);
            drop(bytes.splice(at..at, entropy.take(length).iter().copied()));
        }
        _ => *bytes = Vec::from(entropy.take(at)),
    }
}
