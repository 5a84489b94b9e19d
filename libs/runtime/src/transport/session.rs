//! Drives a session over one connection after another.

use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use shoal_core::Time;
use shoal_core::session::{Acknowledging, Config, Fault, Session};
use shoal_core::wire::FRAME_BYTES_MAX;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Control, ControlReader, ControlWriter, TransportError};
use crate::frame::HEADER_BYTES;

/// Frames that are delivered together at most.
const BATCH_FRAMES: usize = 256;

/// A session with one peer, shared by who sends and by the task that drives it. Clones are the same
/// session.
#[derive(Clone)]
pub struct PeerSession {
    shared: Arc<Shared>,
}

struct Shared {
    session: Mutex<Session<Bytes>>,
    /// Time 0 of the session.
    origin: Instant,
    /// Something can be written.
    written: Notify,
    /// Something was acknowledged.
    room: Notify,
    /// How many connections the session has had: the last one is its own.
    connections: watch::Sender<u64>,
}

/// Why a connection carries the session no more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ended {
    /// The session goes on over a newer connection.
    Replaced,
    /// The peer has closed the connection, or it broke.
    Connection(TransportError),
    /// The peer does not keep to the protocol of sessions.
    Fault(Fault),
    /// Nobody takes what is received any more.
    Unheard,
}

impl PeerSession {
    /// A session over which nothing has gone yet.
    pub fn new(config: Config, acknowledging: Acknowledging) -> Self {
        PeerSession {
            shared: Arc::new(Shared {
                session: Mutex::new(Session::new(config, acknowledging)),
                origin: Instant::now(),
                written: Notify::new(),
                room: Notify::new(),
                connections: watch::Sender::new(0),
            }),
        }
    }

    /// Send a frame: over the connection that is there, or over the next one. Never blocks and never
    /// refuses; who has a choice asks [`PeerSession::is_full`] before.
    ///
    /// # Panics
    ///
    /// If the frame is longer than [`FRAME_BYTES_MAX`] and a header: it should never have been made.
    pub fn send(&self, frame: Bytes) {
        assert!(frame.len() <= FRAME_BYTES_MAX + HEADER_BYTES, "a frame of {} bytes", frame.len());
        self.shared.session.lock().send(frame);
        self.shared.written.notify_one();
    }

    /// Whether so much is unacknowledged that no more should be sent.
    pub fn is_full(&self) -> bool {
        self.shared.session.lock().is_full()
    }

    /// Wait until the session is not full.
    pub async fn room(&self) {
        loop {
            let mut released = pin!(self.shared.room.notified());
            released.as_mut().enable();
            if !self.is_full() {
                return;
            }
            released.await;
        }
    }

    /// The oldest frame that was received and not handled has been handled (see [`Session::handled`]).
    pub fn handled(&self) {
        self.shared.session.lock().handled(self.now());
        self.shared.written.notify_one();
    }

    /// Bytes that are kept until the peer acknowledges them.
    pub fn unacknowledged_bytes(&self) -> usize {
        self.shared.session.lock().unacknowledged_bytes()
    }

    /// Frames that were sent and not acknowledged, for a session with the successor of the peer. The
    /// session itself goes on; who drives it should stop.
    pub fn unacknowledged(&self) -> Vec<Bytes> {
        self.shared.session.lock().clone().into_unacknowledged().collect()
    }

    /// Carry the session over a connection until it ends, or another call takes the session over. Frames
    /// of the peer go to `deliver`, each once, in order, over all connections; while nobody takes them,
    /// nothing more is read.
    pub async fn drive(
        &self,
        reader: &mut ControlReader,
        writer: &mut ControlWriter,
        deliver: &mpsc::Sender<Vec<Bytes>>,
    ) -> Ended {
        let mut connections = self.shared.connections.subscribe();
        let connection = {
            let mut session = self.shared.session.lock();
            session.connected();
            self.shared.connections.send_modify(|count| *count += 1);
            *connections.borrow_and_update()
        };
        reader.allow_session();
        let attached = Attached { shared: &self.shared, connection };
        let ended = tokio::select! {
            biased;
            _ = connections.changed() => Ended::Replaced,
            ended = attached.read(reader, deliver) => ended,
            ended = attached.write(writer) => ended,
        };
        attached.with(|session| session.cut());
        ended
    }

    fn now(&self) -> Time {
        self.shared.now()
    }
}

impl Shared {
    fn now(&self) -> Time {
        Time(self.origin.elapsed().as_nanos() as u64)
    }
}

/// The session, for as long as this connection is its own.
struct Attached<'a> {
    shared: &'a Shared,
    connection: u64,
}

impl Attached<'_> {
    /// Look at the session or change it; none if it has a newer connection.
    fn with<T>(&self, apply: impl FnOnce(&mut Session<Bytes>) -> T) -> Option<T> {
        let mut session = self.shared.session.lock();
        (*self.shared.connections.borrow() == self.connection).then(|| apply(&mut session))
    }

    async fn read(&self, reader: &mut ControlReader, deliver: &mpsc::Sender<Vec<Bytes>>) -> Ended {
        loop {
            let first = match reader.next().await {
                Ok(Some(control)) => control,
                Ok(None) => return closed(),
                Err(error) => return Ended::Connection(error),
            };
            // What is not delivered must not count as received, so there is a place for it before.
            let Ok(place) = deliver.reserve().await else { return Ended::Unheard };
            let Some((frames, ended)) = self.with(|session| self.take(session, first, reader)) else {
                return Ended::Replaced;
            };
            if !frames.is_empty() {
                place.send(frames);
            }
            if let Some(ended) = ended {
                return ended;
            }
            self.shared.written.notify_one();
            self.shared.room.notify_waiters();
        }
    }

    /// Take what has been read. Gives new frames, and why the connection ends if it does.
    fn take(
        &self,
        session: &mut Session<Bytes>,
        first: Control,
        reader: &mut ControlReader,
    ) -> (Vec<Bytes>, Option<Ended>) {
        let now = self.shared.now();
        let mut frames = Vec::new();
        let mut next = Ok(Some(first));
        loop {
            match next {
                Ok(Some(Control::Packet(packet))) => match session.receive(now, packet) {
                    Ok(frame) => frames.extend(frame),
                    Err(fault) => return (frames, Some(Ended::Fault(fault))),
                },
                Ok(Some(Control::Greeting(_))) => {
                    let error = TransportError::Malformed("a greeting within a session");
                    return (frames, Some(Ended::Connection(error)));
                }
                Ok(None) => return (frames, None),
                Err(error) => return (frames, Some(Ended::Connection(error))),
            }
            if frames.len() >= BATCH_FRAMES {
                return (frames, None);
            }
            next = reader.buffered();
        }
    }

    async fn write(&self, writer: &mut ControlWriter) -> Ended {
        let mut alarm = Alarm::default();
        loop {
            let Some(filled) = self.with(|session| self.fill(session, writer)) else {
                return Ended::Replaced;
            };
            let timeout = match filled {
                Ok(timeout) => timeout,
                Err(error) => return Ended::Connection(error),
            };
            if !writer.is_empty() {
                if let Err(error) = writer.flush().await {
                    return Ended::Connection(error);
                }
                continue;
            }
            tokio::select! {
                biased;
                () = self.shared.written.notified() => {}
                () = alarm.ring(timeout) => {}
            }
        }
    }

    /// Move packets from the session to the writer. Gives the time when there may be more to say.
    fn fill(
        &self,
        session: &mut Session<Bytes>,
        writer: &mut ControlWriter,
    ) -> Result<Option<Instant>, TransportError> {
        session.handle_timeout(self.shared.now());
        while !writer.is_full() {
            let Some(packet) = session.next_packet() else { break };
            writer.push(&Control::Packet(packet))?;
        }
        Ok(session.poll_timeout().map(|at| self.shared.origin + std::time::Duration::from_nanos(at.0)))
    }
}

fn closed() -> Ended {
    Ended::Connection(TransportError::Closed("the peer has nothing more to say".into()))
}

/// Rings when something is due, or too early: what was due once is not taken back, because setting a timer anew
/// for each frame costs more than to look once in vain.
#[derive(Default)]
struct Alarm {
    set: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Alarm {
    async fn ring(&mut self, due: Option<Instant>) {
        if let Some(due) = due
            && self.set.as_ref().is_none_or(|(at, _)| *at > due)
        {
            self.set = Some((due, Box::pin(sleep_until(due))));
        }
        match &mut self.set {
            Some((_, sleep)) => sleep.as_mut().await,
            None => pending().await,
        }
        self.set = None;
    }
}

#[cfg(test)]
mod tests;
