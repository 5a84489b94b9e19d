//! Resources: what nodes have and what work asks for.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, NodeId};

/// An amount of a resource in ten-thousandths, the finest grain a program can ask for.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Quantity(pub i64);

impl Quantity {
    /// One whole unit.
    pub const ONE: Quantity = Quantity(10_000);

    /// From a floating-point amount, rounded to the grain.
    pub fn from_f64(amount: f64) -> Quantity {
        let scaled = amount * 10_000.0;
        // `f64::round` is not in `core`; amounts are never negative.
        Quantity((scaled + 0.5) as i64)
    }
    /// As a floating-point amount.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 10_000.0
    }
}

/// Amounts by resource name; names with amount zero are left out.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Resources(pub BTreeMap<Arc<str>, Quantity>);

impl fmt::Display for Resources {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amounts: Vec<String> =
            self.0.iter().map(|(name, amount)| format!("{name}: {}", amount.as_f64())).collect();
        write!(out, "{{{}}}", amounts.join(", "))
    }
}

impl Resources {
    /// The CPU resource's name.
    pub const CPU: &'static str = "CPU";
    /// The GPU resource's name.
    pub const GPU: &'static str = "GPU";
    /// The memory resource's name (bytes).
    pub const MEMORY: &'static str = "memory";

    /// How much of `name` there is.
    pub fn get(&self, name: &str) -> Quantity {
        self.0.get(name).copied().unwrap_or_default()
    }
    /// Set the amount of `name`.
    pub fn set(&mut self, name: &str, amount: Quantity) {
        if amount.0 == 0 {
            self.0.remove(name);
        } else {
            self.0.insert(Arc::from(name), amount);
        }
    }
    /// Whether everything in `other` fits into these.
    pub fn covers(&self, other: &Resources) -> bool {
        other.0.iter().all(|(name, amount)| self.get(name) >= *amount)
    }
    /// Add all of `other`.
    pub fn add(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let sum = Quantity(self.get(name).0.saturating_add(amount.0));
            self.set(name, sum);
        }
    }
    /// Take all of `other` away; amounts may become negative (a resumed worker oversubscribes).
    pub fn subtract(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let rest = Quantity(self.get(name).0.saturating_sub(amount.0));
            self.set(name, rest);
        }
    }
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Where work may run.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Strategy {
    /// Pack until half full, then spread.
    #[default]
    Hybrid,
    /// One after the other.
    Spread,
    /// On this node; if `soft`, elsewhere when the node is gone.
    Node {
        /// The wanted node.
        node: NodeId,
        /// Whether another node will do.
        soft: bool,
        /// The work does not wait until the node has room: it goes elsewhere if `soft`, and else fails.
        at_once: bool,
    },
}

impl Strategy {
    /// On this node, as soon as that has room.
    pub const fn bound(node: NodeId, soft: bool) -> Strategy {
        Strategy::Node { node, soft, at_once: false }
    }

    /// The node where work runs, whatever other nodes have.
    pub(crate) fn wants(&self) -> Option<NodeId> {
        match *self {
            Strategy::Node { node, soft, at_once } if !(soft && at_once) => Some(node),
            _ => None,
        }
    }

    /// The node where work runs if that has room, and for which it does not wait.
    pub(crate) fn prefers(&self) -> Option<NodeId> {
        match *self {
            Strategy::Node { node, soft: true, at_once: true } => Some(node),
            _ => None,
        }
    }

    /// Whether work runs on its node at once or never.
    pub(crate) fn insists(&self) -> bool {
        matches!(self, Strategy::Node { soft: false, at_once: true, .. })
    }
}

/// What a label of a node must be.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct LabelSelector {
    /// The label's key.
    pub key: String,
    /// The values that match. Empty: the key itself must be there (or must not, if `excludes`).
    pub values: Vec<String>,
    /// The label must not be there, or have none of these values.
    pub excludes: bool,
}

/// The key of the label that every node has, and nobody gives it: its id, as [`NodeId::parse`] reads it.
pub const NODE_ID_LABEL: &str = "ray.io/node-id";

impl LabelSelector {
    /// Whether a node matches that was given these labels.
    pub fn matches(&self, node: NodeId, labels: &[(String, String)]) -> bool {
        let found = if self.key == NODE_ID_LABEL {
            // Known without being kept and sent for each of thousands of nodes.
            self.values.is_empty() || self.values.iter().any(|value| NodeId::parse(value) == Some(node))
        } else {
            let label = labels.iter().find(|(key, _)| *key == self.key);
            label.is_some_and(|(_, value)| self.values.is_empty() || self.values.contains(value))
        };
        found != self.excludes
    }

    /// Several of them, for people.
    pub(crate) fn list(selectors: &[LabelSelector]) -> String {
        let texts: Vec<String> = selectors.iter().map(|selector| format!("{selector}")).collect();
        texts.join(", ")
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.excludes { "!" } else { "" };
        match &self.values[..] {
            [] => write!(out, "{not}{}", self.key),
            [value] => write!(out, "{}={not}{value}", self.key),
            values => write!(out, "{}={not}in({})", self.key, values.join(", ")),
        }
    }
}

/// The surroundings a worker process is started with. Workers are only shared within one.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Environment {
    /// Environment variables set on top of the job's.
    pub variables: Vec<(String, String)>,
}

/// What a piece of work needs in order to run. Equal demands share leases.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Demand {
    /// Amounts held while it runs.
    pub resources: Resources,
    /// Where.
    pub strategy: Strategy,
    /// Only on nodes with such labels: all selectors must match.
    pub labels: Vec<LabelSelector>,
    /// The placement group whose bundles `resources` names (see [`crate::group::demanded`]): the work
    /// waits for it, and ends with it.
    pub group: Option<GroupId>,
    /// What the work submits without saying where runs in the same group.
    pub captures: bool,
    /// In which surroundings.
    pub environment: Environment,
}

/// Whole or shared devices given to a lease, by resource name: (device index, amount).
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Devices(pub Vec<(Arc<str>, Vec<DeviceShare>)>);

/// A device's index, and how much of it.
pub type DeviceShare = (u32, Quantity);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn selector(key: &str, values: &[&str], excludes: bool) -> LabelSelector {
        LabelSelector {
            key: key.into(),
            values: values.iter().map(|value| String::from(*value)).collect(),
            excludes,
        }
    }

    #[test]
    fn selectors_ask_for_values_or_keys_and_their_absence() {
        let labels = vec![(String::from("zone"), String::from("a")), (String::from("empty"), String::new())];
        let id = "0000001f000000000000000000000000000000000000000000000000";
        let other = "00000020000000000000000000000000000000000000000000000000";
        // Key, values, whether that is what the selector asks for, how it reads.
        let cases: [(&str, &[&str], bool, &str); 11] = [
            ("zone", &["a"], true, "zone=a"),
            ("zone", &["b"], false, "zone=b"),
            ("zone", &["b", "a"], true, "zone=in(b, a)"),
            ("zone", &[], true, "zone"),
            ("disk", &[], false, "disk"),
            ("disk", &["ssd"], false, "disk=ssd"),
            ("empty", &[""], true, "empty="),
            (
                NODE_ID_LABEL,
                &[id],
                true,
                "ray.io/node-id=0000001f000000000000000000000000000000000000000000000000",
            ),
            (NODE_ID_LABEL, &[other, id], true, ""),
            (NODE_ID_LABEL, &[other], false, ""),
            (NODE_ID_LABEL, &[], true, "ray.io/node-id"),
        ];
        for (key, values, matches, text) in cases {
            let [asks, excludes] = [false, true].map(|excludes| selector(key, values, excludes));
            assert_eq!(asks.matches(NodeId(31), &labels), matches, "{asks:?}");
            assert_eq!(excludes.matches(NodeId(31), &labels), !matches, "{excludes:?}");
            assert!(text.is_empty() || format!("{asks}") == text, "{asks}");
        }
        let excluding =
            [selector("zone", &["a", "b"], true), selector("disk", &[], true), selector("c", &["d"], true)];
        assert_eq!(LabelSelector::list(&excluding), "zone=!in(a, b), !disk, c=!d");
    }

    #[test]
    fn ids_of_nodes_are_read_exactly() {
        let zeros = "0".repeat(48);
        assert_eq!(NodeId::parse(&format!("0000abcd{zeros}")), Some(NodeId(0xabcd)));
        for nonsense in ["", "1", "+0000001", "0000ABCD", "0000000g", "é000000"] {
            assert_eq!(NodeId::parse(&format!("{nonsense}{zeros}")), None, "{nonsense}");
        }
        assert_eq!(NodeId::parse("0000abcd"), None);
        assert_eq!(NodeId::parse(&format!("0000abcd{}1", "0".repeat(47))), None);
    }
}
