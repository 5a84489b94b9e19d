//! Where frames of a session come into the daemon: one after the other, and not while what they fill is
//! full. Frames that wait here stop the session's reading, and so the sender.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::super::state::{Daemon, Shared, Source, Task, with};

/// So many batches of frames wait at most before the session is not read.
const BATCHES_WAITING: usize = 4;

/// See the module's text.
#[derive(Debug, Default)]
pub(in super::super) struct Gate {
    closed: Cell<bool>,
    opened: Notify,
}

impl Gate {
    /// Close it. Whether it was open.
    pub(in super::super) fn close(&self) -> bool {
        !self.closed.replace(true)
    }

    pub(in super::super) fn open(&self) {
        self.closed.set(false);
        self.opened.notify_one();
    }
}

/// Hand what comes through the returned sender to `take`, as long as the returned task is kept. If `take`
/// says no, nothing more of that sender is heard.
pub(super) fn open(
    shared: &Shared,
    take: impl Fn(&mut Daemon, &Bytes) -> bool + 'static,
) -> (mpsc::Sender<Vec<Bytes>>, Task) {
    let (sender, mut batches) = mpsc::channel::<Vec<Bytes>>(BATCHES_WAITING);
    let shared = Rc::clone(shared);
    let gate = Rc::new(Gate::default());
    let task = Task::spawn(async move {
        while let Some(frames) = batches.recv().await {
            let mut frames = frames.into_iter().peekable();
            while frames.peek().is_some() {
                while gate.closed.get() {
                    gate.opened.notified().await;
                }
                let goes_on = with(&shared, |daemon| {
                    daemon.source = Some(Source::Gate(Rc::clone(&gate)));
                    daemon.reads += 1;
                    while !gate.closed.get()
                        && let Some(frame) = frames.next()
                    {
                        if !take(daemon, &frame) {
                            return false;
                        }
                    }
                    true
                });
                if !goes_on {
                    return;
                }
            }
        }
    });
    (sender, task)
}
