//! The task of a client: cores in the middle, handles on one side, a backend on
//! the other.

mod registrations;
#[cfg(test)]
mod tests;
mod watches;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Fuse, LocalBoxFuture};
use waystation_base::{Moment, Rng};
use waystation_membership::Follower;
use waystation_net::{Label, Shard, WaitsFor, until, waiting};

use crate::backend::{Ask, Backend, Event, Events, Reply};
use crate::error::AskError;
use crate::handle::{Question, QuestionKind};
use crate::hub::{Counted, Hub, Order};
use crate::limits::{
    CLOSE_WAIT, EVENTS_PER_TURN, ORDERS_PER_TURN, QUESTION_WAIT, SKIPPED_NAMED_MAX,
};
use crate::registry::{Session, SessionState};
use registrations::Registrations;
use watches::Watches;

/// Beyond the time for an answer, for the backend to say why there is none.
const ANSWER_SPARE: Duration = Duration::from_millis(500);

/// What a backend does by itself.
type Source = Fuse<LocalBoxFuture<'static, ()>>;

/// A client's task and all that it keeps.
pub(crate) struct Driver {
    shard: Shard,
    hub: Arc<Hub>,
    backend: Rc<dyn Backend>,
    events: Events,
    is_connected: bool,
    /// Whether the last turn has left something to the next.
    is_behind: bool,
    registrations: Registrations,
    watches: Watches,
    questions: BTreeMap<u64, (Arc<Question>, Moment)>,
    questions_asked: u64,
}

impl Driver {
    pub(crate) fn new(
        shard: &Shard,
        hub: Arc<Hub>,
        backend: Rc<dyn Backend>,
        events: Events,
    ) -> Self {
        Self {
            shard: shard.clone(),
            registrations: Registrations::new(Rng::from_seed(shard.random())),
            hub,
            backend,
            events,
            is_connected: false,
            is_behind: false,
            watches: Watches::default(),
            questions: BTreeMap::new(),
            questions_asked: 0,
        }
    }

    /// Starts the task. It ends when the hub is closed.
    pub(crate) fn spawn(self) {
        let shard = self.shard.clone();
        shard.spawn(Label::of("registry client"), self.run());
    }

    async fn run(mut self) {
        let source = self.backend.source();
        let source = source.unwrap_or_else(|| Box::pin(std::future::pending()));
        let mut source = source.fuse();
        while self.turn() {
            self.sleep(&mut source).await;
        }
        self.end(source).await;
    }

    /// Waits for events, orders, or the next moment at which something is due.
    async fn sleep(&self, source: &mut Source) {
        if self.is_behind {
            return tokio::task::yield_now().await;
        }
        let due = [
            self.registrations.poll_timeout(),
            self.watches.poll_timeout(),
            self.questions.values().map(|(_, at)| *at).min(),
        ];
        let due = due.into_iter().flatten().min();
        let news = async {
            tokio::select! {
                biased;
                () = source => {}
                () = self.events.ready() => {}
                () = self.hub.ordered() => {}
            }
        };
        let news = waiting(WaitsFor::plain("registry"), news);
        // Whichever comes first, the turn looks at everything.
        match due {
            Some(due) => drop(until(&self.shard, due, news).await),
            None => news.await,
        }
    }

    /// Handles what there is; false when the client is closed. The deadlines
    /// come first: after a pause of the process a lease may be over.
    fn turn(&mut self) -> bool {
        let now = self.shard.now();
        self.registrations.handle_timeout(now, &*self.backend);
        self.watches.handle_timeout(now, &*self.backend);
        self.expire_questions(now);
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = self.events.pop() else {
                break;
            };
            self.handle_event(now, event);
        }
        let (orders, is_open) = self.hub.take(ORDERS_PER_TURN);
        self.is_behind = !self.events.is_empty() || orders.len() == ORDERS_PER_TURN;
        for order in orders {
            match order {
                Order::Registration(slot) => {
                    let is_over = self.registrations.handle_order(
                        now,
                        &slot,
                        self.is_connected,
                        &*self.backend,
                    );
                    if is_over {
                        self.hub.release(Counted::Registration);
                    }
                }
                Order::Watch(slot) => {
                    let is_over =
                        self.watches
                            .handle_order(now, &slot, self.is_connected, &*self.backend);
                    if is_over {
                        self.hub.release(Counted::Watch);
                    }
                }
                Order::Question(question) => self.ask(now, question),
            }
        }
        is_open
    }

    fn handle_event(&mut self, now: Moment, event: Event) {
        let backend = &*self.backend;
        match event {
            Event::Connected => {
                self.is_connected = true;
                self.tell(|session| {
                    session.state = SessionState::Connected;
                    session.since = now;
                    session.fault = None;
                });
                tracing::info!(registry = self.hub.url, "connected to the registry");
                self.registrations.handle_connected(now, backend);
                self.watches.handle_connected(now, backend);
            }
            Event::Disconnected(fault) => {
                if std::mem::replace(&mut self.is_connected, false) {
                    tracing::warn!(registry = self.hub.url, fault, "lost the registry");
                    self.tell(|session| session.since = now);
                    self.registrations.handle_disconnected(backend);
                    self.watches.handle_disconnected(backend);
                }
                self.tell(|session| {
                    session.state = SessionState::Connecting;
                    session.fault = Some(fault);
                });
            }
            Event::Skipped { place, reason } => {
                tracing::warn!(registry = self.hub.url, place, reason, "skipped an entry");
                self.tell(|session| {
                    session.skipped += 1;
                    session.skipped_places.push((place, reason));
                    let excess = session
                        .skipped_places
                        .len()
                        .saturating_sub(SKIPPED_NAMED_MAX);
                    session.skipped_places.drain(..excess);
                });
            }
            Event::WentBack(before) => {
                // Told to each watch, and again with each connection.
                let is_news = |session: &Session| session.went_back.as_ref() != Some(&before);
                if self.hub.session.read(is_news) {
                    tracing::warn!(registry = self.hub.url, before, "the registry went back");
                    self.tell(|session| {
                        session.went_back = Some(before);
                        session.went_back_times += 1;
                    });
                }
            }
            Event::Push(subscriber, content) => {
                let push = |core: &mut Follower| core.handle_push(now, &content);
                self.watches.handle(subscriber, backend, push);
            }
            Event::Step(subscriber, delta, newer) => {
                let step = |core: &mut Follower| core.handle_step(now, &delta, &newer);
                self.watches.handle(subscriber, backend, step);
            }
            Event::Subscribed(subscriber, outcome) => {
                self.watches.handle_subscribed(subscriber, outcome);
            }
            Event::Answered(question, answer) => self.answer(question, answer),
            event => self.registrations.handle_event(now, event, backend),
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Session)) {
        self.hub.session.update(change);
    }

    fn ask(&mut self, now: Moment, question: Arc<Question>) {
        self.questions_asked += 1;
        let number = self.questions_asked;
        let deadline = now + QUESTION_WAIT;
        let ask = match question.kind.clone() {
            QuestionKind::List {
                watch,
                with_holders,
            } => Ask::List {
                question: number,
                watch,
                with_holders,
                deadline,
            },
            QuestionKind::Drain(id) => Ask::Drain {
                question: number,
                id,
                deadline,
            },
        };
        // The backend knows best why there is no answer, if it is quick.
        self.questions
            .insert(number, (question, deadline + ANSWER_SPARE));
        self.backend.handle(ask);
    }

    fn answer(&mut self, number: u64, answer: Result<Reply, AskError>) {
        if let Some((question, _)) = self.questions.remove(&number) {
            self.hub.release(Counted::Question);
            question.answer.update(|place| *place = Some(answer));
        }
    }

    fn expire_questions(&mut self, now: Moment) {
        let due = self.questions.iter().filter(|(_, (_, at))| *at <= now);
        let due: Vec<u64> = due.map(|(number, _)| *number).collect();
        for number in due {
            let no_answer = AskError::NoAnswer {
                url: self.hub.url.clone(),
                fault: self.hub.session.read(|session| session.fault.clone()),
            };
            self.answer(number, Err(no_answer));
        }
    }

    /// Deregisters what is registered, says goodbye, and tells that it is over.
    async fn end(mut self, source: Source) {
        self.registrations.close(&*self.backend);
        self.watches.close(&*self.backend);
        let numbers: Vec<u64> = self.questions.keys().copied().collect();
        for number in numbers {
            self.answer(number, Err(AskError::Closed));
        }
        let deadline = self.shard.now() + CLOSE_WAIT;
        // A registry that cannot be reached finds out by its leases.
        let closing = async {
            tokio::select! {
                () = self.backend.close() => {}
                () = source.then(|()| std::future::pending()) => {}
            }
        };
        let _ = until(&self.shard, deadline, closing).await;
        self.tell(|session| session.state = SessionState::Closed);
        self.hub.ended.update(|ended| *ended = true);
    }
}
