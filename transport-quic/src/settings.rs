//! Windows, time limits, and TLS as QUIC wants it.

use std::net::UdpSocket;
use std::sync::Arc;

use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use shoal_identity::{Credentials, NODE_PROTOCOL};
use shoal_runtime::transport::bulk::REQUESTS_MAX;
use shoal_runtime::transport::{KEEP_ALIVE, SILENCE_MAX, TransportError};

/// What may be on its way on one stream: the product of bandwidth and round trip that is still used in
/// full, 1 Gbit/s at 16 ms. `quinn` gives up the connection when a stream has more than 1,024 gaps; of a
/// window of this size no more packets of 1,200 bytes can be missing in turn.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Networks with jumbo frames, and the loopback interface, take so much in one packet; discovery finds out.
/// Ten packets are given to the kernel at once, which takes 65,507 bytes and silently drops more.
const PAYLOAD_BYTES_MAX: u16 = 6550;
/// The kernel gives less if it is configured to.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// The two sides of a node's endpoint.
pub(crate) struct Settings {
    pub(crate) server: ServerConfig,
    pub(crate) client: ClientConfig,
}

impl Settings {
    pub(crate) fn new(credentials: &Credentials) -> Result<Settings, TransportError> {
        let unusable = |_| TransportError::Listen("TLS has no suite that QUIC starts with".into());
        let transport = Arc::new(transport());
        let tls = QuicServerConfig::try_from(credentials.server_config(false)).map_err(unusable)?;
        let mut server = ServerConfig::with_crypto(Arc::new(tls));
        server.transport_config(transport.clone());
        let tls = QuicClientConfig::try_from(credentials.client_config(NODE_PROTOCOL)).map_err(unusable)?;
        let mut client = ClientConfig::new(Arc::new(tls));
        client.transport_config(transport);
        Ok(Settings { server, client })
    }
}

fn transport() -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(PAYLOAD_BYTES_MAX);
    let idle = IdleTimeout::try_from(SILENCE_MAX).expect("a few seconds are a timeout");
    let mut config = TransportConfig::default();
    config
        // One is the control stream.
        .max_concurrent_bidi_streams(VarInt::from_u32(REQUESTS_MAX as u32 + 1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .mtu_discovery_config(Some(discovery))
        .keep_alive_interval(Some(KEEP_ALIVE))
        // It takes a lost packet for what it is. CUBIC, the default, takes each for congestion and creeps.
        .congestion_controller_factory(Arc::new(BbrConfig::default()))
        .max_idle_timeout(Some(idle));
    config
}

/// What holds for all connections of the endpoint.
pub(crate) fn endpoint() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(PAYLOAD_BYTES_MAX).expect("it is more than the least that is allowed");
    config
}

/// A burst that the node is too busy to read is lost otherwise. Best effort: the default works, too.
pub(crate) fn enlarge_buffers(socket: &UdpSocket) {
    let _ = set_socket_recv_buffer_size(socket, SOCKET_BUFFER_BYTES);
    let _ = set_socket_send_buffer_size(socket, SOCKET_BUFFER_BYTES);
}
