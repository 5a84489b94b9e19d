//! What two daemons say to each other before a session goes over their connection.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_core::ids::NodeId;
use shoal_core::message::NodeSummary;
use shoal_core::term::Term;
use shoal_core::wire;

use crate::control::VERSION;
use crate::transport::{Connection, TransportError};

/// First, from who made the connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    /// [`VERSION`]; another one is refused.
    pub(super) version: String,
    pub(super) wish: Wish,
}

/// What a connection is wanted for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Wish {
    /// A daemon that is no node yet wants to be one, and to talk to the head.
    Join {
        /// What it has.
        summary: Box<NodeSummary>,
    },
    /// A node wants to talk to the head.
    Return {
        /// Its number.
        node: NodeId,
    },
    /// A head says to a node that it acts. Nothing goes over the connection after that.
    Follow {
        /// Where it is.
        address: SocketAddr,
        /// Which head it is.
        term: Term,
    },
    /// A node wants to talk to this one.
    Peer {
        /// Its number.
        node: NodeId,
        /// The number that it believes to talk to.
        to: NodeId,
    },
}

/// The answer to a greeting.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Head to node: you are in, or in again.
    Admitted {
        /// Its number.
        node: NodeId,
        /// The node that the head lives on.
        head_node: NodeId,
        /// Which head has let it in.
        term: Term,
    },
    /// Node to node: go on. Node to head: the call was heard.
    Welcome,
    /// No. The connection is closed after it.
    Refused {
        /// Why, for people.
        reason: String,
        /// It will be no for ever: the node is dead, or does not belong here.
        fatal: bool,
        /// Which head says so, if one does.
        term: Option<Term>,
        /// Where the head is, as far as somebody knows who is not.
        head: Option<SocketAddr>,
    },
}

impl Greeting {
    pub(super) fn new(wish: Wish) -> Greeting {
        Greeting { version: String::from(VERSION), wish }
    }
}

impl Reply {
    pub(super) fn refused(reason: impl Into<String>, fatal: bool) -> Reply {
        Reply::Refused { reason: reason.into(), fatal, term: None, head: None }
    }
}

/// Say something, before there is a session.
pub(super) async fn say<T: Serialize>(connection: &mut Connection, word: &T) -> Result<(), TransportError> {
    let bytes = wire::encode(word).map_err(|_| TransportError::Malformed("a word that cannot be encoded"))?;
    connection.writer.greet(Bytes::from(bytes)).await
}

/// Hear what the other end says, before there is a session.
pub(super) async fn hear<T: serde::de::DeserializeOwned>(
    connection: &mut Connection,
) -> Result<T, TransportError> {
    let bytes = connection.reader.greeting().await?;
    wire::decode(&bytes).map_err(|_| TransportError::Malformed("a word that is none"))
}
