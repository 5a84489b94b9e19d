//! Questions of the program to head and nodes. What the head was asked is asked again when another head
//! acts: the answer may have died with the one before. So it may come twice, and the second is ignored.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{Effect, Out, Owner};
use crate::actor::ActorSpec;
use crate::group::GroupSpec;
use crate::ids::{NodeId, ProcessId, RequestId};
use crate::machine::Time;
use crate::message::{Answer, Message, Query};

/// A question without an answer.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// Something to be looked up, or changed.
    Ask { to: ProcessId, query: Query },
    /// Whether the name of a new actor was free.
    CreateActor(Box<ActorSpec>),
    /// Whether a new placement group is possible.
    CreateGroup(Box<GroupSpec>),
}

impl Question {
    fn to(&self) -> ProcessId {
        match self {
            Question::Ask { to, .. } => *to,
            Question::CreateActor(_) | Question::CreateGroup(_) => ProcessId::HEAD,
        }
    }
}

impl Owner {
    pub(super) fn ask(&mut self, request: RequestId, question: Question, out: Out<'_>) {
        if self.heirs.contains_key(&question.to().node()) {
            out.push(Effect::Answered { request, answer: Answer::NotFound });
            return;
        }
        self.put_question(request, &question, out);
        self.questions.insert(request, question);
    }

    fn put_question(&self, request: RequestId, question: &Question, out: Out<'_>) {
        let message = match question.clone() {
            Question::Ask { query, .. } => Message::Ask { request, query },
            Question::CreateActor(spec) => Message::CreateActor { spec, request: Some(request) },
            Question::CreateGroup(spec) => Message::CreateGroup { spec, request },
        };
        self.send(question.to(), message, out);
    }

    pub(super) fn answered(&mut self, now: Time, request: RequestId, answer: Answer, out: Out<'_>) {
        if self.census_taken(now, request, &answer, out) {
            self.questions.remove(&request);
            return;
        }
        if self.questions.remove(&request).is_some() {
            out.push(Effect::Answered { request, answer });
        }
    }

    /// Another head acts. What is volatile in a head is told again: subscriptions and open questions.
    pub(super) fn head_changed(&mut self, epoch: u64, out: Out<'_>) {
        if epoch <= self.head_epoch {
            return;
        }
        self.head_epoch = epoch;
        // An actor or a group is made before anybody asks for it.
        for (request, question) in &self.questions {
            if question.to() == ProcessId::HEAD {
                self.put_question(*request, question, out);
            }
        }
        self.subscribe_actors(out);
        self.subscribe_groups(out);
    }

    /// A node died with the questions that it was asked.
    pub(super) fn questions_of_dead_node(&mut self, node: NodeId, out: Out<'_>) {
        let asked = self.questions.iter().filter(|(_, question)| question.to().node() == node);
        let asked: Vec<RequestId> = asked.map(|(request, _)| *request).collect();
        for request in asked {
            self.answered(self.now, request, Answer::NotFound, out);
        }
    }
}
