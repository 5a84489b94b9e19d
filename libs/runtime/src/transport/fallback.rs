//! One transport where it passes, another where it does not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::{BoxFuture, BulkError, BulkRequest, Connection, Log, Transport, TransportError};

/// How long the first transport may try before the second one does.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an address that the first transport did not reach is tried with the second one alone.
const MEMORY: Duration = Duration::from_secs(60);

/// Two transports as one: connections are made with the first, and where that leads nowhere (a network
/// that drops UDP, say) with the second. Both listen.
pub struct Fallback {
    first: Arc<dyn Transport>,
    second: Arc<dyn Transport>,
    /// The one whose streams carry bytes of objects, if they do not go over the connections.
    bulk: Option<Arc<dyn Transport>>,
    patience: Duration,
    log: Log,
    /// Addresses that only the second has reached, until when that is believed.
    unreachable: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Fallback {
    /// Prefer `first`; say in `log` where `second` is used instead.
    pub fn new(first: Arc<dyn Transport>, second: Arc<dyn Transport>, log: Log) -> Self {
        Fallback { first, second, bulk: None, patience: PATIENCE, log, unreachable: Mutex::default() }
    }

    /// Let the first transport try for another time than a second.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Let bytes of objects go over streams of a transport's own ([`Transport::fetch`]), whichever of the two
    /// carries the connection; where those do not pass they go over the connection.
    pub fn with_bulk(mut self, transport: Arc<dyn Transport>) -> Self {
        self.bulk = Some(transport);
        self
    }

    fn is_unreachable(&self, address: SocketAddr) -> bool {
        self.unreachable.lock().get(&address).is_some_and(|until| Instant::now() < *until)
    }

    fn remember(&self, address: SocketAddr) {
        let now = Instant::now();
        let mut unreachable = self.unreachable.lock();
        unreachable.retain(|_, until| now < *until);
        unreachable.insert(address, now + MEMORY);
    }

    async fn try_both(&self, address: SocketAddr) -> Result<Connection, TransportError> {
        if self.is_unreachable(address) {
            return self.second.connect(address).await;
        }
        let error = match timeout(self.patience, self.first.connect(address)).await {
            // Whoever is there and refuses would refuse again.
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(TransportError::Refused(refusal))) => return Err(refusal.into()),
            Ok(Err(error)) => error,
            Err(_) => TransportError::TimedOut,
        };
        let connection = self.second.connect(address).await?;
        let (first, second) = (self.first.name(), self.second.name());
        (self.log)(format_args!(
            "{address} cannot be reached by {first} ({error}); {second} is used instead"
        ));
        self.remember(address);
        Ok(connection)
    }
}

impl Transport for Fallback {
    fn name(&self) -> &'static str {
        self.first.name()
    }

    fn local_address(&self) -> SocketAddr {
        self.first.local_address()
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, Result<Connection, TransportError>> {
        Box::pin(self.try_both(address))
    }

    fn accept(&self) -> BoxFuture<'_, Option<Connection>> {
        Box::pin(async {
            tokio::select! {
                biased;
                connection = self.first.accept() => connection,
                connection = self.second.accept() => connection,
            }
        })
    }

    fn fetch<'a>(
        &'a self,
        address: SocketAddr,
        request: BulkRequest,
        into: &'a mut [u8],
    ) -> Option<BoxFuture<'a, Result<(), BulkError>>> {
        self.bulk.as_ref()?.fetch(address, request, into)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            tokio::join!(self.first.close(), self.second.close());
        })
    }
}
