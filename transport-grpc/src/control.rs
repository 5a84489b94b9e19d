//! Control frames as a stream of messages: bytes that are cut anywhere, and joined again.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use shoal_runtime::transport::{BoxRead, BoxWrite, TransportError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio_stream::Stream;
use tonic::Streaming;

use crate::line::Line;
use crate::proto::Piece;

/// What waits to be sent; whoever writes more waits.
const PIPE_BYTES: usize = 256 << 10;
/// What goes into one message.
const PIECE_BYTES: usize = 64 << 10;

/// Closes a line when the last part of its connection is dropped.
pub(crate) struct Lifeline(pub(crate) Arc<Line>);

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.0.close("the node needs it no more");
    }
}

/// A byte stream to write to, and the messages that it becomes.
pub(crate) fn outgoing(lifeline: Arc<Lifeline>) -> (BoxWrite, Pieces) {
    let (write, read) = duplex(PIPE_BYTES);
    (Box::new(Writing { pipe: write, _lifeline: lifeline }), Pieces { pipe: read, buffer: BytesMut::new() })
}

/// The byte stream that messages of the peer make up.
pub(crate) fn incoming(lifeline: Arc<Lifeline>, pieces: Streaming<Piece>) -> BoxRead {
    Box::new(Reading { pieces, piece: Bytes::new(), lifeline })
}

struct Writing {
    pipe: DuplexStream,
    _lifeline: Arc<Lifeline>,
}

impl AsyncWrite for Writing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

/// The messages of one direction. What is in the pipe when the connection asks becomes one.
pub(crate) struct Pieces {
    pipe: DuplexStream,
    buffer: BytesMut,
}

impl Pieces {
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        self.buffer.reserve(PIECE_BYTES);
        // A pipe in memory fails only when it is closed.
        let read = ready!(pin!(self.pipe.read_buf(&mut self.buffer)).poll(context));
        Poll::Ready(read.is_ok_and(|count| count > 0).then(|| Piece { bytes: self.buffer.split().freeze() }))
    }
}

impl Stream for Pieces {
    type Item = Piece;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        self.poll_piece(context)
    }
}

/// The same for a server, whose streams may end in errors.
pub(crate) struct Infallible<S>(pub(crate) S);

impl<S: Stream + Unpin> Stream for Infallible<S> {
    type Item = Result<S::Item, tonic::Status>;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context).map(|item| item.map(Ok))
    }
}

struct Reading {
    pieces: Streaming<Piece>,
    piece: Bytes,
    lifeline: Arc<Lifeline>,
}

impl AsyncRead for Reading {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.piece.is_empty() {
            match ready!(Pin::new(&mut self.pieces).poll_next(context)) {
                Some(Ok(piece)) => self.piece = piece.bytes,
                Some(Err(status)) => {
                    let error: TransportError = self.lifeline.0.explain(&status);
                    return Poll::Ready(Err(error.into()));
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.piece.len().min(buffer.remaining());
        buffer.put_slice(&self.piece[..count]);
        self.piece.advance(count);
        Poll::Ready(Ok(()))
    }
}
