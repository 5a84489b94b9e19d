//! A log in etcd, for clusters with more than one machine that may be the head; and the election among those.
//!
//! | key, below the prefix | holds |
//! |---|---|
//! | `cluster` | the format, and whose log it is; a head of another cluster does not touch it |
//! | `head` | where the head that acts is reached; bound to an etcd lease that this head keeps alive |
//! | `epoch` | the epoch of the last head that has written |
//! | `rows/KEY.PART` | the rows, in parts where they are long |
//! | `staged/PART`, `commit` | a write that is too large for one transaction |
//!
//! Who creates the key `head` is elected. Everything that it writes is written under the condition that this
//! key is still the one that it created: so whatever it believes, it changes nothing any more once its
//! lease has ended ([`Tenure`]). It ends by itself when the head does not say for
//! [three seconds](TENURE) that it is there.

mod access;
mod client;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod location;
mod log;
mod plan;
mod rpc;
mod tenure;
#[cfg(test)]
mod tests;
mod user;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::StateError;
use client::Client;
pub use location::{EtcdLocation, EtcdTls, InvalidLocation};
pub use log::EtcdLog;
use rpc::{
    Compare, LeaseGrantRequest, LeaseGrantResponse, PutRequest, RangeRequest, TxnRequest, WatchCreateRequest,
    WatchRequest, WatchResponse,
};
pub use tenure::Tenure;
pub use user::{EtcdUser, InvalidUser};

/// How long a head is the head after it has said for the last time that it is there. Etcd keeps a lease for two
/// seconds at least; one more lets a head get over a change of etcd's own leader.
pub const TENURE: Duration = Duration::from_secs(3);

/// Counts up when what is written by an older version cannot be read any more.
const FORMAT_VERSION: u64 = 2;
/// How long an etcd may take to answer before a head gives up that has not begun to act.
const PATIENCE: Duration = Duration::from_secs(10);
/// A watch that has been silent for so long is looked after.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between attempts to watch.
const PAUSE: Duration = Duration::from_millis(100);

/// An etcd, as one cluster uses it. Clones share connections, and a thread that tends to them.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    location: Arc<EtcdLocation>,
    background: Arc<Background>,
}

/// The runtime of connections, apart from the caller's: what keeps a head in office must not wait for it.
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        // Dropped where blocking is not allowed a runtime panics.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What comes of standing for election.
#[derive(Debug)]
pub enum Standing {
    /// The candidate is the head, for as long as its [`Tenure`] lasts.
    Elected(EtcdLog),
    /// Another one is.
    Acting(Acting),
}

/// The head that acts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Acting {
    /// Where it is reached.
    pub address: SocketAddr,
    revision: i64,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Etcd").field(&self.location.to_string()).finish()
    }
}

impl Etcd {
    /// Speak with the etcd there. Connects at the first call.
    pub fn new(location: &EtcdLocation) -> Result<Etcd, StateError> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("etcd").enable_all().build();
        let runtime = runtime.map_err(|error| StateError::Storage {
            place: location.to_string(),
            detail: error.to_string(),
        })?;
        let client = {
            let _entered = runtime.enter();
            Client::new(location)?
        };
        let background = Arc::new(Background(Some(runtime)));
        Ok(Etcd { client, location: Arc::new(location.clone()), background })
    }

    /// Whose log is there, if there is one.
    pub async fn cluster(&self) -> Result<Option<String>, StateError> {
        let this = self.clone();
        let found = self.spawn(async move {
            let range = RangeRequest { key: this.key("cluster"), ..RangeRequest::default() };
            this.client.range(Instant::now() + PATIENCE, range).await
        });
        let found = found.await.map_err(|status| self.client.error(&status))?;
        let claim = found.kvs.first().map(|claim| String::from_utf8_lossy(&claim.value).into_owned());
        Ok(claim.map(|claim| claim.split_once(' ').map_or(claim.clone(), |(_, owner)| String::from(owner))))
    }

    /// See that the log there is this cluster's; say so, if there is none yet.
    ///
    /// # Errors
    ///
    /// If it is another cluster's, or of another format, and if etcd does not answer.
    pub async fn claim(&self, cluster: &str) -> Result<(), StateError> {
        let this = self.clone();
        let claim = format!("{FORMAT_VERSION} {cluster}");
        let found = self.spawn(async move {
            let key = this.key("cluster");
            let put = PutRequest { key: key.clone(), value: claim.clone().into_bytes(), lease: 0 };
            let kept = this.create(put).await?;
            Ok(kept.map_or(claim, |kept| String::from_utf8_lossy(&kept.value).into_owned()))
        });
        let found = found.await.map_err(|status| self.client.error(&status))?;
        let (format, owner) = found.split_once(' ').unwrap_or((&found, ""));
        let place = self.location.to_string();
        if format != FORMAT_VERSION.to_string() {
            let found = format.parse().unwrap_or_default();
            return Err(StateError::Format { place, found, expected: FORMAT_VERSION });
        }
        if owner != cluster {
            let (found, expected) = (String::from(owner), String::from(cluster));
            return Err(StateError::OtherCluster { place, found, expected });
        }
        Ok(())
    }

    /// Stand for election, to be reached at `address`.
    pub async fn stand(&self, address: SocketAddr) -> Result<Standing, StateError> {
        let this = self.clone();
        let outcome = self.spawn(async move {
            let asked = Instant::now();
            let wish = LeaseGrantRequest { ttl: TENURE.as_secs() as i64 };
            let granted: LeaseGrantResponse =
                this.client.ask(asked + PATIENCE, rpc::LEASE_GRANT, wish).await?;
            let tenure = Tenure::begin(this.client.clone(), &granted, asked);
            let value = address.to_string().into_bytes();
            let put = PutRequest { key: this.key("head"), value, lease: granted.id };
            Ok((this.create_at(put).await?, tenure))
        });
        let (outcome, tenure) = outcome.await.map_err(|status: Status| self.client.error(&status))?;
        match outcome {
            Ok(revision) => Ok(Standing::Elected(EtcdLog::new(self.clone(), tenure, revision))),
            Err(kept) => {
                tenure.resign().await;
                let address = String::from_utf8_lossy(&kept.value).into_owned();
                let address = address
                    .parse()
                    .map_err(|_| self.client.damaged(format_args!("{address:?} is no address of a head")))?;
                Ok(Standing::Acting(Acting { address, revision: kept.create_revision }))
            }
        }
    }

    /// Wait until this head acts no more.
    pub async fn vacancy(&self, acting: Acting) {
        let this = self.clone();
        self.spawn(async move {
            while this.is_in_office(acting).await {
                let watched = timeout(LOOK_EVERY, this.watch(acting)).await;
                if matches!(watched, Ok(Err(_))) {
                    sleep(PAUSE).await;
                }
            }
        })
        .await;
    }

    /// Whether it is still the head; assumed while nobody says otherwise.
    async fn is_in_office(&self, acting: Acting) -> bool {
        let range = RangeRequest { key: self.key("head"), ..RangeRequest::default() };
        let found = self.client.range(Instant::now() + PATIENCE, range).await;
        found.map_or(true, |found| found.kvs.iter().any(|head| head.create_revision == acting.revision))
    }

    /// Hear of its end.
    async fn watch(&self, acting: Acting) -> Result<(), Status> {
        let create = WatchCreateRequest {
            key: self.key("head"),
            start_revision: acting.revision + 1,
            filters: vec![0],
        };
        let request = WatchRequest { create: Some(create) };
        let mut news = self.client.listen::<_, WatchResponse>(rpc::WATCH, request).await?;
        while let Some(response) = news.next().await? {
            if response.canceled {
                return Err(Status::aborted(response.cancel_reason));
            }
            if !response.events.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Put a value where there is none; otherwise gives what is there.
    async fn create(&self, put: PutRequest) -> Result<Option<rpc::KeyValue>, Status> {
        self.create_at(put).await.map(Result::err)
    }

    /// The same; gives the revision of the change that has created it. What was put by an attempt whose answer
    /// was lost is recognised by its lease.
    async fn create_at(&self, put: PutRequest) -> Result<Result<i64, rpc::KeyValue>, Status> {
        let look = RangeRequest { key: put.key.clone(), ..RangeRequest::default() };
        let lease = put.lease;
        let txn = TxnRequest {
            compare: vec![Compare::created_by(put.key.clone(), 0)],
            success: vec![put.into()],
            failure: vec![look.into()],
        };
        let done = self.client.transact(Instant::now() + PATIENCE, txn).await?;
        if done.succeeded {
            return Ok(Ok(done.header.unwrap_or_default().revision));
        }
        let found = done.responses.into_iter().filter_map(|response| response.range);
        let found = found.flat_map(|range| range.kvs).next();
        let found = found.ok_or_else(|| Status::internal("a key is there and is not"))?;
        Ok(if lease != 0 && found.lease == lease { Ok(found.create_revision) } else { Err(found) })
    }

    fn key(&self, name: &str) -> Vec<u8> {
        self.location.key(name).into_bytes()
    }

    fn runtime(&self) -> &Runtime {
        self.background.0.as_ref().expect("it is there until it is dropped")
    }

    /// Have something done in the background, whatever runtime the caller is on.
    async fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime().spawn(work).await.expect("it runs to its end: nobody aborts it, and it does not panic")
    }

    /// The same, blocking.
    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.runtime().spawn(async move { done.send(work.await) });
        result.recv().expect("it runs to its end: nobody aborts it, and it does not panic")
    }
}
