//! The clients of one shard, and what they saw.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::Notify;
use waystation_base::Moment;
use waystation_net::{Address, Label, Shard};
use waystation_service::Status;

use super::limits::{
    DELIVERIES_MAX, GROUP_WAIT, GROUPS_AT_ONCE, LATE_AFTER, LATENCY_MAX, LOGINS_AT_ONCE, SEND_WAIT,
    SENDS_MAX,
};
use super::plan::Planned;
use super::record::{Received, Sent, compose, intended_of, record};
use super::topology::Topology;
use crate::client::{Client, ClientConfig, Delivery, Events, Outgoing, SessionEvent};
use crate::im::{CreateGroupRequest, SendReply, entry};

/// What all shards of a run share.
pub(super) struct Setup {
    pub(super) entries: Vec<Address>,
    pub(super) topology: Topology,
    pub(super) body_bytes: usize,
    pub(super) shards: u16,
    /// Deliveries recorded by all shards.
    pub(super) recorded: AtomicU64,
    /// A delivery could not be recorded.
    pub(super) overflow: AtomicBool,
}

impl Setup {
    /// The shard that a client lives on.
    pub(super) fn shard_of(&self, client: u32) -> u16 {
        u16::try_from(client % u32::from(self.shards)).unwrap_or(0)
    }

    /// The Entry that a client connects to.
    fn entry_of(&self, client: u32) -> Address {
        self.entries[client as usize % self.entries.len()].clone()
    }

    /// The Entries, for people.
    pub(super) fn entries(&self) -> String {
        let entries: Vec<_> = self.entries.iter().map(ToString::to_string).collect();
        entries.join(", ")
    }

    fn place_of(&self, client: u32) -> usize {
        (client / u32::from(self.shards)) as usize
    }
}

/// How far a shard is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) clients_made: u32,
    /// Clients that have logged in at least once.
    pub(super) logged_in: u32,
    pub(super) groups_made: u32,
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    pub(super) failed: u64,
    /// Deliveries that the acknowledged messages must make.
    pub(super) expected: u64,
    /// Deliveries that were recorded.
    pub(super) delivered: u64,
    pub(super) late: u64,
    /// Answers that speak of another conversation.
    pub(super) misanswered: u64,
}

impl Figures {
    /// Messages without an outcome.
    pub(super) fn pending(&self) -> u64 {
        self.sent - self.acknowledged - self.failed
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.clients_made += other.clients_made;
        self.logged_in += other.logged_in;
        self.groups_made += other.groups_made;
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.late += other.late;
        self.misanswered += other.misanswered;
    }
}

/// What a shard hands over at the end.
pub(super) struct Result {
    pub(super) figures: Figures,
    pub(super) sent: Vec<Sent>,
    /// Clients without a login.
    pub(super) absent: Vec<u32>,
    pub(super) delivery: Histogram<u64>,
    pub(super) answer: Histogram<u64>,
    pub(super) reconnects: u64,
    pub(super) retries: u64,
    /// The last failed send.
    pub(super) failure: Option<String>,
}

/// The clients of one shard.
pub(super) struct Station {
    shard: Shard,
    setup: Arc<Setup>,
    clients: RefCell<Vec<Client>>,
    transcripts: RefCell<Vec<Vec<Received>>>,
    sent: RefCell<Vec<Sent>>,
    figures: Cell<Figures>,
    delivery: RefCell<Histogram<u64>>,
    answer: RefCell<Histogram<u64>>,
    failure: RefCell<Option<String>>,
    /// Why the run cannot go on: a login or a group was refused.
    refusal: RefCell<Option<String>>,
    next_group: Cell<usize>,
    changed: Notify,
}

fn histogram() -> Histogram<u64> {
    let max_us = micros(LATENCY_MAX);
    Histogram::new_with_bounds(1, max_us, 3).expect("the bounds are constant and valid")
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Station {
    pub(super) fn new(shard: &Shard, setup: Arc<Setup>) -> Self {
        Self {
            shard: shard.clone(),
            setup,
            clients: RefCell::default(),
            transcripts: RefCell::default(),
            sent: RefCell::default(),
            figures: Cell::default(),
            delivery: RefCell::new(histogram()),
            answer: RefCell::new(histogram()),
            failure: RefCell::default(),
            refusal: RefCell::default(),
            next_group: Cell::new(0),
            changed: Notify::new(),
        }
    }

    fn count(&self, change: impl FnOnce(&mut Figures)) {
        let mut figures = self.figures.get();
        change(&mut figures);
        self.figures.set(figures);
    }

    pub(super) fn figures(&self) -> Figures {
        self.figures.get()
    }

    /// Why the run cannot go on, if it cannot.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.borrow().clone()
    }

    fn refuse(&self, reason: String) {
        self.refusal.borrow_mut().get_or_insert(reason);
    }

    /// Why clients are not connected, for people.
    pub(super) fn fault(&self) -> Option<String> {
        let clients = self.clients.borrow();
        clients.iter().find_map(Client::fault)
    }

    /// Starts to connect this shard's clients, some at a time.
    pub(super) fn connect(self: &Rc<Self>) {
        let station = self.clone();
        self.shard.spawn(Label::of("connect clients"), async move {
            let setup = station.setup.clone();
            let clients = u32::try_from(setup.topology.uids.len()).unwrap_or(u32::MAX);
            let own = (0..clients).filter(|client| setup.shard_of(*client) == station.shard.id().0);
            for client in own {
                let waiting = |figures: Figures| figures.clients_made - figures.logged_in;
                while waiting(station.figures()) as usize >= LOGINS_AT_ONCE {
                    station.changed.notified().await;
                }
                station.add(client);
            }
        });
    }

    fn add(self: &Rc<Self>, client: u32) {
        let uid = self.setup.topology.uids[client as usize].as_str();
        let mut config = ClientConfig::new(self.setup.entry_of(client), uid, "load");
        config.sends_max = SENDS_MAX;
        let recipient = Recipient {
            station: Rc::downgrade(self),
            client,
            place: self.setup.place_of(client),
        };
        self.transcripts.borrow_mut().push(Vec::new());
        let client = Client::new(&self.shard, config, Rc::new(recipient));
        self.clients.borrow_mut().push(client);
        self.count(|figures| figures.clients_made += 1);
    }

    /// Starts to create the groups whose first members live here.
    pub(super) fn create_groups(self: &Rc<Self>) {
        for _ in 0..GROUPS_AT_ONCE {
            let station = self.clone();
            self.shard.spawn(Label::of("create groups"), async move {
                while let Some(room) = station.next_group() {
                    station.create_group(room).await;
                }
            });
        }
    }

    fn next_group(&self) -> Option<usize> {
        let rooms = &self.setup.topology.rooms;
        let own = |index: &usize| {
            let room = &rooms[*index];
            room.is_group && self.setup.shard_of(room.members[0]) == self.shard.id().0
        };
        let next = (self.next_group.get()..rooms.len()).find(own);
        self.next_group
            .set(next.map_or(rooms.len(), |index| index + 1));
        next
    }

    async fn create_group(&self, room: usize) {
        let room = &self.setup.topology.rooms[room];
        let uid_of = |client: &u32| self.setup.topology.uids[*client as usize].clone();
        let request = CreateGroupRequest {
            uid: String::new(),
            name: room.name.trim_start_matches("g:").to_owned(),
            members: room.members.iter().map(uid_of).collect(),
        };
        let client = self.clients.borrow()[self.setup.place_of(room.members[0])].clone();
        let deadline = self.shard.now() + GROUP_WAIT;
        let created = client
            .request::<entry::method::CreateGroup>(&request, deadline)
            .await;
        match created {
            Ok(group) if group.members.len() == room.members.len() => {
                self.count(|figures| figures.groups_made += 1);
            }
            Ok(group) => self.refuse(format!(
                "{} has {} members instead of {}",
                room.name,
                group.members.len(),
                room.members.len()
            )),
            Err(status) => self.refuse(format!("{} was not created: {status}", room.name)),
        }
    }

    /// Hands messages to their senders. `start` is the plan's origin.
    pub(super) fn send(&self, batch: &[Planned], start: Moment) {
        let now = self.shard.now();
        for planned in batch {
            let intended = start + planned.at;
            if now.saturating_since(intended) > LATE_AFTER {
                self.count(|figures| figures.late += 1);
            }
            let (request, digest) = compose(
                &self.setup.topology,
                planned.number,
                (planned.sender, planned.room),
                intended,
                self.setup.body_bytes,
            );
            let tag = self.sent.borrow().len() as u64;
            self.sent.borrow_mut().push(Sent {
                number: planned.number,
                room: planned.room,
                sender: planned.sender,
                digest,
                seq: None,
            });
            self.count(|figures| figures.sent += 1);
            let outgoing = Outgoing {
                request,
                deadline: now + SEND_WAIT,
                tag,
            };
            let client = self.clients.borrow()[self.setup.place_of(planned.sender)].clone();
            if let Err(refused) = client.send(outgoing) {
                let full = Status::overloaded(format!("{SENDS_MAX} sends of its client wait"));
                self.has_outcome(&refused, Err(full));
            }
        }
    }

    fn has_outcome(&self, sent: &Outgoing, outcome: std::result::Result<SendReply, Status>) {
        let reply = match outcome {
            Ok(reply) => reply,
            Err(status) => {
                self.count(|figures| figures.failed += 1);
                let (id, room) = (&sent.request.client_id, &sent.request.conversation);
                let failure = format!("send {id} to {room} was given up: {status}");
                *self.failure.borrow_mut() = Some(failure);
                return;
            }
        };
        if let Some(intended) = intended_of(&sent.request.body) {
            let took = self.shard.now().saturating_since(intended);
            self.answer.borrow_mut().saturating_record(micros(took));
        }
        let mut list = self.sent.borrow_mut();
        let Some(record) = usize::try_from(sent.tag)
            .ok()
            .and_then(|tag| list.get_mut(tag))
        else {
            return;
        };
        record.seq = Some(u32::try_from(reply.seq).unwrap_or(u32::MAX));
        let members = self.setup.topology.rooms[record.room as usize]
            .members
            .len();
        self.count(|figures| {
            figures.acknowledged += 1;
            figures.expected += members as u64;
            figures.misanswered += u64::from(reply.conversation != sent.request.conversation);
        });
    }

    fn take(&self, place: usize, delivery: &Delivery) {
        if self.setup.recorded.fetch_add(1, Ordering::Relaxed) >= DELIVERIES_MAX {
            self.setup.overflow.store(true, Ordering::Relaxed);
            return;
        }
        let message = &delivery.message;
        if let Some(intended) = intended_of(&message.body) {
            let took = self.shard.now().saturating_since(intended);
            self.delivery.borrow_mut().saturating_record(micros(took));
        }
        let received = record(&self.setup.topology, delivery.session, message);
        self.transcripts.borrow_mut()[place].push(received);
        self.count(|figures| figures.delivered += 1);
    }

    /// Takes what came in since the last time: for each client, in order.
    pub(super) fn harvest(&self) -> Vec<(u32, Vec<Received>)> {
        let mut transcripts = self.transcripts.borrow_mut();
        let stride = u32::from(self.setup.shards);
        let clients = (u32::from(self.shard.id().0)..).step_by(stride as usize);
        let filled = clients.zip(transcripts.iter_mut());
        filled
            .filter(|(_, transcript)| !transcript.is_empty())
            .map(|(client, transcript)| (client, std::mem::take(transcript)))
            .collect()
    }

    /// What was sent, with the outcomes so far.
    pub(super) fn sent(&self) -> Vec<Sent> {
        self.sent.borrow().clone()
    }

    /// The clients that have no login.
    fn absent(&self) -> Vec<u32> {
        let stride = usize::from(self.setup.shards);
        let own = (u32::from(self.shard.id().0)..).step_by(stride);
        let clients = self.clients.borrow();
        let absent = own.zip(&*clients).filter(|(_, client)| !client.is_ready());
        absent.map(|(client, _)| client).collect()
    }

    /// Everything but the transcripts.
    pub(super) fn result(&self) -> Result {
        let stats: Vec<_> = self.clients.borrow().iter().map(Client::stats).collect();
        let reconnects = |stats: &crate::client::ClientStats| stats.sessions.saturating_sub(1);
        Result {
            figures: self.figures(),
            sent: self.sent(),
            absent: self.absent(),
            delivery: self.delivery.borrow().clone(),
            answer: self.answer.borrow().clone(),
            reconnects: stats.iter().map(|stats| u64::from(reconnects(stats))).sum(),
            retries: stats.iter().map(|stats| stats.retries).sum(),
            failure: self.failure.borrow().clone(),
        }
    }

    /// Closes all connections.
    pub(super) fn close(&self) {
        for client in self.clients.borrow_mut().drain(..) {
            client.close();
        }
    }
}

/// One client's events.
struct Recipient {
    station: Weak<Station>,
    client: u32,
    /// Its place among the clients of its shard.
    place: usize,
}

impl Events for Recipient {
    fn on_message(&self, delivery: Delivery) {
        if let Some(station) = self.station.upgrade() {
            station.take(self.place, &delivery);
        }
    }

    fn on_sent(&self, sent: &Outgoing, outcome: std::result::Result<SendReply, Status>) {
        if let Some(station) = self.station.upgrade() {
            station.has_outcome(sent, outcome);
        }
    }

    fn on_session(&self, event: SessionEvent) {
        let Some(station) = self.station.upgrade() else {
            return;
        };
        match event {
            SessionEvent::Up { resumed: false, .. } => {
                station.count(|figures| figures.logged_in += 1);
            }
            SessionEvent::Refused(status) => {
                let uid = &station.setup.topology.uids[self.client as usize];
                station.refuse(format!("the login of {uid} was refused: {status}"));
            }
            SessionEvent::Up { .. } | SessionEvent::Down { .. } => {}
        }
        station.changed.notify_waiters();
    }
}
