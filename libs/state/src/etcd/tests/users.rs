//! An etcd that wants to know who asks.

use super::*;
use crate::etcd::rpc;

const NAME: &str = "shoal-head";
const PASSWORD: &str = "correct horse";

/// What an administrator says, of etcd's protocol; `rpc.proto` and `auth.proto`, version 3.4.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
    /// Of a user the password; of one who gets a role, the role.
    #[prost(string, tag = "2")]
    other: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Grant {
    #[prost(string, tag = "1")]
    role: String,
    #[prost(message, optional, tag = "2")]
    permission: Option<Permission>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Permission {
    /// 2: to read and to write.
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

/// A call of an administrator, as whom there is when etcd asks for one.
fn administer(etcd: &Etcd, call: &'static str, question: impl prost::Message + Clone + 'static) {
    let client = etcd.client.clone();
    let deadline = Instant::now() + PATIENCE;
    let asked = etcd.spawn(async move { client.ask::<_, Nothing>(deadline, call, question).await });
    run(asked).unwrap_or_else(|status| panic!("{call}: {status}"));
}

fn named(name: &str, other: &str) -> Named {
    Named { name: String::from(name), other: String::from(other) }
}

/// Have etcd ask who somebody is. [`NAME`] may do what it likes below the prefix `test/`, and nothing else.
fn ask_for_users(server: &Server) {
    let etcd = server.etcd();
    run(etcd.cluster()).expect("it is up");
    for (user, password, role) in
        [("root", "toor", "root"), (NAME, PASSWORD, "heads"), ("other", "x", "none")]
    {
        administer(&etcd, "/etcdserverpb.Auth/RoleAdd", named(role, ""));
        administer(&etcd, "/etcdserverpb.Auth/UserAdd", named(user, password));
        administer(&etcd, "/etcdserverpb.Auth/UserGrantRole", named(user, role));
    }
    let (key, range_end) = (b"test/".to_vec(), b"test0".to_vec());
    let permission = Some(Permission { kind: 2, key, range_end });
    let grant = Grant { role: String::from("heads"), permission };
    administer(&etcd, "/etcdserverpb.Auth/RoleGrantPermission", grant);
    administer(&etcd, "/etcdserverpb.Auth/AuthEnable", Nothing {});
}

fn location_for(server: &Server, name: &str, password: &str) -> EtcdLocation {
    let user = EtcdUser::new(String::from(name), String::from(password)).expect("a user");
    let mut location = server.location();
    location.user = Some(user);
    location
}

fn etcd_for(server: &Server, name: &str, password: &str) -> Etcd {
    Etcd::new(&location_for(server, name, password)).expect("a client")
}

/// What says why somebody is not let in; nothing of it must be kept from others.
fn refusal(error: StateError) -> String {
    assert!(matches!(error, StateError::Unauthorized { .. }), "{error:?}");
    let text = format!("{error} {error:?}");
    assert!(!text.contains(PASSWORD) && !text.contains(NAME) && !text.contains("wrong"), "{text}");
    text
}

#[test]
fn a_head_shows_its_user_and_is_refused_at_once_without_or_with_a_wrong_one() {
    let Some(server) = Server::start() else { return };
    ask_for_users(&server);
    let etcd = etcd_for(&server, NAME, PASSWORD);
    run(etcd.claim("blue")).expect("it may");
    let mut log = elected(&etcd, 1);
    log.load().expect("readable");
    assert_eq!(log.write(1, &large("a")).expect("written"), WriteResult::Done);

    // Another head watches it, hears of its end, and goes on.
    let other = etcd_for(&server, NAME, PASSWORD);
    let seen = acting(&other, 2);
    run(log.tenure().resign());
    run(other.vacancy(seen));
    assert_eq!(elected(&other, 2).load().expect("readable"), contents(1, &large("a")));

    for (name, password) in [(NAME, "wrong"), ("wrong", PASSWORD)] {
        let text = refusal(run(etcd_for(&server, name, password).claim("blue")).expect_err("wrong"));
        assert!(text.contains("or not with this password") && text.contains("SHOAL_ETCD_USER"), "{text}");
        refusal(run(etcd_for(&server, name, password).stand(head(3))).expect_err("wrong"));
    }
    let text = refusal(run(server.etcd().claim("blue")).expect_err("nobody"));
    assert!(text.contains("no user was given"), "{text}");
    let text = refusal(run(etcd_for(&server, "other", "x").claim("blue")).expect_err("without a role"));
    assert!(text.contains("grant it a role"), "{text}");
    let mut elsewhere: EtcdLocation =
        format!("etcd://127.0.0.1:{}/green", server.ports[0]).parse().expect("a location");
    elsewhere.user = location_for(&server, NAME, PASSWORD).user;
    refusal(run(Etcd::new(&elsewhere).expect("a client").claim("green")).expect_err("another prefix"));
}

async fn elected_at_last(etcd: &Etcd) -> EtcdLog {
    loop {
        match etcd.stand(head(1)).await {
            Ok(Standing::Elected(log)) => return log,
            Ok(Standing::Acting(acting)) => etcd.vacancy(acting).await,
            Err(error) => eprintln!("not yet: {error}"),
        }
    }
}

#[test]
fn a_head_goes_on_when_its_token_is_forgotten_by_a_restart_of_etcd() {
    // Else it takes the only member a second and more to elect itself.
    let quick = [String::from("--heartbeat-interval=20"), String::from("--election-timeout=200")];
    let Some(mut server) = Server::start_with(&quick) else { return };
    ask_for_users(&server);
    let etcd = etcd_for(&server, NAME, PASSWORD);
    let mut log = elected(&etcd, 1);
    log.load().expect("readable");
    assert_eq!(log.write(1, &vec![value("0", "x")]).expect("written"), WriteResult::Done);
    let mut went_on = 0;
    for number in 1..6 {
        server.restart();
        if let Ok(WriteResult::Done) = log.write(1, &vec![value(&number.to_string(), "x")]) {
            went_on += 1;
        }
        // What keeps it in office does so with the new token.
        std::thread::sleep(TENURE + Duration::from_millis(500));
        if log.tenure().is_over() {
            // The restart has taken longer than a lease: that is the next head.
            drop(log);
            log = run(elected_at_last(&etcd));
            log.load().expect("readable");
        } else if went_on >= 2 {
            return;
        }
    }
    panic!("no head stayed in office over a restart of etcd");
}

#[test]
fn a_token_that_has_expired_is_replaced() {
    let short = [String::from("--auth-token-ttl=1")];
    let Some(server) = Server::start_with(&short) else { return };
    ask_for_users(&server);
    let etcd = etcd_for(&server, NAME, PASSWORD);
    for _ in 0..2 {
        run(etcd.claim("blue")).expect("it may");
        std::thread::sleep(Duration::from_secs(3));
    }
    // It has not been used since, and this etcd knows it no more: without a user, that is an error.
    let client = etcd.client.clone();
    let range = rpc::RangeRequest { key: etcd.key("cluster"), ..rpc::RangeRequest::default() };
    run(etcd.spawn(async move { client.ask_with_old_pass(rpc::RANGE, range).await })).expect_err("expired");
    run(etcd.claim("blue")).expect("it may");
}

#[test]
fn a_user_that_nobody_asks_for_does_no_harm_and_counts_once_somebody_does() {
    let Some(server) = Server::start() else { return };
    let etcd = etcd_for(&server, NAME, PASSWORD);
    let log = elected(&etcd, 1);
    ask_for_users(&server);
    run(etcd.claim("blue")).expect("it may");
    std::thread::sleep(TENURE);
    assert!(!log.tenure().is_over());
}
