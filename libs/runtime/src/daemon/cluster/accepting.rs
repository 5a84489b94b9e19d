//! Who connects, and what for.

use std::rc::Rc;
use std::time::Duration;

use shoal_core::head;
use shoal_core::ids::NodeId;
use shoal_core::term::Term;
use tokio::sync::oneshot;

use super::super::log;
use super::super::state::{Daemon, Shared, with};
use super::word::{Greeting, Reply, Wish, hear, say};
use super::{HeadSide, hosted, peers};
use crate::control::VERSION;
use crate::transport::{Connection, TransportError};

/// Who has connected must say what for within this time.
const GREETING_PATIENCE: Duration = Duration::from_secs(5);
/// Who is refused must take note of it within this time.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(5);
/// So long the head may take to let a node in: it writes to its log before.
const ADMISSION_PATIENCE: Duration = Duration::from_secs(30);

/// Serve whoever connects to this daemon.
pub(in super::super) fn listen(shared: &Shared) {
    let Some(transport) = shared.borrow().cluster.transport.clone() else { return };
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        while let Some(connection) = transport.accept().await {
            tokio::task::spawn_local(serve(Rc::clone(&shared), connection));
        }
    });
}

async fn serve(shared: Shared, mut connection: Connection) {
    let who = connection.peer.address;
    let greeting = tokio::time::timeout(GREETING_PATIENCE, hear::<Greeting>(&mut connection)).await;
    let result = match greeting {
        Ok(Ok(greeting)) => answer(&shared, connection, greeting).await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(TransportError::TimedOut),
    };
    if let Err(error) = result {
        log!("the connection from {who} is closed: {error}");
    }
}

async fn answer(
    shared: &Shared,
    mut connection: Connection,
    greeting: Greeting,
) -> Result<(), TransportError> {
    let Greeting { version, wish } = greeting;
    if version != VERSION {
        let reason = format!(
            "it is of Shoal {version} and this cluster of Shoal {VERSION}; install the same version on all nodes"
        );
        return refuse(connection, reason, true).await;
    }
    let input = match wish {
        Wish::Peer { node, to } => return answer_peer(shared, connection, node, to).await,
        Wish::Follow { address, term } => {
            let reply = shared.borrow_mut().hear_call(&connection, address, term);
            return close_after(&mut connection, &reply).await;
        }
        Wish::Join { summary } => Application::Joins(summary),
        Wish::Return { node } => Application::Returns(node),
    };
    let verdict = shared.borrow_mut().ask_head(input);
    let Some(verdict) = verdict else {
        let head = shared.borrow().head_place();
        let reason = match head {
            Some(head) => format!("this is not the head of the cluster; the head is at {head}"),
            None => String::from("the head of the cluster is not here"),
        };
        return turn_away(connection, Reply::Refused { reason, fatal: false, term: None, head }).await;
    };
    with(shared, |_| ());
    match tokio::time::timeout(ADMISSION_PATIENCE, verdict).await {
        Ok(Ok(Verdict::Admitted { node, term })) => {
            let head_node = shared.borrow().id;
            say(&mut connection, &Reply::Admitted { node, head_node, term }).await?;
            hosted::drive(shared, node, connection).await;
            Ok(())
        }
        Ok(Ok(Verdict::Refused { reason, term })) => {
            let reply = Reply::Refused { reason, fatal: true, term: Some(term), head: None };
            turn_away(connection, reply).await
        }
        // The head has stopped, or is too slow: the node asks again.
        Ok(Err(_)) | Err(_) => refuse(connection, "the head does not answer", false).await,
    }
}

async fn answer_peer(
    shared: &Shared,
    mut connection: Connection,
    node: NodeId,
    to: NodeId,
) -> Result<(), TransportError> {
    let refusal = shared.borrow_mut().objection_to(node, to);
    if let Some((reason, fatal)) = refusal {
        return refuse(connection, reason, fatal).await;
    }
    say(&mut connection, &Reply::Welcome).await?;
    peers::drive(shared, node, connection).await;
    Ok(())
}

async fn refuse(
    connection: Connection,
    reason: impl Into<String>,
    fatal: bool,
) -> Result<(), TransportError> {
    turn_away(connection, Reply::refused(reason, fatal)).await
}

async fn turn_away(mut connection: Connection, refusal: Reply) -> Result<(), TransportError> {
    if let Reply::Refused { reason, .. } = &refusal {
        log!("the daemon at {} was refused: {reason}", connection.peer.address);
    }
    close_after(&mut connection, &refusal).await
}

/// Say the last thing.
async fn close_after(connection: &mut Connection, last: &Reply) -> Result<(), TransportError> {
    say(connection, last).await?;
    connection.writer.finish().await?;
    // To close a connection takes back what has not arrived yet: the other end closes when it has read.
    let _ = tokio::time::timeout(GOODBYE_PATIENCE, connection.reader.greeting()).await;
    Ok(())
}

/// What somebody wants of the head.
pub(super) enum Application {
    Joins(Box<shoal_core::message::NodeSummary>),
    Returns(NodeId),
}

/// What the head says to that.
pub(super) enum Verdict {
    Admitted { node: NodeId, term: Term },
    Refused { reason: String, term: Term },
}

impl Daemon {
    /// Ask the head to let somebody in; `None` if it is not here.
    fn ask_head(&mut self, application: Application) -> Option<oneshot::Receiver<Verdict>> {
        let HeadSide::Here(hosted) = &mut self.cluster.head else { return None };
        let (connection, verdict) = hosted.add_applicant();
        self.tell_head(match application {
            Application::Joins(summary) => head::Input::NodeJoins { connection, summary },
            Application::Returns(node) => head::Input::NodeReturns { connection, node },
        });
        Some(verdict)
    }

    /// Why a connection between this node and that one must not be, and whether it never may. Of two that
    /// both are making, the one of the lower number counts.
    fn objection_to(&mut self, node: NodeId, to: NodeId) -> Option<(String, bool)> {
        if to != self.id {
            return Some((format!("this is node {}, and node {} is gone", self.id.0, to.0), false));
        }
        if self.cluster.dead.contains(&node) {
            return Some((format!("node {} is dead", node.0), true));
        }
        let peer = self.cluster.peers.get(&node)?;
        let crossing = self.id < node && peer.is_dialling();
        crossing.then(|| (String::from("a connection the other way is being made"), false))
    }
}
