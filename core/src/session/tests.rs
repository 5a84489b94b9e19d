//! A session against a reliable queue, and each rule by itself.

use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;

/// A number that takes some room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Number(u64);

impl Frame for Number {
    fn bytes(&self) -> usize {
        (self.0 % 7) as usize
    }
}

const CONFIG: Config = Config {
    unacknowledged_bytes_max: 400,
    acknowledge_frames: 4,
    acknowledge_bytes: 1000,
    acknowledge_within: Span(10),
};
const NOW: Time = Time(100);

fn session(acknowledging: Acknowledging) -> Session<Number> {
    Session::new(CONFIG, acknowledging)
}

fn frame(number: u64) -> Packet<Number> {
    Packet::Frame { number, frame: Number(number) }
}

fn resume(received: u64, acknowledged: u64) -> Packet<Number> {
    Packet::Resume { received, acknowledged }
}

/// Connected to a peer that has `received` so much; what this end says first is taken away.
fn open(acknowledging: Acknowledging) -> Session<Number> {
    let mut session = session(acknowledging);
    session.connected();
    assert_eq!(session.next_packet(), Some(resume(0, 0)));
    assert_eq!(session.receive(NOW, resume(0, 0)), Ok(None));
    session
}

fn packets(session: &mut Session<Number>) -> Vec<Packet<Number>> {
    core::iter::from_fn(|| session.next_packet()).collect()
}

#[test]
fn nothing_is_written_before_both_ends_have_said_where_to_resume() {
    let mut session = session(Acknowledging::OnReceipt);
    session.send(Number(1));
    assert_eq!(session.next_packet(), None);
    session.connected();
    assert_eq!(packets(&mut session), [resume(0, 0)]);
    assert!(!session.is_open());
    assert_eq!(session.receive(NOW, resume(0, 0)), Ok(None));
    assert!(session.is_open());
    assert_eq!(packets(&mut session), [frame(1)]);
}

#[test]
fn the_peer_may_speak_first() {
    let mut session = session(Acknowledging::OnReceipt);
    session.connected();
    assert_eq!(session.receive(NOW, resume(0, 0)), Ok(None));
    assert_eq!(session.receive(NOW, frame(1)), Ok(Some(Number(1))));
    assert_eq!(packets(&mut session), [resume(1, 1)], "what came before counts");
}

#[test]
fn after_a_cut_only_what_the_peer_lacks_is_replayed() {
    let mut session = open(Acknowledging::OnReceipt);
    (1..=4).for_each(|number| session.send(Number(number)));
    assert_eq!(packets(&mut session), [frame(1), frame(2), frame(3), frame(4)]);
    assert_eq!(session.receive(NOW, Packet::Acknowledge { up_to: 1 }), Ok(None));
    session.cut();
    session.send(Number(5));
    session.connected();
    assert_eq!(session.receive(NOW, resume(3, 3)), Ok(None));
    assert_eq!(packets(&mut session), [resume(0, 0), frame(4), frame(5)]);
}

#[test]
fn what_the_peer_has_and_has_not_handled_is_kept_and_not_replayed() {
    let mut session = open(Acknowledging::OnReceipt);
    (1..=3).for_each(|number| session.send(Number(number)));
    packets(&mut session);
    session.connected();
    assert_eq!(session.receive(NOW, resume(3, 1)), Ok(None));
    assert_eq!(packets(&mut session), [resume(0, 0)]);
    assert_eq!(session.into_unacknowledged().collect::<Vec<_>>(), [Number(2), Number(3)]);
}

#[test]
fn duplicates_are_dropped() {
    let mut session = open(Acknowledging::OnReceipt);
    assert_eq!(session.receive(NOW, frame(1)), Ok(Some(Number(1))));
    assert_eq!(session.receive(NOW, frame(1)), Ok(None));
    assert_eq!(session.receive(NOW, frame(0)), Ok(None));
    assert_eq!(session.receive(NOW, frame(2)), Ok(Some(Number(2))));
}

#[test]
fn receipt_is_acknowledged_by_number_by_bytes_or_by_time() {
    let mut by_number = open(Acknowledging::OnReceipt);
    for number in 1..=3 {
        by_number.receive(NOW, frame(number)).unwrap();
        assert_eq!(by_number.next_packet(), None);
    }
    assert_eq!(by_number.poll_timeout(), Some(Time(110)));
    by_number.receive(NOW, frame(4)).unwrap();
    assert_eq!(by_number.poll_timeout(), None);
    by_number.receive(NOW, frame(5)).unwrap();
    assert_eq!(packets(&mut by_number), [Packet::Acknowledge { up_to: 5 }]);

    let mut by_bytes = Session::<Number>::new(
        Config { acknowledge_bytes: FRAME_OVERHEAD + 1, ..CONFIG },
        Acknowledging::OnReceipt,
    );
    by_bytes.connected();
    by_bytes.receive(NOW, resume(0, 0)).unwrap();
    packets(&mut by_bytes);
    by_bytes.receive(NOW, frame(1)).unwrap();
    assert_eq!(packets(&mut by_bytes), [Packet::Acknowledge { up_to: 1 }]);

    let mut by_time = open(Acknowledging::OnReceipt);
    by_time.receive(NOW, frame(1)).unwrap();
    by_time.handle_timeout(Time(109));
    assert_eq!(by_time.next_packet(), None);
    by_time.handle_timeout(Time(110));
    by_time.receive(Time(111), frame(2)).unwrap();
    assert_eq!(packets(&mut by_time), [Packet::Acknowledge { up_to: 2 }]);
    assert_eq!(by_time.poll_timeout(), None);
}

#[test]
fn an_answer_takes_the_acknowledgement_along() {
    let mut session = open(Acknowledging::OnReceipt);
    session.receive(NOW, frame(1)).unwrap();
    session.send(Number(1));
    session.send(Number(2));
    assert_eq!(packets(&mut session), [Packet::Acknowledge { up_to: 1 }, frame(1), frame(2)]);
    assert_eq!(session.poll_timeout(), None);
    session.send(Number(3));
    assert_eq!(packets(&mut session), [frame(3)], "all that came is acknowledged");
}

#[test]
fn at_the_head_only_what_was_handled_is_acknowledged() {
    let mut session = open(Acknowledging::WhenHandled);
    (1..=3).for_each(|number| assert!(session.receive(NOW, frame(number)).unwrap().is_some()));
    assert_eq!(session.poll_timeout(), None);
    session.handled(NOW);
    session.handle_timeout(Time(110));
    assert_eq!(packets(&mut session), [Packet::Acknowledge { up_to: 1 }]);
    session.cut();
    session.handled(Time(120));
    assert_eq!(session.poll_timeout(), None, "there is nobody to tell");
    session.connected();
    assert_eq!(packets(&mut session), [resume(3, 2)]);
}

#[test]
#[should_panic(expected = "only what was received can be handled")]
fn what_was_not_received_cannot_be_handled() {
    open(Acknowledging::WhenHandled).handled(NOW);
}

#[test]
fn a_session_is_full_until_the_peer_acknowledges() {
    let mut session = open(Acknowledging::OnReceipt);
    let mut sent = 0;
    while !session.is_full() {
        sent += 1;
        session.send(Number(sent));
    }
    assert!(session.unacknowledged_bytes() >= CONFIG.unacknowledged_bytes_max);
    packets(&mut session);
    assert!(session.is_full(), "what is on its way counts");
    session.receive(NOW, Packet::Acknowledge { up_to: sent }).unwrap();
    assert!(!session.is_full());
    assert_eq!(session.unacknowledged_bytes(), 0);
}

#[test]
fn a_fault_of_the_peer_cuts_the_session() {
    let greeted = |packets: &[Packet<Number>]| {
        let mut session = session(Acknowledging::OnReceipt);
        session.send(Number(1));
        session.send(Number(2));
        session.connected();
        session.receive(NOW, resume(0, 0)).unwrap();
        session.next_packet();
        session.next_packet();
        let (last, before) = packets.split_last().unwrap();
        for packet in before {
            session.receive(NOW, packet.clone()).unwrap();
        }
        let fault = session.receive(NOW, last.clone()).unwrap_err();
        assert!(!session.is_open());
        assert_eq!(session.next_packet(), None);
        fault
    };
    assert_eq!(greeted(&[frame(1), frame(3)]), Fault::Gap { expected: 2, number: 3 });
    assert_eq!(greeted(&[resume(0, 0)]), Fault::OutOfPlace);
    // One of the two frames was written.
    assert_eq!(greeted(&[Packet::Acknowledge { up_to: 2 }]), Fault::NeverSent { number: 2, sent: 1 });
    let huge = Packet::Acknowledge { up_to: u64::MAX };
    assert!(greeted(&[huge]).ends_session());
}

#[test]
fn a_peer_with_another_memory_of_the_session_is_found_out() {
    let table = [
        (resume(2, 0), Fault::NeverSent { number: 2, sent: 1 }),
        (resume(1, 5), Fault::NeverSent { number: 5, sent: 1 }),
        (resume(0, 0), Fault::Forgotten { received: 0, acknowledged: 1 }),
        (resume(0, 1), Fault::Forgotten { received: 0, acknowledged: 1 }),
    ];
    for (packet, fault) in table {
        let mut session = open(Acknowledging::OnReceipt);
        session.send(Number(1));
        packets(&mut session);
        session.send(Number(2));
        session.receive(NOW, Packet::Acknowledge { up_to: 1 }).unwrap();
        session.connected();
        assert_eq!(session.receive(NOW, packet), Err(fault));
        assert!(fault.ends_session());
    }
    let mut early = session(Acknowledging::OnReceipt);
    early.connected();
    assert_eq!(early.receive(NOW, frame(1)), Err(Fault::OutOfPlace));
    assert!(!Fault::OutOfPlace.ends_session());
}

#[derive(Clone, Debug)]
enum Step {
    /// An end accepts a frame to send.
    Send(usize),
    /// An end writes up to so many packets.
    Write(usize, usize),
    /// An end reads up to so many packets.
    Read(usize, usize),
    /// The first packet on its way to an end comes twice.
    Repeat(usize),
    /// The first packet on its way to an end vanishes, which a connection must not do.
    Vanish(usize),
    /// The driver has handled one more frame (an end that acknowledges when handled).
    Handle(usize),
    /// The connection breaks; of what is on its way, so much of each direction arrives.
    Cut(usize, usize),
    /// Both ends get a new connection.
    Connect,
    /// So much time passes.
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = 0..2usize;
    let step = prop_oneof![
        6 => end.clone().prop_map(Step::Send),
        4 => (end.clone(), 1..6usize).prop_map(|(end, count)| Step::Write(end, count)),
        4 => (end.clone(), 1..6usize).prop_map(|(end, count)| Step::Read(end, count)),
        1 => end.clone().prop_map(Step::Repeat),
        1 => end.clone().prop_map(Step::Vanish),
        2 => end.prop_map(Step::Handle),
        1 => (0..4usize, 0..4usize).prop_map(|(here, there)| Step::Cut(here, there)),
        2 => Just(Step::Connect),
        2 => (1..20u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..300)
}

/// Two ends, what is on its way to each, and the reliable queue that they must be equal to.
struct Pair {
    now: Time,
    ends: [Session<Number>; 2],
    ways: [VecDeque<Packet<Number>>; 2],
    sent: [u64; 2],
    delivered: [Vec<u64>; 2],
    handled: u64,
}

impl Pair {
    fn new() -> Self {
        Pair {
            now: NOW,
            ends: [session(Acknowledging::OnReceipt), session(Acknowledging::WhenHandled)],
            ways: [VecDeque::new(), VecDeque::new()],
            sent: [0, 0],
            delivered: [vec![], vec![]],
            handled: 0,
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Send(end) => {
                self.sent[end] += 1;
                self.ends[end].send(Number(self.sent[end]));
            }
            Step::Write(end, count) => {
                for _ in 0..count {
                    let Some(packet) = self.ends[end].next_packet() else { break };
                    self.ways[1 - end].push_back(packet);
                }
            }
            Step::Read(end, count) => self.read(end, count),
            Step::Repeat(end) => {
                if let Some(packet) = self.ways[end].front().cloned() {
                    self.ways[end].push_front(packet);
                }
            }
            Step::Vanish(end) => drop(self.ways[end].pop_front()),
            Step::Handle(0) => {}
            Step::Handle(_) => self.handle(),
            Step::Cut(here, there) => {
                self.read(0, here);
                self.read(1, there);
                self.cut();
            }
            Step::Connect => {
                self.cut();
                self.ends.iter_mut().for_each(Session::connected);
            }
            Step::Wait(span) => {
                self.now = self.now + Span(span);
                self.ends.iter_mut().for_each(|end| end.handle_timeout(self.now));
            }
        }
        self.check();
    }

    fn read(&mut self, end: usize, count: usize) {
        for _ in 0..count {
            let Some(packet) = self.ways[end].pop_front() else { break };
            match self.ends[end].receive(self.now, packet) {
                Ok(Some(Number(number))) => self.delivered[end].push(number),
                Ok(None) => {}
                Err(fault) => {
                    assert!(!fault.ends_session(), "{fault}");
                    self.cut();
                    break;
                }
            }
        }
    }

    fn handle(&mut self) {
        if self.handled < self.delivered[1].len() as u64 {
            self.ends[1].handled(self.now);
            self.handled += 1;
        }
    }

    fn cut(&mut self) {
        self.ends.iter_mut().for_each(Session::cut);
        self.ways.iter_mut().for_each(VecDeque::clear);
    }

    /// What arrived is a prefix of what was sent, and nothing is forgotten before its time.
    fn check(&self) {
        for end in 0..2 {
            let count = self.delivered[end].len() as u64;
            assert!(count <= self.sent[1 - end]);
            assert!(self.delivered[end].iter().copied().eq(1..=count));
        }
        assert!(self.ends[0].released <= self.handled);
        assert!(self.ends[1].released <= self.delivered[0].len() as u64);
        for end in &self.ends {
            assert_eq!(end.outgoing_bytes, end.outgoing.iter().map(cost).sum::<usize>());
        }
    }

    fn is_settled(&self) -> bool {
        self.handled == self.sent[0] && self.ends.iter().all(|end| end.unacknowledged_bytes() == 0)
    }

    /// A connection that holds. Resume, frames and acknowledgements are three rounds; one more for what
    /// becomes due in the last.
    fn heal(&mut self) {
        self.apply(Step::Connect);
        for _ in 0..4 {
            for end in 0..2 {
                self.apply(Step::Write(end, usize::MAX));
                self.apply(Step::Read(1 - end, usize::MAX));
            }
            while self.handled < self.delivered[1].len() as u64 {
                self.handle();
            }
            self.apply(Step::Wait(CONFIG.acknowledge_within.0));
        }
        assert!(self.is_settled());
    }
}

proptest! {
    #[test]
    fn a_session_is_a_reliable_queue(steps in steps()) {
        let mut pair = Pair::new();
        steps.into_iter().for_each(|step| pair.apply(step));
        pair.heal();
        prop_assert_eq!(pair.delivered[0].len() as u64, pair.sent[1]);
        prop_assert_eq!(pair.delivered[1].len() as u64, pair.sent[0]);
    }

    /// The end that acknowledges when handled is gone for ever, and a new one takes its place.
    #[test]
    fn a_successor_gets_all_that_was_not_handled(steps in steps()) {
        let mut pair = Pair::new();
        steps.into_iter().for_each(|step| pair.apply(step));
        let [end, _] = pair.ends.clone();
        let released = end.released;
        let left: Vec<u64> = end.into_unacknowledged().map(|Number(number)| number).collect();
        prop_assert!(released <= pair.handled, "no more is forgotten than was handled");
        prop_assert!(left.iter().copied().eq(released + 1..=pair.sent[0]));

        let mut next = Pair::new();
        left.iter().for_each(|number| next.ends[0].send(Number(*number)));
        next.ends.iter_mut().for_each(Session::connected);
        let mut delivered = Vec::new();
        for end in [1, 0] {
            for packet in packets(&mut next.ends[end]) {
                delivered.extend(next.ends[1 - end].receive(NOW, packet).unwrap());
            }
        }
        prop_assert!(delivered.iter().map(|Number(number)| number).eq(&left));
    }
}
