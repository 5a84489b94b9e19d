//! The end of a connection that has connected: it calls.

use std::io;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use shoal_runtime::transport::bulk::{Filling, REQUESTS_MAX, open as open_source};
use shoal_runtime::transport::{
    BoxFuture, Bulk, BulkError, BulkRefusal, BulkRequest, BulkSource, Connection, ControlReader,
    ControlWriter, KEEP_ALIVE, LocalNode, SILENCE_MAX, TransportError,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::bulk::{self, CHUNKS_AHEAD, Gate, MESSAGE_BYTES_MAX};
use crate::control::{Lifeline, incoming, outgoing};
use crate::line::{Line, LineStream};
use crate::proto::delivery::Step;
use crate::proto::node_client::NodeClient;
use crate::proto::{Delivery, Nothing, Refused, Want};
use crate::server::{CONNECTION_WINDOW, STREAM_WINDOW};

/// What the calls are addressed to; the stream leads to one node only.
const AUTHORITY: &str = "http://node.shoal.internal";

/// Start gRPC on a stream that is secured.
pub(crate) async fn open(stream: LineStream, node: &LocalNode) -> Result<Connection, TransportError> {
    let line = stream.line.clone();
    let lifeline = Arc::new(Lifeline(line.clone()));
    let mut client = NodeClient::new(channel(stream).await?).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (write, pieces) = outgoing(lifeline.clone());
    let explain = |status: tonic::Status| line.explain(&status);
    let read = client.control(pieces).await.map_err(explain)?.into_inner();
    let wants = client.wants(Nothing {}).await.map_err(explain)?.into_inner();
    let deliveries = Deliveries { client: client.clone(), line: line.clone(), source: node.source.clone() };
    tokio::spawn(deliveries.answer(wants));
    Ok(Connection {
        peer: line.peer.clone(),
        reader: ControlReader::new(incoming(lifeline.clone(), read)),
        writer: ControlWriter::new(write),
        bulk: Arc::new(Calling { client, line, requests: Semaphore::new(REQUESTS_MAX), _lifeline: lifeline }),
    })
}

async fn channel(stream: LineStream) -> Result<Channel, TransportError> {
    let line = stream.line.clone();
    // The one stream is handed out once: a channel that has lost it must not look for another.
    let stream = Mutex::new(Some(stream));
    let connector = service_fn(move |_: http::Uri| {
        let stream = stream.lock().take();
        async move { stream.map(TokioIo::new).ok_or_else(|| io::Error::other("the connection is over")) }
    });
    Endpoint::from_static(AUTHORITY)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(SILENCE_MAX - KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|error| line.explain(&tonic::Status::from_error(Box::new(error))))
}

/// The bulk side of a connection, at the end that calls.
struct Calling {
    client: NodeClient<Channel>,
    line: Arc<Line>,
    requests: Semaphore,
    _lifeline: Arc<Lifeline>,
}

impl Bulk for Calling {
    fn fetch<'a>(&'a self, request: BulkRequest, into: &'a mut [u8]) -> BoxFuture<'a, Result<(), BulkError>> {
        Box::pin(async move {
            assert_eq!(request.length, into.len() as u64, "the memory is as long as what is asked for");
            let _place = self.requests.acquire().await.expect("it is never closed");
            let mut client = self.client.clone();
            let explain = |status: tonic::Status| bulk::from_status(&status, &self.line);
            let mut stream = client.fetch(bulk::to_message(&request)).await.map_err(explain)?.into_inner();
            let mut filling = Filling::new(into);
            while !filling.is_done() {
                let chunk = stream.message().await.map_err(explain)?.ok_or_else(bulk::ended_early)?;
                bulk::fill(&mut filling, &chunk)?;
            }
            Ok(())
        })
    }

    fn close(&self, reason: &str) {
        self.line.close(reason);
    }

    fn closed(&self) -> BoxFuture<'_, TransportError> {
        Box::pin(self.line.ended())
    }
}

/// Gives the called node what it wants.
struct Deliveries {
    client: NodeClient<Channel>,
    line: Arc<Line>,
    source: Arc<dyn BulkSource>,
}

impl Deliveries {
    async fn answer(self, mut wants: Streaming<Want>) {
        let (gate, requests) = (Arc::new(Gate::default()), Arc::new(Semaphore::new(REQUESTS_MAX)));
        while let Ok(Some(want)) = wants.message().await {
            let place = requests.clone().acquire_owned().await.expect("it is never closed");
            let Some(request) = want.request.and_then(|request| bulk::from_message(request).ok()) else {
                // The line is closed, for whatever follows cannot be trusted either.
                self.line.close("a request for bytes of an object is malformed");
                return;
            };
            self.deliver(want.ticket, request, gate.clone(), place);
        }
    }

    fn deliver(&self, ticket: u64, request: BulkRequest, gate: Arc<Gate>, place: OwnedSemaphorePermit) {
        let opened = open_source(&*self.source, &self.line.peer, &request);
        let mut client = self.client.clone();
        tokio::spawn(async move {
            let (sender, deliveries) = mpsc::channel(CHUNKS_AHEAD);
            let sending = async move {
                let delivery = |step| Delivery { step: Some(step) };
                // It fails when the call has ended, which is said below.
                let _ = sender.send(delivery(Step::Ticket(ticket))).await;
                match opened {
                    Ok(bytes) => {
                        let wrap = |chunk| delivery(Step::Chunk(chunk));
                        bulk::send(bytes, request.priority, gate, wrap, sender).await;
                    }
                    Err(refusal) => {
                        let _ = sender.send(delivery(Step::Refused(to_refused(refusal).into()))).await;
                    }
                }
            };
            // However the call ends, the node that wanted it knows.
            let (_, _) = tokio::join!(client.deliver(ReceiverStream::new(deliveries)), sending);
            drop(place);
        });
    }
}

fn to_refused(refusal: BulkRefusal) -> Refused {
    match refusal {
        BulkRefusal::NotOffered => Refused::NotOffered,
        BulkRefusal::OutOfRange => Refused::NoSuchRange,
    }
}
