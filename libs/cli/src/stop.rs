//! `shoal stop`.

use std::time::Duration;

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
    if nodes.iter().any(Description::is_head) {
        // A killed head leaves what the next one would go on with; here nobody wants that. One that was
        // stopped has removed it.
        let _ = std::fs::remove_dir_all(session::head_directory(&options.temp.path));
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
    let pid = node.pid;
    match client::stop(node, PATIENCE) {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(Failure::Failed(format!("the node (pid {pid}) does not end; `shoal stop --force` kills it")))
        }
        Err(error) => Err(Failure::Failed(format!(
            "the node (pid {pid}) cannot be asked to stop: {error}; `shoal stop --force` kills it"
        ))),
    }
}

fn kill(node: &Description) -> Result<(), Failure> {
    let pid = node.pid;
    match client::kill(node, PATIENCE) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Failed(format!("the node (pid {pid}) has been killed and does not end"))),
        Err(error) => Err(Failure::Failed(format!("the node (pid {pid}) cannot be killed: {error}"))),
    }
}
