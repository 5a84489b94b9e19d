//! Exactly-once, in-order frames between two daemons, over connections that break.
//!
//! A session outlives its connections. Frames are numbered; the sender keeps each one until it is
//! acknowledged, and after a reconnect replays, once, what the peer has not received. A session lives
//! as long as both ends do: node numbers are never used again, so a pair of them (or a node and the
//! epoch of a head) names a session, and whoever hears that the peer is dead drops it.
//!
//! The driver calls [`Session::connected`] and [`Session::cut`], writes what [`Session::next_packet`]
//! gives for as long as the connection takes more, and passes what it reads to [`Session::receive`].
//! Packets of one connection must be passed in order, and none of it after its end. A driver that stops
//! accepting frames because of [`Session::is_full`] must go on reading the peer: acknowledgements come
//! from there, and two ends that both stopped reading would wait for each other.

use alloc::collections::VecDeque;
use serde::{Deserialize, Serialize};

use crate::machine::{Span, Time};

/// What a session carries: messages in a simulation, bytes on a network.
pub trait Frame: Clone {
    /// How much memory the frame holds; the same each time it is asked.
    fn bytes(&self) -> usize;
}

impl Frame for bytes::Bytes {
    fn bytes(&self) -> usize {
        self.len()
    }
}

/// What a frame costs beside its bytes, so that a session of empty frames is bounded, too.
const FRAME_OVERHEAD: usize = 64;

/// What the two ends of a session say to each other.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Packet<F> {
    /// First on each connection, in both directions.
    Resume {
        /// The sender has received all frames up to this number: replay starts behind it.
        received: u64,
        /// The sender has acknowledged all frames up to this number.
        acknowledged: u64,
    },
    /// One frame.
    Frame {
        /// Counts up by one from 1, over all connections of the session.
        number: u64,
        /// What it carries.
        frame: F,
    },
    /// All frames up to this number may be forgotten.
    Acknowledge {
        /// The last of them.
        up_to: u64,
    },
}

/// When an end acknowledges what it receives.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Acknowledging {
    /// When it is received: between nodes, whose ends live and die with their sessions.
    OnReceipt,
    /// When the driver calls [`Session::handled`]: at the head, whose successor needs what was not.
    WhenHandled,
}

/// How much a session holds and how lazily it acknowledges.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Config {
    /// From this many unacknowledged bytes on the session is full.
    pub unacknowledged_bytes_max: usize,
    /// So many frames are acknowledged together at most.
    pub acknowledge_frames: u64,
    /// So many bytes are acknowledged together at most, save for the frame that exceeds it.
    pub acknowledge_bytes: usize,
    /// No frame waits longer for its acknowledgement; it goes earlier if a frame goes the same way.
    pub acknowledge_within: Span,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            unacknowledged_bytes_max: 16 << 20,
            acknowledge_frames: 256,
            acknowledge_bytes: 1 << 20,
            acknowledge_within: Span::from_millis(5),
        }
    }
}

/// What the peer did wrong. The session counts as cut; the driver closes the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Frames are missing, which no connection that keeps order and loses nothing can cause.
    #[error("frame {number} came where {expected} was expected")]
    Gap {
        /// The number that should have come.
        expected: u64,
        /// The number that came.
        number: u64,
    },
    /// The first packet of the connection did not say where to resume, or a later one did.
    #[error("a packet came out of place: a connection starts with one that resumes the session")]
    OutOfPlace,
    /// It claims to have what was never sent. It takes part in some other session.
    #[error("frame {number} is said to have arrived, the last one sent is {sent}")]
    NeverSent {
        /// The number that was claimed.
        number: u64,
        /// The last number that was sent.
        sent: u64,
    },
    /// It asks for what it has acknowledged. It is not who it was: its memory of the session is gone.
    #[error("frames after {received} are asked for, those up to {acknowledged} were acknowledged")]
    Forgotten {
        /// What it claims to have.
        received: u64,
        /// What it had acknowledged.
        acknowledged: u64,
    },
}

impl Fault {
    /// Whether another connection cannot help: the peer and this end mean different sessions.
    pub fn ends_session(self) -> bool {
        matches!(self, Fault::NeverSent { .. } | Fault::Forgotten { .. })
    }
}

/// `greeted`: this end has said where to resume.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Connection {
    Cut,
    /// The peer has not said yet where to resume.
    Resuming {
        greeted: bool,
    },
    Open {
        greeted: bool,
    },
}

/// Whether the peer must be told of what has been settled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Acknowledgement {
    /// It knows, or will be told on the next connection.
    None,
    /// At this time, or when enough has gathered.
    At(Time),
    Due,
}

/// One end of a session.
#[derive(Clone, Debug)]
pub struct Session<F> {
    config: Config,
    acknowledging: Acknowledging,
    connection: Connection,

    /// Sent or to be sent, not acknowledged; the first has the number `released + 1`.
    outgoing: VecDeque<F>,
    outgoing_bytes: usize,
    /// The last number that the peer has acknowledged.
    released: u64,
    /// The last number that was written to this connection, or that the peer had before.
    written: u64,
    /// The last number that was written to any connection.
    sent: u64,

    /// The last number that came.
    received: u64,
    /// What those of them cost that the driver has not handled; empty when acknowledging on receipt.
    unhandled: VecDeque<usize>,
    /// The last number that this end may acknowledge.
    settled: u64,
    /// The last number that this end has acknowledged on this connection.
    acknowledged: u64,
    settled_bytes: usize,
    acknowledgement: Acknowledgement,
}

impl<F: Frame> Session<F> {
    /// A session over which nothing has gone yet, without a connection. `acknowledging` is how this end
    /// treats what it receives; the other end may do otherwise.
    pub fn new(config: Config, acknowledging: Acknowledging) -> Self {
        Session {
            config,
            acknowledging,
            connection: Connection::Cut,
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            released: 0,
            written: 0,
            sent: 0,
            received: 0,
            unhandled: VecDeque::new(),
            settled: 0,
            acknowledged: 0,
            settled_bytes: 0,
            acknowledgement: Acknowledgement::None,
        }
    }

    /// Take a frame over. It is never refused, for whoever decided to send it has gone on: a driver
    /// keeps memory bounded by not asking for more frames while the session [is full](Self::is_full).
    pub fn send(&mut self, frame: F) {
        self.outgoing_bytes += cost(&frame);
        self.outgoing.push_back(frame);
    }

    /// A new connection is there; it replaces the one before.
    pub fn connected(&mut self) {
        self.cut();
        self.connection = Connection::Resuming { greeted: false };
    }

    /// The connection is gone, and everything that it had delivered has been passed to
    /// [`receive`](Self::receive).
    pub fn cut(&mut self) {
        self.connection = Connection::Cut;
        self.acknowledgement = Acknowledgement::None;
    }

    /// The next packet to write to the connection; none while there is nothing to say.
    pub fn next_packet(&mut self) -> Option<Packet<F>> {
        match &mut self.connection {
            Connection::Cut => return None,
            Connection::Resuming { greeted } | Connection::Open { greeted } if !*greeted => {
                *greeted = true;
                self.note_acknowledged();
                return Some(Packet::Resume { received: self.received, acknowledged: self.settled });
            }
            Connection::Resuming { .. } => return None,
            Connection::Open { .. } => {}
        }
        let next = self.outgoing.get((self.written - self.released) as usize);
        // What goes anyway takes along what need not go yet: an answer acknowledges its question, and nobody
        // is woken for that alone.
        let due = match self.acknowledgement {
            Acknowledgement::Due => true,
            Acknowledgement::At(_) => next.is_some(),
            Acknowledgement::None => false,
        };
        if due {
            self.note_acknowledged();
            return Some(Packet::Acknowledge { up_to: self.settled });
        }
        let frame = next?.clone();
        self.written += 1;
        self.sent = self.sent.max(self.written);
        Some(Packet::Frame { number: self.written, frame })
    }

    /// Take a packet from the connection. Gives the frame if it has not been here before.
    pub fn receive(&mut self, now: Time, packet: Packet<F>) -> Result<Option<F>, Fault> {
        let taken = self.take(now, packet);
        if taken.is_err() {
            self.cut();
        }
        taken
    }

    fn take(&mut self, now: Time, packet: Packet<F>) -> Result<Option<F>, Fault> {
        match (self.connection, packet) {
            (Connection::Resuming { greeted }, Packet::Resume { received, acknowledged }) => {
                self.resume(received, acknowledged)?;
                self.connection = Connection::Open { greeted };
                Ok(None)
            }
            (Connection::Open { .. }, Packet::Acknowledge { up_to }) => {
                if up_to > self.written {
                    return Err(Fault::NeverSent { number: up_to, sent: self.written });
                }
                self.release(up_to);
                Ok(None)
            }
            (Connection::Open { .. }, Packet::Frame { number, frame }) => self.accept(now, number, frame),
            _ => Err(Fault::OutOfPlace),
        }
    }

    fn resume(&mut self, received: u64, acknowledged: u64) -> Result<(), Fault> {
        let claimed = received.max(acknowledged);
        if claimed > self.sent {
            return Err(Fault::NeverSent { number: claimed, sent: self.sent });
        }
        let promised = self.released.max(acknowledged);
        if received < promised {
            return Err(Fault::Forgotten { received, acknowledged: promised });
        }
        self.release(acknowledged);
        self.written = received;
        Ok(())
    }

    fn accept(&mut self, now: Time, number: u64, frame: F) -> Result<Option<F>, Fault> {
        let expected = self.received + 1;
        if number > expected {
            return Err(Fault::Gap { expected, number });
        }
        if number < expected {
            return Ok(None);
        }
        self.received = number;
        match self.acknowledging {
            Acknowledging::OnReceipt => self.settle(now, cost(&frame)),
            Acknowledging::WhenHandled => self.unhandled.push_back(cost(&frame)),
        }
        Ok(Some(frame))
    }

    /// The oldest frame that was received and not handled is handled: its consequences will outlive
    /// this end.
    ///
    /// # Panics
    ///
    /// When this end acknowledges on receipt, or all that was received has been handled.
    pub fn handled(&mut self, now: Time) {
        let cost = self.unhandled.pop_front().expect("only what was received can be handled");
        self.settle(now, cost);
    }

    fn settle(&mut self, now: Time, cost: usize) {
        self.settled += 1;
        self.settled_bytes += cost;
        let enough = self.settled - self.acknowledged >= self.config.acknowledge_frames
            || self.settled_bytes >= self.config.acknowledge_bytes;
        self.acknowledgement = match self.acknowledgement {
            _ if self.connection == Connection::Cut => Acknowledgement::None,
            _ if enough => Acknowledgement::Due,
            Acknowledgement::None => Acknowledgement::At(now + self.config.acknowledge_within),
            other => other,
        };
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called: an acknowledgement is due then.
    pub fn poll_timeout(&self) -> Option<Time> {
        match self.acknowledgement {
            Acknowledgement::At(at) => Some(at),
            Acknowledgement::None | Acknowledgement::Due => None,
        }
    }

    /// Make the acknowledgement due if its time has come; [`next_packet`](Self::next_packet) gives it. A
    /// call at the wrong time does nothing.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.acknowledgement = Acknowledgement::Due;
        }
    }

    fn note_acknowledged(&mut self) {
        self.acknowledged = self.settled;
        self.settled_bytes = 0;
        self.acknowledgement = Acknowledgement::None;
    }

    fn release(&mut self, up_to: u64) {
        while self.released < up_to {
            let frame = self.outgoing.pop_front().expect("no more is released than was sent");
            self.outgoing_bytes -= cost(&frame);
            self.released += 1;
        }
    }

    /// Whether so much is unacknowledged that the driver should not accept more to send.
    pub fn is_full(&self) -> bool {
        self.outgoing_bytes >= self.config.unacknowledged_bytes_max
    }

    /// Whether there is a connection and both ends have agreed where it resumes.
    pub fn is_open(&self) -> bool {
        matches!(self.connection, Connection::Open { .. })
    }

    /// Bytes that are kept for the case that they must be sent again.
    pub fn unacknowledged_bytes(&self) -> usize {
        self.outgoing_bytes
    }

    /// What was sent and never acknowledged, in order: what the successor of a peer that is gone must be
    /// sent, in a session of its own.
    pub fn into_unacknowledged(self) -> impl ExactSizeIterator<Item = F> {
        self.outgoing.into_iter()
    }
}

fn cost<F: Frame>(frame: &F) -> usize {
    frame.bytes() + FRAME_OVERHEAD
}

#[cfg(test)]
mod tests;
