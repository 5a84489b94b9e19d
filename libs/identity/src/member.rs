//! What a certificate says of its holder.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::Refusal;

const SCHEME: &str = "shoal://";
const NAME_BYTES_MAX: usize = 64;

/// A cluster; random, made with its authority.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(());
        }
        u128::from_str_radix(text, 16).map(|number| ClusterId(number.to_be_bytes())).map_err(|_| ())
    }
}

/// What its holder may be in the cluster.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// A daemon that holds the cluster's authority and may act as head.
    Head,
    /// Any other daemon.
    Node,
}

impl Role {
    /// Whether nodes take such a member for their head. A certificate that was issued for the cluster's
    /// secret never says so.
    pub fn may_act_as_head(self) -> bool {
        match self {
            Role::Head => true,
            Role::Node => false,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Role::Head => "head",
            Role::Node => "node",
        }
    }
}

/// What people call a node: 1 to 64 letters, digits, dots, dashes and underscores.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct NodeName(String);

/// Text that cannot name a node.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} cannot name a node: use 1 to 64 letters, digits, dots, dashes and underscores")]
pub struct InvalidName(pub String);

impl FromStr for NodeName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(fits) {
            return Err(InvalidName(text.to_owned()));
        }
        Ok(NodeName(text.to_owned()))
    }
}

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a certificate speaks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// What it may be there.
    pub role: Role,
    /// What people call it; not unique.
    pub name: NodeName,
}

impl Member {
    /// The name in the certificate: `shoal://<cluster>/<role>/<name>`.
    pub(crate) fn uri(&self) -> String {
        format!("{SCHEME}{}/{}/{}", self.cluster, self.role.as_str(), self.name)
    }

    pub(crate) fn parse(uri: &str) -> Option<Member> {
        let mut parts = uri.strip_prefix(SCHEME)?.splitn(3, '/');
        let cluster = parts.next()?.parse().ok()?;
        let role = match parts.next()? {
            "head" => Role::Head,
            "node" => Role::Node,
            _ => return None,
        };
        let name = parts.next()?.parse().ok()?;
        Some(Member { cluster, role, name })
    }

    /// Read a certificate whose signature and validity have been verified. It must name exactly one
    /// member, and of this cluster.
    pub(crate) fn of(certificate: &CertificateDer<'_>, cluster: ClusterId) -> Result<Member, Refusal> {
        let [uri] = names(certificate).try_into().map_err(|_| Refusal::NoMember)?;
        let member = Member::parse(&uri).ok_or(Refusal::NoMember)?;
        if member.cluster == cluster { Ok(member) } else { Err(Refusal::OtherCluster) }
    }
}

/// The name in the certificate of an authority: `shoal://<cluster>`.
pub(crate) fn authority_uri(cluster: ClusterId) -> String {
    format!("{SCHEME}{cluster}")
}

/// The cluster that a certificate of an authority is for.
pub(crate) fn cluster_of_authority(certificate: &CertificateDer<'_>) -> Option<ClusterId> {
    let [uri] = names(certificate).try_into().ok()?;
    uri.strip_prefix(SCHEME)?.parse().ok()
}

fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    EndEntityCert::try_from(certificate)
        .map(|parsed| parsed.valid_uri_names().map(str::to_owned).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_read_as_it_was_written_and_nothing_else_is() {
        let cluster = ClusterId([0xa5; 16]);
        let member = Member { cluster, role: Role::Head, name: "gpu-1.rack_2".parse().unwrap() };
        assert_eq!(Member::parse(&member.uri()), Some(member));
        let id = cluster.to_string();
        for wrong in [
            format!("https://{id}/node/a"),
            format!("shoal://{id}/admin/a"),
            format!("shoal://{id}/node/"),
            format!("shoal://{id}/node/a/b"),
            format!("shoal://{id}/node"),
            "shoal://+5/node/a".to_owned(),
            format!("shoal://{}/node/a", &id[1..]),
        ] {
            assert_eq!(Member::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        assert!("a".repeat(64).parse::<NodeName>().is_ok());
        for wrong in ["", "a b", "ä", "a/b", &"a".repeat(65)] {
            assert!(wrong.parse::<NodeName>().is_err(), "{wrong}");
        }
    }
}
