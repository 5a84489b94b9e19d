//! What is said while a node joins, without the TLS around it: for the fuzzer, and for nobody else.

use tokio::io::{AsyncRead, AsyncWrite};

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;

use super::{
    AuthorityError, Challenge, JoinError, Request, answer_bound, issue, join_bound, nonce, renew_over,
    split_certificates,
};
use crate::authority::public_key;
use crate::{ClusterAuthority, ClusterId, Credentials, JoinSecret, Member, NodeName, Role};

/// [`join`](super::join) over a stream whose ends share these bytes.
///
/// # Errors
///
/// As [`join`](super::join).
pub async fn join<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    binding: &[u8; 32],
    secret: &JoinSecret,
    name: &NodeName,
) -> Result<Credentials, JoinError> {
    join_bound(stream, binding, secret, name).await
}

/// [`renew`](super::renew) over a stream.
///
/// # Errors
///
/// As [`renew`](super::renew).
pub async fn renew<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
) -> Result<(), JoinError> {
    renew_over(stream, credentials).await
}

/// [`answer`](super::answer) over a stream whose ends share these bytes.
///
/// # Errors
///
/// As [`answer`](super::answer).
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    binding: &[u8; 32],
    authority: &ClusterAuthority,
    shown: Option<&Member>,
) -> Result<Member, JoinError> {
    answer_bound(stream, binding, authority, shown).await
}

/// What a request says, encoded again.
pub fn request(bytes: &[u8]) -> Option<Vec<u8>> {
    Request::decode(bytes).ok().map(|request| request.encode())
}

/// What a challenge says, encoded again.
pub fn challenge(bytes: &[u8]) -> Option<Vec<u8>> {
    Challenge::decode(bytes).ok().map(|challenge| challenge.encode())
}

/// What a node takes for an answer that an authority has proved: what is issued for a new key, after `change`.
/// None: it refuses that.
///
/// # Errors
///
/// If there is no randomness.
pub fn certificates(
    authority: &ClusterAuthority,
    name: &NodeName,
    change: impl FnOnce(&mut Vec<u8>),
) -> Result<Option<Member>, AuthorityError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let request =
        Request { nonce: nonce()?, public_key: public_key(&key), renewal: false, name: name.clone() };
    let mut bytes = issue(authority, &request, Role::Node, name)?;
    change(&mut bytes);
    let taken = split_certificates(&bytes)
        .ok()
        .and_then(|(certificate, authority)| Credentials::new(authority, certificate, &key).ok());
    Ok(taken.map(|credentials| credentials.member().clone()))
}

/// Whom the name in a certificate means, written as such a name again.
pub fn member(uri: &str) -> Option<String> {
    Member::parse(uri).map(|member| member.uri())
}

/// An authority of this cluster, and what its file would say.
///
/// # Errors
///
/// If there is no randomness.
pub fn authority(cluster: ClusterId) -> Result<(ClusterAuthority, String), AuthorityError> {
    let (authority, certificate) = ClusterAuthority::of(cluster)?;
    let text = authority.text(&certificate);
    Ok((authority, text))
}

/// The authority that a file with this text describes: its cluster, secret and certificate.
pub fn opened(text: &str) -> Option<(ClusterId, JoinSecret, CertificateDer<'static>)> {
    let authority = ClusterAuthority::parse(text)?;
    Some((authority.cluster(), authority.secret().clone(), authority.certificate().clone()))
}
