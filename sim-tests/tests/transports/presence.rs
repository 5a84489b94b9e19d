//! A process that ends without a word is noticed before its silence is.

use std::thread;
use std::time::Duration;

use shoal_runtime::transport::TransportError;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::support::{BOUND, Cluster, Kind};

#[tokio::test]
async fn a_port_that_was_closed_ends_connections_that_lead_to_it() {
    let cluster = Cluster::new();
    let here = cluster.node(Kind::Quic).await;
    let (told, address) = oneshot::channel();
    let (end, ended) = oneshot::channel::<()>();
    // What the other node does happens in a runtime of its own. When that is gone its socket is, too, and
    // nobody is left who could say so.
    let other = thread::spawn(move || {
        let runtime = Runtime::new().unwrap();
        let kept = runtime.block_on(async {
            let node = cluster.node(Kind::Quic).await;
            told.send(node.transport.local_address()).unwrap();
            let connection = node.transport.accept().await.unwrap();
            let _ = ended.await;
            (node, connection)
        });
        drop(runtime);
        drop(kept);
    });
    let connection = here.transport.connect(address.await.unwrap()).await.unwrap();
    // It is not enough to be silent: nothing is said for a while, and the connection stays.
    assert!(timeout(Duration::from_secs(2), connection.bulk.closed()).await.is_err());
    end.send(()).unwrap();
    other.join().unwrap();
    let error = timeout(BOUND, connection.bulk.closed()).await.unwrap();
    assert!(matches!(error, TransportError::Closed(_)), "{error}: the silence itself ends in a time-out");
}
