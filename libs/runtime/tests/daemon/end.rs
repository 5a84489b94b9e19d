//! How nodes end, and what they leave.

use std::path::PathBuf;
use std::time::Duration;

use shoal_runtime::control::Launch;
use shoal_runtime::daemon::{client, session};

use crate::support::*;

/// An orderly end leaves no process and no file, also when a worker does not want to go.
#[test]
fn a_stopped_node_leaves_nothing() {
    let mut daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    driver.run(&lease, "sleepers");
    driver.run(&lease, "stubborn");
    let description = daemon.description.clone();
    assert!(!processes_of(&description.session).is_empty());
    assert!(client::stop(&description, PATIENCE).expect("it is asked"));
    daemon.wait_for_end();
    assert_eq!(daemon.temp.entries(), Vec::<PathBuf>::new());
    assert_eq!(processes_of(&description.session), Vec::<u32>::new());
    driver.connection.expect_end();
}

#[test]
fn signals_stop_the_node() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut daemon = Daemon::start(&[]);
        let mut driver = daemon.driver();
        driver.lease();
        let pid = rustix::process::Pid::from_raw(daemon.pid() as i32).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("it is our child");
        daemon.wait_for_end();
        assert_eq!(daemon.temp.entries(), Vec::<PathBuf>::new());
        assert_eq!(processes_of(&daemon.description.session), Vec::<u32>::new());
    }
}

#[test]
fn an_owned_node_ends_with_its_owner() {
    let mut daemon = Daemon::start(&["owner"]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    let owner = daemon.owner();
    assert_eq!(driver.run(&lease, "variable GREETING"), "hello");
    drop(owner);
    daemon.wait_for_end();
    assert_eq!(daemon.temp.entries(), Vec::<PathBuf>::new());
    assert_eq!(processes_of(&daemon.description.session), Vec::<u32>::new());
}

#[test]
fn an_unused_node_stops_by_itself() {
    let mut daemon = Daemon::start(&["idle=200"]);
    let driver = daemon.driver();
    std::thread::sleep(Duration::from_millis(400));
    assert!(daemon.process.try_wait().expect("it is our child").is_none(), "a driver is there");
    drop(driver);
    daemon.wait_for_end();
    assert_eq!(daemon.temp.entries(), Vec::<PathBuf>::new());
}

/// Killed outright, the daemon takes its templates and workers with it; what they started, and the
/// files, are gone after the next start.
#[test]
fn a_killed_daemon_is_cleaned_up_after() {
    let mut daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    let worker: u32 = driver.run(&lease, "pid").parse().expect("a pid");
    let template = parent_of(worker);
    let sleepers = driver.run(&lease, "sleepers");
    let sleepers: Vec<u32> = sleepers.split(' ').map(|pid| pid.parse().expect("a pid")).collect();
    let description = daemon.description.clone();
    let temp = daemon.kill();
    wait_until("their end", || !is_alive(worker) && !is_alive(template));
    driver.connection.expect_end();
    assert!(sleepers.iter().any(|pid| is_alive(*pid)), "something is left to clean up");

    let next = Daemon::start_in(temp, &[]);
    wait_until("their end", || !sleepers.iter().any(|pid| is_alive(*pid)));
    assert!(!description.session.exists());
    assert_eq!(session::live(next.temp.path()), std::slice::from_ref(&next.description));
}

/// A template that does not look at its link ends with the daemon, too.
#[test]
fn a_killed_daemon_leaves_no_template() {
    let mut daemon = Daemon::start(&[]);
    let variables = vec![(String::from("TEST_TEMPLATE_HANGS"), String::new())];
    let launch = Launch { variables, ..launch() };
    let _driver = Driver::connect(&daemon, launch, false);
    wait_until("the template", || !templates(&daemon).is_empty());
    let hanging = templates(&daemon);
    daemon.kill();
    wait_until("its end", || !hanging.iter().any(|pid| is_alive(*pid)));
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let temp = Temp::new();
    let deep = temp.path().join("d".repeat(120));
    std::fs::create_dir(&deep).expect("a directory");
    let output =
        std::process::Command::new(PROGRAM).arg("daemon").arg(&deep).output().expect("the test's program");
    assert!(!output.status.success());
    let line = String::from_utf8(output.stdout).expect("text");
    let report: serde_json::Value = serde_json::from_str(&line).expect("one line of JSON");
    let error = report["error"].as_str().expect("a reason");
    assert!(error.contains("107 bytes") && error.contains("--temp-dir"), "{error}");
    assert_eq!(std::fs::read_dir(session::base_directory(&deep)).expect("it").count(), 1);
}
