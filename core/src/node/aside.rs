//! Claims that cannot be met as far as this node knows. They wait for the cluster to change; after a
//! while they are refused with the reason.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;

use super::Node;
use super::outbox::Outbox;
use super::queue::{Claim, Claimant};
use crate::machine::{Time, Wakeup};
use crate::message::NodeSummary;
use crate::placement;

/// A claim that cannot be met.
#[derive(Clone, Debug)]
struct Waiting {
    claim: Claim,
    /// When it is refused. Work of a placement group waits for its bundle, for as long as there is the
    /// group.
    deadline: Option<Time>,
}

/// See the module's text. In the order of their coming.
#[derive(Clone, Debug, Default)]
pub(super) struct Aside {
    waiting: VecDeque<Waiting>,
}

impl Aside {
    /// Take out the claims that `picks`.
    pub(super) fn take(&mut self, picks: impl Fn(&Claim) -> bool) -> Vec<Claim> {
        let (taken, kept): (VecDeque<Waiting>, _) =
            core::mem::take(&mut self.waiting).into_iter().partition(|entry| picks(&entry.claim));
        self.waiting = kept;
        taken.into_iter().map(|entry| entry.claim).collect()
    }

    /// Drop the claims that `unwanted` picks.
    pub(super) fn remove(&mut self, unwanted: impl Fn(&Claimant) -> bool) {
        self.waiting.retain(|entry| !unwanted(&entry.claim.claimant));
    }

    /// The claims.
    pub(super) fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.waiting.iter().map(|entry| &entry.claim)
    }
}

impl Node {
    pub(super) fn put_aside(&mut self, claim: Claim, out: &Outbox) {
        self.put_aside_until(claim, None, out);
    }

    /// Whether what the claim needs is nowhere yet because its placement group is not whole. What is left
    /// here of a group under repair is shown, and admits nothing before the rest is there.
    fn waits_for_group(&self, claim: &Claim) -> bool {
        let has = |node: &NodeSummary| placement::holds(&node.total, &claim.demand);
        let nowhere = || !has(&self.summary()) && !self.view.nodes().any(has);
        claim.demand.group.is_some_and(|group| self.ledger.is_suspended(group) || nowhere())
    }

    /// `before` is the deadline that it had.
    fn put_aside_until(&mut self, claim: Claim, before: Option<Time>, out: &Outbox) {
        let grace = out.now + self.config.infeasible_grace;
        let deadline = (!self.waits_for_group(&claim)).then(|| before.unwrap_or(grace));
        // A claim of a group was perhaps sent here after its bundle had gone somewhere else, and everything
        // about that is known here already: it is looked at again now and then.
        self.deadlines.arm(Wakeup::Unschedulable, deadline.unwrap_or(grace));
        self.aside.waiting.push_back(Waiting { claim, deadline });
    }

    /// Something has changed for those who cannot be met: nodes, totals, jobs.
    pub(super) fn reconsider_aside(&mut self, out: &mut Outbox) {
        for Waiting { claim, deadline } in core::mem::take(&mut self.aside.waiting) {
            if let Some(claim) = self.try_place(claim, out) {
                self.put_aside_until(claim, deadline, out);
            }
        }
    }

    pub(super) fn refuse_unschedulable(&mut self, out: &mut Outbox) {
        let mut late: Vec<Claim> = Vec::new();
        self.aside.waiting.retain(|entry| match entry.deadline {
            Some(deadline) if deadline <= out.now => {
                late.push(entry.claim.clone());
                false
            }
            Some(deadline) => {
                self.deadlines.arm(Wakeup::Unschedulable, deadline);
                true
            }
            None => true,
        });
        for claim in late {
            let home = self.summary();
            let nodes: Vec<&NodeSummary> = self.view.nodes().chain([&home]).collect();
            let detail = if let Some(detail) = self.refusal_while_draining(&claim.demand) {
                detail
            } else if self.is_known(claim.pool) {
                placement::shortage(&nodes, &claim.demand, &home)
            } else {
                format!("node {} knows nothing of its job", home.node.0)
            };
            self.refuse_claim(&claim, detail, out);
        }
        self.reconsider_aside(out);
        self.look_at_ended_jobs();
    }
}
