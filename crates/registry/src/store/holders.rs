//! Subscribers written to the store, and read from there.

use waystation_membership::Content;

use super::shape::{Store, StoreFault};
use super::shared::Shared;
use super::subscribers::{Subscriber, Writing};
use crate::backend::Event;

impl<S: Store> Shared<S> {
    /// Writes down what subscribers hold, and shows new ones what is there. What
    /// the store does not take is done without.
    pub(crate) async fn write_subscribers(&self, wire: &S::Wire) -> Result<(), S::Fault> {
        // Whoever reads behind this must find what another task is writing.
        let _writing = self.writing.lock().await;
        match self.try_write(wire).await {
            Err(fault) if fault.is_unkept() => {
                // With something new to live with all is written again.
                self.subscribers.borrow_mut().lose();
                self.try_write(wire).await?;
            }
            Err(fault) if fault.is_refusal() => {
                let registry = &self.url;
                tracing::warn!(registry, %fault, "drains do not wait for subscribers here");
                self.subscribers.borrow_mut().do_without();
            }
            written => written?,
        }
        let new = self.subscribers.borrow_mut().take_new();
        for (subscriber, watch) in new {
            let views = self.mirror.borrow_mut().subscribe(subscriber, watch);
            for view in views {
                self.push(subscriber, Content::View(view));
            }
            self.events.push(Event::Subscribed(subscriber, Ok(())));
        }
        Ok(())
    }

    /// The client closes: its subscribers go, but those that linger. Whether there
    /// are any, which stand for as long as what they live with.
    pub(crate) async fn close_subscribers(&self) -> bool {
        let lingers = self.subscribers.borrow_mut().close();
        if lingers
            && let Some(wire) = self.wire()
            && let Err(fault) = self.write_subscribers(&wire).await
        {
            tracing::debug!(registry = self.url, %fault, "subscribers go by themselves");
        }
        lingers
    }

    async fn try_write(&self, wire: &S::Wire) -> Result<(), S::Fault> {
        loop {
            let taken = self.subscribers.borrow_mut().take(S::WRITE_TOGETHER);
            if taken.is_empty() {
                return Ok(());
            }
            let writing = Writing::begin(&self.subscribers, &taken);
            S::write_subscribers(self, wire, taken).await?;
            writing.end();
        }
    }

    /// All subscribers of all clients; this one's as they are now.
    pub(super) async fn holders(&self, wire: &S::Wire) -> Result<Vec<Subscriber>, S::Fault> {
        self.write_subscribers(wire).await?;
        self.store.read_subscribers(wire).await
    }
}
