//! How a task came to its result, told from what goes into its owner and what comes out.

use shoal_core::ids::TaskId;
use shoal_core::message::Message;
use shoal_core::owner::{Effect, Input};
use shoal_core::value::Death;

/// The lines so far.
#[derive(Debug, Default)]
pub struct Story {
    waiting: bool,
    task: Option<TaskId>,
    lines: Vec<String>,
}

impl Story {
    /// Tell of the next task.
    pub fn begin(&mut self) {
        self.waiting = true;
    }

    /// The lines.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Something goes into the owner.
    pub fn input(&mut self, input: &Input) {
        match input {
            Input::Submit(submission) if self.waiting => {
                (self.waiting, self.task) = (false, Some(submission.id));
                self.say(String::from("it is submitted"));
            }
            Input::Received { message: Message::LeaseEnded { death, last_started, .. }, .. }
                if last_started.is_some() && *last_started == self.task =>
            {
                let how = match death {
                    Death::Exited { code } => format!("exits with code {code}"),
                    other => format!("dies: {other:?}"),
                };
                self.say(format!("the worker {how} while it runs the task"));
            }
            Input::Received { message: Message::TaskFinished(completion), .. }
                if Some(completion.task) == self.task =>
            {
                self.say(format!("attempt {} ends", completion.attempt));
            }
            _ => {}
        }
    }

    /// Something comes out of the owner.
    pub fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Send { message: Message::PushTask(assignment), .. }
                if Some(assignment.task) == self.task =>
            {
                self.say(format!("attempt {} goes to a worker", assignment.attempt));
            }
            Effect::Changed { object } if Some(object.task) == self.task => {
                self.say(String::from("its result is there"));
            }
            _ => {}
        }
    }

    /// An attempt may be taken back from a busy worker and go to another one: that is not told twice.
    fn say(&mut self, line: String) {
        if self.lines.last() != Some(&line) {
            self.lines.push(line);
        }
    }
}
