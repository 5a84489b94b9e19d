//! Joining over a real TLS connection in memory, by those who may and those who may not.

use tokio::io::{DuplexStream, duplex};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::NODE_PROTOCOL;

fn authority() -> ClusterAuthority {
    ClusterAuthority::generate().unwrap()
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn head(authority: &ClusterAuthority) -> Credentials {
    authority.credentials(Role::Head, &name("head"), Validity::starting_now(Duration::from_secs(60))).unwrap()
}

/// What a head does with one connection.
async fn serve(authority: &ClusterAuthority, stream: DuplexStream) -> Result<Member, JoinError> {
    let credentials = head(authority);
    let mut stream = TlsAcceptor::from(Arc::new(credentials.server_config(true))).accept(stream).await?;
    let session = stream.get_ref().1;
    let shown = credentials.admit(session.alpn_protocol(), session.peer_certificates())?;
    answer(&mut stream, authority, shown.as_ref()).await
}

/// Join with a secret, and what both ends made of it.
async fn attempt(
    authority: &ClusterAuthority,
    secret: &JoinSecret,
) -> (Result<Credentials, JoinError>, Result<Member, JoinError>) {
    let (here, there) = duplex(1 << 16);
    let worker = name("worker-1");
    tokio::join!(join(here, secret, &worker), serve(authority, there))
}

#[tokio::test]
async fn who_knows_the_secret_is_issued_a_certificate_that_the_cluster_accepts() {
    let authority = authority();
    let (joined, admitted) = attempt(&authority, authority.secret()).await;
    let (joined, admitted) = (joined.unwrap(), admitted.unwrap());
    assert_eq!(*joined.member(), admitted);
    assert_eq!(admitted.role, Role::Node, "the secret makes nobody head");
    assert_eq!(admitted.cluster, authority.cluster());

    let (here, there) = duplex(1 << 16);
    let server = head(&authority);
    let acceptor = TlsAcceptor::from(Arc::new(server.server_config(false)));
    let connector = TlsConnector::from(Arc::new(joined.client_config(NODE_PROTOCOL)));
    let (client, accepted) =
        tokio::join!(connector.connect(joined.server_name(), here), acceptor.accept(there));
    let (_client, accepted) = (client.unwrap(), accepted.unwrap());
    let session = accepted.get_ref().1;
    let seen = server.admit(session.alpn_protocol(), session.peer_certificates()).unwrap();
    assert_eq!(seen, Some(admitted));
}

#[tokio::test]
async fn a_wrong_secret_is_refused_at_both_ends() {
    let authority = authority();
    let (joined, admitted) = attempt(&authority, &JoinSecret::generate().unwrap()).await;
    assert!(matches!(joined, Err(JoinError::Refused(Refusal::WrongSecret))), "{joined:?}");
    assert!(matches!(admitted, Err(JoinError::Refused(Refusal::WrongSecret))), "{admitted:?}");
}

/// An authority that lets anybody in, to get nodes to trust it.
#[tokio::test]
async fn a_node_takes_no_certificate_from_who_does_not_know_the_secret() {
    let (impostor, secret) = (authority(), JoinSecret::generate().unwrap());
    let (here, there) = duplex(1 << 16);
    let pretend = async {
        let credentials = head(&impostor);
        let mut stream = TlsAcceptor::from(Arc::new(credentials.server_config(true))).accept(there).await?;
        let request = Request::decode(&read_message(&mut stream).await?)?;
        let challenge = Challenge { nonce: nonce()?, cluster: impostor.cluster() }.encode();
        write_answer(&mut stream, &challenge).await?;
        read_message(&mut stream).await?;
        let mut answer = issue(&impostor, &request, Role::Node, &request.name)?;
        answer.extend_from_slice(&impostor.secret().prove(&[b"authority"]));
        write_answer(&mut stream, &answer).await?;
        Ok::<_, JoinError>(())
    };
    let worker = name("worker-1");
    let (joined, _) = tokio::join!(join(here, &secret, &worker), pretend);
    assert!(matches!(joined, Err(JoinError::Refused(Refusal::WrongSecret))), "{joined:?}");
}

/// Somebody between node and authority has a TLS connection to each, and passes on what they say.
#[tokio::test]
async fn a_proof_is_worth_nothing_on_another_connection() {
    let (authority, middle) = (authority(), authority());
    let (node_end, middle_in) = duplex(1 << 16);
    let (middle_out, authority_end) = duplex(1 << 16);
    let pass_on = async {
        let acceptor = TlsAcceptor::from(Arc::new(head(&middle).server_config(true)));
        let anywhere = server_name_of(ClusterId([0; 16]));
        let (inwards, outwards) = tokio::join!(
            acceptor.accept(middle_in),
            TlsConnector::from(Arc::new(join_client_config())).connect(anywhere, middle_out)
        );
        let (mut inwards, mut outwards) = (inwards?, outwards?);
        tokio::io::copy_bidirectional(&mut inwards, &mut outwards).await
    };
    let worker = name("worker-1");
    let (joined, admitted, _) =
        tokio::join!(join(node_end, authority.secret(), &worker), serve(&authority, authority_end), pass_on);
    assert!(matches!(joined, Err(JoinError::Refused(Refusal::WrongSecret))), "{joined:?}");
    assert!(matches!(admitted, Err(JoinError::Refused(Refusal::WrongSecret))), "{admitted:?}");
}

/// What a node said on one connection is said again on another one of its own.
#[tokio::test]
async fn a_recorded_introduction_cannot_be_replayed() {
    let authority = authority();
    let (here, there) = duplex(1 << 16);
    let replay = async {
        let anywhere = server_name_of(ClusterId([0; 16]));
        let mut stream = secured(here, join_client_config(), anywhere).await?;
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let request =
            Request { nonce: [1; 32], public_key: public_key(&key), renewal: false, name: name("old") };
        let recorded = authority.secret().prove(&[b"joining node", &[2; 32], &request.encode(), &[3; 48]]);
        write_message(&mut stream, &request.encode()).await?;
        read_answer(&mut stream).await?;
        write_message(&mut stream, &recorded).await?;
        read_answer(&mut stream).await
    };
    let (replayed, admitted) = tokio::join!(replay, serve(&authority, there));
    assert!(matches!(replayed, Err(JoinError::Refused(Refusal::WrongSecret))), "{replayed:?}");
    assert!(matches!(admitted, Err(JoinError::Refused(Refusal::WrongSecret))), "{admitted:?}");
}

#[tokio::test]
async fn a_certificate_is_renewed_without_the_secret() {
    let authority = authority();
    let lifetime = Validity::starting_now(Duration::from_secs(60));
    let node = authority.credentials(Role::Node, &name("worker-1"), lifetime).unwrap();
    let shown = || async {
        let (here, there) = duplex(1 << 16);
        let acceptor = TlsAcceptor::from(Arc::new(node.server_config(false)));
        let connector = TlsConnector::from(Arc::new(node.client_config(NODE_PROTOCOL)));
        let (client, _) = tokio::join!(connector.connect(node.server_name(), here), acceptor.accept(there));
        client.unwrap().get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let before = shown().await;
    let (here, there) = duplex(1 << 16);
    let (renewed, admitted) = tokio::join!(renew(here, &node), serve(&authority, there));
    renewed.unwrap();
    assert_eq!(admitted.unwrap(), *node.member());
    assert_ne!(shown().await, before);
}

#[tokio::test]
async fn certificates_of_other_clusters_and_other_times_renew_nothing() {
    let authority = authority();
    let now = std::time::SystemTime::now();
    let hour = Duration::from_secs(3600);
    let expired = Validity { not_before: now - 2 * hour, not_after: now - hour };
    let early = Validity { not_before: now + hour, not_after: now + 2 * hour };
    let good = Validity::starting_now(hour);
    let other = self::authority();
    // It knows the cluster's id, which is no secret, and has a key of its own.
    let (impostor, _) = ClusterAuthority::of(authority.cluster()).unwrap();
    let table = [
        (authority.credentials(Role::Node, &name("a"), expired).unwrap(), Refusal::Expired),
        (authority.credentials(Role::Node, &name("a"), early).unwrap(), Refusal::NotYetValid),
        (other.credentials(Role::Node, &name("a"), good).unwrap(), Refusal::OtherCluster),
        (impostor.credentials(Role::Node, &name("a"), good).unwrap(), Refusal::OtherCluster),
    ];
    for (credentials, refusal) in table {
        let (here, there) = duplex(1 << 16);
        let (renewed, admitted) = tokio::join!(renew(here, &credentials), serve(&authority, there));
        assert!(renewed.is_err(), "{refusal}");
        match admitted {
            Err(JoinError::Refused(found)) if found == refusal => {}
            // The node has refused the authority first.
            Err(JoinError::Refused(Refusal::OtherCluster)) if refusal == Refusal::OtherCluster => {}
            other => panic!("{other:?} instead of {refusal:?}"),
        }
    }
}

#[tokio::test]
async fn nonsense_and_what_is_too_long_is_refused() {
    let too_long = (MESSAGE_BYTES_MAX as u32 + 1).to_be_bytes().to_vec();
    let short = [&3u32.to_be_bytes()[..], b"abc"].concat();
    let unnamed = [&66u32.to_be_bytes()[..], &[0; 65], b"/"].concat();
    for said in [too_long, short, unnamed] {
        let authority = authority();
        let (here, there) = duplex(1 << 16);
        let babble = async {
            let anywhere = server_name_of(ClusterId([0; 16]));
            let mut stream = secured(here, join_client_config(), anywhere).await?;
            stream.write_all(&said).await?;
            read_answer(&mut stream).await
        };
        let (told, admitted) = tokio::join!(babble, serve(&authority, there));
        assert!(matches!(told, Err(JoinError::Refused(Refusal::Malformed(_)))), "{told:?}");
        assert!(matches!(admitted, Err(JoinError::Refused(Refusal::Malformed(_)))), "{admitted:?}");
    }
}
