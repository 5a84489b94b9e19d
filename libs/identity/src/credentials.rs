//! A node's key and certificate, as configurations of TLS.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::KeyPair;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::authority::{public_key, server_name};
use crate::member::cluster_of_authority;
use crate::{ClusterId, Member, Refusal};

/// What nodes speak with each other. The number changes when they would not understand each other.
pub const NODE_PROTOCOL: &[u8] = b"shoal/1";
/// What nodes speak over streams that carry nothing but bytes of objects.
pub const BULK_PROTOCOL: &[u8] = b"shoal-bulk/1";
/// What a node speaks that has no certificate yet, or wants a new one.
pub const JOIN_PROTOCOL: &[u8] = b"shoal-join/1";

/// A key that never leaves this process, and the certificate of its cluster for it. Clones share both:
/// when the certificate is replaced, new connections of all of them show the new one.
#[derive(Clone)]
pub struct Credentials {
    shared: Arc<Shared>,
}

struct Shared {
    member: Member,
    public_key: [u8; 32],
    key: Arc<dyn rustls::sign::SigningKey>,
    authority: CertificateDer<'static>,
    roots: Arc<RootCertStore>,
    shown: Shown,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.shared.member).finish()
    }
}

impl Credentials {
    pub(crate) fn new(
        authority: CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        key: &KeyPair,
    ) -> Result<Credentials, Refusal> {
        let cluster = cluster_of_authority(&authority).ok_or(Refusal::NoMember)?;
        let member = Member::of(&certificate, cluster)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).map_err(|error| Refusal::from_tls(&error))?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing =
            provider().key_provider.load_private_key(private).map_err(|error| Refusal::from_tls(&error))?;
        let shown = Shown::new(certified(certificate, &signing)?);
        Ok(Credentials {
            shared: Arc::new(Shared {
                member,
                public_key: public_key(key),
                key: signing,
                authority,
                roots: Arc::new(roots),
                shown,
            }),
        })
    }

    /// Whom the certificate speaks for.
    pub fn member(&self) -> &Member {
        &self.shared.member
    }

    pub(crate) fn public_key(&self) -> &[u8; 32] {
        &self.shared.public_key
    }

    pub(crate) fn authority(&self) -> &CertificateDer<'static> {
        &self.shared.authority
    }

    /// Show another certificate for the same key from now on.
    pub(crate) fn replace(&self, certificate: CertificateDer<'static>) -> Result<(), Refusal> {
        let member = Member::of(&certificate, self.shared.member.cluster)?;
        if member != self.shared.member {
            return Err(Refusal::Malformed("the new certificate is for somebody else"));
        }
        self.shared.shown.replace(certified(certificate, &self.shared.key)?);
        Ok(())
    }

    /// TLS for whoever is connected to. With `joins`, those who have no certificate may connect to speak
    /// [`JOIN_PROTOCOL`]; whoever uses this asks [`Credentials::admit`] about every connection.
    pub fn server_config(&self, joins: bool) -> ServerConfig {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.shared.roots.clone(), provider());
        let verifier = if joins { verifier.allow_unauthenticated() } else { verifier };
        let verifier = verifier.build().expect("there is a root, and no revocation list");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(self.shared.shown.clone()));
        config.alpn_protocols = vec![NODE_PROTOCOL.to_vec()];
        if joins {
            config.alpn_protocols.push(JOIN_PROTOCOL.to_vec());
            config.alpn_protocols.push(BULK_PROTOCOL.to_vec());
        }
        // A resumed connection would not look at the certificate again, which may have expired.
        config.send_tls13_tickets = 0;
        config
    }

    /// TLS for whoever connects to a node, to speak `protocol` with it.
    pub fn client_config(&self, protocol: &[u8]) -> ClientConfig {
        let mut config = client_builder()
            .with_root_certificates(self.shared.roots.clone())
            .with_client_cert_resolver(Arc::new(self.shared.shown.clone()));
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::disabled();
        config
    }

    /// The name that every node of the cluster can prove to have.
    pub fn server_name(&self) -> ServerName<'static> {
        server_name_of(self.shared.member.cluster)
    }

    /// Who the other end of a connection is, TLS having verified the certificates that it showed. None:
    /// it has none and may do nothing but join.
    pub fn admit(
        &self,
        protocol: Option<&[u8]>,
        certificates: Option<&[CertificateDer<'_>]>,
    ) -> Result<Option<Member>, Refusal> {
        let member = certificates
            .and_then(|certificates| certificates.first())
            .map(|certificate| Member::of(certificate, self.shared.member.cluster))
            .transpose()?;
        match protocol {
            Some(JOIN_PROTOCOL) => Ok(member),
            Some(NODE_PROTOCOL | BULK_PROTOCOL) => member.map(Some).ok_or(Refusal::NoCertificate),
            _ => Err(Refusal::Protocol),
        }
    }
}

/// TLS for a node that knows nothing of the cluster but its secret. The other end is not verified: that
/// is what [`join`](crate::join) does, and nothing else may be said over such a connection.
pub(crate) fn join_client_config() -> ClientConfig {
    let mut config = client_builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
        .with_no_client_auth();
    config.alpn_protocols = vec![JOIN_PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

pub(crate) fn server_name_of(cluster: ClusterId) -> ServerName<'static> {
    ServerName::try_from(server_name(cluster)).expect("hexadecimal digits make a host name")
}

fn client_builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
}

/// `ring`, with the suite first that processors with AES instructions are fastest at.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..default_provider()
    })
}

fn certified(
    certificate: CertificateDer<'static>,
    key: &Arc<dyn rustls::sign::SigningKey>,
) -> Result<Arc<CertifiedKey>, Refusal> {
    let certified = CertifiedKey::new(vec![certificate], key.clone());
    certified.keys_match().map_err(|error| Refusal::from_tls(&error))?;
    Ok(Arc::new(certified))
}

/// The certificate that is shown now.
#[derive(Clone, Debug)]
struct Shown(Arc<RwLock<Arc<CertifiedKey>>>);

impl Shown {
    fn new(certified: Arc<CertifiedKey>) -> Shown {
        Shown(Arc::new(RwLock::new(certified)))
    }
    fn replace(&self, certified: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
    }
    fn current(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes any certificate, but lets nobody show one whose key it does not have.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
