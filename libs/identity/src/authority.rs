//! The authority of a cluster and its files.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::member::{authority_uri, cluster_of_authority};
use crate::{ClusterId, Credentials, JoinSecret, Member, NodeName, Role};

const AUTHORITY_FILE: &str = "authority.pem";
const SECRET_FILE: &str = "join-secret";
/// A file of the authority is a few hundred bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far clocks of nodes may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Why there is no authority, or no certificate of it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could read the cluster's keys.
    #[error("{} must belong to this user and be readable by nobody else (chmod 600)", .0.display())]
    Exposed(PathBuf),
    /// The cluster is there already, and another secret lets nodes join it.
    #[error("the cluster in {} has another join secret than the one given", .0.display())]
    OtherSecret(PathBuf),
    /// A file does not hold what it should.
    #[error("{} does not hold the authority of a cluster", .0.display())]
    Malformed(PathBuf),
    /// The system's randomness, or the making of a certificate, has failed.
    #[error("a certificate cannot be made: {0}")]
    Certificate(String),
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        AuthorityError::Certificate(error.to_string())
    }
}

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// How long a node's certificate is good. It is renewed when half of that is over.
    pub const NODE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

    /// From now on, also by clocks that are a few minutes behind.
    pub fn starting_now(lifetime: Duration) -> Validity {
        let now = SystemTime::now();
        Validity { not_before: now - CLOCK_SKEW, not_after: now + lifetime }
    }
}

/// What makes certificates for the nodes of one cluster, and decides by a secret who may have one.
pub struct ClusterAuthority {
    cluster: ClusterId,
    key: KeyPair,
    certificate: CertificateDer<'static>,
    secret: JoinSecret,
}

impl ClusterAuthority {
    /// Found a cluster: make its authority and write it into `directory` (made if it is not there), in
    /// files that this user alone can read. `join-secret` there is a copy for people to pass on. The secret is
    /// a new one, or the given one.
    ///
    /// # Errors
    ///
    /// If the directory holds an authority already, and when the system refuses something.
    pub fn create(directory: &Path, secret: Option<JoinSecret>) -> Result<ClusterAuthority, AuthorityError> {
        let (mut authority, certificate) = ClusterAuthority::of(new_cluster()?)?;
        authority.secret = secret.unwrap_or(authority.secret);
        let secret = authority.secret.reveal();
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(file(directory))?;
        write_new(&directory.join(AUTHORITY_FILE), &authority.text(&certificate))?;
        let _ = fs::remove_file(directory.join(SECRET_FILE));
        write_new(&directory.join(SECRET_FILE), &format!("{secret}\n"))?;
        Ok(authority)
    }

    /// An authority that no file holds: it ends with this process.
    pub fn generate() -> Result<ClusterAuthority, AuthorityError> {
        ClusterAuthority::of(new_cluster()?).map(|(authority, _)| authority)
    }

    /// The authority, and its certificate as text.
    pub(crate) fn of(cluster: ClusterId) -> Result<(ClusterAuthority, String), AuthorityError> {
        let secret = JoinSecret::generate().ok_or_else(no_randomness)?;
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let certificate = authority_parameters(cluster)?.self_signed(&key)?;
        let authority = ClusterAuthority { cluster, key, certificate: certificate.der().clone(), secret };
        Ok((authority, certificate.pem()))
    }

    /// The authority that [`ClusterAuthority::create`] wrote into `directory`.
    ///
    /// # Errors
    ///
    /// If there is none, if others could have read it, and when it is damaged.
    pub fn open(directory: &Path) -> Result<ClusterAuthority, AuthorityError> {
        let path = directory.join(AUTHORITY_FILE);
        ClusterAuthority::parse(&read(&path)?).ok_or(AuthorityError::Malformed(path))
    }

    /// What its file says; `certificate` is its own, in PEM.
    pub(crate) fn text(&self, certificate: &str) -> String {
        format!("{}\n{}{certificate}", self.secret.reveal(), self.key.serialize_pem())
    }

    /// The authority that the text of its file describes.
    pub(crate) fn parse(text: &str) -> Option<ClusterAuthority> {
        let secret = text.lines().next()?.parse().ok()?;
        let key = KeyPair::from_pem(text).ok()?;
        let certificate = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
        let cluster = cluster_of_authority(&certificate)?;
        Some(ClusterAuthority { cluster, key, certificate, secret })
    }

    /// The cluster that it is the authority of.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// What nodes must know to join.
    pub fn secret(&self) -> &JoinSecret {
        &self.secret
    }

    /// The certificate that all others of the cluster are verified with.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for the holder of an Ed25519 key.
    pub fn issue(
        &self,
        public_key: &[u8; 32],
        role: Role,
        name: &NodeName,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let member = Member { cluster: self.cluster, role, name: name.clone() };
        let mut parameters = parameters(&member.uri(), name.as_str(), validity)?;
        parameters.subject_alt_names.push(SanType::DnsName(server_name(self.cluster).try_into()?));
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let issuer = Issuer::new(authority_parameters(self.cluster)?, &self.key);
        Ok(parameters.signed_by(&PublicKey(public_key), &issuer)?.der().clone())
    }

    /// A new key and a certificate for it, for a daemon that holds the authority itself (and for tests).
    pub fn credentials(
        &self,
        role: Role,
        name: &NodeName,
        validity: Validity,
    ) -> Result<Credentials, AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let certificate = self.issue(&public_key(&key), role, name, validity)?;
        Credentials::new(self.certificate.clone(), certificate, &key)
            .map_err(|refusal| AuthorityError::Certificate(refusal.to_string()))
    }
}

fn new_cluster() -> Result<ClusterId, AuthorityError> {
    let mut id = [0; 16];
    SystemRandom::new().fill(&mut id).map_err(|_| no_randomness())?;
    Ok(ClusterId(id))
}

/// The host name that certificates of a cluster are good for. It is never looked up.
pub(crate) fn server_name(cluster: ClusterId) -> String {
    format!("{cluster}.shoal.internal")
}

pub(crate) fn public_key(key: &KeyPair) -> [u8; 32] {
    key.public_key_raw().try_into().expect("an Ed25519 key has 32 bytes")
}

struct PublicKey<'a>(&'a [u8; 32]);

impl PublicKeyData for PublicKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

fn authority_parameters(cluster: ClusterId) -> Result<CertificateParams, AuthorityError> {
    let validity = Validity::starting_now(AUTHORITY_LIFETIME);
    let mut parameters = parameters(&authority_uri(cluster), &format!("Shoal cluster {cluster}"), validity)?;
    // It signs nodes, not further authorities.
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(parameters)
}

fn parameters(uri: &str, name: &str, validity: Validity) -> Result<CertificateParams, AuthorityError> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    parameters.not_before = epoch + since_epoch(validity.not_before);
    parameters.not_after = epoch + since_epoch(validity.not_after);
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| no_randomness())?;
    // Positive and of one length, so that all certificates of a cluster have one length, too: the
    // simulated network compares lengths of packets.
    serial[0] = serial[0] & 0x3f | 0x40;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(parameters)
}

fn no_randomness() -> AuthorityError {
    AuthorityError::Certificate("the system has no randomness".into())
}

fn file(path: &Path) -> impl Fn(io::Error) -> AuthorityError + '_ {
    |source| AuthorityError::File { path: path.to_owned(), source }
}

/// Write a whole file or none, and never over one that is there.
fn write_new(path: &Path, text: &str) -> Result<(), AuthorityError> {
    let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::hard_link(&unfinished, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    let written = write();
    let _ = fs::remove_file(&unfinished);
    written.map_err(file(path))
}

/// Read a file that nobody else could have read or written.
fn read(path: &Path) -> Result<String, AuthorityError> {
    let opened = File::open(path).map_err(file(path))?;
    let metadata = opened.metadata().map_err(file(path))?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    if !own || metadata.permissions().mode() & 0o077 != 0 {
        return Err(AuthorityError::Exposed(path.to_owned()));
    }
    let mut text = String::new();
    opened.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(file(path))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes away with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("shoal-identity-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_authority_is_found_again_and_issues_what_the_first_one_would_trust() {
        let scratch = Scratch::new("again");
        let created = ClusterAuthority::create(&scratch.0, None).unwrap();
        let opened = ClusterAuthority::open(&scratch.0).unwrap();
        assert_eq!(created.cluster(), opened.cluster());
        assert_eq!(created.secret(), opened.secret());
        assert_eq!(created.certificate(), opened.certificate());
        for entry in fs::read_dir(&scratch.0).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(&scratch.0).unwrap().permissions().mode() & 0o777, 0o700);
        let text = fs::read_to_string(scratch.0.join(SECRET_FILE)).unwrap();
        assert_eq!(text.parse::<JoinSecret>().unwrap(), *created.secret());
    }

    #[test]
    fn an_authority_is_never_overwritten() {
        let scratch = Scratch::new("once");
        let cluster = ClusterAuthority::create(&scratch.0, None).unwrap().cluster();
        assert!(matches!(ClusterAuthority::create(&scratch.0, None), Err(AuthorityError::File { .. })));
        assert_eq!(ClusterAuthority::open(&scratch.0).unwrap().cluster(), cluster);
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2, "nothing unfinished stays");
    }

    #[test]
    fn files_that_others_can_read_and_damaged_ones_are_refused() {
        let scratch = Scratch::new("exposed");
        ClusterAuthority::create(&scratch.0, None).unwrap();
        let path = scratch.0.join(AUTHORITY_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(ClusterAuthority::open(&scratch.0), Err(AuthorityError::Exposed(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(matches!(ClusterAuthority::open(&scratch.0), Err(AuthorityError::Malformed(_))));
    }
}
