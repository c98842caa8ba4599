//! The state of an embedded registry on its shard: the directory, who is
//! connected where, and what waits to be stored.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::sync::Notify;
use waystation_base::{ConnName, FencingToken, MessageId, Moment, line_passes};
use waystation_membership::{Content, Directory, DrainStep, InstanceId, Output, SubscriberId};
use waystation_net::native::{reply, reply_error};
use waystation_net::{CloseReason, Conn, Shard};
use waystation_wire::{Header, Status, encode_into, frames_len};

use super::convert;
use super::disk::Folder;
use super::journal::Record;
use super::proto::{self, id};
use crate::limits::{UNSTORED_MAX, UNTOLD_BYTES_MAX};

/// A word that has not left.
struct Word {
    to: ConnName,
    what: What,
    body: Vec<u8>,
}

enum What {
    /// The answer to this request.
    Answer(Header),
    /// How far a drain is.
    Drained,
}

impl Word {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.body.len()
    }
}

/// What is to be stored, and told then.
#[derive(Default)]
struct Unstored {
    records: Vec<Record>,
    words: Vec<Word>,
}

#[derive(Default)]
struct Peers {
    by_subscriber: BTreeMap<SubscriberId, ConnName>,
    by_conn: HashMap<ConnName, BTreeSet<SubscriberId>>,
    /// From where each instance was last registered or renewed, and its token.
    owners: BTreeMap<InstanceId, (ConnName, FencingToken)>,
}

/// A registry on its shard.
pub(super) struct Registry {
    pub(super) shard: Shard,
    pub(super) directory: RefCell<Directory>,
    folder: Arc<Folder>,
    peers: RefCell<Peers>,
    /// Words of this turn; they leave once what they tell is stored.
    words: RefCell<Vec<Word>>,
    /// The bytes of all words that wait, of this turn or behind the journal.
    untold: Cell<usize>,
    unstored: RefCell<Unstored>,
    /// Whether a write is under way.
    is_storing: Cell<bool>,
    /// What peers had seen before this start, if that was more than it knew.
    went_back: RefCell<String>,
    /// Something happened: publish, push, store, answer.
    news: Notify,
    to_store: Notify,
}

impl Registry {
    pub(super) fn new(shard: &Shard, directory: Directory, folder: Arc<Folder>) -> Rc<Self> {
        Rc::new(Self {
            shard: shard.clone(),
            directory: RefCell::new(directory),
            folder,
            peers: RefCell::default(),
            words: RefCell::default(),
            untold: Cell::new(0),
            unstored: RefCell::default(),
            is_storing: Cell::new(false),
            went_back: RefCell::default(),
            news: Notify::new(),
            to_store: Notify::new(),
        })
    }

    /// Something came in: outputs are carried out at the end of the turn, so
    /// that what comes in one turn is one version.
    pub(super) fn touch(&self) {
        self.news.notify_one();
    }

    /// Whether changes may come in: those before are stored fast enough.
    pub(super) fn has_room(&self) -> bool {
        self.unstored.borrow().records.len() < UNSTORED_MAX
    }

    /// Answers a request once everything before it is stored. Refused where too
    /// much waits for that already: the request may have been carried out then,
    /// as with every answer that is lost.
    pub(super) fn answer(&self, conn: &Conn, request: &Header, body: &impl Message) {
        let word = Word {
            to: conn.name(),
            what: What::Answer(*request),
            body: body.encode_to_vec(),
        };
        if !self.say(word) {
            let reason = "too many answers wait for the disk";
            // A connection that closes meanwhile counts it itself.
            let _ = reply_error(conn, request, Status::Overloaded, reason);
        }
    }

    /// Tells this once everything before it is stored; false where too much
    /// waits for that already.
    fn say(&self, word: Word) -> bool {
        let untold = self.untold.get() + word.bytes();
        let has_room = untold <= UNTOLD_BYTES_MAX;
        if has_room {
            self.untold.set(untold);
            self.words.borrow_mut().push(word);
        }
        has_room
    }

    /// The bytes of all words that wait.
    #[cfg(test)]
    pub(super) fn untold(&self) -> usize {
        self.untold.get()
    }

    /// Says words to nobody until there is no room for the shortest.
    #[cfg(test)]
    pub(super) fn fill_untold(&self) {
        for bytes in [1 << 20, 0] {
            let word = || Word {
                to: ConnName::default(),
                what: What::Drained,
                body: vec![0; bytes],
            };
            while self.say(word()) {}
        }
        self.touch();
    }

    /// These words wait no more.
    fn count_said(&self, words: &[Word]) {
        let bytes: usize = words.iter().map(Word::bytes).sum();
        self.untold.set(self.untold.get() - bytes);
    }

    /// A subscriber is at this connection from now on.
    pub(super) fn place(&self, subscriber: SubscriberId, conn: &Conn) {
        let peers = &mut *self.peers.borrow_mut();
        let old = peers.by_subscriber.insert(subscriber, conn.name());
        if let Some(there) = old.and_then(|old| peers.by_conn.get_mut(&old)) {
            there.remove(&subscriber);
        }
        let here = peers.by_conn.entry(conn.name()).or_default();
        here.insert(subscriber);
    }

    /// A subscriber is nowhere any more.
    pub(super) fn displace(&self, subscriber: SubscriberId) {
        let peers = &mut *self.peers.borrow_mut();
        let old = peers.by_subscriber.remove(&subscriber);
        if let Some(there) = old.and_then(|old| peers.by_conn.get_mut(&old)) {
            there.remove(&subscriber);
        }
    }

    /// Whether a subscriber is at this connection.
    pub(super) fn is_at(&self, subscriber: SubscriberId, conn: &Conn) -> bool {
        self.peers.borrow().by_subscriber.get(&subscriber) == Some(&conn.name())
    }

    /// Where a subscriber is connected from.
    pub(super) fn peer(&self, subscriber: SubscriberId) -> Option<String> {
        let name = *self.peers.borrow().by_subscriber.get(&subscriber)?;
        let conn = self.shard.connection(name).ok()?;
        Some(conn.peer().to_string())
    }

    /// Which instance each subscriber is, as far as one is registered from the
    /// same connection. Costs a walk over all instances.
    pub(super) fn nodes(&self) -> BTreeMap<SubscriberId, InstanceId> {
        let peers = self.peers.borrow();
        let mut nodes = BTreeMap::new();
        for (id, (conn, _)) in &peers.owners {
            for subscriber in peers.by_conn.get(conn).into_iter().flatten() {
                nodes.entry(*subscriber).or_insert_with(|| id.clone());
            }
        }
        nodes
    }

    /// An instance is owned from this connection.
    pub(super) fn own(&self, id: &InstanceId, token: FencingToken, conn: &Conn) {
        let mut peers = self.peers.borrow_mut();
        peers.owners.insert(id.clone(), (conn.name(), token));
    }

    /// Forgets the owners of what is gone. Behind the outputs, since the end of
    /// a drain is told to who was the owner.
    fn disown(&self, records: &[Record]) {
        let directory = self.directory.borrow();
        for record in records {
            if let Record::Erase(id) = record
                && directory.lease(id).is_none()
            {
                self.peers.borrow_mut().owners.remove(id);
            }
        }
    }

    /// A connection has ended: its subscribers are waited for.
    pub(super) fn handle_close(&self, conn: &Conn) {
        let gone = self.peers.borrow_mut().by_conn.remove(&conn.name());
        let now = self.shard.now();
        for subscriber in gone.into_iter().flatten() {
            self.peers.borrow_mut().by_subscriber.remove(&subscriber);
            self.directory.borrow_mut().handle_lost(now, subscriber);
        }
        self.touch();
    }

    /// Carries out what the directory wants: now what is pushed, and later, when
    /// it is stored, what is answered and what a node is told of its drain. So
    /// subscribers may be shown what a crash undoes, and nobody acts on a word
    /// that it does.
    pub(super) fn flush(&self) {
        let mut records = Vec::new();
        let mut pushes = Pushes::default();
        loop {
            let Some(output) = self.directory.borrow_mut().poll_output() else {
                break;
            };
            self.carry_out(output, &mut records, &mut pushes);
        }
        self.disown(&records);
        let words = std::mem::take(&mut *self.words.borrow_mut());
        let mut unstored = self.unstored.borrow_mut();
        let waits = !unstored.records.is_empty() || !unstored.words.is_empty();
        if records.is_empty() && !waits && !self.is_storing.get() {
            drop(unstored);
            return self.send_words(words);
        }
        unstored.records.extend(records);
        unstored.words.extend(words);
        drop(unstored);
        self.to_store.notify_one();
    }

    fn carry_out(&self, output: Output, records: &mut Vec<Record>, pushes: &mut Pushes) {
        match output {
            Output::Push {
                subscriber,
                content,
            } => self.push(subscriber, &content, pushes),
            Output::Save { instance, ttl } => records.push(Record::Save(instance, ttl)),
            Output::Erase { id } => records.push(Record::Erase(id)),
            Output::SaveEpoch { epoch } => {
                // Nothing may be told in an epoch that is not stored. It happens
                // behind a restore from an old backup, and when nodes move here
                // from a registry that was further: so rarely that it may block.
                if let Err(error) = self.folder.store_epoch(epoch) {
                    tracing::error!(%epoch, %error, "cannot store the epoch");
                }
            }
            Output::Evicted {
                id, service, token, ..
            } => tracing::warn!(%id, %service, %token, "evicted: its lease was not renewed"),
            Output::Refused { id, refusal } => {
                if let Some(unsaid) = line_passes!(self.shard.now()) {
                    tracing::info!(%id, %refusal, unsaid, "refused");
                }
            }
            Output::Drain { id, step, missing } => self.tell_drain(&id, step, &missing),
            Output::Stalled { late } => {
                tracing::warn!(?late, "this process stood still; leases are prolonged");
            }
            Output::Behind {
                ours,
                seen,
                is_believed,
            } => {
                tracing::error!(
                    %ours, %seen, is_believed,
                    "a peer has seen a later epoch: this registry was restored from an old state"
                );
                let before = format!("epoch {seen} had been seen, this was to be {ours}");
                if is_believed {
                    self.folder.note_went_back();
                    self.tell_went_back(&before);
                    *self.went_back.borrow_mut() = before;
                }
            }
        }
    }

    fn push(&self, subscriber: SubscriberId, content: &Content, pushes: &mut Pushes) {
        let name = self.peers.borrow().by_subscriber.get(&subscriber).copied();
        let Some(conn) = name.and_then(|name| self.shard.connection(name).ok()) else {
            return; // its end is on the way
        };
        let body = pushes.body(subscriber, content);
        if send(&conn, id::CHANGED, &body).is_err() {
            // It would miss a push: it has to start over.
            conn.close(CloseReason::SlowReader);
        }
    }

    /// Tells a subscriber that it has everything, or why it gets nothing. Behind
    /// the pushes, so flush before.
    pub(super) fn tell_subscribed(&self, conn: &Conn, subscriber: SubscriberId, refusal: String) {
        let message = proto::Subscribed {
            subscriber: convert::subscriber_bytes(subscriber),
            refusal,
            went_back: self.went_back.borrow().clone(),
        };
        if send(conn, id::SUBSCRIBED, &message.encode_to_vec()).is_err() {
            conn.close(CloseReason::SlowReader);
        }
    }

    /// Tells everybody who is connected. Who subscribes later is told then.
    fn tell_went_back(&self, before: &str) {
        let message = proto::WentBack {
            before: before.to_owned(),
        };
        let body = message.encode_to_vec();
        let peers = self.peers.borrow();
        let owners = peers.owners.values().map(|(conn, _)| conn);
        let conns: BTreeSet<&ConnName> = peers.by_conn.keys().chain(owners).collect();
        for conn in conns {
            if let Ok(conn) = self.shard.connection(*conn) {
                // One that closes meanwhile is told when it subscribes again.
                let _ = send(&conn, id::WENT_BACK, &body);
            }
        }
    }

    fn tell_drain(&self, id: &InstanceId, step: DrainStep, missing: &[SubscriberId]) {
        if missing.is_empty() {
            tracing::info!(%id, ?step, "drain");
        } else {
            tracing::warn!(%id, ?step, ?missing, "drain: not everyone has acknowledged");
        }
        let owner = self.peers.borrow().owners.get(id).copied();
        let Some((to, token)) = owner else { return };
        let message = proto::Drained {
            id: id.to_string(),
            token: token.0,
            step: convert::drain_number(Some(step)),
        };
        // Who is told that it is out exits: it must not be listed by the next
        // start. Without room the next renewal tells it.
        self.say(Word {
            to,
            what: What::Drained,
            body: message.encode_to_vec(),
        });
    }

    fn send_words(&self, words: Vec<Word>) {
        self.count_said(&words);
        for Word { to, what, body } in words {
            let Ok(conn) = self.shard.connection(to) else {
                continue; // a node learns the step with its next renewal
            };
            match what {
                What::Answer(request) => {
                    let header = Header::reply(request.call, request.message, Status::Ok)
                        .with_sid(request.sid)
                        .with_trace(request.trace);
                    // A connection that closes meanwhile counts it itself.
                    let _ = reply(&conn, &header, &body);
                }
                What::Drained => {
                    // One that is not delivered is told by the next renewal.
                    let _ = send(&conn, id::DRAINED, &body);
                }
            }
        }
    }

    /// What could not be stored is not told.
    fn refuse_words(&self, words: Vec<Word>, reason: &str) {
        self.count_said(&words);
        for Word { to, what, .. } in words {
            if let What::Answer(request) = what
                && let Ok(conn) = self.shard.connection(to)
            {
                let _ = reply_error(&conn, &request, Status::Unavailable, reason);
            }
        }
    }

    /// Publishes and expires, for ever.
    pub(super) async fn keep_time(self: Rc<Self>) {
        loop {
            let due = self.directory.borrow().poll_timeout();
            let due = due.unwrap_or(Moment::FAR_FUTURE);
            tokio::select! {
                biased;
                () = self.news.notified() => {
                    // What others of this turn have to say comes along.
                    tokio::task::yield_now().await;
                }
                () = self.shard.sleep_until(due) => {}
            }
            let now = self.shard.now();
            if due <= now {
                self.directory.borrow_mut().handle_timeout(now);
            }
            self.flush();
        }
    }

    /// Stores what is to be stored, by `append`, which blocks, and tells then, for
    /// ever. What comes while a write is under way is stored with the next.
    pub(super) async fn keep_journal<F>(self: Rc<Self>, append: F)
    where
        F: FnMut(&[Record]) -> io::Result<()> + Send + 'static,
    {
        let mut append = Some(append);
        loop {
            self.to_store.notified().await;
            let Unstored { records, words } = std::mem::take(&mut *self.unstored.borrow_mut());
            if records.is_empty() {
                self.send_words(words);
                continue;
            }
            let Some(mut taken) = append.take() else {
                self.refuse_words(words, "the journal is lost");
                continue;
            };
            let write = move || {
                let result = taken(&records);
                (taken, result)
            };
            self.is_storing.set(true);
            let written = self.shard.offload("registry journal", write).await;
            self.is_storing.set(false);
            match written {
                Ok((given_back, result)) => {
                    append = Some(given_back);
                    match result {
                        Ok(()) => self.send_words(words),
                        Err(error) => {
                            tracing::error!(%error, "cannot store");
                            self.refuse_words(words, "the registry cannot store");
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the journal is lost");
                    self.refuse_words(words, "the journal is lost");
                }
            }
        }
    }
}

/// The bodies of pushes. Keeps the encoded form of the push before, since many
/// subscribers get the same.
#[derive(Debug, Default)]
pub struct Pushes {
    content: Option<(Content, Bytes)>,
}

impl Pushes {
    /// The body of the message that tells a subscriber of this. Cost: a copy of
    /// what was encoded for the subscriber before, if that was told the same.
    pub fn body(&mut self, subscriber: SubscriberId, content: &Content) -> Bytes {
        let shared = match &self.content {
            Some((before, bytes)) if is_same(before, content) => bytes.clone(),
            _ => {
                let bytes: Bytes = convert::content_message(content).encode_to_vec().into();
                self.content = Some((content.clone(), bytes.clone()));
                bytes
            }
        };
        let to = proto::Changed {
            subscriber: convert::subscriber_bytes(subscriber),
            content: None,
        };
        // A message is its fields one after another, so the parts make a whole.
        let mut body = BytesMut::with_capacity(shared.len() + to.encoded_len());
        body.extend_from_slice(&shared);
        to.encode(&mut body).expect("a buffer that grows has room");
        body.freeze()
    }
}

fn is_same(one: &Content, other: &Content) -> bool {
    match (one, other) {
        (Content::View(one), Content::View(other)) => Arc::ptr_eq(one, other),
        (Content::Delta(one), Content::Delta(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

fn send(conn: &Conn, message: MessageId, body: &[u8]) -> Result<(), waystation_net::SendError> {
    let header = Header::push(message);
    conn.send_with(frames_len(body.len()), |out| {
        // A view is far below the limit of a message: 100,000 instances of
        // 5 KiB would not be, and are refused by the subscriber's own bound.
        let _ = encode_into(&header, body, out);
    })
}
