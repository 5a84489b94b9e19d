//! The end of a connection that was connected to: it is called.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::HeaderValue;
use http::header::DATE;
use parking_lot::Mutex;
use shoal_runtime::transport::bulk::{Filling, REQUESTS_MAX, open};
use shoal_runtime::transport::{
    BoxFuture, Bulk, BulkError, BulkRefusal, BulkRequest, BulkSource, Connection, ControlReader,
    ControlWriter, KEEP_ALIVE, LocalNode, SILENCE_MAX, TransportError,
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tower::util::MapResponseLayer;

use crate::bulk::{self, CHUNKS_AHEAD, Gate, MESSAGE_BYTES_MAX};
use crate::control::{Infallible, Lifeline, Pieces, incoming, outgoing};
use crate::line::{Line, LineStream};
use crate::proto::delivery::Step;
use crate::proto::node_server::{Node, NodeServer};
use crate::proto::{self, Chunk, Delivery, Nothing, Piece, Refused, Want};

/// What may be on its way on one stream: the product of bandwidth and round trip that is still used in
/// full, 10 Gbit/s at 12 ms or 2.5 Gbit/s at 50 ms.
pub(crate) const STREAM_WINDOW: u32 = 16 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 32 << 20;
/// Control, wants, and what either end asks for.
const STREAMS_MAX: u32 = 2 + 2 * REQUESTS_MAX as u32;

/// Serve gRPC on streams that are secured; what they become goes to `accept`.
pub(crate) async fn serve(
    secured: mpsc::Receiver<LineStream>,
    node: LocalNode,
    accept: mpsc::Sender<Connection>,
) {
    // Without one of its own a response gets the time of day, for which nobody asks.
    let undated = MapResponseLayer::new(|mut response: http::Response<_>| {
        response.headers_mut().insert(DATE, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
        response
    });
    let service = Service { accept, source: node.source };
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(STREAMS_MAX as usize))
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(SILENCE_MAX - KEEP_ALIVE))
        .layer(undated)
        .add_service(NodeServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming(Incoming(secured))
        .await;
    if let Err(error) = served {
        (node.log)(format_args!("gRPC is served no more: {error}"));
    }
}

struct Incoming(mpsc::Receiver<LineStream>);

impl Stream for Incoming {
    type Item = Result<LineStream, io::Error>;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|stream| {
            stream.map(|mut stream| {
                stream.served = Some(Arc::new(Served::new(stream.line.clone())));
                Ok(stream)
            })
        })
    }
}

/// What the calls over one stream have in common.
pub(crate) struct Served {
    line: Arc<Line>,
    gate: Arc<Gate>,
    is_open: AtomicBool,
    want: mpsc::Sender<Want>,
    wants: Mutex<Option<mpsc::Receiver<Want>>>,
    tickets: Mutex<Tickets>,
    requests: Semaphore,
}

/// What was wanted and is not there yet.
#[derive(Default)]
struct Tickets {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Delivered>>,
}

/// A call that delivers; it ends when `taken` is dropped.
struct Delivered {
    stream: Streaming<Delivery>,
    _taken: oneshot::Sender<()>,
}

impl Served {
    fn new(line: Arc<Line>) -> Served {
        let (want, wants) = mpsc::channel(REQUESTS_MAX);
        Served {
            line,
            gate: Arc::default(),
            is_open: AtomicBool::new(false),
            want,
            wants: Mutex::new(Some(wants)),
            tickets: Mutex::default(),
            requests: Semaphore::new(REQUESTS_MAX),
        }
    }

    fn ticket(&self) -> (Ticket<'_>, oneshot::Receiver<Delivered>) {
        let (sender, receiver) = oneshot::channel();
        let mut tickets = self.tickets.lock();
        tickets.last += 1;
        let number = tickets.last;
        tickets.waiting.insert(number, sender);
        (Ticket { served: self, number }, receiver)
    }
}

/// Something that is wanted, for as long as it is.
struct Ticket<'a> {
    served: &'a Served,
    number: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.served.tickets.lock().waiting.remove(&self.number);
    }
}

/// The bulk side of a connection, at the end that is called.
struct Called {
    served: Arc<Served>,
    _lifeline: Arc<Lifeline>,
}

impl Called {
    async fn fetch(&self, request: BulkRequest, into: &mut [u8]) -> Result<(), BulkError> {
        assert_eq!(request.length, into.len() as u64, "the memory is as long as what is asked for");
        let served = &*self.served;
        let _place = served.requests.acquire().await.expect("it is never closed");
        let (ticket, delivered) = served.ticket();
        let want = Want { ticket: ticket.number, request: Some(bulk::to_message(&request)) };
        let wanted = async {
            served.want.send(want).await.map_err(|_| ())?;
            delivered.await.map_err(|_| ())
        };
        let mut delivered = tokio::select! {
            biased;
            delivered = wanted => delivered.map_err(|()| bulk::ended_early())?,
            error = served.line.ended() => return Err(error.into()),
        };
        let mut filling = Filling::new(into);
        while !filling.is_done() {
            let message = delivered.stream.message().await;
            let delivery = message.map_err(|status| bulk::from_status(&status, &served.line))?;
            match delivery.ok_or_else(bulk::ended_early)?.step {
                Some(Step::Chunk(chunk)) => bulk::fill(&mut filling, &chunk)?,
                Some(Step::Refused(refused)) => return Err(from_refused(refused)),
                Some(Step::Ticket(_)) | None => {
                    return Err(TransportError::Malformed("a delivery of an unknown kind").into());
                }
            }
        }
        Ok(())
    }
}

fn from_refused(refused: i32) -> BulkError {
    match Refused::try_from(refused) {
        Ok(Refused::NotOffered) => BulkRefusal::NotOffered.into(),
        Ok(Refused::NoSuchRange) => BulkRefusal::OutOfRange.into(),
        Err(_) => TransportError::Malformed("a delivery refused for an unknown reason").into(),
    }
}

impl Bulk for Called {
    fn fetch<'a>(&'a self, request: BulkRequest, into: &'a mut [u8]) -> BoxFuture<'a, Result<(), BulkError>> {
        Box::pin(self.fetch(request, into))
    }

    fn close(&self, reason: &str) {
        self.served.line.close(reason);
    }

    fn closed(&self) -> BoxFuture<'_, TransportError> {
        Box::pin(self.served.line.ended())
    }
}

struct Service {
    accept: mpsc::Sender<Connection>,
    source: Arc<dyn BulkSource>,
}

fn served<T>(request: &Request<T>) -> Result<Arc<Served>, Status> {
    let served = request.extensions().get::<Option<Arc<Served>>>().cloned().flatten();
    served.ok_or_else(|| Status::unauthenticated("the stream belongs to nobody"))
}

#[tonic::async_trait]
impl Node for Service {
    type ControlStream = Infallible<Pieces>;
    type FetchStream = Infallible<ReceiverStream<Chunk>>;
    type WantsStream = Infallible<ReceiverStream<Want>>;

    async fn control(
        &self,
        request: Request<Streaming<Piece>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let served = served(&request)?;
        if served.is_open.swap(true, Ordering::Relaxed) {
            return Err(Status::already_exists("a connection has one control stream"));
        }
        let lifeline = Arc::new(Lifeline(served.line.clone()));
        let (write, pieces) = outgoing(lifeline.clone());
        let connection = Connection {
            peer: served.line.peer.clone(),
            reader: ControlReader::new(incoming(lifeline.clone(), request.into_inner())),
            writer: ControlWriter::new(write),
            bulk: Arc::new(Called { served, _lifeline: lifeline }),
        };
        self.accept.send(connection).await.map_err(|_| Status::unavailable("the node stops"))?;
        Ok(Response::new(Infallible(pieces)))
    }

    async fn fetch(&self, request: Request<proto::Request>) -> Result<Response<Self::FetchStream>, Status> {
        let served = served(&request)?;
        let request = bulk::from_message(request.into_inner())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let bytes = open(&*self.source, &served.line.peer, &request).map_err(bulk::to_status)?;
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(bulk::send(bytes, request.priority, served.gate.clone(), |chunk| chunk, sender));
        Ok(Response::new(Infallible(ReceiverStream::new(chunks))))
    }

    async fn wants(&self, request: Request<Nothing>) -> Result<Response<Self::WantsStream>, Status> {
        let wants = served(&request)?.wants.lock().take();
        let wants = wants.ok_or_else(|| Status::already_exists("wants are told once"))?;
        Ok(Response::new(Infallible(ReceiverStream::new(wants))))
    }

    async fn deliver(&self, request: Request<Streaming<Delivery>>) -> Result<Response<Nothing>, Status> {
        let served = served(&request)?;
        let mut stream = request.into_inner();
        let Some(Delivery { step: Some(Step::Ticket(number)) }) = stream.message().await? else {
            return Err(Status::invalid_argument("a delivery starts with its ticket"));
        };
        let waiting = served.tickets.lock().waiting.remove(&number);
        let waiting = waiting.ok_or_else(|| Status::cancelled("it is wanted no more"))?;
        let (taken, done) = oneshot::channel();
        if waiting.send(Delivered { stream, _taken: taken }).is_ok() {
            // It never gets a value: whoever takes the bytes drops its end when done.
            let _ = done.await;
        }
        Ok(Response::new(Nothing {}))
    }
}
