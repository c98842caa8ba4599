//! Subscribers written to etcd, and read from there.

use tonic::Code;
use waystation_membership::{Content, DirectoryConfig};

use super::backend::Shared;
use super::change::{delete, put};
use super::proto::{KeyValue, TxnRequest};
use super::wire::{Fault, Wire};
use crate::backend::Event;
use crate::limits::ETCD_TXN_OPS_MAX;
use crate::store::Subscriber;

impl Shared {
    /// Keeps the lease of this client's subscribers, if there is one.
    pub(super) async fn keep_subscribers(&self, wire: &Wire) -> Result<(), Fault> {
        let lease = self.subscribers.borrow().lease;
        if let Some(lease) = lease
            && wire.keep_alive(lease).await?.is_none()
        {
            self.subscribers.borrow_mut().lose();
        }
        Ok(())
    }

    /// Writes down what subscribers hold, and shows new ones what is there. What
    /// the store does not take is done without.
    pub(super) async fn write_subscribers(&self, wire: &Wire) -> Result<(), Fault> {
        // Whoever reads behind this must find what another task is writing.
        let _writing = self.writing.lock().await;
        match self.try_write(wire).await {
            Err(Fault::Status {
                code: Code::NotFound,
                ..
            }) => {
                // The lease is over; with a new one all is written again.
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

    async fn try_write(&self, wire: &Wire) -> Result<(), Fault> {
        if !self.subscribers.borrow().has_news() {
            return Ok(());
        }
        let lease = self.subscribers.borrow().lease;
        let lease = if let Some(lease) = lease {
            lease
        } else {
            let (lease, _) = wire.grant(DirectoryConfig::default().linger).await?;
            self.subscribers.borrow_mut().lease = Some(lease);
            lease
        };
        loop {
            let taken = self.subscribers.borrow_mut().take(ETCD_TXN_OPS_MAX);
            if taken.is_empty() {
                return Ok(());
            }
            let operations = taken.into_iter().map(|(id, value)| {
                let key = self.keys.subscriber(id);
                match value {
                    Some(value) => put(key, value, lease),
                    None => delete(key),
                }
            });
            let request = TxnRequest {
                success: operations.collect(),
                ..TxnRequest::default()
            };
            wire.txn(request).await?;
        }
    }

    /// All subscribers of all clients; this one's as they are now.
    pub(super) async fn holders(&self, wire: &Wire) -> Result<Vec<Subscriber>, Fault> {
        self.write_subscribers(wire).await?;
        let (_, kvs) = wire.list(self.keys.subscribers()).await?;
        let read = |kv: &KeyValue| {
            let id = self.keys.subscriber_of(&kv.key)?;
            Subscriber::read(id, &kv.value)
        };
        Ok(kvs.iter().filter_map(read).collect())
    }
}
