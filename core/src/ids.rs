//! Names of things. All are small, ordered, and unique for the life of a cluster.

use core::fmt;
use serde::{Deserialize, Serialize};

/// A node, numbered by the head; 0 is no node.
///
/// Numbers are never reused: a daemon that was declared dead, or that starts again, joins under a new
/// one. So this names one incarnation of a node, and whatever names it is fenced by it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The node that programs call so: 56 hexadecimal digits, of which the first eight are its number and
    /// the others are 0.
    pub fn parse(text: &str) -> Option<NodeId> {
        let (number, rest) = text.split_at_checked(8)?;
        let is_digit = |letter: u8| matches!(letter, b'0'..=b'9' | b'a'..=b'f');
        let is_id =
            number.bytes().all(is_digit) && rest.len() == 48 && rest.bytes().all(|digit| digit == b'0');
        u32::from_str_radix(number, 16).ok().filter(|_| is_id).map(NodeId)
    }
}

/// A process, and at the same time the address of the machine that runs in it.
///
/// The upper half is the node, the lower half a number given by that node. Number 0 is the node
/// daemon itself; [`ProcessId::HEAD`] is whichever daemon is the head.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct ProcessId(pub u64);

impl ProcessId {
    /// The machine that acts as head, wherever it runs.
    pub const HEAD: ProcessId = ProcessId(0);

    /// Process `number` of `node`.
    pub const fn new(node: NodeId, number: u32) -> ProcessId {
        ProcessId(((node.0 as u64) << 32) | number as u64)
    }
    /// The daemon of `node`.
    pub const fn daemon(node: NodeId) -> ProcessId {
        ProcessId::new(node, 0)
    }
    /// The machine in the daemon of `node` that owns what dead processes owned.
    pub const fn steward(node: NodeId) -> ProcessId {
        ProcessId::new(node, u32::MAX)
    }
    /// Whether this is a node's steward.
    pub const fn is_steward(self) -> bool {
        self.number() == u32::MAX
    }
    /// The node that this process runs on.
    pub const fn node(self) -> NodeId {
        NodeId((self.0 >> 32) as u32)
    }
    /// The number of this process on its node.
    pub const fn number(self) -> u32 {
        self.0 as u32
    }
    /// Whether this is a node daemon (or the head).
    pub const fn is_daemon(self) -> bool {
        self.number() == 0
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ProcessId::HEAD => write!(f, "head"),
            p if p.is_daemon() => write!(f, "node{}", p.node().0),
            p if p.is_steward() => write!(f, "steward{}", p.node().0),
            p => write!(f, "p{}.{}", p.node().0, p.number()),
        }
    }
}

/// A job: one driver program and everything it starts. Numbered by the head.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct JobId(pub u32);

/// A task, numbered by the process that submitted it. An object that was `put` has a task id too.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct TaskId {
    /// The process that submitted the task and owns its results.
    pub owner: ProcessId,
    /// Counts up in that process.
    pub number: u64,
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}", self.owner, self.number)
    }
}

impl TaskId {
    /// The `index`-th result of this task.
    pub const fn object(self, index: u32) -> ObjectId {
        ObjectId { task: self, index }
    }
}

/// An object: a result of a task, or a value that was `put` (index 0 of a number of its own).
///
/// Of a streaming generator, index 0 is the generator itself and item `i` (from 0) has index `i + 1`.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct ObjectId {
    /// The task that makes it.
    pub task: TaskId,
    /// Which of its results.
    pub index: u32,
}

impl ObjectId {
    /// The process that was born as owner of this object.
    pub const fn owner(self) -> ProcessId {
        self.task.owner
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.task, self.index)
    }
}

/// An actor. Result 0 of its creation task stands for "the actor is alive", and the reference
/// count of that object is the count of the actor's handles.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct ActorId(pub TaskId);

impl ActorId {
    /// The process that created the actor and counts its handles.
    pub const fn creator(self) -> ProcessId {
        self.0.owner
    }
    /// The object whose references are the actor's handles.
    pub const fn handle_object(self) -> ObjectId {
        self.0.object(0)
    }
}

impl fmt::Debug for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "actor {:?}", self.0)
    }
}

/// A placement group, numbered like a task by the process that made it.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct GroupId(pub TaskId);

impl GroupId {
    /// The process that made it.
    pub const fn creator(self) -> ProcessId {
        self.0.owner
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {:?}", self.0)
    }
}

/// A remote function or actor class: the hash of its definition.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct FunctionId(pub u128);

/// A lease of one worker. Leases of an older epoch of the node are refused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct LeaseId {
    /// The node that granted it.
    pub node: NodeId,
    /// The node's incarnation when it granted it.
    pub epoch: u32,
    /// Counts up on that node.
    pub number: u64,
}

/// A question that gets one answer, numbered by the asking process.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// Work that a machine started and that will be finished, numbered by the machine.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct OperationId(pub u64);
