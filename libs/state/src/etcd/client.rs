//! Calls of etcd: at one of its members, and at the next one when that does not answer.

use std::fs;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::{Instant, sleep, timeout};
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::access::{Access, Pass, is_stale, objection};
use super::rpc::{
    self, AuthenticateRequest, AuthenticateResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use super::{EtcdLocation, EtcdUser};
use crate::StateError;

/// A member that has not answered within this time is asked no more; the next one is.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same for a password, which takes an etcd long on purpose.
const AUTHENTICATION_PATIENCE: Duration = Duration::from_secs(2);
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
    access: Option<Arc<Access>>,
}

/// What follows something that was said.
pub(super) struct Answers<A> {
    stream: Streaming<A>,
    client: Client,
    pass: Pass,
}

impl<A> Answers<A> {
    /// The next one, or none if no more will come.
    pub(super) async fn next(&mut self) -> Result<Option<A>, Status> {
        let answer = self.stream.message().await;
        if let Err(status) = &answer {
            self.client.hear_refusal(status, &self.pass).await;
        }
        answer
    }
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
        let access = location.user.clone().map(|user| Arc::new(Access::new(user)));
        Ok(Client { members: members.into(), turn: Arc::default(), place, access })
    }

    /// What went wrong for good.
    pub(super) fn error(&self, status: &Status) -> StateError {
        let place = self.place.to_string();
        if let Some(detail) = objection(status, self.access.is_some()) {
            return StateError::Unauthorized { place, detail, said: String::from(status.message()) };
        }
        let detail = format!("{} ({:?})", status.message(), status.code());
        StateError::Storage { place, detail }
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
            let is_passing = is_passing(&status) || (self.access.is_some() && is_stale(&status));
            if !is_passing || Instant::now() + PAUSE >= deadline {
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
        let pass = self.pass(turn).await?;
        let answer = self.call(turn, PATIENCE, path, pass.show(question)).await;
        if let Err(status) = &answer {
            self.hear_refusal(status, &pass).await;
        }
        answer
    }

    /// Ask once, and show what was shown last, whatever has become of it.
    #[cfg(test)]
    pub(super) async fn ask_with_old_pass<Q>(&self, path: &'static str, question: Q) -> Result<(), Status>
    where
        Q: Message + 'static,
    {
        let turn = self.turn.load(Ordering::Relaxed);
        let pass = self.pass(turn).await?;
        self.call::<Q, ()>(turn, PATIENCE, path, pass.show(question)).await
    }

    /// Ask one member once.
    async fn call<Q, A>(
        &self,
        turn: usize,
        patience: Duration,
        path: &'static str,
        request: Request<Q>,
    ) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let call = async {
            let mut member = self.member(turn);
            member.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_static(path);
            let answer = member.unary(request, path, ProstCodec::<Q, A>::default()).await?;
            Ok(answer.into_inner())
        };
        let answer = timeout(patience, call).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer came in time")));
        if answer.as_ref().is_err_and(is_passing) {
            self.move_on(turn);
        }
        answer
    }

    /// What a request must show.
    async fn pass(&self, turn: usize) -> Result<Pass, Status> {
        let Some(access) = &self.access else { return Ok(Pass::Free) };
        let authenticate = |EtcdUser { name, password }| async move {
            let question = Request::new(AuthenticateRequest { name, password });
            let answer = self.call(turn, AUTHENTICATION_PATIENCE, rpc::AUTHENTICATE, question).await;
            answer.map(|AuthenticateResponse { token }| token)
        };
        access.pass(authenticate).await
    }

    /// Show something else next time, if it was for what was shown.
    async fn hear_refusal(&self, status: &Status, shown: &Pass) {
        if let Some(access) = self.access.as_ref().filter(|_| is_stale(status)) {
            access.forget(shown).await;
        }
    }

    /// Say one thing, and hear what follows.
    pub(super) async fn listen<Q, A>(&self, path: &'static str, question: Q) -> Result<Answers<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let turn = self.turn.load(Ordering::Relaxed);
        // The stream ends when this end of it does, so it says nothing more and never ends.
        let said = tokio_stream::StreamExt::chain(tokio_stream::once(question), tokio_stream::pending());
        let pass = self.pass(turn).await?;
        let call = async {
            let mut member = self.member(turn);
            member.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_static(path);
            member.streaming(pass.show(said), path, ProstCodec::<Q, A>::default()).await
        };
        let answers = timeout(PATIENCE, call).await;
        match answers.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer came in time"))) {
            Ok(answers) => Ok(Answers { stream: answers.into_inner(), client: self.clone(), pass }),
            Err(status) => {
                self.hear_refusal(&status, &pass).await;
                Err(status)
            }
        }
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
