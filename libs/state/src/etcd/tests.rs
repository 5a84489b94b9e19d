//! Against a real etcd, which each test starts for itself. Where there is none they say so and end.

mod users;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use shoal_core::head::{Key, Row, WriteResult};
use tempfile::TempDir;

use super::plan::transactions;
use super::*;
use crate::{Changes, Contents, Log};

/// A server, and where its data is. It ends with the test.
struct Server {
    process: Child,
    directory: TempDir,
    ports: [u16; 2],
    arguments: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// None where no `etcd` is installed.
    fn start() -> Option<Server> {
        Server::start_with(&[])
    }

    fn start_with(arguments: &[String]) -> Option<Server> {
        let directory = tempfile::tempdir().expect("a directory");
        let ports = [free_port(), free_port()];
        let process = launch(directory.path(), ports, arguments)?;
        Some(Server { process, directory, ports, arguments: arguments.to_vec() })
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn restart(&mut self) {
        self.kill();
        self.process = launch(self.directory.path(), self.ports, &self.arguments).expect("it was there");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.process.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
    }

    fn location(&self) -> EtcdLocation {
        format!("etcd://127.0.0.1:{}/test", self.ports[0]).parse().expect("a location")
    }

    fn etcd(&self) -> Etcd {
        Etcd::new(&self.location()).expect("a client")
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a free port").port()
}

fn launch(directory: &Path, [client, peer]: [u16; 2], arguments: &[String]) -> Option<Child> {
    let encrypted = arguments.iter().any(|argument| argument.starts_with("--cert-file"));
    let client = format!("{}://127.0.0.1:{client}", if encrypted { "https" } else { "http" });
    let peer = format!("http://127.0.0.1:{peer}");
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(directory.join("data"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]).args(arguments);
    match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(process) => Some(process),
        Err(error) => {
            eprintln!(
                "SKIPPED: no etcd can be started here ({error}); on Debian: apt-get install etcd-server"
            );
            None
        }
    }
}

fn head(number: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, number], 1))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let bounded = async { tokio::time::timeout(Duration::from_secs(60), work).await };
    runtime.expect("a runtime").block_on(bounded).expect("it ends")
}

fn elected(etcd: &Etcd, number: u8) -> EtcdLog {
    match run(etcd.stand(head(number))).expect("an answer") {
        Standing::Elected(log) => log,
        Standing::Acting(acting) => panic!("{acting:?} acts"),
    }
}

fn acting(etcd: &Etcd, number: u8) -> Acting {
    match run(etcd.stand(head(number))).expect("an answer") {
        Standing::Elected(log) => panic!("elected: {log:?}"),
        Standing::Acting(acting) => acting,
    }
}

fn value(name: &str, text: &str) -> (Key, Option<Row>) {
    (Key::Value(String::from(name)), Some(Row::Value(Bytes::copy_from_slice(text.as_bytes()))))
}

fn contents(epoch: u64, changes: &Changes) -> Contents {
    let rows = changes.iter().map(|(key, row)| (key.clone(), row.clone().expect("a value")));
    let mut rows: Vec<(Key, Row)> = rows.collect();
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    Contents { epoch, rows }
}

/// A write of a megabyte and a half, and a hundred and fifty rows.
fn large(seed: &str) -> Changes {
    let mut changes: Changes = (0..150).map(|number| value(&format!("n{number}"), seed)).collect();
    changes.push(value("long", &seed.repeat((3 << 19) / seed.len())));
    changes
}

#[test]
fn what_was_written_is_there_for_the_next_head() {
    let Some(server) = Server::start() else { return };
    let etcd = server.etcd();
    let mut log = elected(&etcd, 1);
    assert_eq!(log.load().expect("readable"), Contents::default());
    assert_eq!(log.write(1, &vec![value("b", "2"), value("a", "1")]).expect("written"), WriteResult::Done);
    let changes = vec![(Key::Value(String::from("b")), None), value("c", "3"), value("a", "4")];
    assert_eq!(log.write(1, &changes).expect("written"), WriteResult::Done);
    run(log.tenure().resign());
    let mut next = elected(&server.etcd(), 2);
    let expected = contents(1, &vec![value("a", "4"), value("c", "3")]);
    assert_eq!(next.load().expect("readable"), expected);
    assert_eq!(next.write(2, &Changes::new()).expect("written"), WriteResult::Done);
    assert_eq!(next.load().expect("readable"), Contents { epoch: 2, ..expected });
    assert_eq!(next.write(1, &vec![value("a", "5")]).expect("an answer"), WriteResult::Fenced);
}

#[test]
fn one_is_elected_and_who_was_changes_nothing_any_more() {
    let Some(server) = Server::start() else { return };
    let (one, other) = (server.etcd(), server.etcd());
    let mut old = elected(&one, 1);
    old.load().expect("readable");
    old.write(1, &vec![value("a", "old")]).expect("written");
    let seen = acting(&other, 2);
    assert_eq!(seen.address, head(1));
    // The lease ends, and the old head does not know it.
    run(old.tenure().resign());
    run(other.vacancy(seen));
    assert!(!old.tenure().is_over(), "it believes to be the head");
    assert_eq!(old.write(1, &vec![value("a", "late")]).expect("an answer"), WriteResult::Fenced);
    let mut new = elected(&other, 2);
    assert_eq!(new.load().expect("readable"), contents(1, &vec![value("a", "old")]));
    assert_eq!(old.write(9, &vec![value("a", "late")]).expect("an answer"), WriteResult::Fenced);
    assert_eq!(old.write(9, &large("late")).expect("an answer"), WriteResult::Fenced);
    assert_eq!(new.write(2, &vec![value("b", "new")]).expect("an answer"), WriteResult::Done);
    assert_eq!(new.load().expect("readable"), contents(2, &vec![value("a", "old"), value("b", "new")]));
    run(old.tenure().over());
}

#[test]
fn a_head_that_is_gone_is_replaced_when_its_time_is_over() {
    let Some(server) = Server::start() else { return };
    let etcd = server.etcd();
    let lost = elected(&server.etcd(), 1);
    let seen = acting(&etcd, 2);
    drop(lost);
    run(etcd.vacancy(seen));
    elected(&etcd, 2);
}

#[test]
fn a_head_stays_in_office_and_ends_when_etcd_hears_nothing_of_it() {
    let Some(server) = Server::start() else { return };
    let etcd = server.etcd();
    let mut log = elected(&etcd, 1);
    std::thread::sleep(TENURE * 2);
    assert!(!log.tenure().is_over());
    assert_eq!(acting(&server.etcd(), 2).address, head(1));
    server.signal("-STOP");
    run(log.tenure().over());
    assert!(log.tenure().is_over());
    log.write(1, &vec![value("a", "1")]).expect_err("nobody answers");
    server.signal("-CONT");
}

#[test]
fn nothing_that_was_acknowledged_is_lost_when_etcd_restarts() {
    let Some(mut server) = Server::start() else { return };
    let etcd = server.etcd();
    let mut log = elected(&etcd, 1);
    log.load().expect("readable");
    let mut acknowledged = Changes::new();
    for number in 0..60 {
        if number == 30 {
            server.restart();
        }
        let change = value(&format!("{number:03}"), "x");
        match log.write(1, &vec![change.clone()]) {
            Ok(WriteResult::Done) => acknowledged.push(change),
            // It has taken too long, and another head may act.
            Ok(_) | Err(_) => break,
        }
    }
    assert!(acknowledged.len() >= 30);
    drop(log);
    let next = loop {
        match run(etcd.stand(head(2))) {
            Ok(Standing::Elected(log)) => break log,
            Ok(Standing::Acting(acting)) => run(etcd.vacancy(acting)),
            Err(error) => eprintln!("not yet: {error}"),
        }
    };
    let (mut next, count) = (next, acknowledged.len());
    let found = next.load().expect("readable").rows;
    let expected = contents(1, &acknowledged).rows;
    assert_eq!(found[..count], expected);
    assert!(found.len() <= count + 1, "what was not acknowledged may be there");
}

#[test]
fn large_writes_are_whole_or_not_there() {
    let Some(server) = Server::start() else { return };
    let etcd = server.etcd();
    let mut log = elected(&etcd, 1);
    log.load().expect("readable");
    let (old, new) = (large("old"), large("new"));
    assert_eq!(log.write(1, &old).expect("written"), WriteResult::Done);
    assert_eq!(log.load().expect("readable"), contents(1, &old));
    let groups = transactions(log.layout.operations(&new).expect("encodable"));
    let staging = log.stage(&groups).len();
    let steps: Vec<_> = log.stage(&groups).into_iter().chain(log.carry_out(groups.clone())).collect();
    assert!(steps.len() > staging + 3, "{} and {staging}", steps.len());
    for crash_after in 0..=steps.len() {
        assert_eq!(log.write(1, &old).expect("written"), WriteResult::Done);
        let begun = steps[..crash_after].to_vec();
        assert_eq!(log.commit_all(begun).expect("written"), WriteResult::Done);
        // The head ends here, and the next one reads.
        run(log.tenure().resign());
        log = elected(&etcd, 2);
        let expected = if crash_after < staging { &old } else { &new };
        assert!(log.load().expect("readable") == contents(1, expected), "after {crash_after} steps");
        assert!(log.load().expect("readable") == contents(1, expected), "the rest was done");
    }
}

#[test]
fn the_log_of_another_cluster_is_left_alone() {
    let Some(server) = Server::start() else { return };
    let etcd = server.etcd();
    assert_eq!(run(etcd.cluster()).expect("an answer"), None);
    run(etcd.claim("blue")).expect("nobody has it");
    assert_eq!(run(etcd.cluster()).expect("an answer").as_deref(), Some("blue"));
    run(etcd.claim("blue")).expect("it is its own");
    let error = run(server.etcd().claim("green")).expect_err("it is another's");
    assert!(matches!(&error, StateError::OtherCluster { found, .. } if found == "blue"), "{error}");
    let elsewhere = format!("etcd://127.0.0.1:{}/green", server.ports[0]).parse().expect("a location");
    run(Etcd::new(&elsewhere).expect("a client").claim("green")).expect("another prefix");
}

#[test]
fn the_next_member_is_asked_when_one_does_not_answer() {
    let Some(server) = Server::start() else { return };
    let text = format!("etcd://127.0.0.1:{},127.0.0.1:{}/test", free_port(), server.ports[0]);
    let etcd = Etcd::new(&text.parse().expect("a location")).expect("a client");
    let log = elected(&etcd, 1);
    std::thread::sleep(TENURE);
    assert!(!log.tenure().is_over());
}

#[test]
fn an_etcd_that_is_not_there_is_an_error() {
    let text = format!("etcd://127.0.0.1:{}", free_port());
    let etcd = Etcd::new(&text.parse().expect("a location")).expect("a client");
    let error = run(etcd.claim("blue")).expect_err("nobody is there");
    assert!(error.to_string().contains(&text), "{error}");
}

/// A certificate and its key in files of these names.
fn certificate(
    directory: &Path,
    name: &str,
    issuer: Option<&Issuer<'_, KeyPair>>,
) -> (CertificateParams, KeyPair) {
    let mut parameters = CertificateParams::new(vec![String::from("127.0.0.1")]).expect("a name");
    let key = KeyPair::generate().expect("a key");
    let text = match issuer {
        Some(issuer) => parameters.signed_by(&key, issuer).expect("a certificate").pem(),
        None => {
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters.self_signed(&key).expect("a certificate").pem()
        }
    };
    fs::write(directory.join(format!("{name}.pem")), text).expect("written");
    fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).expect("written");
    (parameters, key)
}

#[test]
fn an_etcd_that_wants_certificates_is_shown_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let (parameters, key) = certificate(directory.path(), "authority", None);
    let issuer = Issuer::new(parameters, key);
    certificate(directory.path(), "server", Some(&issuer));
    certificate(directory.path(), "client", Some(&issuer));
    let file = |name: &str| directory.path().join(name);
    let option = |name: &str, path: &str| format!("--{name}={}", file(path).display());
    let arguments = [
        option("cert-file", "server.pem"),
        option("key-file", "server.key"),
        option("trusted-ca-file", "authority.pem"),
        String::from("--client-cert-auth"),
    ];
    let Some(server) = Server::start_with(&arguments) else { return };
    let text = format!("etcds://127.0.0.1:{}/test", server.ports[0]);
    let mut location: EtcdLocation = text.parse().expect("a location");
    location.tls.authority = Some(file("authority.pem"));
    location.tls.identity = Some((file("client.pem"), file("client.key")));
    run(Etcd::new(&location).expect("a client").claim("blue")).expect("it has shown a certificate");

    location.tls.identity = None;
    run(Etcd::new(&location).expect("a client").claim("blue")).expect_err("it has shown none");
    location.tls.authority = None;
    run(Etcd::new(&location).expect("a client").claim("blue")).expect_err("it does not know the server");
    run(server.etcd().claim("blue")).expect_err("without encryption");
    location.tls.authority = Some(file("nothing.pem"));
    let error = Etcd::new(&location).expect_err("no such file");
    assert!(error.to_string().contains("nothing.pem"), "{error}");
}
