//! What a store must offer to be a registry.

use std::fmt::{Debug, Display};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{FencingToken, Moment};
use waystation_membership::{Instance, InstanceId, Register, SubscriberId, ViewVersion};

use super::plan::How;
use super::register::Held;
use super::shared::Shared;
use super::subscribers::Subscriber;

/// What stands at an instance's place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry<M> {
    /// None when it is no instance, or may not be read.
    pub(crate) instance: Option<Arc<Instance>>,
    /// Why it may not be read, if that is so: then nothing else is known of it.
    pub(crate) closed: Option<Arc<str>>,
    /// When it was written, and what it lives with.
    pub(crate) mark: M,
}

/// What became of a write.
#[derive(Debug)]
pub(crate) enum Written<M> {
    /// This stands there now.
    Done(Entry<M>),
    /// Somebody was faster: this stands there.
    Beaten(Option<Entry<M>>),
    /// Nothing was written; what stands there is to be read.
    Unsure,
}

/// What became of a renewal.
#[derive(Debug)]
pub(crate) enum Renewing {
    /// It lives on for so long.
    Kept(Duration),
    /// It is over, and this stands in its place.
    Over(Option<Arc<Instance>>),
}

/// Why a store gave nothing.
pub(crate) trait StoreFault: Display {
    /// Whether the store itself said no, and would say so again. Everything else
    /// may be over with another connection.
    fn is_refusal(&self) -> bool;

    /// Whether what subscribers' entries live with is over: they are to be
    /// written again.
    fn is_unkept(&self) -> bool;

    /// Others were faster every time.
    fn overtaken() -> Self;
}

/// A registration that asks for its id, or has it.
pub(crate) struct Bid<'a, S: Store> {
    pub(crate) shared: &'a Rc<Shared<S>>,
    pub(crate) wire: &'a S::Wire,
    pub(crate) keep: &'a S::Keep,
    pub(crate) register: &'a Register,
}

/// A store of keys and values with sessions, watches and ordered revisions.
///
/// What a client knows of it is told by [`Store::run`]; reads and writes go over
/// a connection. None of them is made twice by itself: who calls it tries again.
pub(crate) trait Store: Sized + 'static {
    /// A connection. Clones share it.
    type Wire: Clone + 'static;
    type Fault: StoreFault;
    /// When an entry was written, and what it lives with.
    type Mark: Copy + Debug + PartialEq + 'static;
    /// What a registration's entry lives with: a lease or a session, once it has
    /// one.
    type Keep: Default + 'static;

    /// Subscribers that are written at once.
    const WRITE_TOGETHER: usize;

    /// Whether an entry can be moved from one lease or session to another in
    /// place. Where not it is made anew, under a higher token.
    const MOVES: bool;

    /// Connects, and tells what stands in the store, for as long as the backend
    /// is used.
    fn run(shared: Rc<Shared<Self>>) -> impl Future<Output = ()> + 'static;

    /// Says goodbye when nothing is under way any more.
    async fn goodbye(shared: &Shared<Self>);

    /// Somebody has seen this version. True when it is above all that was seen
    /// here: then the store may have gone back.
    fn see(&self, version: ViewVersion) -> bool;

    /// Somebody was granted this token.
    fn see_token(&self, token: FencingToken) -> bool;

    /// What stands at an instance's place, as far as was told.
    fn known(&self, id: &InstanceId) -> Option<Entry<Self::Mark>>;

    /// Whether what is known of an entry is of before it was held so.
    fn is_before(&self, known: Option<&Self::Mark>, held: &Self::Mark) -> bool;

    /// Whether what is known of an entry is of the one that is held, written over or
    /// not. Where all tokens can be lifted at once, it has a higher one then than when
    /// it was granted.
    fn is_same(known: &Self::Mark, held: &Self::Mark) -> bool;

    /// The version that the last write to an entry made.
    fn version(&self, mark: &Self::Mark) -> ViewVersion;

    /// Sees to it that tokens which are given out from here on are above this one,
    /// which another registry has given out. That is no word about this store. False
    /// when none can be.
    async fn lift(bid: &Bid<'_, Self>, token: FencingToken) -> Result<bool, Self::Fault>;

    /// What stands at an instance's place.
    async fn read(
        &self,
        wire: &Self::Wire,
        id: &InstanceId,
    ) -> Result<Option<Entry<Self::Mark>>, Self::Fault>;

    /// All instances as they stand now, and the version that they are of at
    /// least.
    async fn read_all(
        &self,
        wire: &Self::Wire,
    ) -> Result<(ViewVersion, Vec<Instance>), Self::Fault>;

    /// All subscribers of all clients.
    async fn read_subscribers(&self, wire: &Self::Wire) -> Result<Vec<Subscriber>, Self::Fault>;

    /// Writes these subscribers, and deletes those without a value.
    async fn write_subscribers(
        shared: &Shared<Self>,
        wire: &Self::Wire,
        subscribers: Vec<(SubscriberId, Option<Vec<u8>>)>,
    ) -> Result<(), Self::Fault>;

    /// Writes over an entry, which goes on living with what it lives with.
    async fn change(
        &self,
        wire: &Self::Wire,
        entry: &Entry<Self::Mark>,
        instance: &Instance,
    ) -> Result<Written<Self::Mark>, Self::Fault>;

    /// Whether an order of a registration can be tried now. Where not it is
    /// dropped: who needs it asks again.
    fn takes_orders(shared: &Shared<Self>) -> bool;

    /// The connection of a registration that asks for its id, for so long.
    async fn open(
        shared: &Rc<Shared<Self>>,
        keep: &Self::Keep,
        ttl: Duration,
    ) -> Result<Self::Wire, Self::Fault>;

    /// The connection of a registration that asked before.
    async fn wire_of(shared: &Shared<Self>, keep: &Self::Keep) -> Result<Self::Wire, Self::Fault>;

    /// Whether an entry lives with what keeps this registration.
    fn is_kept(wire: &Self::Wire, keep: &Self::Keep, mark: &Self::Mark) -> bool;

    /// Writes an instance where `stand` stands, to live with what keeps this
    /// registration.
    async fn write(
        bid: &Bid<'_, Self>,
        how: How,
        instance: Box<Instance>,
        stand: Option<&Entry<Self::Mark>>,
    ) -> Result<Written<Self::Mark>, Self::Fault>;

    /// Sees to it that what keeps this registration lives on; false when it is
    /// over.
    async fn prolong(bid: &Bid<'_, Self>) -> Result<bool, Self::Fault>;

    /// For how long what keeps a registration surely lives, counted from when
    /// that was asked for.
    fn ttl(wire: &Self::Wire, keep: &Self::Keep, asked: Moment) -> Duration;

    /// The registration did not get its id.
    async fn let_go(bid: &Bid<'_, Self>) -> Result<(), Self::Fault>;

    /// Sees to it that what is held is held on, for a time that counts from when
    /// that was asked for. May be under way beside anything else.
    async fn renew(
        &self,
        wire: &Self::Wire,
        keep: &Self::Keep,
        id: &InstanceId,
        held: &Held<Self::Mark>,
        asked: Moment,
    ) -> Result<Renewing, Self::Fault>;

    /// Takes the entry out, with the word that this was meant. It was `held` so, if
    /// that is known and nothing was done about it since: where not, what stands is
    /// looked at first.
    async fn give_back(
        shared: &Shared<Self>,
        keep: &Self::Keep,
        id: &InstanceId,
        held: Option<Self::Mark>,
    ) -> Result<(), Self::Fault>;
}
