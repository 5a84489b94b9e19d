//! What the node tells the head of itself.

use alloc::boxed::Box;

use super::Node;
use super::outbox::Outbox;
use crate::ids::ProcessId;
use crate::machine::{Span, Time, Wakeup};
use crate::message::{Message, NodeSummary};
use crate::resources::Resources;

/// At most one report in this time.
const REPORT_EVERY: Span = Span::from_millis(50);

/// What the head was told last, and when.
#[derive(Clone, Debug, Default)]
pub(super) struct Reporter {
    told: Option<Resources>,
    not_before: Time,
}

impl Reporter {
    /// The head is mistaken: tell it again, even what it was told.
    pub(super) fn repeat(&mut self) {
        self.told = None;
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
        if self.reporter.told.as_ref() == Some(free) {
            return;
        }
        if out.now < self.reporter.not_before {
            self.deadlines.arm(Wakeup::Report, self.reporter.not_before);
            return;
        }
        self.deadlines.disarm(Wakeup::Report);
        self.reporter.told = Some(free.clone());
        self.reporter.not_before = out.now + REPORT_EVERY;
        let report = Box::new(self.summary());
        out.send(ProcessId::HEAD, Message::NodeReport { report });
    }

    /// What the node says of itself.
    pub(super) fn summary(&self) -> NodeSummary {
        NodeSummary {
            node: self.config.node,
            alive: true,
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
