//! The arguments of each command.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use shoal_core::resources::NODE_ID_LABEL;
use shoal_runtime::daemon::session::DEFAULT_TEMP_DIRECTORY;
use shoal_runtime::daemon::{EtcdLocation, InvalidLocation, Wanted};

/// Where sessions are.
#[derive(Clone, Debug, Args)]
pub(crate) struct TempDirectory {
    /// Directory below which sessions are kept.
    #[arg(long = "temp-dir", value_name = "PATH", default_value = DEFAULT_TEMP_DIRECTORY)]
    pub(crate) path: PathBuf,
}

/// What a node offers.
#[derive(Clone, Debug, Args)]
pub(crate) struct NodeOptions {
    /// Logical CPUs, for tasks and actors [default: those that this process may use].
    #[arg(long, value_name = "N", value_parser = amount)]
    num_cpus: Option<f64>,
    /// Logical GPUs [default: those that are visible].
    #[arg(long, value_name = "N", value_parser = amount)]
    num_gpus: Option<f64>,
    /// Resources by other names, as a JSON object of amounts: '{"license": 2}'.
    #[arg(long, value_name = "JSON", value_parser = resources, default_value = "{}")]
    resources: Resources,
    /// Name of the node, for lists [default: the machine's].
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    node_name: Option<String>,
    /// Labels of the node, as a JSON object of strings: '{"zone": "a"}'.
    #[arg(long, value_name = "JSON", value_parser = labels, default_value = "{}")]
    labels: Labels,
    /// Memory that tasks and actors may ask for [default: what the object store leaves].
    #[arg(long, value_name = "BYTES")]
    memory: Option<u64>,
    /// Size of the object store [default: 30 % of the available memory].
    #[arg(long, value_name = "BYTES")]
    object_store_memory: Option<u64>,
    /// Where objects are spilled to when the store is full [default: the session's directory].
    #[arg(long, value_name = "PATH")]
    object_spilling_directory: Option<PathBuf>,
    /// Stop after this time without drivers and workers [default: never].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    idle_exit: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Resources(BTreeMap<String, f64>);

#[derive(Clone, Debug)]
struct Labels(BTreeMap<String, String>);

/// Which cluster a node belongs to.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClusterOptions {
    /// Start the first node of a cluster.
    #[arg(long)]
    pub(crate) head: bool,
    /// The head of the cluster to join, as HOST:PORT; several with commas, standbys among them.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "head")]
    pub(crate) address: Option<String>,
    /// Where other nodes reach this one.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub(crate) node_ip_address: IpAddr,
    /// The port, for UDP and TCP [default: of a head the one that it had before, else 6464 if that is
    /// free; else any].
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Where the head keeps what must survive it. Given, it is kept when the head is stopped, too. With
    /// --state it holds the cluster's authority only, and every head of the cluster needs a copy.
    #[arg(long, value_name = "PATH")]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) etcd: EtcdOptions,
    /// A file that holds the cluster's join secret [default: SHOAL_JOIN_SECRET; else a new cluster makes
    /// one, and nodes take the one of a head on this machine].
    #[arg(long, value_name = "PATH")]
    pub(crate) secret_file: Option<PathBuf>,
}

/// An etcd that holds the head's log.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct EtcdOptions {
    /// The etcd that holds the head's log, as etcd://HOST:PORT[,HOST:PORT...][/PREFIX] (etcds:// with TLS). While
    /// another head acts there, this node is a standby, and becomes the head when that one is gone.
    #[arg(long, value_name = "LOCATION", requires = "head", value_parser = LocationParser)]
    pub(crate) state: Option<EtcdLocation>,
    /// Certificates of those who may sign etcd's, in PEM.
    #[arg(long, value_name = "PATH", requires = "state")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// The certificate that is shown to etcd, in PEM.
    #[arg(long, value_name = "PATH", requires = "state", requires = "etcd_key")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM.
    #[arg(long, value_name = "PATH", requires = "state", requires = "etcd_cert")]
    pub(crate) etcd_key: Option<PathBuf>,
    /// A file of mode 0600 that holds the user as whom this node speaks with etcd, as USER:PASSWORD [default:
    /// SHOAL_ETCD_USER and SHOAL_ETCD_PASSWORD; else none].
    #[arg(long, value_name = "PATH", requires = "state")]
    pub(crate) etcd_user_file: Option<PathBuf>,
}

/// Reads the location of an etcd. Of itself clap would repeat what it cannot read, and that may hold a password.
#[derive(Clone)]
struct LocationParser;

impl TypedValueParser for LocationParser {
    type Value = EtcdLocation;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<EtcdLocation, clap::Error> {
        value.to_string_lossy().parse().map_err(|error: InvalidLocation| {
            clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n")).with_cmd(command)
        })
    }
}

/// Arguments of `shoal start`.
#[derive(Clone, Debug, Args)]
pub(crate) struct StartOptions {
    #[command(flatten)]
    pub(crate) cluster: ClusterOptions,
    /// Serve in this process until it is interrupted, instead of in the background.
    #[arg(long)]
    pub(crate) block: bool,
    #[command(flatten)]
    pub(crate) temp: TempDirectory,
    #[command(flatten)]
    pub(crate) node: NodeOptions,
}

/// Arguments of `shoal symmetric-run`.
#[derive(Clone, Debug, Args)]
pub(crate) struct SymmetricRunOptions {
    /// Where the head is to be, as HOST:PORT: the machine that has this address starts it and runs the command.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: String,
    /// The command starts once the cluster has so many nodes.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) min_nodes: u32,
    /// How long to wait for the head and for the nodes.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    pub(crate) wait: Duration,
    /// A file, on a file system that all machines share, for the cluster's join secret; the first one makes it
    /// [default: SHOAL_JOIN_SECRET].
    #[arg(long, value_name = "PATH")]
    pub(crate) secret_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) temp: TempDirectory,
    #[command(flatten)]
    pub(crate) node: NodeOptions,
    /// The program and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Arguments of `shoal stop`.
#[derive(Clone, Debug, Args)]
pub(crate) struct StopOptions {
    /// Kill everything at once instead of letting workers run their exit handlers.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) temp: TempDirectory,
}

/// Arguments of `shoal status`.
#[derive(Clone, Debug, Args)]
pub(crate) struct StatusOptions {
    /// Print a JSON document.
    #[arg(long)]
    pub(crate) json: bool,
    /// Ask the node whose daemon has this process id [default: the newest that others may join]
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    #[command(flatten)]
    pub(crate) temp: TempDirectory,
}

/// Arguments of `shoal drain-node`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DrainOptions {
    /// The node's number, as `shoal status` shows it.
    #[arg(value_name = "NODE", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) node: u32,
    /// The node ends as soon as nothing is left there. When so much time has passed it ends in any case, and what
    /// still ran there goes on elsewhere [default: it is left to drain, and stays].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) deadline: Option<Duration>,
    /// Why, for those who look.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
    /// Call the drain off: work is placed there again.
    #[arg(long, conflicts_with_all = ["deadline", "reason"])]
    pub(crate) cancel: bool,
    #[command(flatten)]
    pub(crate) temp: TempDirectory,
}

/// Arguments of `shoal daemon`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DaemonOptions {
    /// The read end of a pipe that the owner holds: when it closes, the node stops.
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) owner_fd: Option<i32>,
    /// Gets one line of JSON when the node is up, or cannot be.
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) ready_fd: Option<i32>,
    #[command(flatten)]
    pub(crate) cluster: ClusterOptions,
    #[command(flatten)]
    pub(crate) temp: TempDirectory,
    #[command(flatten)]
    pub(crate) node: NodeOptions,
}

impl NodeOptions {
    /// What the node is to offer.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            num_cpus: self.num_cpus,
            num_gpus: self.num_gpus,
            memory: self.memory,
            object_store_memory: self.object_store_memory,
            resources: self.resources.0.clone(),
        }
    }

    /// How the daemon is to run, apart from where its session is.
    pub(crate) fn daemon(self) -> shoal_runtime::daemon::Options {
        shoal_runtime::daemon::Options {
            wanted: self.wanted(),
            name: self.node_name,
            labels: self.labels.0.into_iter().collect(),
            spill_directory: self.object_spilling_directory,
            idle_exit: self.idle_exit,
            ..shoal_runtime::daemon::Options::default()
        }
    }

    /// The same options as arguments.
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            arguments.extend(value.map(|value| format!("--{name}={value}")));
        };
        add("num-cpus", self.num_cpus.map(|value| value.to_string()));
        add("num-gpus", self.num_gpus.map(|value| value.to_string()));
        add("resources", Some(serde_json::json!(self.resources.0).to_string()));
        add("node-name", self.node_name.clone());
        add("labels", Some(serde_json::json!(self.labels.0).to_string()));
        add("memory", self.memory.map(|value| value.to_string()));
        add("object-store-memory", self.object_store_memory.map(|value| value.to_string()));
        let directory = self.object_spilling_directory.as_ref();
        add("object-spilling-directory", directory.map(|path| path.to_string_lossy().into_owned()));
        add("idle-exit", self.idle_exit.map(|value| value.as_secs_f64().to_string()));
        arguments
    }
}

fn amount(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(amount) if amount >= 0.0 && f64::is_finite(amount) => Ok(amount),
        _ => Err(String::from("an amount is a number from 0")),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| String::from("a time is a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn resources(text: &str) -> Result<Resources, String> {
    let resources: BTreeMap<String, f64> = serde_json::from_str(text)
        .map_err(|error| format!("resources are a JSON object of amounts: {error}"))?;
    match resources.iter().find(|(_, amount)| **amount < 0.0) {
        Some((name, _)) => Err(format!("the amount of {name:?} is negative")),
        None => Ok(Resources(resources)),
    }
}

fn node_name(text: &str) -> Result<String, String> {
    // It is in every report of the node, and in lines of lists.
    if text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) {
        return Err(String::from("a name has 1 to 255 bytes and no control characters"));
    }
    Ok(String::from(text))
}

fn labels(text: &str) -> Result<Labels, String> {
    let labels: BTreeMap<String, String> = serde_json::from_str(text)
        .map_err(|error| format!("labels are a JSON object of strings: {error}"))?;
    if labels.contains_key(NODE_ID_LABEL) {
        return Err(format!("the label {NODE_ID_LABEL} is the node's id, which the head gives it"));
    }
    Ok(Labels(labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Command};
    use clap::{CommandFactory, Parser};

    fn daemon(arguments: &[&str]) -> Result<DaemonOptions, clap::Error> {
        let command = Command::try_parse_from(["shoal", "daemon"].iter().chain(arguments))?;
        match command.action {
            Action::Daemon(options) => Ok(*options),
            other => panic!("not a daemon: {other:?}"),
        }
    }

    #[test]
    fn the_commands_are_consistent() {
        Command::command().debug_assert();
    }

    /// `shoal start` passes its options on: nothing may be lost or changed on the way.
    #[test]
    fn options_survive_being_passed_on() {
        let given = [
            "--num-cpus=0.5",
            "--num-gpus=2",
            "--resources={\"a b\":1.25,\"ü\":3.0}",
            "--node-name=a b",
            "--labels={\"zone\":\"x=1\"}",
            "--memory=123",
            "--object-store-memory=456",
            "--object-spilling-directory=/some where",
            "--idle-exit=1.5",
        ];
        let once = daemon(&given).expect("valid").node;
        let arguments = once.to_arguments();
        assert_eq!(arguments, given);
        let borrowed: Vec<_> = arguments.iter().map(String::as_str).collect();
        let twice = daemon(&borrowed).expect("valid").node;
        assert_eq!(format!("{once:?}"), format!("{twice:?}"));
        let options = twice.daemon();
        assert_eq!(options.wanted.num_cpus, Some(0.5));
        assert_eq!(options.wanted.resources["ü"], 3.0);
        assert_eq!(options.name.as_deref(), Some("a b"));
        assert_eq!(options.labels, [(String::from("zone"), String::from("x=1"))]);
        assert_eq!(options.idle_exit, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn options_of_the_cluster_survive_it_too() {
        let given = [
            "--head",
            "--node-ip-address=10.0.0.1",
            "--port=7",
            "--state=etcds://a:1,b:2/x",
            "--state-dir=/some where",
            "--etcd-ca=/a",
            "--etcd-cert=/c",
            "--etcd-key=/k",
            "--etcd-user-file=/u",
        ];
        let once = daemon(&given).expect("valid").cluster;
        assert_eq!(once.to_arguments(), given);
        let error = daemon(&["--head", "--state=etcd://h"]).expect_err("no port").to_string();
        assert!(error.contains("HOST:PORT"), "{error}");
        let error =
            daemon(&["--head", "--state=etcd://shoal:secret@h:1"]).expect_err("a password").to_string();
        assert!(error.contains("SHOAL_ETCD_PASSWORD") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (argument, reason) in [
            ("--num-cpus=-1", "a number from 0"),
            ("--num-cpus=many", "a number from 0"),
            ("--resources=[1]", "JSON object of amounts"),
            ("--resources={\"a\":-1}", "\"a\" is negative"),
            ("--labels={\"a\":1}", "JSON object of strings"),
            ("--labels={\"ray.io/node-id\":\"1\"}", "the node's id"),
            ("--node-name=", "1 to 255 bytes"),
            ("--node-name=a\nb", "no control characters"),
            ("--memory=-5", "invalid value"),
            ("--idle-exit=-1", "negative"),
            ("--owner-fd=1", "1 is not in"),
            ("--no-such-option", "unexpected argument"),
            ("--state=etcd://h:1", "--head"),
            ("--etcd-key=k", "--state"),
            ("--etcd-user-file=k", "--state"),
        ] {
            let error = daemon(&[argument]).expect_err(argument);
            assert_eq!(error.exit_code(), 2, "{argument}");
            assert!(error.to_string().contains(reason), "{argument}: {error}");
        }
    }
}
