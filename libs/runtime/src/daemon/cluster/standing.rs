//! Standby heads: a node that may be the head stands for election, and becomes the head when it is elected.
//!
//! Until then it is a node like others. Its daemon keeps its number when it is elected, and so do its processes; and
//! when its time as head is over, which ends when etcd does not answer.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use shoal_core::head::{self, Key, Row};
use shoal_core::node;
use shoal_state::{Etcd, EtcdLog, Log, Standing, StateError, Tenure};
use tokio::time::sleep;

use super::super::log;
use super::super::state::{Daemon, Shared, Task, with};
use super::HeadSide;
use super::head::Away;
use super::hosted::{Hosted, OWN_CONNECTION};

/// Between attempts to stand for election in an etcd that does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Have a daemon that may be the head, and is not, stand for election, again and again, until it is elected.
pub(in super::super) fn stand(shared: &Shared) {
    shared.borrow().stand_again(None);
}

async fn stand_until_elected(shared: Shared, etcd: Etcd, address: SocketAddr, mut former: Option<Tenure>) {
    loop {
        if shared.borrow().stopping {
            return;
        }
        // Etcd may believe that it still lasts, which would keep everybody from being elected.
        if let Some(former) = &former {
            former.resign().await;
        }
        match etcd.stand(address).await {
            Ok(Standing::Acting(acting)) => {
                former = None;
                shared.borrow_mut().head_acts_at(acting.address);
                etcd.vacancy(acting).await;
            }
            Ok(Standing::Elected(log)) => match read(log).await {
                Ok((log, rows)) => return with(&shared, |daemon| daemon.elected(log, rows)),
                Err((tenure, error)) => {
                    log!("this node is elected, and cannot be the head: {error}");
                    tenure.resign().await;
                    sleep(PAUSE).await;
                }
            },
            Err(error) => {
                log!("this node cannot stand for election as head: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

type Rows = Vec<(Key, Row)>;

/// Read the log, on another thread.
async fn read(mut log: EtcdLog) -> Result<(EtcdLog, Rows), (Tenure, StateError)> {
    let tenure = log.tenure().clone();
    let read = tokio::task::spawn_blocking(move || log.load().map(|contents| (log, contents.rows)));
    read.await.expect("it does not panic, and nobody aborts it").map_err(|error| (tenure, error))
}

/// Have the daemon stop acting as head when its time in office is over.
pub(super) fn watch(shared: &Shared, tenure: Tenure) -> Task {
    let shared = Rc::clone(shared);
    Task::spawn(async move {
        tenure.over().await;
        with(&shared, Daemon::tenure_is_over);
    })
}

impl Daemon {
    /// This node is the head from now on; it resumes itself as it would any other that returns.
    fn elected(&mut self, log: EtcdLog, rows: Rows) {
        let HeadSide::There(away) = &mut self.cluster.head else { return };
        log!("this node is elected as head");
        let followed = away.term();
        let (unacknowledged, fillers) = away.leave();
        let settings = head::Config {
            durable: true,
            home: Some(self.id),
            elected: true,
            ..head::Config::new(u64::from(std::process::id()))
        };
        let tenure = log.tenure().clone();
        let mut hosted = Hosted::elected(settings, Box::new(log), rows, tenure, (followed, unacknowledged));
        let shared = self.shared();
        if let Err(error) = hosted.serve(&shared) {
            log!("{error}");
            self.has_failed = true;
            return self.request_stop("this node cannot be the head");
        }
        self.cluster.head = HeadSide::Here(Box::new(hosted));
        self.head_places.send_replace(self.head_place());
        let node = self.id;
        self.tell_head(head::Input::NodeReturns { connection: OWN_CONNECTION, node });
        self.resume(fillers);
    }

    /// The head that was elected has let its own node go on.
    pub(super) fn own_node_resumed(&mut self, epoch: u64) {
        let HeadSide::Here(hosted) = &mut self.cluster.head else { return };
        hosted.is_followed();
        let frames = std::mem::take(&mut hosted.unacknowledged);
        let node = self.id;
        self.tell_head(head::Input::Hosted { node });
        for frame in frames {
            // They were made here, so there is nothing wrong with them.
            let taken = self.frame_for_head(node, &frame);
            debug_assert!(taken.is_ok(), "{taken:?}");
        }
        self.tell_node(node::Input::HeadChanged { epoch });
    }

    /// Where etcd says that the head is.
    fn head_acts_at(&mut self, address: SocketAddr) {
        // It may be the time that this one had before, which etcd has not ended yet.
        let is_own = self.own_address() == Some(address);
        if let HeadSide::There(away) = &mut self.cluster.head
            && !is_own
        {
            away.hint(address);
        }
    }

    fn own_address(&self) -> Option<SocketAddr> {
        self.cluster.transport.as_ref().map(|transport| transport.local_address())
    }

    fn tenure_is_over(&mut self) {
        log!("etcd has not heard of this head for too long: another one may act");
        self.tell_head(head::Input::TenureEnds);
    }

    /// The head in this daemon does nothing any more. If it was elected this node goes on without it: it looks for
    /// the next head, and stands for election again.
    pub(super) fn step_down(&mut self) {
        if self.stop_reason.is_some() {
            return;
        }
        let may_return = self.cluster.candidacy.is_some();
        let HeadSide::Here(hosted) = &mut self.cluster.head else { return };
        let Some((tenure, followed, unheard)) = hosted.leave().filter(|_| may_return) else {
            self.has_failed = true;
            return self.request_stop("it cannot be the head any more");
        };
        log!("this node is the head no more, and looks for the next one");
        self.cluster.head = HeadSide::There(Box::new(Away::unknown(followed, unheard)));
        self.follow_head(None);
        self.stand_again(Some(tenure));
    }

    /// Stand for election; `former` is the time that it was the head before.
    fn stand_again(&self, former: Option<Tenure>) {
        let HeadSide::There(_) = &self.cluster.head else { return };
        if let (Some(etcd), Some(address)) = (self.cluster.candidacy.clone(), self.own_address()) {
            tokio::task::spawn_local(stand_until_elected(self.shared(), etcd, address, former));
        }
    }

    /// When this daemon may act as head, if that is limited.
    pub(in super::super) fn tenure(&self) -> Option<Tenure> {
        match &self.cluster.head {
            HeadSide::Here(hosted) => hosted.tenure.clone(),
            HeadSide::There(_) => None,
        }
    }
}
