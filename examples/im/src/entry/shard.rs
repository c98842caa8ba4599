//! What one shard of Entry knows: its users' connections and every Logic.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use waystation_base::ConnName;
use waystation_net::Shard;
use waystation_service::{Ctx, Group, Locks, Peer, Pick, ProbeConfig, Status, Turns};

use super::limits::FETCHES_AT_ONCE;
use super::link::{logic_channel, look_after_loss, tell_offline};
use super::session::Session;
use crate::im::logic::LogicClient;
use crate::joined::{Follower, LOGIC};

/// One shard's state.
pub(super) struct EntryShard {
    shard: Shard,
    /// A user's connections, by name: several devices each.
    users: RefCell<HashMap<String, Vec<ConnName>>>,
    logics: Group,
    /// Messages of one connection to one conversation go on in their order.
    pub(super) sends: Locks<(ConnName, String)>,
    /// Each Logic that is being told who is here, and whether to tell it (once
    /// more) after that.
    attaching: RefCell<HashMap<String, bool>>,
    /// Whether all sessions are being looked at because a Logic is gone, and
    /// whether to do it (once more) after that.
    pub(super) is_looking: Cell<bool>,
    /// See above.
    pub(super) looks_again: Cell<bool>,
    /// Places for fetches of missed messages.
    pub(super) fetches: Turns,
    this: Weak<Self>,
}

impl EntryShard {
    /// Makes the shard's state, and connects to every Logic that there is or
    /// will be: each has to know who is here.
    pub(super) fn start(shard: &Shard, follower: &Follower, probe: Option<&ProbeConfig>) {
        let state = Rc::new_cyclic(|this: &Weak<Self>| Self {
            shard: shard.clone(),
            users: RefCell::default(),
            logics: {
                let (shard, this) = (shard.clone(), this.clone());
                Group::following(LOGIC, move |instance| {
                    logic_channel(&shard, &this, instance)
                })
            },
            sends: Locks::default(),
            attaching: RefCell::default(),
            is_looking: Cell::default(),
            looks_again: Cell::default(),
            fetches: Turns::new(FETCHES_AT_ONCE),
            this: this.clone(),
        });
        let changed = Rc::downgrade(&state);
        follower.follow(shard, LOGIC, &state.logics, probe, move |updated| {
            let Some(state) = changed.upgrade() else {
                return;
            };
            for member in updated.came {
                state.logics.channel(&member);
            }
            if !updated.went.is_empty() {
                look_after_loss(&state);
            }
        });
        shard.set_extension(state);
    }

    pub(super) fn shard(&self) -> &Shard {
        &self.shard
    }

    pub(super) fn strong(&self) -> Option<Rc<Self>> {
        self.this.upgrade()
    }

    /// Every Logic.
    pub(super) fn logics(&self) -> &Group {
        &self.logics
    }

    /// The Logic for a conversation or a user: always the same one while it
    /// is up. While there is none, one is waited for.
    ///
    /// # Errors
    /// [`Status`] when there is none before the deadline.
    pub(super) async fn pick(&self, ctx: &Ctx, key: &str) -> Result<Pick, Status> {
        self.logics.wait(ctx, key.as_bytes()).await
    }

    /// The Logic for what any of them knows: the one that has least to do, by
    /// what the agent of this machine knows.
    ///
    /// # Errors
    /// [`Status`] when there is none before the deadline.
    pub(super) async fn any_logic(&self, ctx: &Ctx) -> Result<LogicClient, Status> {
        Ok(LogicClient::new(self.logics.best(ctx).await?.channel))
    }

    /// Like [`EntryShard::pick`], to be asked.
    ///
    /// # Errors
    /// [`Status`] when there is none before the deadline.
    pub(super) async fn logic(&self, ctx: &Ctx, key: &str) -> Result<LogicClient, Status> {
        Ok(LogicClient::new(self.pick(ctx, key).await?.channel))
    }

    /// A Logic is to be told who is here. False when somebody does it already,
    /// who does it once more then.
    pub(super) fn begin_attach(&self, logic: &str) -> bool {
        let mut attaching = self.attaching.borrow_mut();
        attaching.insert(logic.to_owned(), true).is_none()
    }

    /// Whoever tells a Logic failed, and tells it again.
    pub(super) fn attach_again(&self, logic: &str) {
        self.attaching.borrow_mut().insert(logic.to_owned(), true);
    }

    /// Whether a Logic is to be told (once more). With the connection lost it
    /// is told when there is another.
    pub(super) fn goes_on_attaching(&self, logic: &str, connected: bool) -> bool {
        let mut attaching = self.attaching.borrow_mut();
        let again = attaching.insert(logic.to_owned(), false).unwrap_or(false) && connected;
        if !again {
            attaching.remove(logic);
        }
        again
    }

    /// Remembers that a user is on a connection.
    pub(super) fn add(&self, uid: &str, conn: ConnName) {
        self.users
            .borrow_mut()
            .entry(uid.to_owned())
            .or_default()
            .push(conn);
    }

    /// Forgets it. True when the user has no connection left here.
    fn remove(&self, uid: &str, conn: ConnName) -> bool {
        let mut users = self.users.borrow_mut();
        let Some(conns) = users.get_mut(uid) else {
            return false;
        };
        conns.retain(|other| *other != conn);
        let last = conns.is_empty();
        if last {
            users.remove(uid);
        }
        last
    }

    /// Whether a user is here.
    pub(super) fn is_here(&self, uid: &str) -> bool {
        self.users.borrow().contains_key(uid)
    }

    /// All users that are here.
    pub(super) fn uids(&self) -> Vec<String> {
        self.users.borrow().keys().cloned().collect()
    }

    /// The open sessions of a user.
    pub(super) fn sessions_of(&self, uid: &str) -> Vec<Rc<Session>> {
        let users = self.users.borrow();
        let names = users.get(uid).into_iter().flatten();
        names
            .filter_map(|name| session(&Peer::new(self.shard.connection(*name).ok()?)))
            .collect()
    }

    /// Every open session.
    pub(super) fn sessions(&self) -> Vec<Rc<Session>> {
        let uids = self.uids();
        uids.iter().flat_map(|uid| self.sessions_of(uid)).collect()
    }

    /// A user's connection has ended.
    pub(super) fn session_ended(&self, peer: &Peer) {
        let Some(session) = session(peer) else { return };
        session.end();
        if self.remove(session.uid(), peer.name()) {
            for channel in self.logics().channels() {
                tell_offline(&channel, session.uid());
            }
        }
    }
}

/// The session of a connection, once it has logged in.
pub(super) fn session(peer: &Peer) -> Option<Rc<Session>> {
    peer.get::<Session>()
}
