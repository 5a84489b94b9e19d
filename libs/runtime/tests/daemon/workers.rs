//! Workers and templates, from their start to their end.

use shoal_core::message::Message;
use shoal_core::value::{Death, Failure};
use shoal_runtime::control::{Control, Launch};
use shoal_runtime::daemon::session;

use crate::support::*;

#[test]
fn a_worker_has_its_surroundings() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease_with(&[("EXTRA", "more"), ("GREETING", "good day")]);
    assert_eq!(driver.run(&lease, "variable EXTRA"), "more");
    assert_eq!(driver.run(&lease, "variable GREETING"), "good day");
    assert_eq!(driver.run(&lease, "variable HOME"), "", "nothing of the daemon's environment");
    assert_eq!(driver.run(&lease, "directory"), "/");
    assert_eq!(driver.run(&lease, "path"), "/a path\0/b");
    let session = driver.run(&lease, &format!("variable {}", session::SESSION_VARIABLE));
    assert_eq!(session, daemon.description.session.to_string_lossy());
    let pid = driver.run(&lease, "pid");
    assert_eq!(driver.run(&lease, "group"), pid, "it leads a group of its own");
    assert_eq!(driver.run(&lease, "read /proc/self/oom_score_adj").trim(), "1000");
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
    let sleepers: Vec<u32> = sleepers.split(' ').map(|pid| pid.parse().expect("a pid")).collect();
    assert!(sleepers.iter().all(|pid| is_alive(*pid)));
    let task = driver.push(&lease, "crash");
    let mut answered = false;
    let (death, last_started) = driver.connection.expect("the death", |frame| match frame {
        Frame::Message(_, Message::TaskFinished(finished)) => {
            answered |= finished.task == task && text_of(&finished.outcomes[0]) == "before";
            None
        }
        Frame::Message(_, Message::LeaseEnded { death, last_started, .. }) => Some((death, last_started)),
        _ => None,
    });
    assert!(answered, "what it had sent came first");
    assert_eq!(death, Death::Signalled { signal: libc::SIGKILL });
    assert_eq!(last_started, Some(task));
    wait_until("the end of what it started", || !sleepers.iter().any(|pid| is_alive(*pid)));
}

/// The daemon hears of a worker's end and of its last message at the same time: the message counts.
#[test]
fn a_last_message_is_not_lost() {
    let daemon = Daemon::start(&[]);
    let mut driver = daemon.driver();
    let lease = driver.lease();
    let pid: u32 = driver.run(&lease, "pid").parse().expect("a pid");
    let gate = daemon.temp.path().join("gate");
    let task = driver.push(&lease, &format!("late {}", gate.display()));
    wait_until("the task", || gate.with_extension("awaited").exists());
    signal(daemon.pid(), rustix::process::Signal::STOP);
    std::fs::write(&gate, "").expect("written");
    wait_until("its end", || !is_alive(pid));
    // The template has reported it, too, once the child is reaped.
    wait_until("its report", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    signal(daemon.pid(), rustix::process::Signal::CONT);
    assert_eq!(driver.answer(task).len(), 150_000);
    assert_eq!(death_of(&mut driver, &lease), Death::Signalled { signal: libc::SIGKILL });
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
    assert!(matches!(&death, Death::Killed { reason } if reason.contains("closed its link")), "{death:?}");
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
    let no_interpreter = Launch { python: String::from("/no/such/python"), ..launch() };
    let detail = refused(no_interpreter);
    assert!(detail.contains("/no/such/python"), "{detail}");
    let no_directory = Launch { working_directory: String::from("/no/such"), ..launch() };
    refused(no_directory);
    let variables = vec![(String::from("TEST_TEMPLATE_FAILS"), String::from("no module named x"))];
    let detail = refused(Launch { variables, ..launch() });
    assert!(detail.contains("exit code 3") && detail.contains("no module named x"), "{detail}");
    // Others are not affected.
    let mut driver = daemon.driver();
    let lease = driver.lease();
    assert_eq!(driver.run(&lease, "variable GREETING"), "hello");
}

/// A worker that a template is too busy to fork can be given up all the same.
#[test]
fn a_template_that_hangs_holds_up_nobody() {
    let daemon = Daemon::start(&[]);
    let variables = vec![(String::from("TEST_TEMPLATE_HANGS"), String::new())];
    let mut driver = Driver::connect(&daemon, Launch { variables, ..launch() }, false);
    driver.request_lease(&[]);
    wait_until("the template", || !templates(&daemon).is_empty());
    let hanging = templates(&daemon);
    drop(driver);
    wait_until("its end", || !hanging.iter().any(|pid| is_alive(*pid)));
    wait_until("the end of its workers", || {
        daemon.connect().ask_status()["workers"].as_array().is_some_and(Vec::is_empty)
    });
}

/// The driver may itself be started by a worker of another node, and carry its mark.
#[test]
fn a_foreign_mark_is_not_inherited() {
    let daemon = Daemon::start(&[]);
    let variables = vec![
        (String::from("SHOAL_WORKER"), String::from("77")),
        (String::from("SHOAL_SESSION"), String::from("/elsewhere")),
    ];
    let mut driver = Driver::connect(&daemon, Launch { variables, ..launch() }, false);
    let lease = driver.lease();
    let pid: u32 = driver.run(&lease, "pid").parse().expect("a pid");
    let template = parent_of(pid);
    driver.push(&lease, "crash");
    death_of(&mut driver, &lease);
    // What is left of dead workers is looked for now; the template is not part of it.
    let next = driver.lease();
    driver.run(&next, "sleepers");
    driver.push(&next, "crash");
    death_of(&mut driver, &next);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(is_alive(template));
    let last = driver.lease();
    let mark = driver.run(&last, "variable SHOAL_WORKER");
    assert_eq!(mark, last.worker.0.to_string());
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
    assert_eq!(death, Death::Signalled { signal: libc::SIGKILL });
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
    assert_eq!((&status["drivers"], status["workers"].as_array().map(Vec::len)), (&0.into(), Some(0)));
}

/// What comes and goes leaves no descriptor behind.
#[test]
fn the_daemon_keeps_no_descriptor() {
    let daemon = Daemon::start(&[]);
    let round = || {
        let mut driver = daemon.driver();
        let lease = driver.lease();
        driver.connection.control(&Control::OpenLink { peer: lease.worker });
        driver.connection.expect("a link", |frame| match frame {
            Frame::Control(Control::Link { .. }) => Some(()),
            _ => None,
        });
        let pid: u32 = driver.run(&lease, "pid").parse().expect("a pid");
        let template = parent_of(pid);
        driver.push(&lease, "crash");
        death_of(&mut driver, &lease);
        drop(driver);
        wait_until("the end of the template", || !is_alive(template));
    };
    let open = || {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()));
        entries.expect("it runs").count()
    };
    round();
    // A descriptor is closed a moment after the process that it belonged to is gone.
    let mut first = open();
    wait_until("a steady number", || {
        let before = std::mem::replace(&mut first, open());
        std::thread::sleep(std::time::Duration::from_millis(100));
        before == first && first == open()
    });
    for _ in 0..10 {
        round();
    }
    wait_until("the same number as before", || open() <= first);
}
