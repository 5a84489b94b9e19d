//! `shoal stop`.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use shoal_runtime::daemon::client;
use shoal_runtime::daemon::session::{self, Description};

use crate::Failure;
use crate::options::StopOptions;

/// Longer than any orderly end takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stop all nodes that belong to no single driver.
pub(crate) fn stop(options: &StopOptions) -> Result<(), Failure> {
    let nodes = session::live(&options.temp.path);
    let nodes: Vec<_> = nodes.into_iter().filter(|node| !node.owned).collect();
    for node in &nodes {
        if options.force {
            kill(node)?;
        } else {
            stop_gently(node)?;
        }
        println!("Stopped node {} (pid {}).", node.node, node.pid);
    }
    // Also what daemons that were killed have left.
    session::clean(&options.temp.path)
        .map_err(|error| Failure::Failed(format!("what is left cannot be removed: {error}")))?;
    if nodes.is_empty() {
        println!("No node runs.");
    }
    Ok(())
}

fn stop_gently(node: &Description) -> Result<(), Failure> {
    match client::stop(node, PATIENCE) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Failed(format!(
            "the node (pid {}) does not end; `shoal stop --force` kills it",
            node.pid
        ))),
        Err(error) => Err(Failure::Failed(format!(
            "the node (pid {}) cannot be asked to stop: {error}; `shoal stop --force` kills it",
            node.pid
        ))),
    }
}

/// Kill a daemon. The kernel ends its templates and workers with it.
fn kill(node: &Description) -> Result<(), Failure> {
    // Its lock is held, so the daemon lives and the number is its own.
    if let Some(pid) = Pid::from_raw(node.pid as i32) {
        let _ = kill_process(pid, Signal::KILL);
    }
    if client::wait_until_ended(node, PATIENCE) {
        Ok(())
    } else {
        Err(Failure::Failed(format!(
            "the node (pid {}) cannot be killed",
            node.pid
        )))
    }
}
