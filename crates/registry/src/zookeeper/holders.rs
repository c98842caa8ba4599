//! Subscribers written to the store, and read from there.

use waystation_membership::Content;

use super::backend::Shared;
use super::entry::Paths;
use super::wire::{Fault, Read, Wire};
use crate::backend::Event;
use crate::limits::ZOOKEEPER_WRITE_TOGETHER;
use crate::store::Subscriber;

impl Shared {
    /// Writes down what subscribers hold, and shows new ones what is there. What
    /// the store does not take is done without.
    pub(super) async fn write_subscribers(&self, wire: &Wire) -> Result<(), Fault> {
        // Whoever reads behind this must find what another task is writing.
        let _writing = self.writing.lock().await;
        match self.try_write(wire).await {
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

    async fn try_write(&self, wire: &Wire) -> Result<(), Fault> {
        loop {
            let taken = (self.subscribers.borrow_mut()).take(ZOOKEEPER_WRITE_TOGETHER);
            if taken.is_empty() {
                return Ok(());
            }
            let nodes = taken.into_iter();
            let nodes = nodes.map(|(id, value)| (self.paths.subscriber(id), value));
            let nodes: Vec<_> = nodes.collect();
            match wire.write_all(&nodes).await {
                Err(fault) if fault.is_no_node() => {
                    wire.make_folders(&self.paths.subscribers()).await?;
                    wire.write_all(&nodes).await?;
                }
                written => written?,
            }
        }
    }

    /// All subscribers of all clients; this one's as they are now.
    pub(super) async fn holders(&self, wire: &Wire) -> Result<Vec<Subscriber>, Fault> {
        self.write_subscribers(wire).await?;
        wire.sync().await?;
        let folder = self.paths.subscribers();
        let names = wire.children(&folder).await?;
        let paths: Vec<String> = names
            .iter()
            .map(|name| format!("{folder}/{name}"))
            .collect();
        let found = wire.get_all(&paths).await?;
        let read = names.iter().zip(found).filter_map(|(name, found)| {
            let Read::Node((data, _)) = found else {
                return None;
            };
            Subscriber::read(Paths::subscriber_of(name)?, &data)
        });
        Ok(read.collect())
    }
}
