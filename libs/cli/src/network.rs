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

/// QUIC where UDP passes, gRPC where it does not, on one port.
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
        Box::pin(bind(node, address))
    }
}

async fn bind(node: LocalNode, address: SocketAddr) -> Result<Arc<dyn Transport>, TransportError> {
    let mut attempt = 1;
    loop {
        let grpc = Grpc::bind(node.clone(), address).await?;
        match Quic::bind(node.clone(), grpc.local_address()) {
            Ok(quic) => {
                return Ok(Arc::new(Fallback::new(Arc::new(quic), Arc::new(grpc), daemon::write_log)));
            }
            // A port that the system has chosen for TCP may be taken for UDP.
            Err(_) if address.port() == 0 && attempt < PORT_ATTEMPTS => grpc.close().await,
            Err(error) => return Err(error),
        }
        attempt += 1;
    }
}
