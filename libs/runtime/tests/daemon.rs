//! The daemon as a process: what it lets in, carries, starts, and leaves behind.

mod support;

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use shoal_core::ids::ProcessId;
use shoal_core::message::Message;
use shoal_core::value::{Death, Failure};
use shoal_runtime::control::{Control, Launch};
use shoal_runtime::daemon::{client, session};

use support::*;

// --- greeting

#[test]
fn a_driver_is_let_in() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    assert_eq!(driver.welcome.node.0, daemon.description.node);
    assert_eq!(driver.welcome.namespace, "tests");
    assert_eq!(
        driver.welcome.session,
        daemon.description.session.to_string_lossy()
    );
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
    let Control::Hello {
        pid,
        namespace,
        launch,
        output,
        ..
    } = hello(launch(), false)
    else {
        unreachable!()
    };
    let version = String::from("0.0.0-other");
    connection.control(&Control::Hello {
        version,
        pid,
        namespace,
        launch,
        output,
    });
    let reason = connection.expect("a refusal", |frame| match frame {
        Frame::Control(Control::Refused { reason }) => Some(reason),
        _ => None,
    });
    assert!(
        reason.contains("0.0.0-other") && reason.contains("install the same"),
        "{reason}"
    );
    connection.expect_end();
    assert_eq!(daemon.connect().ask_status()["drivers"], 0);
}

#[test]
fn only_this_user_can_reach_the_socket() {
    let daemon = Daemon::start(&[]);
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path)
            .expect("it exists")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(&daemon.description.socket), 0o600);
    assert_eq!(mode(&daemon.description.session), 0o700);
}

// --- frames

/// Nobody but the one who breaks the rules notices.
#[test]
fn malformed_frames_close_the_link_alone() {
    let daemon = Daemon::start(&[]);
    let mut bystander = daemon.driver();
    let lease = bystander.lease();
    let broken: [&[u8]; 7] = [
        &[0xff; 64],
        &header(u32::MAX, 0),
        // Before a greeting even a permitted size is refused.
        &header(64 << 20, 1),
        &header(0, 7),
        // A message from somebody who has not greeted.
        &header(1, 0),
        // A control frame that is none.
        &[&header(3, 1)[..], &[0xff; 3]].concat(),
        // A greeting that is cut off by the end of the frame.
        &[&header(1, 1)[..], &[0]].concat(),
    ];
    for bytes in broken {
        let mut guest = daemon.connect();
        guest.write(bytes);
        if bytes == header(1, 0) {
            guest.write(&[0]);
        }
        guest.expect_end();
    }
    // The same from processes that have been let in.
    for bytes in [
        &[0xff; 64][..],
        &header(u32::MAX, 0),
        &[&header(3, 1)[..], &[0xff; 3]].concat(),
    ] {
        let mut driver = daemon.driver();
        driver.connection.write(bytes);
        driver.connection.expect_end();
    }
    // Greeting twice is out of place.
    let mut twice = daemon.driver();
    twice.connection.control(&hello(launch(), false));
    twice.connection.expect_end();
    assert_eq!(bystander.run(&lease, "variable GREETING"), "hello");
    assert_eq!(daemon.connect().ask_status()["drivers"], 1);
}

#[test]
fn a_worker_that_sends_garbage_is_killed() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    driver.push(&lease, "garbage");
    let death = death_of(&mut driver, &lease);
    let Death::Killed { reason } = death else {
        panic!("{death:?}")
    };
    assert!(reason.contains("cannot be understood"), "{reason}");
    let next = driver.lease();
    assert_ne!(next.worker, lease.worker);
    assert_eq!(driver.run(&next, "variable GREETING"), "hello");
}

/// Whoever a sender claims to be, the receiver is told the truth.
#[test]
fn the_sender_cannot_be_forged() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let mut victim = daemon.driver();
    let forged = victim.welcome.process;
    let to = victim.welcome.process;
    let reason = String::from("from the node, it says");
    let exit = Message::Exit {
        graceful: true,
        reason,
    };
    driver.send_as(to, ProcessId::daemon(driver.welcome.node), &exit);
    driver.send_as(to, forged, &exit);
    for _ in 0..2 {
        let from = victim
            .connection
            .expect("the message", |frame| match frame {
                Frame::Message(from, Message::Exit { .. }) => Some(from),
                _ => None,
            });
        assert_eq!(from, driver.welcome.process);
    }
}

#[test]
fn messages_to_nobody_are_dropped() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    for nobody in [
        ProcessId::new(driver.welcome.node, 4_000_000),
        ProcessId::new(shoal_core::ids::NodeId(77), 1),
        ProcessId::daemon(shoal_core::ids::NodeId(77)),
    ] {
        driver.send(nobody, &Message::Blocked);
    }
    let lease = driver.lease();
    assert_eq!(driver.run(&lease, "variable GREETING"), "hello");
}

/// A driver that does not read slows its workers down; it does not fill the daemon's memory, and it
/// misses nothing.
#[test]
fn a_slow_reader_slows_its_senders() {
    const SIZE: usize = 1 << 20;
    const COUNT: usize = 300;
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    let tasks: Vec<_> = (0..COUNT)
        .map(|_| driver.push(&lease, &format!("size {SIZE}")))
        .collect();
    let resident = || {
        let text =
            std::fs::read_to_string(format!("/proc/{}/statm", daemon.pid())).expect("it runs");
        let pages: usize = text
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .expect("a number");
        pages * 4096
    };
    // Wait until the daemon takes no more.
    let mut before = 0;
    wait_until("a standstill", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = resident();
        let still = now > 60 << 20 && now == before;
        before = now;
        still
    });
    assert!(
        resident() < 200 << 20,
        "the daemon holds {} bytes",
        resident()
    );
    for task in tasks {
        assert_eq!(driver.answer(task).len(), SIZE);
    }
}

// --- links

#[test]
fn two_processes_get_one_link() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    // Both ask; whoever is first, there is one link.
    let open = format!("open {}", driver.welcome.process.0);
    let task = driver.push(&lease, &open);
    driver
        .connection
        .control(&Control::OpenLink { peer: lease.worker });
    driver
        .connection
        .control(&Control::OpenLink { peer: lease.worker });
    let mut links = 0;
    let mut answered = false;
    while !(answered && links == 1) {
        match driver.connection.next().expect("the link is open") {
            Frame::Control(Control::Link { peer }) => {
                assert_eq!(peer, lease.worker);
                links += 1;
            }
            Frame::Message(_, Message::TaskFinished(finished)) => answered |= finished.task == task,
            _ => {}
        }
    }
    assert_eq!(driver.run(&lease, "linked"), "1");
    let socket = driver
        .connection
        .descriptors
        .pop_front()
        .expect("it came along");
    assert!(driver.connection.descriptors.is_empty());
    let mut peer = BufReader::new(UnixStream::from(socket));
    let mut line = String::new();
    peer.read_line(&mut line).expect("the worker greets");
    assert_eq!(line, format!("hello from {}\n", lease.worker.number()));
    // The link ends with the peer, and not with the daemon's copy.
    driver.push(&lease, "exit 0");
    assert_eq!(peer.read(&mut [0; 1]).expect("the end of the stream"), 0);
    // The dead cannot be linked.
    death_of(&mut driver, &lease);
    driver
        .connection
        .control(&Control::OpenLink { peer: lease.worker });
    let refused = driver.connection.expect("a refusal", |frame| match frame {
        Frame::Control(Control::LinkRefused { peer }) => Some(peer),
        Frame::Control(Control::Link { .. }) => panic!("linked with the dead"),
        _ => None,
    });
    assert_eq!(refused, lease.worker);
    let own = driver.welcome.process;
    driver.connection.control(&Control::OpenLink { peer: own });
    driver.connection.expect("a refusal", |frame| match frame {
        Frame::Control(Control::LinkRefused { peer }) => (peer == own).then_some(()),
        _ => None,
    });
}

// --- workers

#[test]
fn a_worker_has_its_surroundings() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease_with(&[("EXTRA", "more"), ("GREETING", "good day")]);
    assert_eq!(driver.run(&lease, "variable EXTRA"), "more");
    assert_eq!(driver.run(&lease, "variable GREETING"), "good day");
    assert_eq!(
        driver.run(&lease, "variable HOME"),
        "",
        "nothing of the daemon's environment"
    );
    assert_eq!(driver.run(&lease, "directory"), "/");
    assert_eq!(driver.run(&lease, "path"), "/a path\0/b");
    let session = driver.run(&lease, &format!("variable {}", session::SESSION_VARIABLE));
    assert_eq!(session, daemon.description.session.to_string_lossy());
    let pid = driver.run(&lease, "pid");
    assert_eq!(
        driver.run(&lease, "group"),
        pid,
        "it leads a group of its own"
    );
    assert_eq!(
        driver.run(&lease, "read /proc/self/oom_score_adj").trim(),
        "1000"
    );
    // Its link, and nothing of the template's, the daemon's or whoever started that.
    assert_eq!(driver.run(&lease, "descriptors"), "socket");
}

/// Signalled, with what it was doing, after what it had sent; and nothing that it started stays.
#[test]
fn a_crash_is_told_last_and_leaves_nothing() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    let sleepers = driver.run(&lease, "sleepers");
    let sleepers: Vec<u32> = sleepers
        .split(' ')
        .map(|pid| pid.parse().expect("a pid"))
        .collect();
    assert!(sleepers.iter().all(|pid| is_alive(*pid)));
    let task = driver.push(&lease, "crash");
    let mut answered = false;
    let (death, last_started) = driver.connection.expect("the death", |frame| match frame {
        Frame::Message(_, Message::TaskFinished(finished)) => {
            answered |= finished.task == task && text_of(&finished.outcomes[0]) == "before";
            None
        }
        Frame::Message(
            _,
            Message::LeaseEnded {
                death,
                last_started,
                ..
            },
        ) => Some((death, last_started)),
        _ => None,
    });
    assert!(answered, "what it had sent came first");
    assert_eq!(
        death,
        Death::Signalled {
            signal: libc::SIGKILL
        }
    );
    assert_eq!(last_started, Some(task));
    wait_until("the end of what it started", || {
        !sleepers.iter().any(|pid| is_alive(*pid))
    });
}

#[test]
fn an_exit_code_is_told() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    driver.push(&lease, "exit 7");
    assert_eq!(death_of(&mut driver, &lease), Death::Exited { code: 7 });
}

/// A worker that cannot be reached is of no use.
#[test]
fn a_worker_that_hangs_up_is_ended() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    let pid: u32 = driver.run(&lease, "pid").parse().expect("a pid");
    driver.push(&lease, "hang");
    let death = death_of(&mut driver, &lease);
    assert!(
        matches!(&death, Death::Killed { reason } if reason.contains("closed its link")),
        "{death:?}"
    );
    wait_until("its end", || !is_alive(pid));
}

/// What cannot be started is refused with what the template said.
#[test]
fn a_broken_template_is_explained() {
    let daemon = Daemon::start(&[]);
    let refused = |launch: Launch| {
        let mut driver = Driver::connect(&daemon, launch, false);
        driver.request_lease(&[]);
        driver.connection.expect("a refusal", |frame| match frame {
            Frame::Message(_, Message::LeaseRefused { failure, .. }) => match failure {
                Failure::EnvironmentSetup { detail } => Some(detail),
                other => panic!("{other:?}"),
            },
            _ => None,
        })
    };
    let no_interpreter = Launch {
        python: String::from("/no/such/python"),
        ..launch()
    };
    let detail = refused(no_interpreter);
    assert!(detail.contains("/no/such/python"), "{detail}");
    let no_directory = Launch {
        working_directory: String::from("/no/such"),
        ..launch()
    };
    refused(no_directory);
    let variables = vec![(
        String::from("TEST_TEMPLATE_FAILS"),
        String::from("no module named x"),
    )];
    let detail = refused(Launch {
        variables,
        ..launch()
    });
    assert!(
        detail.contains("code: 3") && detail.contains("no module named x"),
        "{detail}"
    );
    // Others are not affected.
    let mut driver = daemon.driver();
    let lease = driver.lease();
    assert_eq!(driver.run(&lease, "variable GREETING"), "hello");
}

/// The template is started again; its workers end with it and are told of.
#[test]
fn a_dead_template_is_replaced() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    let pid: u32 = driver.run(&lease, "pid").parse().expect("a pid");
    let template = parent_of(pid);
    kill(template);
    let death = death_of(&mut driver, &lease);
    assert_eq!(
        death,
        Death::Signalled {
            signal: libc::SIGKILL
        }
    );
    let next = driver.lease();
    let pid: u32 = driver.run(&next, "pid").parse().expect("a pid");
    assert_ne!(parent_of(pid), template);
}

#[test]
fn a_driver_s_processes_end_with_it() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    let pid: u32 = driver.run(&lease, "pid").parse().expect("a pid");
    let template = parent_of(pid);
    drop(driver);
    wait_until("their end", || !is_alive(pid) && !is_alive(template));
    let status = daemon.connect().ask_status();
    assert_eq!(
        (
            &status["drivers"],
            status["workers"].as_array().map(Vec::len)
        ),
        (&0.into(), Some(0))
    );
}

// --- output

#[test]
fn what_workers_print_reaches_the_driver_and_the_log() {
    let daemon = Daemon::start(&[]);
    let mut driver = Driver::connect(&daemon, launch(), true);
    let lease = driver.lease();
    let pid: u32 = driver.run(&lease, "pid").parse().expect("a pid");
    driver.push(&lease, "print one\ntwo\nthr");
    driver.push(&lease, "complain oh\n");
    driver.push(&lease, "print ee\nno end");
    driver.push(&lease, "exit 0");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match driver.connection.next().expect("the link is open") {
            Frame::Control(Control::Output {
                process,
                pid: printer,
                error,
                lines,
            }) => {
                assert_eq!((process, printer), (lease.worker, pid));
                if error {
                    err.extend(lines)
                } else {
                    out.extend(lines)
                }
            }
            Frame::Message(_, Message::LeaseEnded { .. }) => break,
            _ => {}
        }
    }
    assert_eq!(out, ["one", "two", "three", "no end"]);
    assert_eq!(err, ["oh"]);
    let log = format!("logs/worker-{}-{pid}", lease.worker.number());
    let read = |name: &str| {
        std::fs::read_to_string(daemon.description.session.join(format!("{log}.{name}")))
    };
    assert_eq!(read("out").expect("a log"), "one\ntwo\nthree\nno end");
    assert_eq!(read("err").expect("a log"), "oh\n");
}

#[test]
fn a_driver_that_does_not_want_output_gets_none() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    driver.push(&lease, "print one\n");
    driver.push(&lease, "exit 0");
    loop {
        match driver.connection.next().expect("the link is open") {
            Frame::Control(Control::Output { .. }) => panic!("nobody asked for it"),
            Frame::Message(_, Message::LeaseEnded { .. }) => break,
            _ => {}
        }
    }
}

// --- status

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
    assert!(
        workers.iter().any(|worker| worker["pid"] == pid),
        "{workers:?}"
    );
    assert_eq!(status["store"]["objects"], 0);
    assert!(status["store"]["capacity"].as_u64() >= Some(60 << 20));
    assert_eq!(status["actors"], serde_json::json!([]));
}

// --- the end

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
    assert!(
        daemon
            .process
            .try_wait()
            .expect("it is our child")
            .is_none(),
        "a driver is there"
    );
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
    let sleepers: Vec<u32> = sleepers
        .split(' ')
        .map(|pid| pid.parse().expect("a pid"))
        .collect();
    let description = daemon.description.clone();
    let temp = daemon.kill();
    wait_until("their end", || !is_alive(worker) && !is_alive(template));
    driver.connection.expect_end();
    assert!(
        sleepers.iter().any(|pid| is_alive(*pid)),
        "something is left to clean up"
    );

    let next = Daemon::start_in(temp, &[]);
    wait_until("their end", || !sleepers.iter().any(|pid| is_alive(*pid)));
    assert!(!description.session.exists());
    assert_eq!(
        session::live(next.temp.path()),
        std::slice::from_ref(&next.description)
    );
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let temp = Temp::new();
    let deep = temp.path().join("d".repeat(120));
    std::fs::create_dir(&deep).expect("a directory");
    let output = std::process::Command::new(PROGRAM)
        .arg("daemon")
        .arg(&deep)
        .output()
        .expect("the test's program");
    assert!(!output.status.success());
    let line = String::from_utf8(output.stdout).expect("text");
    let report: serde_json::Value = serde_json::from_str(&line).expect("one line of JSON");
    let error = report["error"].as_str().expect("a reason");
    assert!(
        error.contains("107 bytes") && error.contains("--temp-dir"),
        "{error}"
    );
    assert_eq!(
        std::fs::read_dir(session::base_directory(&deep))
            .expect("it")
            .count(),
        1
    );
}

// --- helpers

fn death_of(driver: &mut Driver, wanted: &Lease) -> Death {
    driver
        .connection
        .expect("the end of the lease", |frame| match frame {
            Frame::Message(_, Message::LeaseEnded { lease, death, .. })
                if lease == wanted.lease =>
            {
                Some(death)
            }
            _ => None,
        })
}

fn parent_of(pid: u32) -> u32 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let rest = text.rsplit_once(')').expect("well formed").1;
    rest.split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("a parent")
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
}
