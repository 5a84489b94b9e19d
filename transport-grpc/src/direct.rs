//! Bytes of objects over streams of their own: one for each request that is under way.
//!
//! The node that wants the bytes connects to the port at which the other one listens, and both speak
//! [`BULK_PROTOCOL`](shoal_identity::BULK_PROTOCOL) there, encrypted and with certificates as everything
//! else. Streams are kept for a while for the next request.
//!
//! ```text
//! request:  length u16, the bytes of a BulkRequest
//! answer:   u8: 0 granted, 1 not offered, 2 out of range; then chunks: length u32, checksum u32, bytes
//! ```

#[cfg(feature = "fuzz")]
pub mod fuzz;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use shoal_identity::BULK_PROTOCOL;
use shoal_runtime::transport::bulk::{CHUNK_BYTES, Filling, OBJECT_BYTES_MAX, checksum, chunks, open};
use shoal_runtime::transport::{
    BulkError, BulkRefusal, BulkRequest, BulkSource, CONNECT_WITHIN, LocalNode, Peer, SILENCE_MAX,
    TransportError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::ExtractedSecrets;

use crate::bulk::Gate;
use crate::network::{ByteStream, Network, buffer_bulk, wake_after};
use crate::record::{self, HEADER_BYTES, Opener, RECORD_BYTES_MAX, Sealer, Unsealed, sealed_bytes};
use crate::secure;

const REQUEST_BYTES_MAX: usize = OBJECT_BYTES_MAX + 32;
const GRANTED: u8 = 0;
const NOT_OFFERED: u8 = 1;
const OUT_OF_RANGE: u8 = 2;
/// So much is read from the network at once if there is so much.
const READ_BYTES: usize = 256 << 10;
/// Waking up for every packet takes more time than its bytes: who takes an object of more than
/// [`GATHERED_FROM`] bytes is woken for so many together.
const GATHERED_BYTES: usize = 256 << 10;
const GATHERED_FROM: usize = 8 << 20;
/// A stream that is not needed is kept for so long by who has connected; a bit longer by the other end.
const KEPT: Duration = Duration::from_secs(20);
/// Streams that other nodes have opened here; one more is closed.
const STREAMS_MAX: usize = 256;

/// A stream whose records are sealed and opened here.
pub(crate) struct Stream {
    stream: Box<dyn ByteStream>,
    sealer: Sealer,
    opener: Opener,
    /// What has come: `start..end` is sealed yet, `plain` is open and not taken.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    plain: std::ops::Range<usize>,
    outgoing: Vec<u8>,
}

impl Stream {
    /// Go on with a stream over which TLS has nothing more to say in either direction.
    pub(crate) fn new(
        stream: Box<dyn ByteStream>,
        secrets: ExtractedSecrets,
    ) -> Result<Stream, TransportError> {
        let (sealer, opener) = (Sealer::new(secrets.tx)?, Opener::new(secrets.rx)?);
        buffer_bulk(&*stream);
        let buffer = vec![0; READ_BYTES + RECORD_BYTES_MAX].into();
        let outgoing = Vec::new();
        Ok(Stream { stream, sealer, opener, buffer, start: 0, end: 0, plain: 0..0, outgoing })
    }

    fn is_spent(&self) -> bool {
        self.sealer.is_spent() || self.opener.is_spent()
    }

    /// Seal bytes, to be written with what follows them.
    fn put(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        Ok(self.sealer.seal(bytes, &mut self.outgoing)?)
    }

    async fn flush(&mut self) -> io::Result<()> {
        within(self.stream.write_all(&self.outgoing)).await?;
        self.outgoing.clear();
        within(self.stream.flush()).await
    }

    async fn read_exact(&mut self, mut into: &mut [u8]) -> Result<(), TransportError> {
        while !into.is_empty() {
            if self.plain.is_empty() {
                self.next_record(sealed_bytes(into.len())).await?;
                continue;
            }
            let count = into.len().min(self.plain.len());
            let (now, later) = into.split_at_mut(count);
            now.copy_from_slice(&self.buffer[self.plain.start..self.plain.start + count]);
            self.plain.start += count;
            into = later;
        }
        Ok(())
    }

    /// Read `length` bytes to the front of `room`, opening them where they come to lie if there is room for
    /// what surrounds them.
    async fn read_chunk(&mut self, room: &mut [u8], length: usize) -> Result<(), TransportError> {
        let sealed = sealed_bytes(length);
        if !self.plain.is_empty() || room.len() < sealed {
            return self.read_exact(&mut room[..length]).await;
        }
        let room = &mut room[..sealed];
        let mut filled = sealed.min(self.end - self.start);
        room[..filled].copy_from_slice(&self.buffer[self.start..self.start + filled]);
        self.start += filled;
        while filled < sealed {
            match self.stream.read(&mut room[filled..]).await? {
                0 => return Err(closed()),
                count => filled += count,
            }
        }
        Ok(self.opener.open_together(room, length)?)
    }

    /// Open the next record, as soon as it has come in full. Of those behind it no more is read than `wanted`
    /// bytes, so that the rest can be read to where it belongs.
    async fn next_record(&mut self, wanted: usize) -> Result<(), TransportError> {
        loop {
            let sealed = &mut self.buffer[self.start..self.end];
            if let Some(length) = record::length(sealed)?.filter(|length| *length <= sealed.len()) {
                let plain = self.opener.open(&mut sealed[..length])?;
                self.plain = self.start + plain.start..self.start + plain.end;
                self.start += length;
                return Ok(());
            }
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            } else if self.buffer.len() - self.start < RECORD_BYTES_MAX {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            let until = self.buffer.len().min(self.start + wanted.max(HEADER_BYTES)).max(self.end + 1);
            match self.stream.read(&mut self.buffer[self.end..until]).await? {
                0 => return Err(closed()),
                count => self.end += count,
            }
        }
    }
}

impl From<Unsealed> for TransportError {
    fn from(_: Unsealed) -> Self {
        TransportError::Malformed("bytes that the other end has not sealed")
    }
}

fn closed() -> TransportError {
    TransportError::Closed("the other end has closed it".into())
}

/// What goes before a chunk: its length and its checksum.
fn header(chunk: &[u8]) -> [u8; 8] {
    let mut header = [0; 8];
    header[..4].copy_from_slice(&(chunk.len() as u32).to_le_bytes());
    header[4..].copy_from_slice(&checksum(chunk).to_le_bytes());
    header
}

/// A peer that takes nothing for so long is gone. One that sends nothing may have more urgent things to
/// send: of its death the head tells.
async fn within<T>(done: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(SILENCE_MAX, done).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The end that gives.
pub(crate) struct Giving {
    source: Arc<dyn BulkSource>,
    places: Semaphore,
    /// Requests that are served for each machine: the more urgent ones go first.
    gates: Mutex<HashMap<IpAddr, Weak<Gate>>>,
}

impl Giving {
    pub(crate) fn new(source: Arc<dyn BulkSource>) -> Giving {
        Giving { source, places: Semaphore::new(STREAMS_MAX), gates: Mutex::default() }
    }

    /// Serve what a peer asks for over a stream until the peer needs it no more.
    pub(crate) async fn serve(self: Arc<Self>, mut stream: Stream, peer: Peer) {
        let Ok(_place) = self.places.try_acquire() else { return };
        let gate = self.gate(peer.address.ip());
        // Whatever ends it, the peer has ended it, or is told by the end of the stream.
        while self.answer(&mut stream, &peer, &gate).await.is_ok() {}
    }

    fn gate(&self, address: IpAddr) -> Arc<Gate> {
        let mut gates = self.gates.lock();
        if let Some(gate) = gates.get(&address).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::new(Gate::default());
        gates.insert(address, Arc::downgrade(&gate));
        gate
    }

    async fn answer(&self, stream: &mut Stream, peer: &Peer, gate: &Gate) -> Result<(), TransportError> {
        let asked = timeout(2 * KEPT, read_request(stream));
        let request = asked.await.map_err(|_| TransportError::TimedOut)??;
        let (status, bytes) = match open(&*self.source, peer, &request) {
            Ok(bytes) => (GRANTED, bytes),
            Err(BulkRefusal::NotOffered) => (NOT_OFFERED, Bytes::new()),
            Err(BulkRefusal::OutOfRange) => (OUT_OF_RANGE, Bytes::new()),
        };
        stream.put(&[status])?;
        let place = gate.enter(request.priority);
        for chunk in chunks(bytes) {
            place.turn().await;
            stream.put(&header(&chunk))?;
            stream.put(&chunk)?;
            stream.flush().await?;
            // Sealing takes time, and others have messages to send.
            yield_now().await;
        }
        drop(place);
        Ok(stream.flush().await?)
    }
}

async fn read_request(stream: &mut Stream) -> Result<BulkRequest, TransportError> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > REQUEST_BYTES_MAX {
        return Err(TransportError::TooLong { bytes: length, limit: REQUEST_BYTES_MAX });
    }
    let mut request = vec![0; length];
    stream.read_exact(&mut request).await?;
    BulkRequest::decode(request.into())
}

/// The end that takes.
#[derive(Clone)]
pub(crate) struct Taking {
    network: Arc<dyn Network>,
    node: LocalNode,
    kept: Arc<Mutex<HashMap<SocketAddr, Vec<Stream>>>>,
}

impl Taking {
    pub(crate) fn new(network: Arc<dyn Network>, node: LocalNode) -> Taking {
        Taking { network, node, kept: Arc::default() }
    }

    pub(crate) async fn fetch(
        &self,
        address: SocketAddr,
        request: BulkRequest,
        into: &mut [u8],
    ) -> Result<(), BulkError> {
        assert_eq!(request.length, into.len() as u64, "the memory is as long as what is asked for");
        let kept = self.kept.lock().get_mut(&address).and_then(Vec::pop);
        if let Some(mut stream) = kept {
            match take(&mut stream, &request, into).await {
                // The other end may have closed it meanwhile.
                Err(BulkError::Connection(_)) => {}
                taken => {
                    self.keep(address, stream);
                    return taken;
                }
            }
        }
        let connected = timeout(CONNECT_WITHIN, self.connect(address));
        let mut stream = connected.await.map_err(|_| TransportError::TimedOut)??;
        let taken = take(&mut stream, &request, into).await;
        if !matches!(taken, Err(BulkError::Connection(_) | BulkError::Corrupt { .. })) {
            self.keep(address, stream);
        }
        taken
    }

    async fn connect(&self, address: SocketAddr) -> Result<Stream, TransportError> {
        let stream = self.network.connect(address).await?;
        let mut config = self.node.credentials.client_config(BULK_PROTOCOL);
        config.enable_secret_extraction = true;
        let (stream, _) = secure::introduce(stream, config, &self.node).await?;
        let (stream, session) = stream.into_inner();
        Stream::new(stream, session.dangerous_extract_secrets().map_err(secure::refused)?)
    }

    fn keep(&self, address: SocketAddr, stream: Stream) {
        if stream.is_spent() {
            return;
        }
        self.kept.lock().entry(address).or_default().push(stream);
        let kept = Arc::downgrade(&self.kept);
        tokio::spawn(async move {
            sleep(KEPT).await;
            let Some(kept) = kept.upgrade() else { return };
            let mut kept = kept.lock();
            // As many go as have been kept: the longest kept first.
            if let Some(streams) = kept.get_mut(&address).filter(|streams| !streams.is_empty()) {
                streams.remove(0);
            }
            kept.retain(|_, streams| !streams.is_empty());
        });
    }
}

async fn take(stream: &mut Stream, request: &BulkRequest, into: &mut [u8]) -> Result<(), BulkError> {
    let mut encoded = BytesMut::new();
    request.encode(&mut encoded);
    stream.put(&(encoded.len() as u16).to_le_bytes())?;
    stream.put(&encoded)?;
    stream.flush().await.map_err(TransportError::from)?;

    let mut status = [0];
    stream.read_exact(&mut status).await?;
    match status[0] {
        GRANTED => {}
        NOT_OFFERED => return Err(BulkRefusal::NotOffered.into()),
        OUT_OF_RANGE => return Err(BulkRefusal::OutOfRange.into()),
        _ => return Err(TransportError::Malformed("an answer of an unknown kind").into()),
    }
    let mut gathers = into.len() > GATHERED_FROM;
    if gathers {
        wake_after(&*stream.stream, GATHERED_BYTES);
    }
    let mut filling = Filling::new(into);
    while !filling.is_done() {
        let mut header = [0; 8];
        stream.read_exact(&mut header).await?;
        let mut header = &header[..];
        let (length, sum) = (header.get_u32_le() as usize, header.get_u32_le());
        let room = filling.room_and_beyond(length)?;
        let last = room.len() <= 2 * GATHERED_BYTES + CHUNK_BYTES;
        if gathers && last {
            // The last bytes must not wait for more.
            wake_after(&*stream.stream, 1);
            gathers = false;
        }
        stream.read_chunk(room, length).await?;
        filling.advance(length, sum)?;
        // Opening takes time, and others have messages to read.
        yield_now().await;
    }
    Ok(())
}

const _: () = assert!(CHUNK_BYTES.is_multiple_of(record::PLAIN_BYTES_MAX), "no record is nearly empty");
