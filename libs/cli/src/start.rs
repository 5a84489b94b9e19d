//! `shoal start` and the process that it starts.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use shoal_runtime::daemon::session::{self, Description, SESSION_VARIABLE, WORKER_VARIABLE};
use shoal_runtime::daemon::{self, DaemonError};

use crate::Failure;
use crate::network::Network;
use crate::options::{ClusterOptions, DaemonOptions, NodeOptions, StartOptions, TempDirectory};

/// Start a node.
pub(crate) fn start(program: &[String], options: &StartOptions) -> Result<(), Failure> {
    let cluster = &options.cluster;
    if !cluster.head && cluster.address.is_none() {
        return Err(Failure::Usage(String::from(
            "`shoal start --head` begins a cluster, `shoal start --address=HOST:PORT` joins one",
        )));
    }
    if cluster.head
        && let Some(running) = session::newest(&options.temp.path)
    {
        return Err(Failure::Failed(format!(
            "a node runs already (pid {}, {}); stop it with `shoal stop`",
            running.pid,
            running.session.display()
        )));
    }
    // Looked at here, so that what is wrong is said before anything starts.
    let membership = cluster.membership(&options.temp.path)?;
    if options.block {
        let mut daemon = options.node.clone().daemon();
        daemon.temp_directory.clone_from(&options.temp.path);
        daemon.membership = membership;
        daemon.network = Some(Box::new(Network));
        return daemon::run(daemon).map_err(explain);
    }
    let (_, description) = spawn(program, cluster, &options.node, &options.temp, None)?;
    print_started(&description, options);
    Ok(())
}

fn print_started(description: &Description, options: &StartOptions) {
    println!("Node {} has been started: {}", description.node, description.session.display());
    println!();
    if let (true, Some(address)) = (options.cluster.head, description.cluster) {
        let state = options.cluster.state_dir.clone();
        let state = state.unwrap_or_else(|| session::head_directory(&options.temp.path));
        println!("  add another machine   shoal start --address={address} --secret-file=FILE");
        println!("                        with a copy of {}", state.join("join-secret").display());
        if let Some(log) = &options.cluster.etcd.state {
            println!("  add a standby head    shoal start --head --state={log} --state-dir=DIRECTORY");
            println!("                        with a copy of {}", state.join("authority.pem").display());
        }
    }
    println!("  connect a program     shoal.init(address=\"auto\")");
    println!("  look at it            shoal status");
    println!("  stop it               shoal stop");
}

/// Start a daemon in the background, and wait until it serves. With an `owner`, the read end of a pipe, it
/// stops when that is closed.
pub(crate) fn spawn(
    program: &[String],
    cluster: &ClusterOptions,
    node: &NodeOptions,
    temp: &TempDirectory,
    owner: Option<PipeReader>,
) -> Result<(Child, Description), Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("the node cannot be started: {error}"));
    let (name, rest) = program
        .split_first()
        .ok_or_else(|| Failure::Failed(String::from("it is unknown how to run this command")))?;
    let (ready, ready_writer) = std::io::pipe().map_err(failed)?;
    let writer = ready_writer.as_raw_fd();
    let owner_number = owner.as_ref().map(|pipe| pipe.as_raw_fd());
    let mut command = Command::new(name);
    command.args(rest).arg("daemon").arg(format!("--ready-fd={writer}"));
    command.args(owner_number.map(|number| format!("--owner-fd={number}")));
    command.arg(format!("--temp-dir={}", temp.path.display()));
    command.args(cluster.to_arguments());
    command.args(node.to_arguments());
    // Another node's mark would make this one look like something that a worker has left behind.
    command.env_remove(SESSION_VARIABLE).env_remove(WORKER_VARIABLE);
    command.stdin(Stdio::null());
    command.stdout(Stdio::null());
    let prepare = move || {
        rustix::process::setsid()?;
        for number in [Some(writer), owner_number].into_iter().flatten() {
            // SAFETY: the pipes are open in the parent while it spawns, and these are the child's copies.
            let kept = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl_setfd(kept, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made; nothing is allocated or locked.
    unsafe { command.pre_exec(prepare) };
    let mut child = command.spawn().map_err(failed)?;
    drop(ready_writer);

    let mut line = String::new();
    BufReader::new(ready).read_line(&mut line).map_err(failed)?;
    match serde_json::from_str(&line) {
        Ok(description) => Ok((child, description)),
        Err(_) => {
            let status = child.wait().map_err(failed)?;
            let report: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let reason = report["error"].as_str().map_or_else(|| status.to_string(), String::from);
            Err(Failure::Failed(format!("the node could not be started: {reason}")))
        }
    }
}

/// Serve a node in this process.
pub(crate) fn serve(options: DaemonOptions) -> Result<(), Failure> {
    let owner = options.owner_fd.map(take_descriptor).transpose()?;
    let ready = options.ready_fd.map(take_descriptor).transpose()?;
    let mut daemon = options.node.daemon();
    daemon.membership = options.cluster.membership(&options.temp.path)?;
    daemon.network = Some(Box::new(Network));
    daemon.temp_directory = options.temp.path;
    daemon.redirect = true;
    daemon.owner = owner;
    daemon.ready = ready;
    daemon::run(daemon).map_err(explain)
}

/// Take over a descriptor that the starter has left open for this process.
fn take_descriptor(number: i32) -> Result<OwnedFd, Failure> {
    // Anything may stand on the command line: what is not open cannot be taken.
    let open = std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok();
    if !open {
        return Err(Failure::Usage(format!("{number} is no open file descriptor")));
    }
    // SAFETY: it is open, and nobody else in this process knows of it: it was inherited.
    let descriptor = unsafe { File::from_raw_fd(number) };
    // The processes of the node must not hold it open.
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC)
        .map_err(|error| Failure::Failed(format!("a file descriptor cannot be kept: {error}")))?;
    Ok(descriptor.into())
}

fn explain(error: DaemonError) -> Failure {
    match error {
        DaemonError::Options(text) => Failure::Usage(text),
        error => Failure::Failed(error.to_string()),
    }
}
