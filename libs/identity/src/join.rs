//! How a node joins: it proves that it knows the cluster's secret and is issued a certificate.
//!
//! The two ends have a TLS connection of which neither knows whom it leads to. Both derive the same
//! 32 bytes from it (RFC 5705), which differ if somebody sits in between. The secret is the key of
//! HMACs over those bytes, both ends' fresh random numbers and everything said so far:
//!
//! ```text
//! joining node                                   authority
//!   1  random number, public key, name     ->
//!                                          <-    2  random number, cluster
//!   3  HMAC("joining node", …, 1, 2)       ->
//!                                          <-    4  certificates, HMAC("authority", …, 1, 2, 4)
//! ```
//!
//! What was recorded of one connection proves nothing on another, the secret is never sent, and the
//! node takes certificates only from an authority that has proved to know it, too. A node whose certificate is
//! still good shows it in the handshake, verifies the authority's, and needs no proof ([`renew`]).

#[cfg(feature = "fuzz")]
pub mod fuzz;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rcgen::KeyPair;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ConnectionCommon};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, server};

use crate::authority::public_key;
use crate::credentials::{join_client_config, server_name_of};
use crate::{
    AuthorityError, ClusterAuthority, ClusterId, Credentials, JOIN_PROTOCOL, JoinSecret, Member, NodeName,
    Refusal, Role, Validity,
};

/// Nothing that is said here is longer.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
const DURATION_MAX: Duration = Duration::from_secs(10);
const EXPORTER_LABEL: &[u8] = b"EXPORTER-shoal-join";

/// Why a node could not join, or could not be let in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// One end turned the other away.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection broke, or was never there.
    #[error("the connection failed: {0}")]
    Connection(io::Error),
    /// It took too long.
    #[error("the other end did not answer in time")]
    TimedOut,
    /// The certificate could not be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl From<io::Error> for JoinError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => JoinError::Refused(Refusal::from_tls(tls)),
            None => JoinError::Connection(error),
        }
    }
}

/// Bytes that only the two ends of one TLS connection know.
type ChannelBinding = [u8; 32];

fn binding<Side>(connection: &ConnectionCommon<Side>) -> Result<ChannelBinding, JoinError> {
    connection
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .map_err(|error| Refusal::from_tls(&error).into())
}

/// Join the cluster of the node that `stream` leads to.
///
/// # Errors
///
/// [`Refusal::WrongSecret`] when either end does not know the other's secret.
pub async fn join<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    secret: &JoinSecret,
    name: &NodeName,
) -> Result<Credentials, JoinError> {
    let mut stream = secured(stream, join_client_config(), server_name_of(ClusterId([0; 16]))).await?;
    let binding = binding(stream.get_ref().1)?;
    join_bound(&mut stream, &binding, secret, name).await
}

/// Get a new certificate for the same key from the authority that `stream` leads to.
///
/// # Errors
///
/// [`Refusal::Expired`] when it is too late: the node has to join again.
pub async fn renew<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    credentials: &Credentials,
) -> Result<(), JoinError> {
    let config = credentials.client_config(JOIN_PROTOCOL);
    let mut stream = secured(stream, config, credentials.server_name()).await?;
    renew_over(&mut stream, credentials).await
}

async fn secured<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: ClientConfig,
    name: ServerName<'static>,
) -> Result<TlsStream<S>, JoinError> {
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let connected = timeout(DURATION_MAX, connecting).await.map_err(|_| JoinError::TimedOut)?;
    Ok(connected?)
}

async fn join_bound<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    binding: &ChannelBinding,
    secret: &JoinSecret,
    name: &NodeName,
) -> Result<Credentials, JoinError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(AuthorityError::from)?;
    let request =
        Request { nonce: nonce()?, public_key: public_key(&key), renewal: false, name: name.clone() };
    let talk = async {
        let request = request.encode();
        write_message(stream, &request).await?;
        let challenge = read_answer(stream).await?;
        Challenge::decode(&challenge)?;
        let proof = secret.prove(&[b"joining node", binding, &request, &challenge]);
        write_message(stream, &proof).await?;
        let answer = read_answer(stream).await?;
        let (certificates, proof) = answer.split_last_chunk::<32>().ok_or(SHORT)?;
        if !secret.is_proved(&[b"authority", binding, &request, &challenge, certificates], proof) {
            return Err(Refusal::WrongSecret.into());
        }
        let (certificate, authority) = split_certificates(certificates)?;
        Ok(Credentials::new(authority, certificate, &key)?)
    };
    timeout(DURATION_MAX, talk).await.map_err(|_| JoinError::TimedOut)?
}

async fn renew_over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
) -> Result<(), JoinError> {
    let name = credentials.member().name.clone();
    let request =
        Request { nonce: nonce()?, public_key: *credentials.public_key(), renewal: true, name }.encode();
    let talk = async {
        write_message(stream, &request).await?;
        let (certificate, authority) = split_certificates(&read_answer(stream).await?)?;
        if authority != *credentials.authority() {
            return Err(Refusal::OtherCluster.into());
        }
        Ok(credentials.replace(certificate)?)
    };
    timeout(DURATION_MAX, talk).await.map_err(|_| JoinError::TimedOut)?
}

/// Let a node in that speaks [`JOIN_PROTOCOL`](crate::JOIN_PROTOCOL), or turn it away. `shown`: whom the
/// certificate names that it showed in the handshake.
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut server::TlsStream<S>,
    authority: &ClusterAuthority,
    shown: Option<&Member>,
) -> Result<Member, JoinError> {
    let binding = binding(stream.get_ref().1)?;
    answer_bound(stream, &binding, authority, shown).await
}

async fn answer_bound<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    binding: &ChannelBinding,
    authority: &ClusterAuthority,
    shown: Option<&Member>,
) -> Result<Member, JoinError> {
    let talk = async {
        let admitted = let_in(stream, binding, authority, shown).await;
        if let Err(JoinError::Refused(refusal)) = &admitted {
            write_refusal(stream, refusal).await?;
        }
        stream.shutdown().await?;
        admitted
    };
    timeout(DURATION_MAX, talk).await.map_err(|_| JoinError::TimedOut)?
}

/// Turn a node away, for this daemon cannot let anybody in.
pub async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<(), JoinError> {
    let talk = async {
        read_message(stream).await?;
        write_refusal(stream, &Refusal::NoAuthority).await?;
        Ok(stream.shutdown().await?)
    };
    timeout(DURATION_MAX, talk).await.map_err(|_| JoinError::TimedOut)?
}

async fn let_in<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    binding: &ChannelBinding,
    authority: &ClusterAuthority,
    shown: Option<&Member>,
) -> Result<Member, JoinError> {
    let asked = read_message(stream).await?;
    let request = Request::decode(&asked)?;
    if request.renewal {
        let member = shown.ok_or(Refusal::NoCertificate)?;
        let certificates = issue(authority, &request, member.role, &member.name)?;
        write_answer(stream, &certificates).await?;
        return Ok(member.clone());
    }
    let challenge = Challenge { nonce: nonce()?, cluster: authority.cluster() }.encode();
    write_answer(stream, &challenge).await?;
    let proof = read_message(stream).await?;
    let proof = proof.as_slice().try_into().map_err(|_| SHORT)?;
    let secret = authority.secret();
    if !secret.is_proved(&[b"joining node", binding, &asked, &challenge], proof) {
        return Err(Refusal::WrongSecret.into());
    }
    let mut answer = issue(authority, &request, Role::Node, &request.name)?;
    let proof = secret.prove(&[b"authority", binding, &asked, &challenge, &answer]);
    answer.extend_from_slice(&proof);
    write_answer(stream, &answer).await?;
    Ok(Member { cluster: authority.cluster(), role: Role::Node, name: request.name })
}

fn issue(
    authority: &ClusterAuthority,
    request: &Request,
    role: Role,
    name: &NodeName,
) -> Result<Vec<u8>, AuthorityError> {
    let validity = Validity::starting_now(Validity::NODE_LIFETIME);
    let certificate = authority.issue(&request.public_key, role, name, validity)?;
    let length = u16::try_from(certificate.len()).expect("a certificate has a few hundred bytes");
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&certificate);
    bytes.extend_from_slice(authority.certificate());
    Ok(bytes)
}

fn split_certificates(bytes: &[u8]) -> Result<(CertificateDer<'static>, CertificateDer<'static>), JoinError> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or(SHORT)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (certificate, authority) = rest.split_at_checked(length).ok_or(SHORT)?;
    Ok((CertificateDer::from(certificate.to_vec()), CertificateDer::from(authority.to_vec())))
}

const SHORT: Refusal = Refusal::Malformed("it ends too early");

struct Request {
    nonce: [u8; 32],
    public_key: [u8; 32],
    renewal: bool,
    name: NodeName,
}

impl Request {
    fn encode(&self) -> Vec<u8> {
        let name = self.name.as_str().as_bytes();
        [&self.nonce[..], &self.public_key, &[u8::from(self.renewal)], name].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Request, Refusal> {
        let (nonce, rest) = bytes.split_first_chunk::<32>().ok_or(SHORT)?;
        let (public_key, rest) = rest.split_first_chunk::<32>().ok_or(SHORT)?;
        let (renewal, name) = rest.split_first().ok_or(SHORT)?;
        let renewal = match renewal {
            0 => false,
            1 => true,
            _ => return Err(Refusal::Malformed("it asks for something unknown")),
        };
        let name = std::str::from_utf8(name)
            .ok()
            .and_then(|name| name.parse().ok())
            .ok_or(Refusal::Malformed("its name is no node's name"))?;
        Ok(Request { nonce: *nonce, public_key: *public_key, renewal, name })
    }
}

struct Challenge {
    nonce: [u8; 32],
    cluster: ClusterId,
}

impl Challenge {
    fn encode(&self) -> Vec<u8> {
        [&self.nonce[..], &self.cluster.0].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Challenge, Refusal> {
        let bytes: &[u8; 48] = bytes.try_into().map_err(|_| SHORT)?;
        let (nonce, cluster) = bytes.split_at(32);
        let nonce = nonce.try_into().map_err(|_| SHORT)?;
        Ok(Challenge { nonce, cluster: ClusterId(cluster.try_into().map_err(|_| SHORT)?) })
    }
}

fn nonce() -> Result<[u8; 32], AuthorityError> {
    let mut nonce = [0; 32];
    SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| AuthorityError::Certificate("the system has no randomness".into()))?;
    Ok(nonce)
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).expect("messages are short");
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    stream.flush().await
}

async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, JoinError> {
    let length = stream.read_u32().await? as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(Refusal::Malformed("a message is too long").into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

const GRANTED: u8 = 0;

async fn write_answer(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    write_message(stream, &[&[GRANTED], bytes].concat()).await
}

/// What a joining node is told of a refusal; the rest stays in the authority's log.
async fn write_refusal(stream: &mut (impl AsyncWrite + Unpin), refusal: &Refusal) -> io::Result<()> {
    let code = match refusal {
        Refusal::WrongSecret => 1,
        Refusal::NoCertificate => 2,
        Refusal::NoAuthority => 3,
        _ => 4,
    };
    write_message(stream, &[code]).await
}

async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, JoinError> {
    let mut answer = read_message(stream).await?;
    let refusal = match answer.first() {
        Some(&GRANTED) => {
            answer.remove(0);
            return Ok(answer);
        }
        None => SHORT,
        Some(1) => Refusal::WrongSecret,
        Some(2) => Refusal::NoCertificate,
        Some(3) => Refusal::NoAuthority,
        Some(_) => Refusal::Malformed("the authority did not understand the request"),
    };
    Err(refusal.into())
}

#[cfg(test)]
mod tests;
