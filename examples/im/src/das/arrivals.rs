//! Messages that other sites wrote: from the copy to the Logics of this site.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use rusqlite::types::Value;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use waystation_base::ConnName;
use waystation_net::{CloseReason, Label, Shard, WaitsFor, waiting};
use waystation_service::{Method, Peer, Push, PushError, Status};
use waystation_sync::adapter::SqliteDatabase;

use super::limits::{ARRIVED_BYTES, WATCHERS_MAX};
use crate::im::arrivals::method::{Arrived, Missed};
use crate::im::{ArrivedMessages, Message, MissedRequest};
use crate::store::StoreHandle;

/// Shown in lists of tasks.
const NEXT: WaitsFor = WaitsFor::plain("what arrives from other sites");

/// What has come into the copy.
#[derive(Debug, Clone)]
pub(super) enum Arrival {
    /// These messages.
    Messages(Arc<[Row]>),
    /// Nobody knows.
    Anything,
}

/// A message as its row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    conversation_id: i64,
    seq: u64,
    at_ms: u64,
    sender: String,
    client_id: String,
    body: String,
}

impl Row {
    /// All messages among the changes of an entry.
    pub(super) fn all(payload: &[u8]) -> Vec<Self> {
        const COLUMNS: [&str; 6] = [
            "conversation_id",
            "seq",
            "at_ms",
            "sender",
            "client_id",
            "body",
        ];
        let rows = SqliteDatabase::rows_put(payload, "message", &COLUMNS);
        rows.into_iter().filter_map(Self::read).collect()
    }

    fn read(values: Vec<Value>) -> Option<Self> {
        let values: [Value; 6] = values.try_into().ok()?;
        match values {
            [
                Value::Integer(conversation_id),
                Value::Integer(seq),
                Value::Integer(at_ms),
                Value::Text(sender),
                Value::Text(client_id),
                Value::Text(body),
            ] => Some(Self {
                conversation_id,
                seq: seq.cast_unsigned(),
                at_ms: at_ms.cast_unsigned(),
                sender,
                client_id,
                body,
            }),
            _ => None,
        }
    }

    fn message(&self, conversation: &str) -> Message {
        Message {
            conversation: conversation.to_owned(),
            seq: self.seq,
            sender: self.sender.clone(),
            client_id: self.client_id.clone(),
            body: self.body.clone(),
            at_ms: self.at_ms,
        }
    }
}

/// The connections of one shard that are told. Each Logic has one, and all are told
/// everything: which Entry is at which of them Das does not know.
pub(super) struct Watchers {
    shard: Shard,
    conns: RefCell<Vec<ConnName>>,
}

impl Watchers {
    /// Begins to tell what arrives.
    pub(super) fn start(
        shard: &Shard,
        store: StoreHandle,
        mut arrivals: broadcast::Receiver<Arrival>,
    ) -> Rc<Self> {
        let watchers = Rc::new(Self {
            shard: shard.clone(),
            conns: RefCell::default(),
        });
        let own = Rc::clone(&watchers);
        shard.spawn(Label::of("tell what arrives"), async move {
            loop {
                match waiting(NEXT, arrivals.recv()).await {
                    Ok(Arrival::Messages(rows)) => own.tell(&store, &rows).await,
                    Ok(Arrival::Anything) | Err(RecvError::Lagged(_)) => own.tell_missed(),
                    Err(RecvError::Closed) => return,
                }
            }
        });
        watchers
    }

    /// Tells a connection from now on.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn add(&self, peer: &Peer) -> Result<(), Status> {
        let mut conns = self.conns.borrow_mut();
        if conns.contains(&peer.name()) {
            return Ok(());
        }
        if conns.len() >= WATCHERS_MAX {
            return Err(Status::overloaded("too many watch what arrives"));
        }
        conns.push(peer.name());
        Ok(())
    }

    /// A connection has ended.
    pub(super) fn remove(&self, peer: &Peer) {
        self.conns.borrow_mut().retain(|conn| *conn != peer.name());
    }

    async fn tell(&self, store: &StoreHandle, rows: &[Row]) {
        if self.conns.borrow().is_empty() {
            return;
        }
        let mut conversations: BTreeMap<i64, Vec<&Row>> = BTreeMap::new();
        for row in rows {
            let one = conversations.entry(row.conversation_id).or_default();
            one.push(row);
        }
        for (id, rows) in conversations {
            match store.addressees(id).await {
                Ok(Some(found)) => {
                    for messages in parts(&rows, &found.conversation) {
                        let members = found.members.clone();
                        self.push::<Arrived>(&ArrivedMessages { messages, members });
                    }
                }
                // It is gone again: another copy takes the place of this one.
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot read for whom messages have arrived");
                    return self.tell_missed();
                }
            }
        }
    }

    fn tell_missed(&self) {
        self.push::<Missed>(&MissedRequest {});
    }

    fn push<M: Method>(&self, message: &M::Request) {
        let push = Push::<M>::new(message);
        let conns = self.conns.borrow().clone();
        for name in conns {
            let Ok(conn) = self.shard.connection(name) else {
                continue;
            };
            let peer = Peer::new(conn);
            if let Err(PushError::Full(_)) = peer.push_shared(&push) {
                // It would miss this. When it is back it looks for what it missed.
                peer.conn().close(CloseReason::SlowReader);
            }
        }
    }
}

/// The messages in parts that are not too large.
fn parts(rows: &[&Row], conversation: &str) -> Vec<Vec<Message>> {
    let (mut parts, mut bytes) = (vec![Vec::new()], 0);
    for row in rows {
        if bytes > 0 && bytes + row.body.len() > ARRIVED_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += row.body.len() + conversation.len() + row.sender.len() + row.client_id.len();
        if let Some(part) = parts.last_mut() {
            part.push(row.message(conversation));
        }
    }
    parts
}
