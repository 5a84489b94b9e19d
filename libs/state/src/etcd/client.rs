//! Calls of etcd: at one of its members, and at the next one when that does not answer.

use std::fs;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::EtcdLocation;
use super::rpc::{self, RangeRequest, RangeResponse, TxnRequest, TxnResponse};
use crate::StateError;

/// A member that has not answered within this time is asked no more; the next one is.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// A page of rows, each as long as a request may be, is shorter.
const RESPONSE_BYTES_MAX: usize = 256 << 20;

/// See the module's text. Clones share their connections.
#[derive(Clone)]
pub(super) struct Client {
    members: Arc<[Channel]>,
    /// Counts up whenever a member has not answered.
    turn: Arc<AtomicUsize>,
    place: Arc<str>,
}

impl Client {
    /// Connects at the first call. Must be called on the runtime that the calls are made on.
    pub(super) fn new(location: &EtcdLocation) -> Result<Client, StateError> {
        let place: Arc<str> = location.to_string().into();
        let failed = |detail: String| StateError::Storage { place: place.to_string(), detail };
        let tls = location.is_encrypted().then(|| tls(location)).transpose()?;
        let mut members = Vec::new();
        for address in location.addresses() {
            let mut endpoint = Endpoint::from_shared(address).map_err(|error| failed(error.to_string()))?;
            endpoint = endpoint.connect_timeout(PATIENCE).tcp_nodelay(true);
            if let Some(tls) = &tls {
                endpoint = endpoint.tls_config(tls.clone()).map_err(|error| failed(error.to_string()))?;
            }
            members.push(endpoint.connect_lazy());
        }
        Ok(Client { members: members.into(), turn: Arc::default(), place })
    }

    /// What went wrong for good.
    pub(super) fn error(&self, status: &Status) -> StateError {
        let detail = format!("{} ({:?})", status.message(), status.code());
        StateError::Storage { place: self.place.to_string(), detail }
    }

    /// Something is not what was written.
    pub(super) fn damaged(&self, detail: impl ToString) -> StateError {
        StateError::Damaged { place: self.place.to_string(), detail: detail.to_string() }
    }

    /// Ask until there is an answer; until `deadline`, if nobody gives one. What is asked must do no harm
    /// when it is done twice.
    pub(super) async fn ask<Q, A>(
        &self,
        deadline: Instant,
        path: &'static str,
        question: Q,
    ) -> Result<A, Status>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        loop {
            let status = match self.ask_once(path, question.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            if !is_passing(&status) || Instant::now() + PAUSE >= deadline {
                return Err(status);
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask_once<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let turn = self.turn.load(Ordering::Relaxed);
        let call = async {
            let mut member = self.member(turn);
            member.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_static(path);
            let answer = member.unary(Request::new(question), path, ProstCodec::<Q, A>::default()).await?;
            Ok(answer.into_inner())
        };
        let answer = timeout(PATIENCE, call).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer came in time")));
        if answer.as_ref().is_err_and(is_passing) {
            self.move_on(turn);
        }
        answer
    }

    /// Say one thing, and hear what follows.
    pub(super) async fn listen<Q, A>(&self, path: &'static str, question: Q) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let turn = self.turn.load(Ordering::Relaxed);
        // The stream ends when this end of it does, so it says nothing more and never ends.
        let said = tokio_stream::StreamExt::chain(tokio_stream::once(question), tokio_stream::pending());
        let call = async {
            let mut member = self.member(turn);
            member.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_static(path);
            member.streaming(Request::new(said), path, ProstCodec::<Q, A>::default()).await
        };
        let deadline = Instant::now() + PATIENCE;
        let answers = timeout_at(deadline, call).await;
        answers
            .map_err(|_| Status::deadline_exceeded("no answer came in time"))?
            .map(tonic::Response::into_inner)
    }

    /// What comes of something that waits for one member, if it comes in time.
    pub(super) async fn within_patience<T>(&self, call: impl Future<Output = Option<T>>) -> Option<T> {
        let turn = self.turn.load(Ordering::Relaxed);
        let result = timeout(PATIENCE, call).await.ok().flatten();
        if result.is_none() {
            self.move_on(turn);
        }
        result
    }

    /// Of several who have been disappointed by one member, one moves on.
    fn move_on(&self, turn: usize) {
        let _ = self.turn.compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn member(&self, turn: usize) -> Grpc<Channel> {
        let member = self.members[turn % self.members.len()].clone();
        Grpc::new(member).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    pub(super) async fn transact(&self, deadline: Instant, txn: TxnRequest) -> Result<TxnResponse, Status> {
        self.ask(deadline, rpc::TXN, txn).await
    }

    pub(super) async fn range(
        &self,
        deadline: Instant,
        range: RangeRequest,
    ) -> Result<RangeResponse, Status> {
        self.ask(deadline, rpc::RANGE, range).await
    }
}

/// Whether the same may get another answer soon.
fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Unknown
            | Code::Cancelled
            | Code::Internal
            | Code::Aborted
    )
}

fn tls(location: &EtcdLocation) -> Result<ClientTlsConfig, StateError> {
    let read = |path: &std::path::PathBuf| {
        fs::read(path).map_err(|error| StateError::Storage {
            place: location.to_string(),
            detail: format!("{}: {error}", path.display()),
        })
    };
    let mut tls = ClientTlsConfig::new();
    if let Some(authority) = &location.tls.authority {
        tls = tls.ca_certificate(Certificate::from_pem(read(authority)?));
    }
    if let Some((certificate, key)) = &location.tls.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}
