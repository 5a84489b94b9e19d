//! A head that has just begun to act tells the nodes of its log, so that they need not find out.
//!
//! A node that has lost its head cannot know how long to wait for a connection that may be dead, nor where the
//! next one is. The head knows where its nodes are.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use shoal_core::ids::NodeId;
use shoal_core::term::{Claim, Term};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::super::log;
use super::super::state::{Daemon, Shared};
use super::HeadSide;
use super::word::{Greeting, Reply, Wish, hear, say};
use crate::transport::{Connection, TransportError};

/// So many nodes are called at a time.
const CALLS: usize = 64;
/// How often a node is called that does not answer, and how long apart.
const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(250);
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Calls that a head makes.
pub(super) struct Calls {
    lines: Rc<Semaphore>,
}

impl Default for Calls {
    fn default() -> Calls {
        Calls { lines: Rc::new(Semaphore::new(CALLS)) }
    }
}

/// Say so until the node has come, or it seems in vain.
async fn call(shared: Shared, lines: Rc<Semaphore>, node: NodeId, address: SocketAddr) {
    for _ in 0..ATTEMPTS {
        let Ok(line) = lines.acquire().await else { return };
        let called = timeout(PATIENCE, call_once(&shared, node, address)).await;
        drop(line);
        match called.unwrap_or(Err(TransportError::TimedOut)) {
            Ok(()) => return,
            Err(error) => log!("node {} is not told of its head: {error}", node.0),
        }
        sleep(PAUSE).await;
    }
}

async fn call_once(shared: &Shared, node: NodeId, address: SocketAddr) -> Result<(), TransportError> {
    let found = shared.borrow().call_to(node);
    let Some((transport, wish)) = found else { return Ok(()) };
    let mut connection = transport.connect(address).await?;
    say(&mut connection, &Greeting::new(wish)).await?;
    match hear(&mut connection).await? {
        Reply::Welcome => Ok(()),
        Reply::Refused { reason, .. } => Err(TransportError::Closed(reason)),
        Reply::Admitted { .. } => Err(TransportError::Malformed("an answer to another question")),
    }
}

impl Daemon {
    /// The head wants a node to know of it.
    pub(super) fn call_node(&mut self, node: NodeId, address: &str) {
        let Ok(address) = address.parse() else { return };
        let shared = self.shared();
        if let HeadSide::Here(hosted) = &self.cluster.head {
            let lines = Rc::clone(&hosted.calls.lines);
            tokio::task::spawn_local(call(shared, lines, node, address));
        }
    }

    /// How to call a node, and what to say; nothing if it has come, or the head is not here any more.
    fn call_to(&self, node: NodeId) -> Option<(std::sync::Arc<dyn crate::transport::Transport>, Wish)> {
        let HeadSide::Here(hosted) = &self.cluster.head else { return None };
        if self.stopping || hosted.has_come(node) {
            return None;
        }
        let transport = self.cluster.transport.clone()?;
        let wish = Wish::Follow { address: transport.local_address(), term: hosted.present_term() };
        Some((transport, wish))
    }

    /// Somebody says to be the head of this node, to be found at an address. Where to look is all that follows
    /// from it: who is there has to show what it is.
    pub(super) fn hear_call(&mut self, from: &Connection, address: SocketAddr, term: Term) -> Reply {
        let who = &from.peer.member;
        if !who.role.may_act_as_head() {
            return Reply::refused(format!("{} is a node, and may not act as head", who.name), true);
        }
        let HeadSide::There(away) = &mut self.cluster.head else {
            return Reply::refused("this node hosts a head itself", true);
        };
        match away.term().judge(term) {
            Claim::Successor => {
                away.called(address);
                Reply::Welcome
            }
            Claim::Same => Reply::Welcome,
            Claim::Outdated | Claim::Rival => Reply::refused("another head is followed here", true),
        }
    }
}
