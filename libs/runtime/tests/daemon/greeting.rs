//! Letting drivers in, and answering for people.

use shoal_runtime::control::Control;
use shoal_runtime::daemon::client;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;

use crate::support::*;

#[test]
fn a_driver_is_let_in() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    assert_eq!(driver.welcome.node.0, daemon.description.node);
    assert_eq!(driver.welcome.namespace, "tests");
    assert_eq!(driver.welcome.session, daemon.description.session.to_string_lossy());
    assert_eq!(driver.welcome.cpus, 1);
    let size = driver.segment.seek(SeekFrom::End(0)).expect("a file");
    assert_eq!(size, driver.welcome.segment);
    let other = daemon.driver();
    assert_ne!(other.welcome.process, driver.welcome.process);
    assert_ne!(other.welcome.job, driver.welcome.job);
}

#[test]
fn another_version_is_refused() {
    let daemon = Daemon::start(&[]);
    let mut connection = daemon.connect();
    let Control::Hello { pid, namespace, launch, output, .. } = hello(launch(), false) else {
        unreachable!()
    };
    let version = String::from("0.0.0-other");
    connection.control(&Control::Hello { version, pid, namespace, launch, output });
    let reason = connection.expect("a refusal", |frame| match frame {
        Frame::Control(Control::Refused { reason }) => Some(reason),
        _ => None,
    });
    assert!(reason.contains("0.0.0-other") && reason.contains("install the same"), "{reason}");
    connection.expect_end();
    assert_eq!(daemon.connect().ask_status()["drivers"], 0);
}

#[test]
fn only_this_user_can_reach_the_socket() {
    let daemon = Daemon::start(&[]);
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    assert_eq!(mode(&daemon.description.socket), 0o600);
    assert_eq!(mode(&daemon.description.session), 0o700);
}

#[test]
fn the_status_shows_what_there_is() {
    let daemon = Daemon::start(&["cpus=3"]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    let pid: u32 = driver.run(&lease, "pid").parse().expect("a pid");
    let text = client::status(&daemon.description).expect("the daemon answers");
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(status["drivers"], 1);
    assert_eq!(status["nodes"][0]["alive"], true);
    assert_eq!(status["nodes"][0]["total"]["CPU"], 3.0);
    let workers = status["workers"].as_array().expect("a list");
    assert!(workers.iter().any(|worker| worker["pid"] == pid), "{workers:?}");
    assert_eq!(status["store"]["objects"], 0);
    assert!(status["store"]["capacity"].as_u64() >= Some(60 << 20));
    assert_eq!(status["actors"], serde_json::json!([]));
}
