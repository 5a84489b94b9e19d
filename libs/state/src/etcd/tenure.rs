//! How long a head is the head.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::client::Client;
use super::rpc::{self, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRequest, LeaseRevokeResponse};

/// So often within its time an etcd lease is renewed.
const RENEWALS: u32 = 3;
/// Between attempts to renew it.
const PAUSE: Duration = Duration::from_millis(100);
/// Who resigns waits so long for etcd to know.
const RESIGNATION: Duration = Duration::from_secs(1);

/// The time in office of an elected head: from its election until etcd may have elected another one. It is
/// renewed in the background. Clones are the same tenure; it is renewed no more once all are dropped.
#[derive(Clone)]
pub struct Tenure {
    lease: i64,
    client: Client,
    /// When it ends unless it is renewed. Counted from before etcd was asked, so it ends here first.
    until: watch::Receiver<Instant>,
    _keeper: Arc<Keeper>,
}

struct Keeper(JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenure").field("lease", &self.lease).field("is_over", &self.is_over()).finish()
    }
}

impl Tenure {
    /// Keep an etcd lease alive that was asked for at this time.
    pub(super) fn begin(client: Client, granted: &LeaseGrantResponse, asked: Instant) -> Tenure {
        let (lease, span) = (granted.id, seconds(granted.ttl));
        let (renewed, until) = watch::channel(asked + span);
        let keeper = tokio::spawn(keep(client.clone(), lease, span, renewed));
        Tenure { lease, client, until, _keeper: Arc::new(Keeper(keeper)) }
    }

    /// Whether another head may act by now.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.ends()
    }

    /// Wait until it is over.
    pub async fn over(&self) {
        let mut until = self.until.clone();
        loop {
            let end = *until.borrow_and_update();
            tokio::select! {
                biased;
                () = sleep_until(end) => return,
                renewed = until.changed() => if renewed.is_err() {
                    return sleep_until(*until.borrow()).await;
                },
            }
        }
    }

    /// End it, so that another head can act at once.
    pub async fn resign(&self) {
        let revoke = LeaseRequest { id: self.lease };
        let deadline = Instant::now() + RESIGNATION;
        // If this fails it ends a little later by itself.
        let _ = self.client.ask::<_, LeaseRevokeResponse>(deadline, rpc::LEASE_REVOKE, revoke).await;
    }

    /// When it ends unless it is renewed.
    pub(super) fn ends(&self) -> Instant {
        *self.until.borrow()
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or_default())
}

/// Renew the lease until etcd does not know it any more, or it has ended.
async fn keep(client: Client, lease: i64, span: Duration, renewed: watch::Sender<Instant>) {
    loop {
        let end = *renewed.borrow();
        sleep_until(end - span + span / RENEWALS).await;
        loop {
            let asked = Instant::now();
            if asked >= end {
                return;
            }
            match renew(&client, lease).await {
                Some(0) => {
                    let _ = renewed.send(asked);
                    return;
                }
                Some(ttl) => {
                    let _ = renewed.send((asked + seconds(ttl).min(span)).max(end));
                    break;
                }
                None => sleep(PAUSE).await,
            }
        }
    }
}

/// Ask once; the seconds that are left, or nothing if no answer came.
async fn renew(client: &Client, lease: i64) -> Option<i64> {
    let ask = async {
        let request = LeaseRequest { id: lease };
        let mut answers =
            client.listen::<_, LeaseKeepAliveResponse>(rpc::LEASE_KEEP_ALIVE, request).await.ok()?;
        answers.next().await.ok()?
    };
    let answer = client.within_patience(ask).await?;
    Some(answer.ttl.max(0))
}
