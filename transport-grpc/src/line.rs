//! One secured byte stream, from its start to its end.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use shoal_runtime::transport::{Peer, TransportError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

use crate::network::ByteStream;
use crate::server::Served;

/// What is known of one byte stream, by whoever uses it and by the stream itself.
pub(crate) struct Line {
    pub(crate) peer: Peer,
    closing: Mutex<Closing>,
    ended: watch::Sender<Option<TransportError>>,
}

#[derive(Default)]
struct Closing {
    reason: Option<String>,
    reader: Option<Waker>,
}

impl Line {
    pub(crate) fn new(peer: Peer) -> Arc<Line> {
        Arc::new(Line { peer, closing: Mutex::default(), ended: watch::Sender::new(None) })
    }

    /// End the stream. HTTP/2 sees that nothing more comes, and lets go of it.
    pub(crate) fn close(&self, reason: &str) {
        let mut closing = self.closing.lock();
        closing.reason.get_or_insert_with(|| reason.to_owned());
        if let Some(reader) = closing.reader.take() {
            reader.wake();
        }
    }

    /// When and why the stream has ended.
    pub(crate) async fn ended(&self) -> TransportError {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(error)) => error.clone(),
            _ => gone(),
        }
    }

    /// What a failed call on this stream means: why the stream has ended, if it has.
    pub(crate) fn explain(&self, status: &tonic::Status) -> TransportError {
        self.ended.borrow().clone().unwrap_or_else(|| TransportError::Lost(status.to_string()))
    }

    fn end(&self, error: TransportError) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(error);
            first
        });
    }

    /// Whether the stream is to end; if not, the reader is woken when it is.
    fn poll_closed(&self, context: &Context<'_>) -> bool {
        let mut closing = self.closing.lock();
        let Some(reason) = &closing.reason else {
            closing.reader = Some(context.waker().clone());
            return false;
        };
        self.end(TransportError::Closed(reason.clone()));
        true
    }
}

fn gone() -> TransportError {
    TransportError::Lost("nothing was heard of the other end".into())
}

/// All streams of a transport that are in use.
#[derive(Clone, Default)]
pub(crate) struct Lines {
    all: Arc<Mutex<Vec<Weak<Line>>>>,
}

impl Lines {
    pub(crate) fn add(&self, line: &Arc<Line>) {
        let mut all = self.all.lock();
        all.retain(|line| line.strong_count() > 0);
        all.push(Arc::downgrade(line));
    }

    pub(crate) fn close_all(&self, reason: &str) {
        self.all.lock().iter().filter_map(Weak::upgrade).for_each(|line| line.close(reason));
    }
}

/// The stream as HTTP/2 uses it: it notes how it ends, and ends when it is told to.
pub(crate) struct LineStream {
    stream: TlsStream<Box<dyn ByteStream>>,
    pub(crate) line: Arc<Line>,
    /// What a server knows of it.
    pub(crate) served: Option<Arc<Served>>,
}

impl LineStream {
    pub(crate) fn new(stream: TlsStream<Box<dyn ByteStream>>, line: Arc<Line>) -> LineStream {
        LineStream { stream, line, served: None }
    }

    fn note(&self, error: &io::Error) {
        let lost = TransportError::Lost(error.to_string());
        self.line.end(if error.kind() == io::ErrorKind::UnexpectedEof { hung_up() } else { lost });
    }
}

fn hung_up() -> TransportError {
    TransportError::Closed("the other end has closed it".into())
}

impl Drop for LineStream {
    fn drop(&mut self) {
        self.line.end(gone());
    }
}

impl Connected for LineStream {
    type ConnectInfo = Option<Arc<Served>>;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.served.clone()
    }
}

impl AsyncRead for LineStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.line.poll_closed(context) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        match &read {
            Poll::Ready(Ok(())) if buffer.filled().len() == before => self.line.end(hung_up()),
            Poll::Ready(Err(error)) => self.note(error),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for LineStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Err(error)) = &written {
            self.note(error);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
