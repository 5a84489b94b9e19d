//! What shows an etcd who asks: a token, which it gives for the name and the password of a user.
//!
//! A token is good for some minutes without being used, and until the member that is asked restarts. So one is
//! asked for when there is none, and again whenever the last one is refused.

use std::fmt;
use std::future::Future;

use tokio::sync::Mutex;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status};

use super::EtcdUser;

/// Under this name a request carries its token.
const TOKEN: &str = "token";

// What an etcd says; several of these have one code.
const NOT_ENABLED: &str = "authentication is not enabled";
const NO_USER: &str = "user name is empty";
const OLD_TOKEN: &str = "revision of auth store is old";
const WRONG_USER: &str = "authentication failed";

/// A user, and what was given for them last.
pub(super) struct Access {
    user: EtcdUser,
    pass: Mutex<Option<Pass>>,
}

/// What a request shows.
#[derive(Clone, PartialEq)]
pub(super) enum Pass {
    /// Nothing: this etcd does not ask who it is.
    Free,
    /// A token.
    Token(AsciiMetadataValue),
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Access(..)")
    }
}

impl Access {
    pub(super) fn new(user: EtcdUser) -> Access {
        Access { user, pass: Mutex::new(None) }
    }

    /// What to show now. Of several who need a token, one asks for it.
    pub(super) async fn pass<A>(&self, authenticate: impl FnOnce(EtcdUser) -> A) -> Result<Pass, Status>
    where
        A: Future<Output = Result<String, Status>>,
    {
        let mut kept = self.pass.lock().await;
        if let Some(pass) = &*kept {
            return Ok(pass.clone());
        }
        let pass = match authenticate(self.user.clone()).await {
            Ok(token) => {
                let token = AsciiMetadataValue::try_from(token);
                let mut token = token.map_err(|_| Status::internal("etcd has given no usable token"))?;
                token.set_sensitive(true);
                Pass::Token(token)
            }
            // Users may be given to heads before etcd begins to ask for them.
            Err(status) if status.message().contains(NOT_ENABLED) => Pass::Free,
            Err(status) => return Err(status),
        };
        Ok(kept.insert(pass).clone())
    }

    /// What was shown is good no more, unless there is something newer already.
    pub(super) async fn forget(&self, shown: &Pass) {
        let mut kept = self.pass.lock().await;
        if kept.as_ref() == Some(shown) {
            *kept = None;
        }
    }
}

impl Pass {
    pub(super) fn show<Q>(&self, question: Q) -> Request<Q> {
        let mut request = Request::new(question);
        if let Pass::Token(token) = self {
            request.metadata_mut().insert(TOKEN, token.clone());
        }
        request
    }
}

/// Whether another token may be taken where this one was refused.
pub(super) fn is_stale(status: &Status) -> bool {
    let says = |text| status.message().contains(text);
    status.code() == Code::Unauthenticated || says(NO_USER) || says(OLD_TOKEN)
}

/// What somebody has to do about it, if this etcd does not let the head in.
pub(super) fn objection(status: &Status, has_user: bool) -> Option<&'static str> {
    let says = |text| status.message().contains(text);
    if says(WRONG_USER) {
        Some("it does not know this user, or not with this password")
    } else if status.code() == Code::PermissionDenied {
        Some("this user may not read and write the keys below the prefix: grant it a role that may")
    } else if is_stale(status) && has_user {
        Some("it does not accept a token that it has just given to this user")
    } else if is_stale(status) {
        Some("it wants to know who asks, and no user was given")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn access() -> Access {
        Access::new(EtcdUser::new(String::from("shoal"), String::from("secret")).expect("a user"))
    }

    #[tokio::test]
    async fn a_token_is_asked_for_once_and_again_when_it_was_refused() {
        let (access, asked) = (access(), Cell::new(0));
        let give = |user: EtcdUser| {
            asked.set(asked.get() + 1);
            let token = format!("{}.{}", user.name, asked.get());
            async { Ok(token) }
        };
        let first = access.pass(give).await.expect("a token");
        assert!(access.pass(give).await.expect("a token") == first);
        access.forget(&first).await;
        let second = access.pass(give).await.expect("a token");
        assert!(second != first);
        access.forget(&first).await;
        assert!(access.pass(give).await.expect("a token") == second, "that was news of the first one");
        assert_eq!(asked.get(), 2);
        let request = second.show(7);
        assert_eq!(request.metadata().get(TOKEN).expect("it shows one"), "shoal.2");
        assert!(!format!("{request:?}").contains("shoal.2"), "{request:?}");
    }

    #[tokio::test]
    async fn an_etcd_that_does_not_ask_is_shown_nothing() {
        let access = access();
        let refuse = |text| async move { Err(Status::failed_precondition(text)) };
        let pass = access.pass(|_| refuse("etcdserver: authentication is not enabled")).await;
        assert!(pass.expect("no need") == Pass::Free);
        access.forget(&Pass::Free).await;
        assert!(access.pass(|_| refuse("etcdserver: no leader")).await.is_err());
    }

    #[test]
    fn refusals_are_told_apart() {
        let said = |code, text: &str, has_user| {
            objection(&Status::new(code, format!("etcdserver: {text}")), has_user)
        };
        let wrong = "authentication failed, invalid user ID or password";
        assert!(said(Code::InvalidArgument, wrong, true).is_some_and(|text| text.contains("password")));
        assert!(!is_stale(&Status::invalid_argument(wrong)), "to try again changes nothing");
        assert!(said(Code::InvalidArgument, NO_USER, false).is_some_and(|text| text.contains("no user")));
        assert!(
            said(Code::Unauthenticated, "invalid auth token", true)
                .is_some_and(|text| text.contains("token"))
        );
        assert!(
            said(Code::PermissionDenied, "permission denied", true).is_some_and(|text| text.contains("role"))
        );
        assert_eq!(said(Code::InvalidArgument, "key is not provided", true), None);
        assert_eq!(said(Code::Unavailable, "no leader", true), None);
    }
}
