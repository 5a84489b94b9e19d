//! Who belongs to a cluster: its authority, the certificates of its nodes, and how a node joins.
//!
//! The first head of a cluster creates a [`ClusterAuthority`]: a key that signs the certificates of the
//! cluster's nodes and no others, and a [`JoinSecret`]. A node that knows the secret is issued a
//! certificate ([`join`]) for a key that never leaves it. From then on every connection is TLS 1.3 with
//! certificates on both sides, made from the node's [`Credentials`].
//!
//! | file | holds |
//! |---|---|
//! | `authority` | the authority and its files |
//! | `member` | what a certificate says of its holder |
//! | `credentials` | a node's key and certificate, as configurations of TLS |
//! | `secret` | the secret that lets nodes join |
//! | `join` | how it is proved, without ever being sent |
//! | `refusal` | why somebody is turned away |

mod authority;
mod credentials;
pub mod join;
mod member;
mod refusal;
mod secret;

pub use authority::{AuthorityError, ClusterAuthority, Validity};
pub use credentials::{BULK_PROTOCOL, Credentials, JOIN_PROTOCOL, NODE_PROTOCOL};
pub use member::{ClusterId, InvalidName, Member, NodeName, Role};
pub use refusal::Refusal;
pub use secret::{InvalidSecret, JoinSecret};
