//! Sessions: two honest ends over connections that break anywhere, and one end whose peer says
//! anything.

use std::collections::VecDeque;

use bytes::Bytes;
use shoal_core::session::{Acknowledging, Config, Packet, Session};
use shoal_core::{Span, Time, wire};

use crate::Log;
use crate::entropy::Entropy;
use crate::generate::generate;
use crate::tree::Dictionary;

/// The first byte says which of the two.
pub fn run(bytes: &[u8], log: Log<'_>) {
    let mut entropy = Entropy::new(bytes);
    let config = Config {
        unacknowledged_bytes_max: 2_000,
        acknowledge_frames: 3,
        acknowledge_bytes: 500,
        acknowledge_within: Span::from_millis(5),
    };
    match entropy.chance(128) {
        true => honest(&mut entropy, config, log),
        false => hostile(&mut entropy, config, log),
    }
}

/// One end of a pair, and what must come of it.
struct End {
    session: Session<Bytes>,
    /// Written, and not yet read by the other end.
    pipe: VecDeque<Packet<Bytes>>,
    sent: u32,
    /// How many frames of the other end have come: they count up.
    received: u32,
    unhandled: u32,
}

impl End {
    fn new(config: Config, acknowledging: Acknowledging) -> End {
        End {
            session: Session::new(config, acknowledging),
            pipe: VecDeque::new(),
            sent: 0,
            received: 0,
            unhandled: 0,
        }
    }

    fn send(&mut self, padding: usize) {
        self.sent += 1;
        let mut frame = Vec::from(self.sent.to_le_bytes());
        frame.resize(4 + padding, 0);
        self.session.send(Bytes::from(frame));
    }

    fn write(&mut self) -> bool {
        let packet = self.session.next_packet();
        self.pipe.extend(packet.clone());
        packet.is_some()
    }

    /// Read one packet of the other end.
    fn read(&mut self, now: Time, packet: Packet<Bytes>) {
        let frame = self.session.receive(now, packet).expect("the other end is honest");
        if let Some(frame) = frame {
            self.received += 1;
            self.unhandled += 1;
            assert_eq!(frame[..4], self.received.to_le_bytes(), "each frame comes once, in order");
        }
    }
}

/// Whatever happens to their connections: once there is one that lasts, each end has received all that
/// the other one has sent, each frame once, in order, and nothing is kept.
fn honest(entropy: &mut Entropy<'_>, config: Config, log: Log<'_>) {
    let mut ends = [End::new(config, Acknowledging::OnReceipt), End::new(config, Acknowledging::WhenHandled)];
    let mut now = Time(0);
    while !entropy.is_spent() {
        let which = usize::from(entropy.byte() % 2);
        let what = entropy.byte() % 10;
        log.line("event", &(which, what));
        match what {
            0 | 1 => {
                let padding = entropy.pick(&[0, 0, 10, 600]);
                ends[which].send(padding);
            }
            2..5 => drop(ends[which].write()),
            5 | 6 => deliver(&mut ends, which, now),
            7 => {
                now = now + entropy.pick(&[Span(1), Span::from_millis(4), Span::from_millis(5)]);
                ends.iter_mut().for_each(|end| end.session.handle_timeout(now));
            }
            8 => handle(&mut ends[1], now),
            // A cut: some of what was under way still arrives, the rest is lost.
            _ => {
                for which in 0..2 {
                    let arrives = entropy.index(ends[which].pipe.len() + 1);
                    (0..arrives).for_each(|_| deliver(&mut ends, which, now));
                    ends[which].pipe.clear();
                }
                ends.iter_mut().for_each(|end| end.session.cut());
                if entropy.chance(200) {
                    ends.iter_mut().for_each(|end| end.session.connected());
                }
            }
        }
    }
    settle(&mut ends, now);
}

/// Read one packet that `from` has written. A session that is cut hears nothing.
fn deliver(ends: &mut [End; 2], from: usize, now: Time) {
    if let Some(packet) = ends[from].pipe.pop_front() {
        ends[1 - from].read(now, packet);
    }
}

fn handle(end: &mut End, now: Time) {
    if end.unhandled > 0 {
        end.unhandled -= 1;
        end.session.handled(now);
    }
}

/// A connection that lasts.
fn settle(ends: &mut [End; 2], mut now: Time) {
    for end in ends.iter_mut() {
        end.pipe.clear();
        end.session.connected();
    }
    for _ in 0..3 {
        let mut moving = true;
        while moving {
            moving = false;
            for which in 0..2 {
                moving |= ends[which].write();
                deliver(ends, which, now);
                moving |= !ends[which].pipe.is_empty();
            }
        }
        while ends[1].unhandled > 0 {
            handle(&mut ends[1], now);
        }
        now = now + Span::from_secs(1);
        ends.iter_mut().for_each(|end| end.session.handle_timeout(now));
    }
    for which in 0..2 {
        let (end, other) = (&ends[which], &ends[1 - which]);
        assert_eq!(end.received, other.sent, "end {which} has received all");
        assert_eq!(end.session.unacknowledged_bytes(), 0, "end {which} keeps nothing");
    }
}

/// A peer that says anything: an error at most, and the frames that are taken count up by one.
fn hostile(entropy: &mut Entropy<'_>, config: Config, log: Log<'_>) {
    let acknowledging =
        if entropy.chance(128) { Acknowledging::OnReceipt } else { Acknowledging::WhenHandled };
    let mut session: Session<Bytes> = Session::new(config, acknowledging);
    let (mut now, mut taken, mut unhandled) = (Time(0), 0, 0);
    let dictionary = Dictionary::default();
    while !entropy.is_spent() {
        match entropy.byte() % 8 {
            0 => session.connected(),
            1 => session.send(Bytes::from_static(b"frame")),
            2 => drop(session.next_packet()),
            3 if unhandled > 0 && acknowledging == Acknowledging::WhenHandled => {
                unhandled -= 1;
                session.handled(now);
            }
            4 => {
                now = now + Span::from_millis(3);
                session.handle_timeout(now);
            }
            _ => {
                let packet: Packet<Bytes> = generate(entropy, &dictionary);
                let number = match packet {
                    Packet::Frame { number, .. } => number,
                    _ => 0,
                };
                let encoded = wire::encode(&packet).expect("a packet can be encoded");
                let packet = wire::decode(&encoded).expect("what was encoded can be decoded");
                log.line("packet", &packet);
                if let Ok(Some(_)) = session.receive(now, packet) {
                    taken += 1;
                    unhandled += 1;
                    assert_eq!(number, taken, "frames are taken in order");
                }
            }
        }
    }
}
