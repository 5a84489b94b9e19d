//! Where an etcd is, and how it is spoken to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::EtcdUser;

/// What stands at the beginning of a location.
const PLAIN: &str = "etcd://";
const ENCRYPTED: &str = "etcds://";
/// What the keys of a cluster begin with unless somebody says otherwise.
const PREFIX: &str = "shoal";

/// A part of the keys of an etcd, for one cluster: `etcd://HOST:PORT[,HOST:PORT...][/PREFIX]`, or `etcds://`
/// with TLS.
///
/// ```
/// let location: shoal_state::EtcdLocation = "etcd://a:2379,b:2379/blue".parse()?;
/// assert_eq!(location.to_string(), "etcd://a:2379,b:2379/blue");
/// # Ok::<(), shoal_state::InvalidLocation>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EtcdLocation {
    encrypted: bool,
    /// `HOST:PORT` of each member that may be asked.
    members: Vec<String>,
    prefix: String,
    /// What this end shows, and what the other end is verified with.
    pub tls: EtcdTls,
    /// Who asks, if that etcd wants to know.
    pub user: Option<EtcdUser>,
}

/// Files for a connection with TLS, in PEM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EtcdTls {
    /// Certificates of those who may sign etcd's own.
    pub authority: Option<PathBuf>,
    /// The certificate that is shown to etcd, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why a text says no location.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidLocation {
    /// It is written otherwise.
    #[error("{text:?} is no etcd://HOST:PORT[,HOST:PORT...][/PREFIX] (etcds:// with TLS): {reason}")]
    Malformed {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It is not repeated, for it may hold a password.
    #[error(
        "the location of an etcd holds no user and no password, for whoever lists processes would see them. Set \
         SHOAL_ETCD_USER and SHOAL_ETCD_PASSWORD instead, or write USER:PASSWORD into a file of mode 0600 and pass \
         --etcd-user-file"
    )]
    HoldsUser,
}

impl EtcdLocation {
    /// Whether connections are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// The addresses of its members as HTTP knows them.
    pub(super) fn addresses(&self) -> impl Iterator<Item = String> {
        let scheme = if self.encrypted { "https" } else { "http" };
        self.members.iter().map(move |member| format!("{scheme}://{member}"))
    }

    /// The key of this name.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }
}

impl FromStr for EtcdLocation {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<EtcdLocation, InvalidLocation> {
        // In neither a host nor a prefix.
        if text.contains('@') {
            return Err(InvalidLocation::HoldsUser);
        }
        let invalid = |reason| InvalidLocation::Malformed { text: String::from(text), reason };
        let (encrypted, rest) = match (text.strip_prefix(PLAIN), text.strip_prefix(ENCRYPTED)) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(invalid("it begins with something else")),
        };
        let (members, prefix) = rest.split_once('/').unwrap_or((rest, PREFIX));
        let prefix = prefix.trim_matches('/');
        if prefix.is_empty() || prefix.chars().any(char::is_control) {
            return Err(invalid("the prefix is empty, or holds what is not printable"));
        }
        let members: Vec<String> = members.split(',').map(String::from).collect();
        let is_address = |member: &String| {
            let Some((host, port)) = member.rsplit_once(':') else { return false };
            let is_port =
                |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
            let is_host = |letter: char| letter.is_ascii_alphanumeric() || "-._:[]".contains(letter);
            !host.is_empty() && host.chars().all(is_host) && is_port(port)
        };
        if !members.iter().all(is_address) {
            return Err(invalid("a member is not HOST:PORT"));
        }
        let prefix = String::from(prefix);
        Ok(EtcdLocation { encrypted, members, prefix, tls: EtcdTls::default(), user: None })
    }
}

impl fmt::Display for EtcdLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.encrypted { ENCRYPTED } else { PLAIN };
        write!(f, "{scheme}{}/{}", self.members.join(","), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_read_and_shown() {
        for (text, shown, first, key) in [
            ("etcd://h:1", "etcd://h:1/shoal", "http://h:1", "shoal/head"),
            ("etcd://h:1/", "", "", ""),
            ("etcd://10.0.0.1:1,b:2/a/b/", "etcd://10.0.0.1:1,b:2/a/b", "http://10.0.0.1:1", "a/b/head"),
            ("etcds://[::1]:2379/x", "etcds://[::1]:2379/x", "https://[::1]:2379", "x/head"),
            ("http://h:1", "", "", ""),
            ("etcd://h", "", "", ""),
            ("etcd://h:x", "", "", ""),
            ("etcd://h:+1", "", "", ""),
            ("etcd://:1", "", "", ""),
            ("etcd://h:1,,g:2", "", "", ""),
            ("etcd://h:1/a\nb", "", "", ""),
        ] {
            let location = text.parse::<EtcdLocation>();
            assert_eq!(location.is_ok(), !shown.is_empty(), "{text}: {location:?}");
            let Ok(location) = location else { continue };
            assert_eq!(location.to_string(), shown);
            assert_eq!(location.addresses().next().as_deref(), Some(first));
            assert_eq!(location.key("head"), key);
            assert_eq!(location.is_encrypted(), text.starts_with("etcds"));
        }
    }

    #[test]
    fn a_user_has_no_place_in_a_location_and_is_not_repeated() {
        for text in ["etcd://u@h:1", "etcds://u:secret@h:1/x", "etcd://u:1/secret@h:1", "http://u:secret@h"] {
            let error = text.parse::<EtcdLocation>().expect_err(text);
            assert_eq!(error, InvalidLocation::HoldsUser, "{text}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }
}
