//! The `shoal` command, as a function: the Python package calls it with the arguments it was given.

mod cluster;
mod drain;
mod network;
mod options;
mod start;
mod status;
mod stop;
mod symmetric_run;

use clap::{Parser, Subcommand};

use options::{DaemonOptions, DrainOptions, StartOptions, StatusOptions, StopOptions, SymmetricRunOptions};

/// The exit code when the command line makes no sense.
const USAGE: i32 = 2;

/// Run and look after a Shoal node on this machine.
#[derive(Debug, Parser)]
#[command(name = "shoal", disable_version_flag = true, arg_required_else_help = true)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a node that stays until `shoal stop`.
    Start(Box<StartOptions>),
    /// Run a program on a cluster that exists for it: the same command on every machine, as srun or mpirun
    /// start it.
    SymmetricRun(Box<SymmetricRunOptions>),
    /// Stop the nodes on this machine that `shoal start` has started. The cluster of a head among them ends,
    /// unless it was started with --state-dir.
    Stop(StopOptions),
    /// Show nodes, resources, workers, actors and the object store.
    Status(StatusOptions),
    /// Empty a node of the cluster: nothing new is placed there, what runs may end in peace, and other nodes keep its
    /// objects (`shoal status` on its machine says how many it still keeps).
    DrainNode(DrainOptions),
    /// Print the version.
    Version,
    /// Serve a node in this process; `shoal start` and `shoal.init()` use it.
    #[command(hide = true)]
    Daemon(Box<DaemonOptions>),
}

/// Run the command, and return its exit code: 0 if it did what it should, 1 if it could not, 2 if the
/// arguments make no sense.
///
/// `program` is the command line that runs this function in a process of its own, without arguments;
/// `arguments` come without the name of the command.
pub fn main(program: Vec<String>, arguments: Vec<String>) -> i32 {
    let command = match Command::try_parse_from(std::iter::once(String::from("shoal")).chain(arguments)) {
        Ok(command) => command,
        Err(error) => {
            // Help that was asked for goes to standard output and is no error.
            let _ = error.print();
            return error.exit_code();
        }
    };
    let result = match command.action {
        Action::Start(options) => start::start(&program, &options),
        Action::Stop(options) => stop::stop(&options),
        Action::Status(options) => status::status(&options),
        Action::DrainNode(options) => drain::drain(&options),
        Action::Version => {
            println!("shoal {}", shoal_runtime::control::VERSION);
            Ok(())
        }
        Action::Daemon(options) => start::serve(*options),
        Action::SymmetricRun(options) => match symmetric_run::run(&program, &options) {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
    };
    match result {
        Ok(()) => 0,
        Err(Failure::Usage(text)) => {
            eprintln!("error: {text}");
            USAGE
        }
        Err(Failure::Failed(text)) => {
            eprintln!("error: {text}");
            1
        }
    }
}

/// Why a command did not do what it should.
#[derive(Debug)]
enum Failure {
    /// The arguments make no sense together.
    Usage(String),
    /// Something went wrong.
    Failed(String),
}
