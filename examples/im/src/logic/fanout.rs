//! A stored message on its way to the Entries that are to be told of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::oneshot;
use waystation_base::{ConnName, Moment, ShardId};
use waystation_net::{CloseReason, Label, Shard, WaitsFor, until, waiting};
use waystation_service::{Ctx, Peer, PushError};

use super::limits::{FANOUT_BEHIND_BYTES, FANOUT_WAIT};
use super::siblings::Siblings;
use crate::im::link::method as push;
use crate::im::{FanoutMessage, Message};

/// Whom to tell on each connection.
pub(super) type Routes = HashMap<ConnName, Vec<String>>;

/// A message for connections of one shard. They are told when this is dropped.
struct FanOut {
    shard: Shard,
    message: Arc<Message>,
    routes: Routes,
}

/// Gives a stored message to every Entry that has a member on it, as fast as
/// they take it, whichever shard of this process it is connected to. However
/// this ends, they are told.
pub(super) async fn fan_out(
    ctx: &Ctx,
    siblings: &Siblings,
    message: &Arc<Message>,
    routes: Routes,
) {
    let shard = ctx.shard();
    let deadline = ctx.deadline().min(shard.now() + FANOUT_WAIT);
    let mut by_shard = BTreeMap::<ShardId, Routes>::new();
    for (entry, users) in routes {
        by_shard
            .entry(entry.shard)
            .or_default()
            .insert(entry, users);
    }
    let own = FanOut {
        shard: shard.clone(),
        message: message.clone(),
        routes: by_shard.remove(&shard.id()).unwrap_or_default(),
    };
    // All at once, before anything is waited for.
    let told = by_shard.into_iter().map(|(to, routes)| {
        let (tell, told) = oneshot::channel();
        let message = message.clone();
        siblings.tell(to, move |shard, _| {
            let (shard, message) = (shard.clone(), message);
            let fan_out = FanOut {
                shard,
                message,
                routes,
            };
            fan_out.finish(deadline, tell);
        });
        told
    });
    let told: Vec<_> = told.collect();
    // One that has no room by then is disconnected when it is told.
    let _ = until(shard, deadline, own.room()).await;
    drop(own);
    for told in told {
        let told = waiting(WaitsFor::plain("another shard's Entries"), told);
        let _ = until(shard, deadline, told).await;
    }
}

impl FanOut {
    /// Whether no Entry is far behind.
    fn has_room(&self) -> bool {
        let is_behind = |entry: &ConnName| {
            let conn = self.shard.connection(*entry);
            conn.is_ok_and(|conn| conn.output_len() >= FANOUT_BEHIND_BYTES)
        };
        !self.routes.keys().any(is_behind)
    }

    /// Waits until that is so.
    async fn room(&self) {
        for entry in self.routes.keys() {
            if let Ok(conn) = self.shard.connection(*entry)
                && conn.output_len() >= FANOUT_BEHIND_BYTES
            {
                // One that ends meanwhile is told nothing.
                let _ = conn.writable().await;
            }
        }
    }

    /// Tells them when there is room, and whoever waits for that.
    fn finish(self, deadline: Moment, tell: oneshot::Sender<()>) {
        if self.has_room() {
            drop(self);
            // Who has waited long enough does not hear of it.
            let _ = tell.send(());
            return;
        }
        let (shard, guard) = (self.shard.clone(), self.shard.work_guard());
        self.shard.clone().spawn(Label::of("fan out"), async move {
            let _guard = guard;
            let _ = until(&shard, deadline, self.room()).await;
            drop(self);
            let _ = tell.send(());
        });
    }
}

impl Drop for FanOut {
    fn drop(&mut self) {
        for (entry, recipients) in self.routes.drain() {
            let Ok(conn) = self.shard.connection(entry) else {
                continue;
            };
            let fanout = FanoutMessage {
                message: Some(Message::clone(&self.message)),
                recipients,
            };
            let peer = Peer::new(conn);
            if let Err(PushError::Full(_)) = peer.push::<push::Fanout>(&fanout) {
                // It would miss the message. When it is back it looks for
                // what it missed.
                peer.conn().close(CloseReason::SlowReader);
            }
        }
    }
}
