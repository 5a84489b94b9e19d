//! Which cluster a node belongs to, from the command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use shoal_identity::JoinSecret;
use shoal_runtime::daemon::session;
use shoal_runtime::daemon::{EtcdLocation, EtcdTls, EtcdUser, InvalidUser, Membership};

use crate::Failure;
use crate::options::{ClusterOptions, EtcdOptions};

/// Where heads are reached unless somebody says otherwise.
const HEAD_PORT: u16 = 6464;

/// Holds the cluster's join secret.
const SECRET_VARIABLE: &str = "SHOAL_JOIN_SECRET";

/// Hold the user as whom a head speaks with its etcd.
const ETCD_USER_VARIABLE: &str = "SHOAL_ETCD_USER";
const ETCD_PASSWORD_VARIABLE: &str = "SHOAL_ETCD_PASSWORD";

/// The file in a head's directory that holds the secret for people to pass on.
const SECRET_FILE: &str = "join-secret";

impl ClusterOptions {
    /// Which cluster the node belongs to. `temp` is where sessions are.
    pub(crate) fn membership(&self, temp: &Path) -> Result<Membership, Failure> {
        if self.head && self.etcd.state.is_some() {
            let state = self.state_dir.clone().unwrap_or_else(|| session::head_directory(temp));
            let address = SocketAddr::new(self.node_ip_address, self.port.unwrap_or(HEAD_PORT));
            let (or_any_port, secret, etcd) =
                (self.port.is_none(), self.given_secret()?, self.etcd.location()?);
            return Ok(Membership::Head { address, or_any_port, state, keep: true, secret, etcd });
        }
        if self.head {
            let state = self.state_dir.clone().unwrap_or_else(|| session::head_directory(temp));
            // Its nodes look for a head that was killed where it was.
            let wanted = self.port.or_else(|| session::head_port(&state));
            let address = SocketAddr::new(self.node_ip_address, wanted.unwrap_or(HEAD_PORT));
            let keep = self.state_dir.is_some();
            let (secret, or_any_port) = (self.given_secret()?, wanted.is_none());
            return Ok(Membership::Head { address, or_any_port, state, keep, secret, etcd: None });
        }
        let Some(heads) = &self.address else { return Ok(Membership::Alone) };
        let heads = heads.split(',').map(resolve).collect::<Result<Vec<_>, _>>()?;
        let secret = self.secret(temp)?;
        let address = SocketAddr::new(self.node_ip_address, self.port.unwrap_or(0));
        Ok(Membership::Member { heads, address, secret })
    }

    /// The secret of the cluster to join: the one that was given, or that of a head on this machine.
    fn secret(&self, temp: &Path) -> Result<JoinSecret, Failure> {
        if let Some(secret) = self.given_secret()? {
            return Ok(secret);
        }
        let path = session::head_directory(temp).join(SECRET_FILE);
        let text = std::fs::read_to_string(&path).map_err(|_| {
            Failure::Usage(format!(
                "joining a cluster needs its secret: pass --secret-file, or set {SECRET_VARIABLE}. The \
                 machine of the head has it in {SECRET_FILE}, in the head's state directory"
            ))
        })?;
        parse_secret(&text, &path.display().to_string())
    }

    fn given_secret(&self) -> Result<Option<JoinSecret>, Failure> {
        if let Some(path) = &self.secret_file {
            return parse_secret(&read(path)?, &path.display().to_string()).map(Some);
        }
        let given = std::env::var(SECRET_VARIABLE).ok();
        given.map(|text| parse_secret(&text, SECRET_VARIABLE)).transpose()
    }

    /// The same options as arguments.
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if self.head {
            arguments.push(String::from("--head"));
        }
        arguments.extend(self.address.iter().map(|address| format!("--address={address}")));
        arguments.push(format!("--node-ip-address={}", self.node_ip_address));
        arguments.extend(self.port.iter().map(|port| format!("--port={port}")));
        arguments.extend(self.etcd.state.iter().map(|location| format!("--state={location}")));
        for (name, path) in [
            ("state-dir", &self.state_dir),
            ("secret-file", &self.secret_file),
            ("etcd-ca", &self.etcd.etcd_ca),
            ("etcd-cert", &self.etcd.etcd_cert),
            ("etcd-key", &self.etcd.etcd_key),
            ("etcd-user-file", &self.etcd.etcd_user_file),
        ] {
            arguments.extend(path.iter().map(|path| format!("--{name}={}", path.display())));
        }
        arguments
    }
}

fn parse_secret(text: &str, place: &str) -> Result<JoinSecret, Failure> {
    text.trim().parse().map_err(|error| Failure::Usage(format!("{place}: {error}")))
}

impl EtcdOptions {
    fn location(&self) -> Result<Option<EtcdLocation>, Failure> {
        let Some(mut location) = self.state.clone() else { return Ok(None) };
        let identity = self.etcd_cert.clone().zip(self.etcd_key.clone());
        location.tls = EtcdTls { authority: self.etcd_ca.clone(), identity };
        location.user = self.user()?;
        Ok(Some(location))
    }

    fn user(&self) -> Result<Option<EtcdUser>, Failure> {
        let invalid = |error: InvalidUser| Failure::Usage(error.to_string());
        if let Some(path) = &self.etcd_user_file {
            return EtcdUser::read(path).map(Some).map_err(invalid);
        }
        match (std::env::var(ETCD_USER_VARIABLE).ok(), std::env::var(ETCD_PASSWORD_VARIABLE).ok()) {
            (None, None) => Ok(None),
            (Some(name), Some(password)) => EtcdUser::new(name, password).map(Some).map_err(invalid),
            _ => Err(Failure::Usage(format!(
                "{ETCD_USER_VARIABLE} and {ETCD_PASSWORD_VARIABLE} are given both or not at all"
            ))),
        }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", path.display())))
}

/// What people write for an address.
pub(crate) fn resolve(text: &str) -> Result<SocketAddr, Failure> {
    let wrong = |reason: String| Failure::Usage(format!("{text:?} is no address HOST:PORT: {reason}"));
    let mut found = text.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    found.next().ok_or_else(|| wrong(String::from("the host has no address")))
}
