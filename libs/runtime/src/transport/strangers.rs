//! The door: room for connections whose other end is not known yet.
//!
//! `shoal_core::strangers` decides who stays; here they wait, and are told to go.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use shoal_core::Time;
use shoal_core::strangers::{self, Admission, Ticket};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::{CONNECT_WITHIN, TransportError};

/// So many connections may be on their way in, at each of a node's sides, whose other end is not known yet.
pub const STRANGERS_MAX: usize = 128;

/// The strangers at one side of a node. Clones share them.
#[derive(Clone)]
pub struct Strangers {
    shared: Arc<Mutex<Shared>>,
    start: Instant,
}

struct Shared {
    strangers: strangers::Strangers,
    /// Each ends the introduction of one of them by being dropped.
    inside: HashMap<Ticket, oneshot::Sender<()>>,
}

impl Default for Strangers {
    fn default() -> Self {
        let strangers = strangers::Strangers::new(STRANGERS_MAX);
        let shared = Shared { strangers, inside: HashMap::new() };
        Strangers { shared: Arc::new(Mutex::new(shared)), start: Instant::now() }
    }
}

impl Strangers {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.shared.lock().strangers.count()
    }

    /// Somebody connects. None: it must be turned away.
    pub fn enter(&self, address: IpAddr) -> Option<Place> {
        let now = Time(self.start.elapsed().as_nanos() as u64);
        let mut shared = self.shared.lock();
        let ticket = match shared.strangers.enter(now, address) {
            Admission::Admitted(ticket) => ticket,
            Admission::InPlaceOf { admitted, displaced } => {
                shared.inside.remove(&displaced);
                admitted
            }
            Admission::TurnedAway => return None,
        };
        let (stays, displaced) = oneshot::channel();
        shared.inside.insert(ticket, stays);
        Some(Place { strangers: self.clone(), ticket, displaced })
    }
}

/// The place of one stranger, until this is dropped.
pub struct Place {
    strangers: Strangers,
    ticket: Ticket,
    displaced: oneshot::Receiver<()>,
}

impl Place {
    /// Introduce the stranger. None: another has got its place meanwhile, and the introduction was dropped.
    ///
    /// # Errors
    ///
    /// What the introduction says, or [`TransportError::TimedOut`] if it takes too long.
    pub async fn introduce<T>(
        &mut self,
        introduction: impl Future<Output = Result<T, TransportError>>,
    ) -> Option<Result<T, TransportError>> {
        tokio::select! {
            biased;
            introduced = timeout(CONNECT_WITHIN, introduction) => {
                Some(introduced.unwrap_or(Err(TransportError::TimedOut)))
            }
            _ = &mut self.displaced => None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shared = self.strangers.shared.lock();
        shared.strangers.leave(self.ticket);
        shared.inside.remove(&self.ticket);
    }
}
