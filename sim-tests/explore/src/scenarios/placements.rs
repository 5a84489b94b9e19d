//! Placement groups are placed in two phases while nodes and heads die.

use crate::placement::{Placement, Request};

/// A group is placed and removed while heads die.
pub(super) fn heads(deep: bool) -> Placement {
    Placement {
        name: "two-phases",
        about: "a placement group is placed and removed while the head dies",
        nodes: vec![2, 2],
        requests: vec![Request::Create(1, vec![2, 1]), Request::Remove(1)],
        heads: if deep { 2 } else { 1 },
        deaths: 0,
    }
}

/// A group loses a bundle with its node, and the head dies.
pub(super) fn repair(deep: bool) -> Placement {
    let mut requests = vec![Request::Create(1, vec![1, 1])];
    if deep {
        requests.push(Request::Remove(1));
    }
    Placement {
        name: "repair",
        about: "a placement group loses a bundle with a node and gets another one, while the head dies",
        nodes: vec![1, 1, 1],
        requests,
        heads: 1,
        deaths: 1,
    }
}
