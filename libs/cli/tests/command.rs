//! The command as people use it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use shoal_runtime::daemon::session::{self, Description};

/// Whatever takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory for sessions. What runs there when it goes away is stopped.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("shoal-command-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a new directory");
        Place(path)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
        command.args(arguments).arg("--temp-dir").arg(&self.0).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the command runs")
    }

    /// Run a command that must succeed; what it prints.
    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}{error}");
        text
    }

    /// Run a command that must fail with this code; what it complains about.
    fn fail(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        error
    }

    fn node(&self) -> Description {
        session::newest(&self.0).expect("a node runs")
    }

    /// Files and directories of sessions.
    fn sessions(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(session::base_directory(&self.0));
        let entries = entries.into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| !path.ends_with("lock")).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.command(&["stop", "--force"]).output();
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_alive(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = text.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

#[test]
fn a_node_is_started_looked_at_and_stopped() {
    let place = Place::new();
    let options = ["--num-cpus=2.5", "--resources={\"license\":3}", "--labels={\"zone\":\"a\"}"];
    let size = "--object-store-memory=67108864";
    let text = place.succeed(&[&["start", "--head", size], &options[..]].concat());
    let node = place.node();
    assert!(text.contains(&*node.session.to_string_lossy()), "{text}");
    assert!(is_alive(node.pid));
    let description: Description =
        serde_json::from_str(&std::fs::read_to_string(node.session.join("node.json")).expect("it"))
            .expect("JSON");
    assert_eq!(description, node);

    let text = place.succeed(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["pid"], node.pid);
    let total = &status["nodes"][0]["total"];
    assert_eq!((&total["CPU"], &total["license"]), (&2.5.into(), &3.0.into()));
    assert_eq!(total["object_store_memory"], f64::from(64 << 20));
    assert_eq!(status["nodes"][0]["labels"]["zone"], "a");
    let text = place.succeed(&["status"]);
    assert!(text.contains("CPU: 0 of 2.5 used") && text.contains("Workers: 0"), "{text}");

    let error = place.fail(&["start", "--head"], 1);
    assert!(error.contains("runs already") && error.contains(&node.pid.to_string()), "{error}");

    let text = place.succeed(&["stop"]);
    assert!(text.contains("Stopped node 1"), "{text}");
    assert!(!is_alive(node.pid));
    assert_eq!(place.sessions(), Vec::<PathBuf>::new());
    assert!(place.succeed(&["stop"]).contains("No node runs."));
    assert!(place.fail(&["status"], 1).contains("shoal start --head"));
}

#[test]
fn force_kills() {
    let place = Place::new();
    place.succeed(&["start", "--head"]);
    let node = place.node();
    // Even a daemon that does nothing any more.
    let pid = Pid::from_raw(node.pid as i32).expect("a pid");
    kill_process(pid, Signal::STOP).expect("it runs");
    place.succeed(&["stop", "--force"]);
    wait_until("its end", || !is_alive(node.pid));
    assert_eq!(place.sessions(), Vec::<PathBuf>::new());
}

#[test]
fn a_blocking_start_serves_until_it_is_interrupted() {
    let place = Place::new();
    let mut child = place.command(&["start", "--head", "--block"]).spawn().expect("it runs");
    wait_until("the node", || session::newest(&place.0).is_some());
    assert_eq!(place.node().pid, child.id());
    let pid = Pid::from_raw(child.id() as i32).expect("a pid");
    kill_process(pid, Signal::INT).expect("it is our child");
    assert!(child.wait().expect("it is our child").success());
    assert_eq!(place.sessions(), Vec::<PathBuf>::new());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = Place::new();
    let error = place.fail(&["start"], 2);
    assert!(error.contains("start --head") && error.contains("start --address"), "{error}");
    let error = place.fail(&["start", "--address", "nonsense"], 2);
    assert!(error.contains("HOST:PORT"), "{error}");
    let error = place.fail(&["start", "--address", "127.0.0.1:1"], 2);
    assert!(error.contains("secret"), "{error}");
    place.fail(&["start", "--head", "--address", "other:1"], 2);
    place.fail(&["start", "--head", "--num-cpus=-1"], 2);
    place.fail(&["start", "--head", "--resources=nonsense"], 2);
    place.fail(&["nonsense"], 2);
    place.fail(&["daemon", "--owner-fd=999"], 2);
    // Refused by the daemon itself, and still told by the command.
    let error = place.fail(&["start", "--head", "--object-store-memory=1"], 1);
    assert!(error.contains("needs at least"), "{error}");
    let error = place.fail(&["start", "--head", "--resources={\"CPU\":1}"], 1);
    assert!(error.contains("option of its own"), "{error}");
    assert_eq!(place.sessions(), Vec::<PathBuf>::new());
}

#[test]
fn help_and_version_succeed() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_shoal")).args(arguments).output();
        let output = output.expect("the command runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = run(&["version"]);
    assert_eq!((code, text), (Some(0), format!("shoal {}\n", env!("CARGO_PKG_VERSION"))));
    let (code, text) = run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("status") && !text.contains("daemon"), "{text}");
    assert_eq!(run(&[]).0, Some(2));
}

/// An owned node is of one driver: it is neither offered nor stopped.
#[test]
fn an_owned_node_is_left_alone() {
    let place = Place::new();
    // The pipe of its standard input, under another number: the first three are not for owners.
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3<&0 \"$0\" daemon --owner-fd=3 --temp-dir \"$1\""]);
    command.arg(env!("CARGO_BIN_EXE_shoal")).arg(&place.0).stdin(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    wait_until("the node", || !session::live(&place.0).is_empty());
    assert_eq!(session::newest(&place.0), None);
    assert!(place.succeed(&["stop"]).contains("No node runs."));
    assert!(child.try_wait().expect("it is our child").is_none());
    assert!(place.succeed(&["status"]).contains("Workers: 0"), "it can be looked at");
    drop(child.stdin.take());
    assert!(child.wait().expect("it is our child").success());
    assert_eq!(place.sessions(), Vec::<PathBuf>::new());
}

#[test]
fn a_node_is_drained_and_ended() {
    let (first, second) = (Place::new(), Place::new());
    first.succeed(&["start", "--head", "--port=0", "--num-cpus=1"]);
    let address = format!("--address={}", first.node().cluster.expect("others can join"));
    let secret = session::head_directory(&first.0).join("join-secret");
    let secret = format!("--secret-file={}", secret.display());
    second.succeed(&["start", &address, &secret, "--num-cpus=1"]);
    let node = second.node();
    assert_eq!(node.node, 2);

    first.succeed(&["drain-node", "2", "--deadline=600", "--reason=new disks"]);
    let text = first.succeed(&["status"]);
    assert!(text.contains("(alive, draining within 600 s: new disks)"), "{text}");
    // Any node of the cluster can be asked.
    second.succeed(&["drain-node", "2", "--cancel"]);
    assert!(!second.succeed(&["status"]).contains("draining"));
    assert!(first.fail(&["drain-node", "7"], 1).contains("not in the cluster"));
    assert!(first.fail(&["drain-node", "1", "--deadline=5"], 1).contains("the head lives on node 1"));
    first.succeed(&["drain-node", "1"]);

    first.succeed(&["drain-node", "2", "--deadline=0"]);
    wait_until("its end", || !is_alive(node.pid));
    let text = first.succeed(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let seen = |node: usize, what: &str| status["nodes"][node][what].clone();
    assert_eq!((seen(0, "alive"), seen(1, "alive")), (true.into(), false.into()), "{text}");
    assert!(seen(0, "draining").is_object() && seen(1, "draining").is_null(), "{text}");
}
