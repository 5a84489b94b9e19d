//! What the transport's ends say to each other below the machines.

use serde::{Deserialize, Serialize};
use shoal_core::ids::{JobId, NodeId, ProcessId};
use shoal_core::message::Drain;
use shoal_core::resources::Environment;

/// Spoken version: both ends of a link come from one build, so any difference is refused.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A control frame. Descriptors travel with the frame's first byte, as `SCM_RIGHTS`, in the order named.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Control {
    // --- driver and daemon
    /// Driver to daemon: let me in.
    Hello {
        /// [`VERSION`].
        version: String,
        /// The driver's pid.
        pid: u32,
        /// Namespace of its actors' names; empty for one of its own.
        namespace: String,
        /// How its workers are started.
        launch: Launch,
        /// Send me what my workers print.
        output: bool,
    },
    /// Daemon to process: you are in. Brings the store's segment (driver only; workers inherit it).
    Welcome(Welcome),
    /// Daemon to driver: you are not.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// Daemon to driver: what a worker printed.
    Output {
        /// Which worker.
        process: ProcessId,
        /// Its pid.
        pid: u32,
        /// Standard error rather than standard output.
        error: bool,
        /// Whole lines, without the line ends.
        lines: Vec<String>,
    },

    // --- links between processes
    /// Process to daemon: link me to that process.
    OpenLink {
        /// The other end.
        peer: ProcessId,
    },
    /// Daemon to both ends: here it is. Brings one socket.
    Link {
        /// The other end.
        peer: ProcessId,
    },
    /// Daemon to process: there is no such process any more.
    LinkRefused {
        /// The other end.
        peer: ProcessId,
    },

    // --- daemon and template
    /// Daemon to template: fork a worker. Brings its link to the daemon, its stdout and its stderr.
    Fork {
        /// What the worker is told.
        welcome: Welcome,
        /// Its surroundings.
        environment: Environment,
    },
    /// Template to daemon: it has this pid.
    Forked {
        /// Which worker.
        process: ProcessId,
        /// Its pid.
        pid: u32,
    },
    /// Template to daemon: it could not be forked.
    ForkFailed {
        /// Which worker.
        process: ProcessId,
        /// Why.
        reason: String,
    },
    /// Template to daemon: a child ended, with this wait status.
    ChildExited {
        /// Its pid.
        pid: u32,
        /// As `waitpid` gave it.
        status: i32,
    },

    // --- administration over the same socket
    /// Command line to daemon: what is going on? Answered by [`Control::Status`].
    AskStatus,
    /// Daemon to command line: a JSON document.
    Status {
        /// The document.
        json: String,
    },
    /// Command line to daemon: have a node of the cluster emptied, or not any more. Answered by
    /// [`Control::Drained`].
    Drain {
        /// The node.
        node: NodeId,
        /// How; nothing to place things there again.
        drain: Option<Drain>,
    },
    /// Daemon to command line: the head has answered.
    Drained {
        /// Why the node is not drained, if it is not.
        refusal: Option<String>,
    },
    /// Command line to daemon: stop everything on this node.
    Stop,
}

/// How a job's workers are started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Launch {
    /// The interpreter.
    pub python: String,
    /// Its module search path.
    pub module_path: Vec<String>,
    /// Where it runs.
    pub working_directory: String,
    /// Its whole environment.
    pub variables: Vec<(String, String)>,
    /// Modules imported before workers are forked.
    pub preload: Vec<String>,
}

/// What a process is told when it is let in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// Its id.
    pub process: ProcessId,
    /// Its node.
    pub node: NodeId,
    /// Its job.
    pub job: JobId,
    /// Default namespace of actors' names.
    pub namespace: String,
    /// Bytes of the store's segment.
    pub segment: u64,
    /// The segment gets huge pages when asked.
    pub huge_pages: bool,
    /// The session's directory.
    pub session: String,
    /// Logical CPUs of the node.
    pub cpus: u32,
}
