//! `shoal symmetric-run`: the same command on every machine, as Slurm and MPI start programs.
//!
//! Which machine has the head's address decides who starts the head and runs the program; the others lend
//! their resources until the program has ended. Every node ends with the process that started it, so that a
//! launcher that kills its processes leaves nothing behind.

use std::io::PipeWriter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use shoal_identity::JoinSecret;
use shoal_runtime::daemon::client;
use shoal_runtime::daemon::session::Description;

use crate::cluster::resolve;
use crate::options::{ClusterOptions, EtcdOptions, SymmetricRunOptions};
use crate::{Failure, start};

/// How often the head is looked for, and nodes are counted.
const POLL_PERIOD: Duration = Duration::from_millis(100);
/// How often a node looks whether its head still answers.
const WATCH_PERIOD: Duration = Duration::from_secs(5);
/// A head that has not answered for so long will not come back.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any orderly end takes.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Run the program on the head's machine, and a node on every other one. Gives the program's exit code.
pub(crate) fn run(program: &[String], options: &SymmetricRunOptions) -> Result<i32, Failure> {
    let head = resolve(&options.address)?;
    if let Some(path) = &options.secret_file {
        // Whoever comes first makes it.
        JoinSecret::read_or_create(path)
            .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    }
    if is_here(head.ip()) { lead(program, options, head) } else { follow(program, options, head) }
}

/// Whether this machine has an address.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

/// The address of this machine from which the head is reached. Nothing is sent.
fn own_address(head: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr =
        if head.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(head)?;
    Ok(socket.local_addr()?.ip())
}

/// A node that stops when this is dropped, or when this process ends in whatever way.
struct OwnedNode {
    daemon: Child,
    description: Description,
    _owner: PipeWriter,
}

impl OwnedNode {
    fn start(
        program: &[String],
        cluster: &ClusterOptions,
        options: &SymmetricRunOptions,
    ) -> Result<OwnedNode, Failure> {
        let (read, owner) = std::io::pipe().map_err(failed("the node cannot be started"))?;
        // What is wrong with the options is said before anything starts.
        cluster.membership(&options.temp.path)?;
        let (daemon, description) = start::spawn(program, cluster, &options.node, &options.temp, Some(read))?;
        Ok(OwnedNode { daemon, description, _owner: owner })
    }
}

fn failed(doing: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::Failed(format!("{doing}: {error}"))
}

fn lead(program: &[String], options: &SymmetricRunOptions, head: SocketAddr) -> Result<i32, Failure> {
    let cluster = ClusterOptions {
        head: true,
        address: None,
        node_ip_address: head.ip(),
        port: Some(head.port()),
        state_dir: None,
        etcd: EtcdOptions::default(),
        secret_file: options.secret_file.clone(),
    };
    let mut node = OwnedNode::start(program, &cluster, options)?;
    println!("The head runs at {head}; waiting for {} nodes.", options.min_nodes);
    let ended = wait_for_nodes(&node.description, options).and_then(|()| run_command(&node, options));
    // The other nodes end with their head.
    client::stop(&node.description, STOP_PATIENCE).map_err(failed("the head cannot be stopped"))?;
    node.daemon.wait().map_err(failed("the head's end is unknown"))?;
    Ok(exit_code(ended?))
}

fn wait_for_nodes(node: &Description, options: &SymmetricRunOptions) -> Result<(), Failure> {
    let deadline = Instant::now() + options.wait;
    loop {
        let text = client::status(node).map_err(failed("the head does not answer"))?;
        let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        let alive = nodes.iter().filter(|node| node["alive"] == true).count();
        if alive >= options.min_nodes as usize {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::Failed(format!(
                "{alive} of {} nodes are there after {} s (--wait): was the same command started on all machines?",
                options.min_nodes,
                options.wait.as_secs_f64()
            )));
        }
        std::thread::sleep(POLL_PERIOD);
    }
}

fn run_command(node: &OwnedNode, options: &SymmetricRunOptions) -> Result<ExitStatus, Failure> {
    let (name, arguments) = options.command.split_first().expect("the parser demands a command");
    let mut command = Command::new(name);
    command.args(arguments).env("SHOAL_ADDRESS", &node.description.socket);
    // A launcher that kills this process means the program.
    let follow = || Ok(set_parent_process_death_signal(Some(Signal::TERM))?);
    // SAFETY: between fork and exec only one system call is made; nothing is allocated or locked.
    unsafe { command.pre_exec(follow) };
    let named = |error| Failure::Failed(format!("{} cannot be run: {error}", name.to_string_lossy()));
    command.status().map_err(named)
}

/// As shells tell it.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

fn follow(program: &[String], options: &SymmetricRunOptions, head: SocketAddr) -> Result<i32, Failure> {
    wait_for_head(head, options.wait)?;
    let cluster = ClusterOptions {
        head: false,
        address: Some(options.address.clone()),
        node_ip_address: own_address(head).map_err(failed("no network leads to the head"))?,
        port: None,
        state_dir: None,
        etcd: EtcdOptions::default(),
        secret_file: options.secret_file.clone(),
    };
    let mut node = OwnedNode::start(program, &cluster, options)?;
    println!("Node {} of the cluster of {head}.", node.description.node);
    let mut heard = Instant::now();
    let mut looked = Instant::now();
    loop {
        if let Some(status) = node.daemon.try_wait().map_err(failed("the node cannot be watched"))? {
            return Ok(exit_code(status));
        }
        if looked.elapsed() >= WATCH_PERIOD {
            // The head has a part in the answer.
            if client::status(&node.description).is_ok() {
                heard = Instant::now();
            } else if heard.elapsed() >= HEAD_PATIENCE {
                return Err(Failure::Failed(format!(
                    "the head at {head} has not answered for {} s",
                    HEAD_PATIENCE.as_secs()
                )));
            }
            looked = Instant::now();
        }
        std::thread::sleep(POLL_PERIOD);
    }
}

/// Machines start at different times.
fn wait_for_head(head: SocketAddr, patience: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    loop {
        match TcpStream::connect_timeout(&head, WATCH_PERIOD) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(Failure::Failed(format!(
                    "no head is at {head} after {} s (--wait): {error}. Was the same command started on the machine \
                     that has this address?",
                    patience.as_secs_f64()
                )));
            }
            Err(_) => std::thread::sleep(POLL_PERIOD),
        }
    }
}
