//! What workers print.

use shoal_core::message::Message;
use shoal_runtime::control::Control;

use crate::support::*;

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
            Frame::Control(Control::Output { process, pid: printer, error, lines }) => {
                assert_eq!((process, printer), (lease.worker, pid));
                if error { err.extend(lines) } else { out.extend(lines) }
            }
            Frame::Message(_, Message::LeaseEnded { .. }) => break,
            _ => {}
        }
    }
    assert_eq!(out, ["one", "two", "three", "no end"]);
    assert_eq!(err, ["oh"]);
    let log = format!("logs/worker-{}-{pid}", lease.worker.number());
    let read = |name: &str| std::fs::read_to_string(daemon.description.session.join(format!("{log}.{name}")));
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

/// A driver that does not keep up misses lines, and is told how many.
#[test]
fn a_slow_driver_misses_lines_and_not_their_number() {
    const LINES: usize = 200_000;
    let daemon = Daemon::start(&[]);
    let mut driver = Driver::connect(&daemon, launch(), true);
    let lease = driver.lease();
    let pid: u32 = driver.run(&lease, "pid").parse().expect("a pid");
    driver.push(&lease, &format!("lines {LINES}"));
    let log = format!("logs/worker-{}-{pid}.out", lease.worker.number());
    let log = daemon.description.session.join(log);
    let logged = || std::fs::read_to_string(&log).unwrap_or_default().lines().count();
    wait_until("the end of its output", || logged() == LINES);
    // Now the driver keeps up again, and the next line brings the notice.
    let (mut seen, mut missed, mut pushed) = (0, 0, false);
    while missed == 0 {
        match driver.connection.next().expect("the link is open") {
            Frame::Control(Control::Output { lines, .. }) => {
                for line in lines {
                    match line.strip_prefix('[').and_then(|rest| rest.split_once(" lines left out")) {
                        Some((count, rest)) => {
                            missed = count.parse().expect("a number");
                            assert!(rest.contains("worker-"), "{rest}");
                        }
                        None if line.starts_with("line ") => seen += 1,
                        None => assert_eq!(line, "more"),
                    }
                }
            }
            Frame::Message(_, Message::TaskFinished(_)) if !pushed => {
                pushed = true;
                driver.push(&lease, "print more\n");
            }
            _ => {}
        }
    }
    assert_eq!(seen + missed, LINES);
    assert!(seen > 0 && missed > 0);
}
