//! Questions that are answered once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use waystation_base::ServiceName;
use waystation_membership::{Instance, InstanceId, View, Watch};

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
pub struct Listing(Vec<Arc<Question>>);

impl Listing {
    pub(crate) fn new(question: Arc<Question>) -> Self {
        Self(vec![question])
    }

    /// One that is made of others, each of another registry.
    pub(crate) fn of_all(all: Vec<Self>) -> Self {
        Self(all.into_iter().flat_map(|one| one.0).collect())
    }

    /// Waits for the answer, at most [`QUESTION_WAIT`].
    ///
    /// # Errors
    /// Why there is none.
    pub async fn answer(self) -> Result<Vec<ListedService>, AskError> {
        let mut answers = Vec::new();
        for question in &self.0 {
            answers.push(question.answer.until(Option::take).await.and_then(listed));
        }
        joined(answers).map(all_listed)
    }

    /// Blocks the thread for the answer. Not for shards.
    ///
    /// # Errors
    /// Why there is none.
    pub fn wait(self) -> Result<Vec<ListedService>, AskError> {
        let answers = self
            .0
            .iter()
            .map(|question| question.wait().and_then(listed));
        joined(answers.collect()).map(all_listed)
    }
}

/// What came of a question to several registries: one answer is enough.
fn joined<T>(answers: Vec<Result<T, AskError>>) -> Result<Vec<T>, AskError> {
    let (mut good, mut bad) = (Vec::new(), None);
    for answer in answers {
        match answer {
            Ok(answer) => good.push(answer),
            // That one does not have it says less than that one cannot be asked.
            Err(error @ AskError::NoInstance { .. }) => bad = bad.or(Some(error)),
            Err(error) => bad = Some(error),
        }
    }
    match bad {
        Some(error) if good.is_empty() => Err(error),
        _ => Ok(good),
    }
}

fn listed(reply: Reply) -> Result<Vec<ListedService>, AskError> {
    match reply {
        Reply::Listed(services) => Ok(services),
        Reply::Draining(_) => Err(nonsense()),
    }
}

/// One listing of several: each instance once, by its latest token. With holders
/// they stay apart, since the versions are of one registry each.
fn all_listed(mut answers: Vec<Vec<ListedService>>) -> Vec<ListedService> {
    if answers.len() == 1 {
        return answers.pop().unwrap_or_default();
    }
    let has_holders = |one: &ListedService| !one.holders.is_empty();
    if answers.iter().flatten().any(has_holders) {
        return answers.into_iter().flatten().collect();
    }
    let mut all: BTreeMap<ServiceName, View> = BTreeMap::new();
    for one in answers.into_iter().flatten() {
        let service = one.view.service.clone();
        let empty = || View::empty(service.clone(), one.view.at);
        let view = all.entry(service.clone()).or_insert_with(empty);
        view.at = view.at.max(one.view.at);
        for (id, instance) in &one.view.instances {
            let is_later = |other: &Arc<Instance>| other.token < instance.token;
            if view.instances.get(id).is_none_or(is_later) {
                view.instances.insert(id.clone(), Arc::clone(instance));
            }
        }
    }
    let listed = all.into_values().map(|view| ListedService {
        view: Arc::new(view),
        holders: Vec::new(),
    });
    listed.collect()
}

/// A drain that was ordered.
#[derive(Debug)]
pub struct Draining(Vec<Arc<Question>>);

impl Draining {
    pub(crate) fn new(question: Arc<Question>) -> Self {
        Self(vec![question])
    }

    /// One that is made of others, each of another registry.
    pub(crate) fn of_all(all: Vec<Self>) -> Self {
        Self(all.into_iter().flat_map(|one| one.0).collect())
    }

    /// Waits until the drain has begun, at most [`QUESTION_WAIT`], and names the
    /// instance's service. The drain is over when the instance is out of its
    /// view.
    ///
    /// # Errors
    /// Why it has not begun.
    pub async fn answer(self) -> Result<ServiceName, AskError> {
        let mut answers = Vec::new();
        for question in &self.0 {
            answers.push(question.answer.until(Option::take).await.and_then(draining));
        }
        first(answers)
    }

    /// Blocks the thread until the drain has begun. Not for shards.
    ///
    /// # Errors
    /// Why it has not begun.
    pub fn wait(self) -> Result<ServiceName, AskError> {
        let answers = self.0.iter();
        first(answers.map(|one| one.wait().and_then(draining)).collect())
    }
}

fn first(answers: Vec<Result<ServiceName, AskError>>) -> Result<ServiceName, AskError> {
    let mut good = joined(answers)?;
    good.pop().ok_or_else(nonsense)
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
