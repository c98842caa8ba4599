//! A watch of etcd with nothing around it, to measure beside.

use std::net::SocketAddr;

use tonic::Streaming;
use waystation_net::Shard;

use super::proto::event::EventType;
use super::proto::{TxnRequest, WatchResponse};
use super::txn::{delete, put};
use super::wire::Wire;
use crate::limits::ETCD_PROBE_INTERVAL;

/// A watch of all keys that begin so, over a connection of its own.
pub struct EtcdWatch {
    _wire: Wire,
    stream: Streaming<WatchResponse>,
    told: std::collections::VecDeque<bool>,
}

impl EtcdWatch {
    /// Begins to watch, and waits until it has begun.
    ///
    /// # Errors
    /// What is in the way.
    pub async fn new(shard: &Shard, address: SocketAddr, prefix: &str) -> Result<Self, String> {
        let text = |fault: super::wire::Fault| fault.to_string();
        let wire = Wire::connect(shard, &address.into()).await.map_err(text)?;
        let from = prefix.as_bytes().to_vec();
        let mut to = from.clone();
        if let Some(last) = to.last_mut() {
            *last = last.saturating_add(1);
        }
        let stream = wire.watch((from, to), 0).await.map_err(text)?;
        let mut watch = Self {
            _wire: wire,
            stream,
            told: std::collections::VecDeque::new(),
        };
        watch.take().await?;
        Ok(watch)
    }

    /// Waits for the next change: true when a key was written, false when it was
    /// deleted.
    ///
    /// # Errors
    /// The watch ended, and why.
    pub async fn changed(&mut self) -> Result<bool, String> {
        loop {
            if let Some(is_there) = self.told.pop_front() {
                return Ok(is_there);
            }
            self.take().await?;
        }
    }

    async fn take(&mut self) -> Result<(), String> {
        let answer = self.stream.message().await;
        let answer = answer.map_err(|status| status.to_string())?;
        let answer = answer.ok_or("the watch ended")?;
        let events = answer.events.iter();
        self.told
            .extend(events.map(|event| event.r#type() == EventType::Put));
        Ok(())
    }
}

/// Writes and deletes one key, in a lease of its own.
pub struct EtcdWriter {
    wire: Wire,
    lease: i64,
}

impl EtcdWriter {
    /// Connects, and takes a lease.
    ///
    /// # Errors
    /// What is in the way.
    pub async fn new(shard: &Shard, address: SocketAddr) -> Result<Self, String> {
        let text = |fault: super::wire::Fault| fault.to_string();
        let wire = Wire::connect(shard, &address.into()).await.map_err(text)?;
        // Nobody keeps it: it is long enough for a benchmark.
        let length = ETCD_PROBE_INTERVAL * 1000;
        let (lease, _) = wire.grant(length).await.map_err(text)?;
        Ok(Self { wire, lease })
    }

    /// Writes the key, or deletes it when there is no value.
    ///
    /// # Errors
    /// What is in the way.
    pub async fn write(&self, key: &str, value: Option<&Vec<u8>>) -> Result<(), String> {
        let key = key.as_bytes().to_vec();
        let operation = match value {
            Some(value) => put(key, value.clone(), self.lease),
            None => delete(key),
        };
        let request = TxnRequest {
            success: vec![operation],
            ..TxnRequest::default()
        };
        let done = self.wire.txn(request).await;
        done.map(drop).map_err(|fault| fault.to_string())
    }
}
