//! Which head a node follows.

use serde::{Deserialize, Serialize};

/// One head, from its start to its end.
///
/// Epochs count up in one log. A copy of a log, or one that was put back from a backup, starts a second
/// head of an epoch that another one has: neither hears of the other, and only their nodes can tell them
/// apart. That is what `life` is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// Counts the heads of the cluster.
    pub epoch: u64,
    /// Random, drawn when the head starts.
    pub life: u64,
}

/// What somebody who says to be the head is to a node that follows one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// The head that it follows.
    Same,
    /// The one that acts now.
    Successor,
    /// One that does not know yet that it is not the head any more. It is not obeyed.
    Outdated,
    /// Another one of the same epoch, from a copy of the log. It is not obeyed.
    Rival,
}

impl Term {
    /// What the head of another term is to who follows this one.
    pub fn judge(self, other: Term) -> Claim {
        if other.epoch > self.epoch {
            Claim::Successor
        } else if other.epoch < self.epoch {
            Claim::Outdated
        } else if other.life == self.life {
            Claim::Same
        } else {
            Claim::Rival
        }
    }
}

impl Claim {
    /// Whether what this head says counts, its refusals included.
    pub fn is_obeyed(self) -> bool {
        matches!(self, Claim::Same | Claim::Successor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_follows_its_head_and_later_ones_only() {
        let term = |epoch, life| Term { epoch, life };
        let own = term(5, 70);
        for (other, claim, obeyed) in [
            (own, Claim::Same, true),
            (term(6, 1), Claim::Successor, true),
            (term(6, 70), Claim::Successor, true),
            (term(4, 99), Claim::Outdated, false),
            (term(4, 70), Claim::Outdated, false),
            (term(5, 71), Claim::Rival, false),
        ] {
            assert_eq!(own.judge(other), claim, "{other:?}");
            assert_eq!(claim.is_obeyed(), obeyed, "{other:?}");
        }
    }
}
