//! Both sides of a request for bytes of an object: one stream each.
//!
//! ```text
//! request:  the bytes of a BulkRequest, then the end of the stream
//! answer:   u8: 0 granted, 1 not offered, 2 out of range; then chunks: length u32, checksum u32, bytes
//! ```

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use shoal_runtime::transport::bulk::{Filling, OBJECT_BYTES_MAX, checksum, chunks, open};
use shoal_runtime::transport::{BulkError, BulkRefusal, BulkRequest, BulkSource, Peer, TransportError};

use crate::errors;

const REQUEST_BYTES_MAX: usize = OBJECT_BYTES_MAX + 32;
const GRANTED: u8 = 0;
const NOT_OFFERED: u8 = 1;
const OUT_OF_RANGE: u8 = 2;

pub(crate) async fn fetch(
    connection: &quinn::Connection,
    request: BulkRequest,
    into: &mut [u8],
) -> Result<(), BulkError> {
    assert_eq!(request.length, into.len() as u64, "the memory is as long as what is asked for");
    let (mut send, mut receive) = connection.open_bi().await.map_err(errors::from_connection)?;
    let mut encoded = BytesMut::new();
    request.encode(&mut encoded);
    send.write_all(&encoded).await.map_err(errors::from_write)?;
    // It fails for a stream that is closed, as reading will, too.
    let _ = send.finish();

    let mut status = [0];
    receive.read_exact(&mut status).await.map_err(errors::from_read_exact)?;
    match status[0] {
        GRANTED => read_chunks(&mut receive, into).await,
        NOT_OFFERED => Err(BulkRefusal::NotOffered.into()),
        OUT_OF_RANGE => Err(BulkRefusal::OutOfRange.into()),
        _ => Err(TransportError::Malformed("an answer of an unknown kind").into()),
    }
}

async fn read_chunks(receive: &mut RecvStream, into: &mut [u8]) -> Result<(), BulkError> {
    let mut filling = Filling::new(into);
    while !filling.is_done() {
        let mut header = [0; 8];
        receive.read_exact(&mut header).await.map_err(errors::from_read_exact)?;
        let [length, sum] =
            [0, 4].map(|at| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
        let room = filling.room(length as usize)?;
        receive.read_exact(room).await.map_err(errors::from_read_exact)?;
        filling.advance(length as usize, sum)?;
    }
    Ok(())
}

/// Serve what the peer asks for until the connection ends.
pub(crate) async fn serve(connection: quinn::Connection, peer: Peer, source: Arc<dyn BulkSource>) {
    // The number of streams that the peer may open bounds the number of tasks.
    while let Ok((send, receive)) = connection.accept_bi().await {
        let (peer, source) = (peer.clone(), source.clone());
        tokio::spawn(async move {
            // The peer has given up on it, or the connection is gone; either knows that by itself.
            let _ = answer(send, receive, &peer, &*source).await;
        });
    }
}

async fn answer(
    mut send: SendStream,
    mut receive: RecvStream,
    peer: &Peer,
    source: &dyn BulkSource,
) -> Result<(), TransportError> {
    let asked = receive
        .read_to_end(REQUEST_BYTES_MAX)
        .await
        .map_err(|_| TransportError::Malformed("a request for bytes of an object"))?;
    let request = BulkRequest::decode(Bytes::from(asked))?;
    let _ = send.set_priority(i32::from(request.priority.0));
    let (status, bytes) = match open(source, peer, &request) {
        Ok(bytes) => (GRANTED, bytes),
        Err(BulkRefusal::NotOffered) => (NOT_OFFERED, Bytes::new()),
        Err(BulkRefusal::OutOfRange) => (OUT_OF_RANGE, Bytes::new()),
    };
    send.write_all(&[status]).await.map_err(errors::from_write)?;
    for chunk in chunks(bytes) {
        let mut header = BytesMut::with_capacity(8);
        header.put_u32_le(chunk.len() as u32);
        header.put_u32_le(checksum(&chunk));
        // The chunk is not copied: the connection reads it where it is, until the peer has it.
        send.write_all_chunks(&mut [header.freeze(), chunk]).await.map_err(errors::from_write)?;
    }
    let _ = send.finish();
    Ok(())
}
