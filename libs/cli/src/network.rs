//! How daemons reach each other.

use std::net::SocketAddr;
use std::sync::Arc;

use shoal_identity::{ClusterAuthority, Credentials};
use shoal_runtime::daemon;
use shoal_runtime::transport::{BoxFuture, BulkSource, Fallback, LocalNode, Transport, TransportError};
use shoal_transport_grpc::Grpc;
use shoal_transport_quic::Quic;

/// So often a port is looked for that is free for both, UDP and TCP.
const PORT_ATTEMPTS: u32 = 20;

/// The environment variable that chooses between transports.
const SETTING: &str = "SHOAL_TRANSPORT";

/// What carries what, from this node on. Nodes with different preferences understand each other: all listen for
/// QUIC and for gRPC, on one port.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Preference {
    /// Messages by QUIC where UDP passes, else by gRPC; bytes of objects over TCP streams of their own.
    #[default]
    Auto,
    /// Messages and bytes of objects by QUIC where UDP passes.
    Quic,
    /// Everything over TCP.
    Grpc,
}

impl Preference {
    fn parse(text: &str) -> Result<Preference, TransportError> {
        match text {
            "" | "auto" => Ok(Preference::Auto),
            "quic" => Ok(Preference::Quic),
            "grpc" => Ok(Preference::Grpc),
            other => {
                Err(TransportError::Listen(format!("{SETTING} is {other:?}; it may be auto, quic or grpc")))
            }
        }
    }

    fn of(self, quic: Arc<dyn Transport>, grpc: Arc<dyn Transport>) -> Fallback {
        let log = daemon::write_log;
        match self {
            Preference::Auto => Fallback::new(quic, Arc::clone(&grpc), log).with_bulk(grpc),
            Preference::Quic => Fallback::new(quic, grpc, log),
            Preference::Grpc => Fallback::new(Arc::clone(&grpc), quic, log).with_bulk(grpc),
        }
    }
}

/// Both transports on one port.
#[derive(Debug)]
pub(crate) struct Network;

impl daemon::Network for Network {
    fn bind(
        &self,
        address: SocketAddr,
        credentials: Credentials,
        authority: Option<Arc<ClusterAuthority>>,
        source: Arc<dyn BulkSource>,
    ) -> BoxFuture<'_, Result<Arc<dyn Transport>, TransportError>> {
        let node = LocalNode { credentials, authority, source, log: daemon::write_log };
        Box::pin(async move {
            let setting = std::env::var(SETTING).unwrap_or_default();
            bind(node, address, Preference::parse(&setting)?).await
        })
    }
}

async fn bind(
    node: LocalNode,
    address: SocketAddr,
    preference: Preference,
) -> Result<Arc<dyn Transport>, TransportError> {
    let mut attempt = 1;
    loop {
        let grpc = Grpc::bind(node.clone(), address).await?;
        match Quic::bind(node.clone(), grpc.local_address()) {
            Ok(quic) => return Ok(Arc::new(preference.of(Arc::new(quic), Arc::new(grpc)))),
            // A port that the system has chosen for TCP may be taken for UDP.
            Err(_) if address.port() == 0 && attempt < PORT_ATTEMPTS => grpc.close().await,
            Err(error) => return Err(error),
        }
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_is_one_of_three() {
        assert_eq!(Preference::parse(""), Ok(Preference::Auto));
        assert_eq!(Preference::parse("auto"), Ok(Preference::Auto));
        assert_eq!(Preference::parse("quic"), Ok(Preference::Quic));
        assert_eq!(Preference::parse("grpc"), Ok(Preference::Grpc));
        let error = Preference::parse("tcp").unwrap_err().to_string();
        assert!(error.contains("SHOAL_TRANSPORT"), "{error}");
    }
}
