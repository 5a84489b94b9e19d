//! Streams of bulk bytes whose other end says anything: for the fuzzer, and for nobody else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use shoal_runtime::transport::{BulkError, BulkRequest, TransportError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::crypto::cipher::{AeadKey, Iv};
use tokio_rustls::rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

use super::{Stream, read_request, take};
use crate::record::Sealer;

/// What comes over the network in one direction: so many bytes at a time, then the end.
struct Network {
    bytes: Vec<u8>,
    start: usize,
    cut: usize,
}

impl AsyncRead for Network {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.cut.min(self.bytes.len() - self.start).min(into.remaining());
        into.put_slice(&self.bytes[self.start..self.start + count]);
        self.start += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Network {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn secrets() -> (u64, ConnectionTrafficSecrets) {
    (0, ConnectionTrafficSecrets::Chacha20Poly1305 { key: AeadKey::from([7; 32]), iv: Iv::from([9; 12]) })
}

/// A stream over which these bytes come, `cut` at a time.
fn stream(bytes: Vec<u8>, cut: usize) -> Result<Stream, TransportError> {
    let secrets = ExtractedSecrets { tx: secrets(), rx: secrets() };
    Stream::new(Box::new(Network { bytes, start: 0, cut: cut.max(1) }), secrets)
}

/// What the other end sends that has sealed these parts, one after the other.
///
/// # Errors
///
/// If there are more than a key may seal.
pub fn sealed<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, TransportError> {
    let mut sealer = Sealer::new(secrets())?;
    let mut records = Vec::new();
    for part in parts {
        sealer.seal(part, &mut records)?;
    }
    Ok(records)
}

/// The requests that come over the network in these bytes, `cut` at a time, and why there are no more.
pub async fn requests(bytes: Vec<u8>, cut: usize) -> (Vec<BulkRequest>, TransportError) {
    let mut requests = Vec::new();
    let mut stream = match stream(bytes, cut) {
        Ok(stream) => stream,
        Err(error) => return (requests, error),
    };
    loop {
        match read_request(&mut stream).await {
            Ok(request) => requests.push(request),
            Err(error) => return (requests, error),
        }
    }
}

/// Ask for a range that is as long as `into`, and read what comes over the network in these bytes, `cut` at a
/// time.
///
/// # Errors
///
/// What the other end refuses, or does wrong.
pub async fn fetched(
    bytes: Vec<u8>,
    cut: usize,
    request: &BulkRequest,
    into: &mut [u8],
) -> Result<(), BulkError> {
    take(&mut stream(bytes, cut)?, request, into).await
}
