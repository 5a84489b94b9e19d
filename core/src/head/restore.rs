//! How a head begins: from what the log holds.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::actors::Actors;
use super::groups::Groups;
use super::jobs::Jobs;
use super::journal::Journal;
use super::nodes::Nodes;
use super::values::Values;
use super::view::View;
use super::{Config, Effect, Head, Key, Meta, Outbox, Row};
use crate::deadlines::Deadlines;
use crate::ids::NodeId;
use crate::machine::{Time, Wakeup};
use crate::mutants::Mutant;

impl Head {
    /// A head that takes up what the log holds.
    ///
    /// It acts from the first call on, whichever that is; a deadline is due at once, so that it does not
    /// wait for anybody. The first thing that it does is to have its epoch written, and since effects
    /// wait for what was decided before them, nobody hears of it before it is the head for certain.
    pub fn new(config: Config, rows: Vec<(Key, Row)>) -> Head {
        let mut meta = Meta::default();
        let (mut nodes, mut jobs) = (BTreeMap::new(), BTreeMap::new());
        let (mut specs, mut live, mut dead) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let (mut early, mut values, mut answers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (mut groups, mut unmade) = (BTreeMap::new(), Vec::new());
        for (key, row) in rows {
            match (key, row) {
                (Key::Meta, Row::Meta(row)) => meta = row,
                (Key::Node(id), Row::Node(row)) => drop(nodes.insert(id, *row)),
                (Key::Job(id), Row::Job(row)) => drop(jobs.insert(id, row)),
                (Key::Actor(id), Row::Actor(row)) => drop(live.insert(id, row)),
                (Key::Actor(_), Row::DeadActor(row)) => dead.push(*row),
                (Key::Actor(id), Row::EarlyEnd(end)) => drop(early.insert(id, end)),
                (Key::ActorSpec(id), Row::ActorSpec(spec)) => drop(specs.insert(id, spec)),
                (Key::Group(id), Row::Group(row)) => drop(groups.insert(id, *row)),
                (Key::Group(id), Row::UnmadeGroup) => unmade.push(id),
                (Key::Answers(process), Row::Answers(row)) => drop(answers.insert(process, row)),
                (Key::Value(key), Row::Value(value)) => drop(values.insert(key, value)),
                (key, row) => panic!("the log holds {row:?} under {key:?}"),
            }
        }
        meta.epoch += 1;
        let seed = config.seed;
        let mut deadlines = Deadlines::default();
        deadlines.arm(Wakeup::TakeOver, Time(0));
        Head {
            journal: Journal::new(config.durable),
            config,
            acts: false,
            meta,
            jobs: Jobs::restore(seed, jobs),
            nodes: Nodes::restore(nodes),
            actors: Actors::restore(specs, live, dead, early),
            groups: Groups::restore(groups, unmade),
            values: Values::restore(values, answers),
            view: View::default(),
            deadlines,
            turn: NodeId(0),
            patrol: Time(u64::MAX),
        }
    }

    /// The first call: become the head. Nodes are given the time to come from now on, but for the one that
    /// the last head lived on.
    pub(super) fn begin(&mut self, out: &mut Outbox) {
        if core::mem::replace(&mut self.acts, true) {
            return;
        }
        self.deadlines.disarm(Wakeup::TakeOver);
        out.touch(Key::Meta);
        if !Mutant::ForgetRestarts.is_active() {
            self.resume_waiting(out);
        }
        self.await_again(out.now);
        self.drain_again(out.now);
        self.resume_groups(out);
        self.forgive(out.now);
        if self.nodes.alive().next().is_some() {
            self.patrol = out.now + self.config.silence_grace;
            self.deadlines.arm(Wakeup::SilentNodes, self.patrol);
        }
        let host = self.meta.host.filter(|host| Some(*host) != self.config.home);
        if let Some(host) = host.filter(|host| self.nodes.get(*host).is_some()) {
            self.former_host_is_missed(host, out);
        }
        self.call_nodes(out);
    }

    fn call_nodes(&self, out: &mut Outbox) {
        for (node, there) in self.nodes.alive().filter(|(node, _)| Some(*node) != self.config.home) {
            out.push(Effect::Call { node, address: there.summary.address.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::{ActorSpec, ActorState};
    use crate::head::harness::*;
    use crate::head::{Input, WriteResult};
    use crate::ids::NodeId;
    use crate::machine::{Effects, Machine};
    use crate::message::{ActorEvent, Answer, Message, Query};
    use crate::value::{ActorDeath, Death};
    use alloc::boxed::Box;
    use alloc::string::String;
    use bytes::Bytes;

    fn join(head: &mut Harness, connection: u64) -> Vec<Effect> {
        head.tell(Input::NodeJoins { connection, summary: Box::new(summary(NodeId(0))) })
    }

    #[test]
    fn nobody_is_let_in_before_the_epoch_is_written() {
        let mut head = Harness::durable();
        assert_eq!(head.head.poll_timeout(), Some((Time(0), Wakeup::TakeOver)));
        assert_eq!(join(&mut head, 5), [], "the epoch and the node are being written");
        let admit = Effect::Admit { connection: 5, node: NODE, epoch: 1 };
        assert_eq!(head.write(WriteResult::Done), [admit]);
        assert_eq!(head.log.len(), 2, "{:?}", head.log);

        let mut second = head.restart();
        assert_eq!(join(&mut second, 6), []);
        second.write_all();
        let admit = Effect::Admit { connection: 6, node: NodeId(2), epoch: 2 };
        let call = Effect::Call { node: NODE, address: String::new() };
        assert_eq!(second.let_out, [call, admit], "numbers are never given twice");
    }

    #[test]
    fn a_head_that_lost_the_log_to_another_steps_down_and_is_silent() {
        let mut head = Harness::durable();
        join(&mut head, 5);
        assert_eq!(head.write(WriteResult::Fenced), [Effect::StepDown]);
        assert_eq!(join(&mut head, 6), []);
        assert_eq!(head.head.poll_timeout(), None);
        let mut effects = Effects::new();
        head.head.handle_timeout(Time(u64::MAX), &mut effects);
        assert!(effects.is_empty());
    }

    #[test]
    fn a_head_whose_time_is_over_steps_down_and_is_silent() {
        let mut head = Harness::durable();
        join(&mut head, 5);
        assert_eq!(head.tell(Input::TenureEnds), [Effect::StepDown]);
        assert_eq!(head.tell(Input::TenureEnds), [], "once");
        assert_eq!(head.write(WriteResult::Done), [], "nobody hears of what it had decided");
        assert_eq!(join(&mut head, 6), []);
        assert_eq!(head.head.poll_timeout(), None);
        assert!(head.head.meta.epoch == 1, "its successor counts on");
    }

    #[test]
    fn what_was_acknowledged_is_there_after_a_restart() {
        let mut head = Harness::durable();
        join(&mut head, 5);
        let driver = process(1);
        let register = Message::RegisterJob {
            driver,
            namespace: String::from("mine"),
            launch: Bytes::from_static(b"launch"),
        };
        head.receive(DAEMON, register.clone());
        let put = |value: &'static [u8]| Query::Put {
            key: String::from("k"),
            value: Bytes::from_static(value),
            overwrite: true,
        };
        let ask = |head: &mut Harness, query| {
            head.receive(process(1), Message::Ask { request: crate::ids::RequestId(1), query })
        };
        ask(&mut head, put(b"1"));
        let named = ActorSpec { name: String::from("n"), restarts_max: 3, ..spec(actor(1, 1)) };
        let twin = ActorSpec { name: String::from("n"), ..spec(actor(1, 2)) };
        for spec in [&named, &twin, &spec(actor(1, 3))] {
            head.create(spec);
        }
        head.report(named.id, 0, ActorEvent::Alive { process: process(50), pid: 7 });
        let crash = ActorEvent::Died { death: Death::Signalled { signal: 11 }, intended: false };
        head.report(named.id, 0, crash);
        head.receive(process(1), Message::KillActor { actor: actor(1, 3), no_restart: true });
        head.write_all();

        let mut second = head.restart();
        assert_eq!(second.receive(DAEMON, register), [], "held");
        second.write_all();
        let registered =
            Message::JobRegistered { driver, job: crate::ids::JobId(1), namespace: String::from("mine") };
        assert_eq!(second.sent(), [(DAEMON, registered)], "the same job");
        let answers = ask(&mut second, Query::Get { key: String::from("k") });
        assert!(
            matches!(&answers[0].1, Message::Answer { answer: Answer::Value(value), .. } if value == "1")
        );
        let restored = second.head.actors.get(named.id).expect("it lives").clone();
        let before = head.head.actors.get(named.id).expect("it lives");
        assert_eq!((restored.incarnation, restored.restarts_left), (1, 2));
        assert_eq!((&restored.spec, &restored.state), (&before.spec, &ActorState::Restarting));
        let created =
            Message::CreateActor { spec: Box::new(twin.clone()), request: Some(crate::ids::RequestId(9)) };
        let answers = second.receive(process(1), created);
        let exists = Answer::ActorExists { actor: named.id };
        assert!(matches!(&answers[0].1, Message::Answer { answer, .. } if *answer == exists));
        let answers = second.receive(process(9), Message::SubscribeActor { actor: actor(1, 3) });
        let killed = ActorState::Dead { cause: ActorDeath::Killed };
        assert!(matches!(&answers[0].1, Message::ActorUpdate { state, .. } if *state == killed));
    }
}
