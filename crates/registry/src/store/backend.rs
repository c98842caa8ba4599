//! A registry in a store, as a backend.

use std::cell::Cell;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use waystation_membership::Content;
use waystation_net::Shard;

use super::shape::Store;
use super::shared::Shared;
use crate::backend::{Ask, Backend, Event, Events, Reply};

/// A client's side of a registry in a store.
pub(crate) struct StoreBackend<S: Store> {
    shared: Rc<Shared<S>>,
    session: Cell<Option<LocalBoxFuture<'static, ()>>>,
}

impl<S: Store> StoreBackend<S> {
    /// Connects once its [source](Backend::source) is run.
    pub(crate) fn new(shard: &Shard, url: String, store: S, events: Events) -> Self {
        let shared = Rc::new(Shared::new(shard, url, store, events));
        let session = shared.counted(S::run(Rc::clone(&shared)));
        Self {
            session: Cell::new(Some(Box::pin(session))),
            shared,
        }
    }

    /// Answers a question by a task of its own.
    fn answer<F>(&self, question: u64, ask: impl FnOnce(Rc<Shared<S>>) -> F)
    where
        F: Future<Output = Result<Reply, crate::error::AskError>> + 'static,
    {
        let shared = Rc::clone(&self.shared);
        let answer = ask(Rc::clone(&shared));
        self.shared.spawn(async move {
            let answer = answer.await;
            shared.events.push(Event::Answered(question, answer));
        });
    }
}

impl<S: Store> Drop for StoreBackend<S> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<S: Store> Backend for StoreBackend<S> {
    fn handle(&self, ask: Ask) {
        let shared = &self.shared;
        match ask {
            Ask::Registration {
                key,
                instance,
                drain,
                what,
            } => shared.registration(key, instance, drain, what),
            Ask::Subscribe {
                subscriber,
                watch,
                have,
            } => shared.subscribe(subscriber, watch, have),
            Ask::Resync {
                subscriber,
                service,
            } => {
                let view = shared.mirror.borrow().view(&service);
                shared.push(subscriber, Content::View(view));
            }
            Ask::Ack(ack) => {
                let mut subscribers = shared.subscribers.borrow_mut();
                if subscribers.acknowledged(ack.subscriber, &ack.service, ack.at) {
                    shared.urgent.notify_one();
                }
            }
            Ask::Unsubscribe(subscriber) => {
                shared.mirror.borrow_mut().unsubscribe(subscriber);
                shared.subscribers.borrow_mut().unsubscribe(subscriber);
                shared.urgent.notify_one();
            }
            Ask::Linger(subscriber) => {
                shared.mirror.borrow_mut().unsubscribe(subscriber);
                shared.subscribers.borrow_mut().linger(subscriber);
            }
            Ask::List {
                question,
                watch,
                with_holders,
                deadline,
            } => self.answer(question, |shared| async move {
                let listed = shared.list(&watch, with_holders, deadline).await;
                listed.map(Reply::Listed)
            }),
            Ask::Drain {
                question,
                id,
                deadline,
            } => self.answer(question, |shared| async move {
                shared.drain(&id, deadline).await.map(Reply::Draining)
            }),
        }
    }

    fn source(&self) -> Option<LocalBoxFuture<'static, ()>> {
        self.session.take()
    }

    fn close(&self) -> LocalBoxFuture<'static, ()> {
        let shared = Rc::clone(&self.shared);
        Box::pin(async move {
            shared.end();
            shared.settled().await;
            S::goodbye(&shared).await;
            shared.close();
            // With their sessions goes what only lives with them.
            shared.ended().await;
        })
    }
}
