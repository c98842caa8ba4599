//! A site's process, and the database below it.

use std::time::Duration;

use waystation_base::{ConnName, Moment, Seq, SiteId};
use waystation_replica::{
    Ahead, ApplyBatch, ApplyFault, ApplyState, Cursor, Holding, LifeId, Origin, Position, Site,
    SiteEvent, SiteName, SiteOutput, SiteRestored, SnapshotId, SnapshotSize, StoreChunk, ToSite,
    Verdict,
};

use super::database::{Copy, KEYS, OWN_KEYS, Rows, Write, own_keys, touches};
use super::world::{Event, Mutant, World};

/// A transaction under way.
#[derive(Clone, Debug)]
pub(super) enum Transaction {
    Apply(ApplyBatch),
    Store(StoreChunk),
    Replay(Seq),
}

/// One site.
pub(super) struct SiteSide {
    pub(super) copy: Copy,
    pub(super) site: Option<Site>,
    /// The life of the copy to come, once the first chunk is there.
    pub(super) life: LifeId,
    /// Counts starts of the process.
    pub(super) start: u64,
    pub(super) conn: Option<ConnName>,
    pub(super) transactions: Vec<Transaction>,
    /// Its application does not write before, since a snapshot is wanted.
    held_until: Moment,
    /// How often an entry fails here, by the entry's number.
    pub(super) poison: std::collections::BTreeMap<u64, u32>,
    pub(super) id: Option<SiteId>,
    pub(super) rejoins: u32,
    pub(super) joins: u32,
    seed: u64,
}

impl SiteSide {
    pub(super) fn new(n: usize, seed: u64, base: &Rows) -> Self {
        let life = 1000 * (n as u128 + 1);
        let mut copy = Copy::new(life);
        if n == 0 {
            copy.rows = *base;
        }
        Self {
            life: copy.life,
            copy,
            site: None,
            start: 0,
            conn: None,
            transactions: Vec::new(),
            held_until: Moment::ZERO,
            poison: std::collections::BTreeMap::new(),
            id: None,
            rejoins: 0,
            joins: 0,
            seed: seed ^ n as u64,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.site.as_ref().and_then(Site::poll_timeout)
    }
}

impl World {
    fn start_site(&mut self, n: usize) {
        let config = self.site_config(n);
        let is_captured = n < self.plan.writers && self.mutant != Mutant::OwnAppliedAgain;
        let side = &mut self.sites[n];
        if side.site.is_some() {
            return;
        }
        side.life = side.copy.life;
        let parked = side.copy.parked.iter();
        let restored = SiteRestored {
            life: side.life,
            holding: side.copy.holding.clone(),
            parked: parked.map(|(seq, entry)| (*seq, touches(entry))).collect(),
            is_differing: false,
            is_captured,
            captured: side.copy.captured,
        };
        side.copy.snapshots.clear();
        let seed = side.seed ^ side.start;
        let mut site = Site::new(self.now, config, restored, seed);
        if side.copy.captured > 0 {
            site.handle_captured(self.now, side.copy.captured);
        }
        let load = u16::try_from(self.rng.below(1000)).expect("small");
        site.handle_load(load);
        side.site = Some(site);
    }

    /// The process is gone. Transactions under way are committed or not, in
    /// order.
    pub(super) fn crash_site(&mut self, n: usize) {
        if self.sites[n].site.take().is_none() {
            return;
        }
        for transaction in std::mem::take(&mut self.sites[n].transactions) {
            if self.rng.chance(0.5) {
                break;
            }
            self.commit(n, &transaction);
        }
        let side = &mut self.sites[n];
        side.start += 1;
        side.copy.snapshots.clear();
        if let Some(conn) = side.conn.take() {
            self.reset(conn);
        }
        let start = self.sites[n].start;
        let delay = self.delay(15_000);
        self.after(delay, Event::RestartSite(n, start));
    }

    fn commit(&mut self, n: usize, transaction: &Transaction) {
        let no_catch_up = self.mutant == Mutant::NoCatchUp;
        let side = &mut self.sites[n];
        match transaction {
            Transaction::Apply(batch) => {
                let mut batch = batch.clone();
                if no_catch_up {
                    batch.below = batch.below.map(|_| Cursor::default());
                }
                side.copy.apply(&batch, side.id);
            }
            Transaction::Store(store) => side.copy.store(store, side.life),
            Transaction::Replay(seq) => {
                if let Some(entry) = side.copy.parked.remove(seq) {
                    Write::decode(&entry.payload).apply(&mut side.copy.rows, KEYS);
                }
            }
        }
    }

    /// The first transaction under way ends, one way or another.
    fn committed(&mut self, n: usize) {
        if self.sites[n].transactions.is_empty() || self.stuck == Some(n) {
            return;
        }
        let transaction = self.sites[n].transactions.remove(0);
        let is_faulty = !self.is_healed;
        if is_faulty && self.rng.chance(self.plan.apply_transient) {
            return self.fail(n, &transaction, ApplyFault::Transient);
        }
        if let Some(seq) = self.poisoned(n, &transaction) {
            return self.fail(n, &transaction, ApplyFault::Poison(seq));
        }
        if self.mutant == Mutant::PositionApart && self.rng.chance(0.05) {
            // Entries without their position, then a crash.
            if let Transaction::Apply(batch) = &transaction {
                let holding = self.sites[n].copy.holding.clone();
                self.commit(n, &Transaction::Apply(batch.clone()));
                self.sites[n].copy.holding = holding;
                return self.crash_site(n);
            }
        }
        self.commit(n, &transaction);
        if is_faulty && self.rng.chance(self.plan.crash_at_commit) {
            return self.crash_site(n);
        }
        let now = self.now;
        let Some(site) = &mut self.sites[n].site else {
            return;
        };
        match transaction {
            Transaction::Apply(_) => site.handle_applied(now),
            Transaction::Store(_) => site.handle_stored(now),
            Transaction::Replay(_) => site.handle_replayed(now, true),
        }
    }

    fn fail(&mut self, n: usize, transaction: &Transaction, fault: ApplyFault) {
        let now = self.now;
        let Some(site) = &mut self.sites[n].site else {
            return;
        };
        match transaction {
            Transaction::Apply(_) => site.handle_apply_failed(now, fault, "the database refuses"),
            Transaction::Store(_) => site.handle_store_failed(now, "a fault"),
            Transaction::Replay(_) => site.handle_replayed(now, false),
        }
    }

    /// The first entry of the transaction that the database refuses.
    fn poisoned(&mut self, n: usize, transaction: &Transaction) -> Option<Seq> {
        let Transaction::Apply(batch) = transaction else {
            return None;
        };
        let (rng, side) = (&mut self.rng, &mut self.sites[n]);
        for (entry, verdict) in &batch.entries {
            if *verdict != Verdict::Apply {
                continue;
            }
            let nonce = Write::decode(&entry.payload).nonce;
            let is_poison = !self.is_healed && nonce % 97 == n as u64;
            let left = side.poison.entry(nonce).or_insert_with(|| {
                if is_poison {
                    u32::try_from(rng.below(8)).expect("small")
                } else {
                    0
                }
            });
            if *left > 0 && !self.is_healed {
                *left -= 1;
                return Some(entry.position.seq);
            }
        }
        None
    }

    pub(super) fn happen_at_site(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::ToSite(conn, message) => self.site_hears(conn, message),
            Event::SiteLost(n, conn) if self.sites[n].conn == Some(conn) => {
                self.sites[n].conn = None;
                if let Some(site) = &mut self.sites[n].site {
                    site.handle_disconnected(now);
                }
            }
            Event::Connected(n, start) => self.connected(n, start),
            Event::Committed(n, start) if start == self.sites[n].start => self.committed(n),
            Event::SnapshotPrepared(n, start, snapshot, tries) if start == self.sites[n].start => {
                self.prepare_snapshot(n, snapshot, tries);
            }
            Event::SnapshotOpened(n, start, snapshot) if start == self.sites[n].start => {
                self.snapshot_opened(n, snapshot);
            }
            Event::ChunkRead {
                site,
                start,
                snapshot,
                joiner,
                index,
                from,
            } if start == self.sites[site].start => {
                self.chunk_read(site, snapshot, joiner, index, &from);
            }
            Event::Outbox(n, start, after, most) if start == self.sites[n].start => {
                let side = &mut self.sites[n];
                let rows = side.copy.outbox.range(after + 1..).take(most);
                let rows: Vec<_> = rows.map(|(_, payload)| payload.clone()).collect();
                if let Some(site) = &mut side.site {
                    site.handle_outbox(now, after + 1, rows);
                }
            }
            Event::Capture(n) => self.capture(n),
            Event::RestartSite(n, start) if start == self.sites[n].start => self.start_site(n),
            _ => {}
        }
    }

    fn site_hears(&mut self, conn: ConnName, message: ToSite) {
        let Some(n) = self.sites.iter().position(|one| one.conn == Some(conn)) else {
            return;
        };
        if let ToSite::Welcome(welcome) = &message {
            self.sites[n].id = Some(welcome.site);
            let is_new = !self.granted.contains(&n) && !self.fenced.contains(&n);
            if n < self.plan.writers && is_new && welcome.token.is_none() {
                self.grant(n, welcome.site);
            }
        }
        if let Some(site) = &mut self.sites[n].site {
            site.handle_message(self.now, message);
        }
    }

    fn connected(&mut self, n: usize, start: u64) {
        if start != self.sites[n].start || self.hub.is_none() || self.sites[n].conn.is_some() {
            return self.not_connected(n, start);
        }
        let conn = self.connect(n);
        self.sites[n].conn = Some(conn);
        if let Some(site) = &mut self.sites[n].site {
            site.handle_connected(self.now);
        }
    }

    fn not_connected(&mut self, n: usize, start: u64) {
        if start == self.sites[n].start
            && let Some(site) = &mut self.sites[n].site
        {
            site.handle_disconnected(self.now);
        }
    }

    /// The application waits until all that it wrote is published, some of the time.
    fn prepare_snapshot(&mut self, n: usize, snapshot: SnapshotId, tries: u32) {
        let now = self.now;
        let is_given_up = tries > 20 || self.rng.chance(0.05);
        let start = self.sites[n].start;
        let side = &mut self.sites[n];
        let Some(site) = &mut side.site else { return };
        let is_held = site.published() >= side.copy.captured;
        if is_held && !is_given_up {
            side.held_until = now + Duration::from_secs(2);
        } else if !is_given_up {
            let again = Event::SnapshotPrepared(n, start, snapshot, tries + 1);
            return self.after(Duration::from_millis(50), again);
        }
        site.handle_snapshot_prepared(now, snapshot, is_held && !is_given_up);
    }

    fn snapshot_opened(&mut self, n: usize, snapshot: SnapshotId) {
        let is_refused = !self.is_healed && self.rng.chance(0.1);
        let now = self.now;
        let side = &mut self.sites[n];
        side.held_until = now;
        let Some(site) = &mut side.site else { return };
        let Holding::At { position, .. } = side.copy.holding else {
            return site.handle_snapshot_failed(now, snapshot, "no copy");
        };
        if is_refused {
            return site.handle_snapshot_failed(now, snapshot, "disk full");
        }
        let rows = side.copy.rows;
        side.copy.snapshots.insert(snapshot.0, (rows, position));
        let ahead = side.id.filter(|_| side.copy.captured > side.copy.returned);
        let ahead = ahead.map(|site| Ahead {
            site,
            life: side.copy.life,
            source: side.copy.captured,
        });
        site.handle_snapshot_opened(now, snapshot, position, ahead, SnapshotSize::default());
    }

    fn chunk_read(
        &mut self,
        n: usize,
        snapshot: SnapshotId,
        joiner: SiteId,
        index: u64,
        from: &Cursor,
    ) {
        let is_damaged = !self.is_healed && self.rng.chance(0.02);
        let is_lost = !self.is_healed && self.rng.chance(0.02);
        let no_snapshot = self.mutant == Mutant::NoSnapshot;
        let side = &mut self.sites[n];
        if no_snapshot {
            let rows = side.copy.rows;
            if let Some(open) = side.copy.snapshots.get_mut(&snapshot.0) {
                open.0 = rows;
            }
        }
        let chunk = side.copy.read_chunk(snapshot.0, index, from);
        let Some(site) = &mut side.site else { return };
        match chunk {
            Some(mut chunk) if !is_lost => {
                if is_damaged {
                    let mut data = chunk.data.to_vec();
                    data[1] ^= 0x10;
                    chunk.data = data.into();
                }
                site.handle_chunk_read(self.now, snapshot, joiner, chunk);
            }
            _ => site.handle_snapshot_failed(self.now, snapshot, "cannot read"),
        }
    }

    /// The application of a capturing site writes to its own rows.
    fn capture(&mut self, n: usize) {
        if self.is_healed {
            return;
        }
        let delay = Duration::from_millis(100 + self.rng.below(1500));
        self.after(delay, Event::Capture(n));
        let offset = usize::try_from(self.rng.below(OWN_KEYS as u64)).expect("few keys");
        let write = Write {
            keys: vec![u8::try_from(own_keys(n).start + offset).expect("few keys")],
            nonce: self.rng.next_u64(),
        };
        let side = &mut self.sites[n];
        let is_held = self.now < side.held_until;
        if is_held || !matches!(side.copy.holding, Holding::At { .. }) {
            return;
        }
        side.copy.capture(&write);
        let last = side.copy.captured;
        self.reference.capture(n, &write);
        if let Some(site) = &mut self.sites[n].site {
            site.handle_captured(self.now, last);
        }
    }

    /// Performs what the sites want done; whether there was anything.
    pub(super) fn drain_sites(&mut self) -> bool {
        let mut is_busy = false;
        for n in 0..self.sites.len() {
            while let Some(output) = self.sites[n].site.as_mut().and_then(Site::poll_output) {
                is_busy = true;
                self.perform_site(n, output);
            }
        }
        is_busy
    }

    fn perform_site(&mut self, n: usize, output: SiteOutput) {
        let start = self.sites[n].start;
        match output {
            SiteOutput::Connect => {
                let delay = self.delay(200);
                self.after(delay, Event::Connected(n, start));
            }
            SiteOutput::Disconnect => {
                if let Some(conn) = self.sites[n].conn.take() {
                    self.reset(conn);
                }
            }
            SiteOutput::Send(message) => {
                if let Some(conn) = self.sites[n].conn {
                    self.send(conn, Event::ToHub(conn, message));
                }
            }
            SiteOutput::Apply(batch) => self.begin(n, Transaction::Apply(batch)),
            SiteOutput::Store(store) => self.begin(n, Transaction::Store(store)),
            SiteOutput::Replay { seq } => self.begin(n, Transaction::Replay(seq)),
            SiteOutput::PrepareSnapshot { snapshot } => {
                let delay = self.delay(100);
                self.after(delay, Event::SnapshotPrepared(n, start, snapshot, 0));
            }
            SiteOutput::OpenSnapshot { snapshot } => {
                let delay = self.delay(1000);
                self.after(delay, Event::SnapshotOpened(n, start, snapshot));
            }
            SiteOutput::ReadChunk {
                snapshot,
                joiner,
                index,
                from,
                ..
            } => {
                let delay = self.delay(400);
                let site = n;
                self.after(
                    delay,
                    Event::ChunkRead {
                        site,
                        start,
                        snapshot,
                        joiner,
                        index,
                        from,
                    },
                );
            }
            SiteOutput::CloseSnapshot { snapshot } => {
                self.sites[n].copy.snapshots.remove(&snapshot.0);
            }
            SiteOutput::ReadOutbox { after, changes_max } => {
                let delay = self.delay(50);
                self.after(delay, Event::Outbox(n, start, after, changes_max.min(3)));
            }
            SiteOutput::EraseOutbox { through } => {
                let side = &mut self.sites[n];
                side.copy.outbox = side.copy.outbox.split_off(&(through + 1));
            }
            SiteOutput::Event(SiteEvent::Joined { .. }) => self.sites[n].joins += 1,
            SiteOutput::Event(_) => {}
        }
    }

    fn begin(&mut self, n: usize, transaction: Transaction) {
        self.sites[n].transactions.push(transaction);
        let slow = self.sites[n].start.is_multiple_of(3) && !self.is_healed;
        let delay = self.delay(if slow { 3000 } else { 100 });
        let start = self.sites[n].start;
        self.after(delay, Event::Committed(n, start));
    }

    /// Operators take the right to write away from a capturing site now and then, and
    /// give it back.
    fn operate_writers(&mut self) {
        for n in 0..self.plan.writers {
            let view = self.sites[n].site.as_ref().map(Site::view);
            let Some(view) = view.filter(|view| view.is_connected) else {
                continue;
            };
            let Some(site) = view.site else { continue };
            let (is_granted, is_healed) = (self.granted.contains(&n), self.is_healed);
            if is_granted && !is_healed && self.rng.chance(self.plan.fence) {
                self.fence(n, site);
            }
            let is_wanted = if is_healed {
                view.token.is_none()
            } else {
                !is_granted && self.rng.chance(0.3)
            };
            if is_wanted {
                self.grant(n, site);
            }
        }
    }

    /// What operators do: have a barred site join anew, and a stopped one go on.
    pub(super) fn operate(&mut self) {
        self.operate_writers();
        for n in 0..self.sites.len() {
            let side = &mut self.sites[n];
            let Some(site) = &mut side.site else { continue };
            let view = site.view();
            if view.is_barred {
                if n == 0 {
                    // Its data is that of the others by now: it joins as they do.
                    let Some(hub) = &mut self.hub else { continue };
                    let name = SiteName::new("master").expect("a valid name");
                    if let Some(site) = hub.site(&name) {
                        hub.handle_forget(self.now, 0, site);
                    }
                }
                side.rejoins += 1;
                side.life = LifeId(side.life.0 + 1);
                site.handle_rejoin(self.now, side.life);
            }
            if view.apply == ApplyState::Stopped {
                site.handle_resume(self.now);
            }
            if let Some(seq) = side.copy.parked.keys().next().copied() {
                // Refused while another one is under way: the next round does it.
                let _ = site.handle_replay(seq);
            }
        }
    }

    /// A stuck site commits again.
    pub(super) fn resume(&mut self, n: usize) {
        let start = self.sites[n].start;
        for _ in 0..self.sites[n].transactions.len() {
            self.after(Duration::ZERO, Event::Committed(n, start));
        }
    }

    /// What an own change is, by its origin.
    pub(super) fn source_of(origin: &Origin) -> Option<u64> {
        match origin {
            Origin::Site { source, .. } => Some(*source),
            Origin::Client { .. } => None,
        }
    }

    pub(super) fn position_of(holding: &Holding) -> Option<Position> {
        match holding {
            Holding::Fresh => None,
            Holding::Restoring(part) => Some(part.position),
            Holding::At { position, .. } => Some(*position),
        }
    }
}
