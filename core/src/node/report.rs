//! What the node tells the head of itself.

use alloc::boxed::Box;

use super::Node;
use super::outbox::Outbox;
use crate::ids::ProcessId;
use crate::machine::{Span, Time, Wakeup};
use crate::message::{Message, NodeSummary};
use crate::mutants::Mutant;
use crate::resources::Resources;

/// At most one report in this time.
const REPORT_EVERY: Span = Span::from_millis(50);
/// The head hears of a node at least so often, unless both are in one daemon that has no others.
const HEARD_EVERY: Span = Span::from_secs(1);

/// What the head was told last, and when.
#[derive(Clone, Debug, Default)]
pub(super) struct Reporter {
    told: Option<(Resources, u64)>,
    /// The last order of the head to start something: until a report names it, the head deducts what
    /// that needs from what it believes to be free.
    order: u64,
    not_before: Time,
    heard: Time,
}

impl Reporter {
    /// The head is mistaken: tell it again, even what it was told.
    pub(super) fn repeat(&mut self) {
        self.told = None;
    }

    /// The head has ordered something to be started.
    pub(super) fn ordered(&mut self, order: u64) {
        self.order = order;
    }

    /// The last order of the head to start something, 0 for none.
    pub(super) fn order(&self) -> u64 {
        self.order
    }

    /// The time for the next report has come.
    pub(super) fn due(&mut self) {
        self.not_before = Time(0);
    }
}

impl Node {
    /// Tell the head what is free if that has changed: at once if the last report is long ago.
    pub(super) fn report(&mut self, out: &mut Outbox) {
        let free = self.ledger.free();
        let order = self.reporter.order;
        let as_told = |told: &Resources| match Mutant::ReportCpusOnly.is_active() {
            true => told.get(Resources::CPU) == free.get(Resources::CPU),
            false => told == free,
        };
        if self.reporter.told.as_ref().is_some_and(|told| as_told(&told.0) && told.1 == order) {
            return self.heartbeat(out);
        }
        if out.now < self.reporter.not_before {
            self.deadlines.arm(Wakeup::Report, self.reporter.not_before);
            return;
        }
        self.reported(out.now);
        let report = Box::new(self.summary());
        out.send(ProcessId::HEAD, Message::NodeReport { report, order });
        self.heartbeat(out);
    }

    /// The head is being told what is free.
    pub(super) fn reported(&mut self, now: Time) {
        self.deadlines.disarm(Wakeup::Report);
        self.reporter.told = Some((self.ledger.free().clone(), self.reporter.order));
        self.reporter.not_before = now + REPORT_EVERY;
        self.reporter.heard = now;
    }

    /// Silence is how the head learns that a node hangs.
    fn heartbeat(&mut self, out: &mut Outbox) {
        if self.config.address.is_empty() {
            return;
        }
        if self.reporter.heard + HEARD_EVERY <= out.now {
            self.reporter.heard = out.now;
            out.send(ProcessId::HEAD, Message::Heartbeat);
        }
        self.deadlines.arm(Wakeup::Heartbeat, self.reporter.heard + HEARD_EVERY);
    }

    /// What the node says of itself.
    pub(super) fn summary(&self) -> NodeSummary {
        NodeSummary {
            node: self.config.node,
            alive: true,
            name: self.config.name.clone(),
            host: self.config.host.clone(),
            address: self.config.address.clone(),
            total: self.ledger.total().clone(),
            free: shown(self.ledger.free()),
            labels: self.config.labels.clone(),
        }
    }
}

/// What is free, without what resumed workers oversubscribe.
fn shown(free: &Resources) -> Resources {
    Resources(
        free.0
            .iter()
            .filter(|(_, amount)| amount.0 > 0)
            .map(|(name, amount)| (name.clone(), *amount))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Config;
    use crate::node::harness::*;
    use alloc::string::String;

    #[test]
    fn an_order_is_reported_even_if_what_it_took_is_free_again() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        let spec = spec(actor(1), &[]);
        node.start_actor(&spec);
        node.receive(ProcessId::HEAD, Message::StopActor { actor: spec.id, incarnation: 0, graceful: false });
        let before = node.reports.len();
        node.pass(REPORT_EVERY);
        assert_eq!(node.reports.len(), before + 1, "the head may not know yet that nothing is taken");
    }

    #[test]
    fn a_node_of_a_cluster_is_heard_at_least_once_a_second() {
        let address = String::from("10.0.0.1:7");
        let mut node = Harness::with_driver_and(Config { address, ..config(&[("CPU", 1.0)]) });
        let heartbeat = send(ProcessId::HEAD, Message::Heartbeat);
        assert_eq!(node.pass(Span::from_millis(999)), []);
        assert_eq!(node.pass(Span::from_millis(1)), core::slice::from_ref(&heartbeat));
        node.pass(Span::from_millis(500));
        node.lease(driver(), &demand(&[("CPU", 1.0)]));
        assert_eq!(node.reports.len(), 2);
        assert_eq!(node.pass(Span::from_millis(999)), [], "it has just reported");
        assert_eq!(node.pass(Span::from_secs(2)), [heartbeat.clone(), heartbeat]);
    }
}
