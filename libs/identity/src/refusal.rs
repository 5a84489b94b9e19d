//! Why somebody is turned away.

use rustls::{AlertDescription, CertificateError};

/// Why one end does not talk to the other. The end that refuses knows more than it says: the other
/// learns it from an alert of TLS, which has no word for some of these.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The time of a certificate is over.
    #[error("the certificate has expired: the node has to join again")]
    Expired,
    /// The time of a certificate has not come.
    #[error("the certificate is not valid yet: the clocks of the two nodes disagree")]
    NotYetValid,
    /// A certificate was issued by somebody else.
    #[error("the certificate belongs to another cluster")]
    OtherCluster,
    /// There is no certificate.
    #[error("no certificate was shown")]
    NoCertificate,
    /// The certificate does not say which member of the cluster it is for.
    #[error("the certificate names no member of a cluster")]
    NoMember,
    /// The joining node does not know the secret, or the cluster does not.
    #[error("the two ends do not share a join secret")]
    WrongSecret,
    /// The other end is no node of Shoal, or one of another version.
    #[error("the other end speaks another protocol, or another version of it")]
    Protocol,
    /// The other end issues no certificates.
    #[error("the other end cannot let nodes join: it does not hold the cluster's authority")]
    NoAuthority,
    /// What was said while introducing each other cannot be understood.
    #[error("the introduction is malformed: {0}")]
    Malformed(&'static str),
    /// TLS has failed for another reason.
    #[error("the handshake failed: {0}")]
    Handshake(String),
}

impl Refusal {
    /// What an error of TLS means.
    pub fn from_tls(error: &rustls::Error) -> Refusal {
        use rustls::Error;
        match error {
            Error::InvalidCertificate(error) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Refusal::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Refusal::NotYetValid
                }
                CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => Refusal::OtherCluster,
                other => Refusal::Handshake(other.to_string()),
            },
            Error::NoCertificatesPresented => Refusal::NoCertificate,
            Error::NoApplicationProtocol => Refusal::Protocol,
            Error::AlertReceived(alert) => Refusal::from_alert(u8::from(*alert)),
            other => Refusal::Handshake(other.to_string()),
        }
    }

    /// What an alert of TLS means.
    pub fn from_alert(alert: u8) -> Refusal {
        match AlertDescription::from(alert) {
            AlertDescription::CertificateExpired => Refusal::Expired,
            // An authority's key that is not the one which the name leads to: `DecryptError`.
            AlertDescription::UnknownCA | AlertDescription::DecryptError => Refusal::OtherCluster,
            AlertDescription::CertificateRequired => Refusal::NoCertificate,
            AlertDescription::NoApplicationProtocol => Refusal::Protocol,
            other => Refusal::Handshake(format!("alert {other:?}")),
        }
    }
}
