//! The world: its processes, its events, its clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use waystation_base::{ConnName, Epoch, Moment, Rng, Seq, ShardId, SiteId};
use waystation_replica::{
    Batch, Cursor, Hub, HubConfig, Session, SessionConfig, SiteConfig, SiteName, SnapshotId, ToHub,
    ToSite, Touches, TouchesOf,
};

use super::check::Reference;
use super::database::{SHARED_KEYS, Write};
use super::disk::Disk;
use super::faults::Plan;
use super::site_side::SiteSide;

pub(super) const SITES: usize = 4;
pub(super) const EPOCH: Epoch = Epoch(77);
const FAULTY: Duration = Duration::from_secs(90);
const SLOW: Duration = Duration::from_secs(20);
/// Steps at one moment that are no longer progress.
const IDLE_STEPS_MAX: u32 = 10_000;
const HEALED: Duration = Duration::from_mins(4);

/// A fault that is built in on purpose, to see that the checkers find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// None.
    None,
    /// The hub is told that a batch is durable before it is.
    DurableTooEarly,
    /// A site stores its position in a transaction after its entries.
    PositionApart,
    /// What a joiner has is not brought up to the next donor's position.
    NoCatchUp,
    /// A donor reads chunks from its present rows instead of a snapshot.
    NoSnapshot,
    /// The log is trimmed further than the hub said.
    TrimTooMuch,
    /// Own changes that come back are applied again.
    OwnAppliedAgain,
    /// The keys of clients are forgotten at a restart of the hub.
    KeysForgotten,
    /// A parked entry does not hold back later ones.
    ParkedHoldsNothing,
    /// A hub that restarts does not know whose right to write was taken away.
    FenceForgotten,
    /// The log does not sync what it appends.
    NoSync,
}

impl Mutant {
    /// All but none.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 10] = [
        Self::DurableTooEarly,
        Self::PositionApart,
        Self::NoCatchUp,
        Self::NoSnapshot,
        Self::TrimTooMuch,
        Self::OwnAppliedAgain,
        Self::KeysForgotten,
        Self::ParkedHoldsNothing,
        Self::FenceForgotten,
        Self::NoSync,
    ];
}

/// What happens at a moment. Those of a process that restarted meanwhile, or of a
/// connection that is gone, are ignored.
#[derive(Clone, Debug)]
pub(super) enum Event {
    ToHub(ConnName, ToHub),
    ToSite(ConnName, ToSite),
    HubLost(ConnName),
    SiteLost(usize, ConnName),
    Connected(usize, u64),
    Appended(u64),
    Read {
        start: u64,
        conn: ConnName,
        after: Seq,
        through: Seq,
        bytes_max: u64,
    },
    Committed(usize, u64),
    /// Looks whether a site holds still for a snapshot; how often it did so already.
    SnapshotPrepared(usize, u64, SnapshotId, u32),
    SnapshotOpened(usize, u64, SnapshotId),
    ChunkRead {
        site: usize,
        start: u64,
        snapshot: SnapshotId,
        joiner: SiteId,
        index: u64,
        from: Cursor,
    },
    Outbox(usize, u64, u64, usize),
    Publish(u64),
    Capture(usize),
    Fault,
    RestartHub(u64),
    RestartSite(usize, u64),
}

/// A connection as both ends see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) site: usize,
    /// Bytes go nowhere, and nobody is told.
    pub(super) is_cut: bool,
    last_up: Moment,
    last_down: Moment,
}

/// A publish of a client, which repeats it until it is answered.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) write: Write,
    pub(super) acked: Option<Seq>,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) rng: Rng,
    pub(super) now: Moment,
    pub(super) mutant: Mutant,
    pub(super) plan: Plan,
    events: BTreeMap<(Moment, u64), Event>,
    order: u64,
    pub(super) disk: Disk,
    pub(super) hub: Option<Hub>,
    /// Counts starts of the hub.
    pub(super) hub_start: u64,
    pub(super) appending: Option<Batch>,
    pub(super) sessions: BTreeMap<ConnName, Session>,
    pub(super) links: BTreeMap<ConnName, Link>,
    conn_last: u32,
    pub(super) sites: Vec<SiteSide>,
    pub(super) wishes: BTreeMap<u64, Wish>,
    pub(super) reference: Reference,
    /// Sites that operators want to write.
    pub(super) granted: BTreeSet<usize>,
    /// Sites of which nothing may come into the log.
    pub(super) fenced: BTreeSet<usize>,
    pub(super) is_healed: bool,
    /// Commits nothing.
    pub(super) stuck: Option<usize>,
    /// Steps at the present moment.
    idle_steps: u32,
}

impl World {
    pub(super) fn new(seed: u64, mutant: Mutant) -> Self {
        let mut rng = Rng::from_seed(seed);
        let plan = Plan::new(&mut rng);
        let now = Moment::from_millis(1000);
        let base = std::array::from_fn(|key| 1 + key as u64);
        let mut world = Self {
            seed,
            now,
            mutant,
            events: BTreeMap::new(),
            order: 0,
            disk: Disk::new(mutant),
            hub: None,
            hub_start: 0,
            appending: None,
            sessions: BTreeMap::new(),
            links: BTreeMap::new(),
            conn_last: 0,
            sites: (0..SITES).map(|n| SiteSide::new(n, seed, &base)).collect(),
            wishes: BTreeMap::new(),
            reference: Reference::new(base),
            granted: BTreeSet::new(),
            fenced: BTreeSet::new(),
            is_healed: false,
            stuck: None,
            idle_steps: 0,
            plan,
            rng,
        };
        world.start_hub();
        for n in 0..SITES {
            // The first site has the base data; nobody can join before it.
            let after = Duration::from_millis(if n == 0 { 0 } else { world.rng.below(10_000) });
            world.sites[n].start += 1;
            let start = world.sites[n].start;
            world.after(after, Event::RestartSite(n, start));
        }
        world.after(Duration::from_millis(50), Event::Publish(0));
        world.after(Duration::from_millis(500), Event::Fault);
        for writer in 0..world.plan.writers {
            world.after(Duration::from_secs(3), Event::Capture(writer));
        }
        world
    }

    pub(super) fn hub_config(&self) -> HubConfig {
        HubConfig {
            lease: Duration::from_secs(self.plan.lease_s),
            retain_bytes_max: self.plan.retain_bytes,
            retain_age_min: Duration::from_secs(30),
            join_wait_max: Duration::from_secs(5),
            save_every: Duration::from_secs(2),
            retry_after: Duration::from_millis(300),
            ..HubConfig::default()
        }
    }

    pub(super) fn session_config(&self) -> SessionConfig {
        SessionConfig {
            window_entries: self.plan.window,
            window_bytes: 1024,
            silence_max: Duration::from_secs(3),
            drain_max: Duration::from_secs(8),
            open_max: Duration::from_secs(4),
            ..SessionConfig::default()
        }
    }

    pub(super) fn site_config(&self, n: usize) -> SiteConfig {
        let name = if n == 0 {
            "master"
        } else {
            ["", "b", "c", "d"][n]
        };
        let mut config = SiteConfig::new(SiteName::new(name).expect("a valid name"));
        config.silence_max = Duration::from_secs(3);
        config.applier.batch_entries_max = 4;
        config.applier.policy = self.plan.policy;
        config.applier.backoff.max = Duration::from_millis(400);
        config.reconnect.max = Duration::from_secs(1);
        config.joiner.backoff.max = Duration::from_secs(1);
        config.joiner.chunk_wait_max = Duration::from_secs(3);
        config.joiner.answer_max = Duration::from_secs(8);
        config.joiner.can_filter = self.plan.can_filter;
        if self.rng_is_even(n + 8) {
            config.joiner.renew_after = Duration::from_millis(300);
        }
        config.joiner.chunks_window = 2;
        config.touches = if self.mutant == Mutant::ParkedHoldsNothing {
            TouchesOf::new(|_| Touches::Keys(Vec::new()))
        } else {
            TouchesOf::new(super::database::touches)
        };
        if self.rng_is_even(n) {
            config.zone = "east".into();
        }
        config
    }

    fn rng_is_even(&self, n: usize) -> bool {
        (self.seed >> n) & 1 == 0
    }

    /// Lets something happen later.
    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.order += 1;
        self.events.insert((self.now + delay, self.order), event);
    }

    /// A delay of up to `millis_max`, mostly short.
    pub(super) fn delay(&mut self, millis_max: u64) -> Duration {
        let max = if self.rng.chance(0.9) {
            millis_max / 8
        } else {
            millis_max
        };
        Duration::from_micros(100 + self.rng.below(1 + max * 1000))
    }

    /// Connects a site; the hub hears of it with the first message.
    pub(super) fn connect(&mut self, site: usize) -> ConnName {
        self.conn_last += 1;
        let conn = ConnName {
            shard: ShardId(0),
            slot: self.conn_last,
            generation: 1,
        };
        let link = Link {
            site,
            is_cut: false,
            last_up: self.now,
            last_down: self.now,
        };
        self.links.insert(conn, link);
        conn
    }

    /// Sends over a connection, in order unless the plan says otherwise.
    pub(super) fn send(&mut self, conn: ConnName, event: Event) {
        let delay = self.delay(self.plan.delay_ms);
        let is_faulty = !self.is_healed;
        let (is_lost, is_early) = (
            is_faulty && self.rng.chance(self.plan.loss),
            is_faulty && self.rng.chance(self.plan.reorder),
        );
        let is_up = matches!(event, Event::ToHub(..));
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        if link.is_cut || is_lost {
            return;
        }
        let last = if is_up {
            &mut link.last_up
        } else {
            &mut link.last_down
        };
        let at = if is_early {
            self.now + delay
        } else {
            (self.now + delay).max(*last)
        };
        *last = at.max(*last);
        self.order += 1;
        self.events.insert((at, self.order), event);
    }

    /// Both ends lose the connection, each in its time.
    pub(super) fn reset(&mut self, conn: ConnName) {
        let Some(link) = self.links.remove(&conn) else {
            return;
        };
        let (hub, site) = (self.delay(200), self.delay(200));
        self.after(hub, Event::HubLost(conn));
        self.after(site, Event::SiteLost(link.site, conn));
    }

    pub(super) fn run_faulty(&mut self) {
        let until = self.now + FAULTY;
        while self.now < until {
            self.step();
        }
    }

    /// One site commits nothing: the others reach the end all the same.
    pub(super) fn run_slow_site(&mut self) {
        self.heal();
        let all: BTreeSet<usize> = (0..SITES).collect();
        self.settle(&all);
        let slow = usize::try_from(self.rng.below(SITES as u64)).expect("few sites");
        self.stuck = Some(slow);
        for nonce in 0..30 {
            self.after(Duration::from_millis(100 * nonce), Event::Publish(u64::MAX));
        }
        let until = self.now + SLOW;
        while self.now < until {
            self.step();
        }
        let others = all.into_iter().filter(|n| *n != slow).collect();
        self.settle(&others);
        self.stuck = None;
        self.resume(slow);
    }

    pub(super) fn run_healed(&mut self) {
        self.settle(&(0..SITES).collect());
    }

    fn settle(&mut self, sites: &BTreeSet<usize>) {
        let until = self.now + HEALED;
        while !self.is_at_rest(sites) {
            assert!(
                self.now < until,
                "seed {}: not at rest: {}",
                self.seed,
                self.describe(sites)
            );
            self.step();
        }
        self.check_rest(sites);
    }

    /// Goes to the next moment at which anything happens.
    fn step(&mut self) {
        let event = self.events.keys().next().map(|(at, _)| *at);
        let hub = self.hub.as_ref().and_then(Hub::poll_timeout);
        let sessions = self.sessions.values().filter_map(Session::poll_timeout);
        let sites = self.sites.iter().filter_map(SiteSide::poll_timeout);
        let timers = hub.into_iter().chain(sessions).chain(sites).min();
        let next = event.into_iter().chain(timers).min();
        let next = next.expect("a world never ends by itself");
        self.idle_steps = if next > self.now {
            0
        } else {
            self.idle_steps + 1
        };
        assert!(
            self.idle_steps < IDLE_STEPS_MAX,
            "seed {}: a timer that is due for ever: hub {hub:?}, {}",
            self.seed,
            self.describe(&(0..SITES).collect())
        );
        self.now = self.now.max(next);
        match self.events.first_entry() {
            Some(first) if first.key().0 <= self.now => {
                let event = first.remove();
                self.happen(event);
            }
            _ => self.wake(),
        }
        self.drain();
        self.check();
    }

    fn wake(&mut self) {
        let now = self.now;
        if let Some(hub) = &mut self.hub {
            hub.handle_timeout(now);
        }
        let due = |at: Option<Moment>| at.is_some_and(|at| at <= now);
        for session in self.sessions.values_mut() {
            if due(session.poll_timeout()) {
                session.handle_timeout(now);
            }
        }
        for side in &mut self.sites {
            if let Some(site) = side.site.as_mut().filter(|site| due(site.poll_timeout())) {
                site.handle_timeout(now);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToHub(conn, message) => self.hub_hears(conn, message),
            Event::HubLost(conn) => self.hub_loses(conn),
            Event::Appended(start) => self.appended(start),
            Event::Read {
                start,
                conn,
                after,
                through,
                bytes_max,
            } => self.read(start, conn, after, through, bytes_max),
            Event::Publish(nonce) => self.publish(nonce),
            Event::RestartHub(start) if start == self.hub_start => self.start_hub(),
            Event::RestartHub(_) => {}
            Event::Fault => self.fault(),
            other => self.happen_at_site(other),
        }
    }

    /// A new write of a client.
    pub(super) fn new_write(&mut self) -> Write {
        let nonce = self.rng.next_u64();
        let count = 1 + self.rng.below(3);
        let keys = SHARED_KEYS as u64;
        let keys = (0..count).map(|_| u8::try_from(self.rng.below(keys)).expect("few keys"));
        let keys: BTreeSet<u8> = keys.collect();
        Write {
            keys: keys.into_iter().collect(),
            nonce,
        }
    }
}
