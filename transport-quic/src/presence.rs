//! Whether anybody listens any more where a connection leads.
//!
//! A process that is killed says nothing, and a network that has broken says nothing either: QUIC waits for
//! both equally long. But the system of a killed process answers what comes for a port that nobody has
//! open. So when nothing has come for longer than a live end is ever silent, this end asks the port. Only
//! that answer ends the connection before its time: an end that is slow still has its port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use shoal_runtime::transport::{KEEP_ALIVE, Log};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use crate::errors::GONE;

/// Within this time something comes from a live end, unless it is far away.
const HEARD_WITHIN: Duration = KEEP_ALIVE.saturating_add(Duration::from_millis(100));
/// How long the system at the other end may take to say that the port is closed.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);
/// No packet of QUIC is so short: whoever has the port open ignores it.
const QUESTION: [u8; 1] = [0];

/// Close the connection when the port that it leads to has been closed. Ends with the connection.
pub(crate) async fn watch(connection: quinn::Connection, log: Log) {
    let mut heard = connection.stats().udp_rx.datagrams;
    loop {
        tokio::select! {
            biased;
            _ = connection.closed() => return,
            () = sleep(HEARD_WITHIN) => {}
        }
        let before = std::mem::replace(&mut heard, connection.stats().udp_rx.datagrams);
        let address = connection.remote_address();
        if heard == before && is_closed(address).await {
            log(format_args!("nobody listens at {address} any more"));
            connection.close(GONE, b"nobody listens there any more");
            return;
        }
    }
}

/// Whether the system at that address says that nobody has the port open. It need not say anything.
async fn is_closed(address: SocketAddr) -> bool {
    let any = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let ask = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        socket.send(&QUESTION).await?;
        socket.recv(&mut [0]).await
    };
    let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    timeout(ANSWER_WITHIN, ask).await.is_ok_and(|answer| answer.is_err_and(refused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_is_closed_when_its_socket_is() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        assert!(!is_closed(address).await, "who has it open need not answer");
        drop(socket);
        assert!(is_closed(address).await);
    }
}
