//! What is decoded before a session goes over a connection: for the fuzzer, and for nobody else.

use serde::{Deserialize, Serialize};

use super::word;

/// What who has made a connection says first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Greeting(word::Greeting);

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reply(word::Reply);
