//! Questions that are answered once.

use std::sync::Arc;
use std::time::Duration;

use waystation_base::ServiceName;
use waystation_membership::{InstanceId, Watch};

use crate::backend::Reply;
use crate::error::AskError;
use crate::limits::QUESTION_WAIT;
use crate::observed::Observed;
use crate::registry::ListedService;

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) enum QuestionKind {
    List { watch: Watch, with_holders: bool },
    Drain(InstanceId),
}

/// A question and its answer.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) kind: QuestionKind,
    pub(crate) answer: Observed<Option<Result<Reply, AskError>>>,
}

/// Beyond what the driver waits, for a driver that has no time.
const SPARE: Duration = Duration::from_secs(2);

impl Question {
    pub(crate) fn new(kind: QuestionKind) -> Self {
        Self {
            kind,
            answer: Observed::new(None),
        }
    }

    fn wait(&self) -> Result<Reply, AskError> {
        let answer = self.answer.wait(QUESTION_WAIT + SPARE, Option::take);
        answer.unwrap_or(Err(AskError::Closed))
    }
}

/// A listing that was asked for.
#[derive(Debug)]
pub struct Listing(pub(crate) Arc<Question>);

impl Listing {
    /// Waits for the answer, at most [`QUESTION_WAIT`].
    ///
    /// # Errors
    /// Why there is none.
    pub async fn answer(self) -> Result<Vec<ListedService>, AskError> {
        listed(self.0.answer.until(Option::take).await?)
    }

    /// Blocks the thread for the answer. Not for shards.
    ///
    /// # Errors
    /// Why there is none.
    pub fn wait(self) -> Result<Vec<ListedService>, AskError> {
        listed(self.0.wait()?)
    }
}

fn listed(reply: Reply) -> Result<Vec<ListedService>, AskError> {
    match reply {
        Reply::Listed(services) => Ok(services),
        Reply::Draining(_) => Err(nonsense()),
    }
}

/// A drain that was ordered.
#[derive(Debug)]
pub struct Draining(pub(crate) Arc<Question>);

impl Draining {
    /// Waits until the drain has begun, at most [`QUESTION_WAIT`], and names the
    /// instance's service. The drain is over when the instance is out of its
    /// view.
    ///
    /// # Errors
    /// Why it has not begun.
    pub async fn answer(self) -> Result<ServiceName, AskError> {
        draining(self.0.answer.until(Option::take).await?)
    }

    /// Blocks the thread until the drain has begun. Not for shards.
    ///
    /// # Errors
    /// Why it has not begun.
    pub fn wait(self) -> Result<ServiceName, AskError> {
        draining(self.0.wait()?)
    }
}

fn draining(reply: Reply) -> Result<ServiceName, AskError> {
    match reply {
        Reply::Draining(service) => Ok(service),
        Reply::Listed(_) => Err(nonsense()),
    }
}

fn nonsense() -> AskError {
    let text = "it is about another question".to_owned();
    AskError::Nonsense { text }
}
