//! What must be true after each step, and at rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waystation_base::{Seq, SiteId};
use waystation_replica::{Ahead, Entry, Holding, Phase, Position};

use super::database::{KEYS, Rows, WRITERS, Write, own_keys};
use super::world::{EPOCH, World};

/// What the copies should hold: every entry that was ever durable, and the rows
/// after each.
pub(super) struct Reference {
    entries: Vec<Arc<Entry>>,
    /// The rows after as many entries.
    states: Vec<Rows>,
    seq_of: BTreeMap<u64, Seq>,
    /// Each capturing site's own rows after as many of its changes.
    own: [Vec<Rows>; WRITERS],
    /// Who captured a change, by its number.
    writers: BTreeMap<u64, usize>,
    /// How many changes of each are in the log.
    sources: [u64; WRITERS],
}

impl Reference {
    pub(super) fn new(base: Rows) -> Self {
        Self {
            entries: Vec::new(),
            states: vec![base],
            seq_of: BTreeMap::new(),
            own: std::array::from_fn(|_| vec![base]),
            writers: BTreeMap::new(),
            sources: [0; WRITERS],
        }
    }

    pub(super) fn extend(&mut self, entries: &[Arc<Entry>]) {
        for entry in entries {
            let seq = self.entries.len() as u64 + 1;
            let expected = Position::new(EPOCH.0, seq);
            assert_eq!(entry.position, expected, "the log has a gap");
            let write = Write::decode(&entry.payload);
            let before = self.seq_of.insert(write.nonce, Seq(seq));
            assert_eq!(before, None, "one write is in the log twice");
            if let Some(source) = World::source_of(&entry.origin) {
                let last = &mut self.sources[self.writers[&write.nonce]];
                *last += 1;
                assert_eq!(source, *last, "captured out of order");
            }
            let mut rows = self.states[self.entries.len()];
            write.apply(&mut rows, KEYS);
            self.states.push(rows);
            self.entries.push(Arc::clone(entry));
        }
    }

    pub(super) fn capture(&mut self, writer: usize, write: &Write) {
        let own = &mut self.own[writer];
        let mut rows = own[own.len() - 1];
        write.apply(&mut rows, KEYS);
        own.push(rows);
        self.writers.insert(write.nonce, writer);
    }

    pub(super) fn has_nonce(&self, nonce: u64) -> bool {
        self.seq_of.contains_key(&nonce)
    }

    fn end(&self) -> Seq {
        Seq(self.entries.len() as u64)
    }

    pub(super) fn check_acknowledged(&self, seed: u64, nonce: u64, seq: Seq) {
        assert_eq!(
            self.seq_of.get(&nonce),
            Some(&seq),
            "seed {seed}: acknowledged, and not durable there"
        );
    }

    /// The rows of a copy at `seq` that contains changes of writers up to a number of
    /// each.
    fn rows(&self, seq: Seq, contained: &[(usize, u64)]) -> Rows {
        let at = usize::try_from(seq.0).expect("a short log");
        let mut rows = self.states[at];
        for (writer, source) in contained {
            let own = self.own[*writer][usize::try_from(*source).expect("few changes")];
            rows[own_keys(*writer)].copy_from_slice(&own[own_keys(*writer)]);
        }
        rows
    }
}

impl World {
    /// After each step.
    pub(super) fn check(&mut self) {
        assert_eq!(
            self.disk.end,
            self.reference.end(),
            "seed {}: the log lost what was durable",
            self.seed
        );
        for n in 0..self.sites.len() {
            self.check_copy(n);
        }
    }

    /// A copy is exactly what the log says up to its position: nothing is missing,
    /// nothing is there twice, nothing is out of order.
    fn check_copy(&self, n: usize) {
        let side = &self.sites[n];
        let copy = &side.copy;
        let Some(position) = Self::position_of(&copy.holding) else {
            return;
        };
        let seed = self.seed;
        assert_eq!(
            position.epoch, EPOCH,
            "seed {seed}: site {n} left its history"
        );
        assert!(
            position.seq <= self.reference.end(),
            "seed {seed}: site {n} is past the end"
        );
        let ahead: Option<Ahead> = match &copy.holding {
            Holding::Fresh => None,
            Holding::Restoring(part) => part.ahead,
            Holding::At { ahead, .. } => *ahead,
        };
        let own = (n < self.plan.writers).then_some((n, copy.captured));
        let ahead = ahead.and_then(|ahead| Some((self.site_of(ahead.site)?, ahead.source)));
        // What it captured itself is more than what it was copied with.
        let ahead = ahead.filter(|(writer, _)| *writer != n);
        let contained: Vec<_> = own.into_iter().chain(ahead).collect();
        let expected = self.reference.rows(position.seq, &contained);
        let held: BTreeSet<usize> = (copy.parked.values())
            .flat_map(|entry| Write::decode(&entry.payload).keys)
            .map(usize::from)
            .collect();
        for key in (0..copy.reach()).filter(|key| !held.contains(key)) {
            assert_eq!(
                copy.rows[key], expected[key],
                "seed {seed}: site {n} at {position} differs in row {key}; {:?}",
                copy.holding
            );
        }
    }

    /// The log that a hub opened has every entry that was ever durable, but those that
    /// were trimmed.
    pub(super) fn check_log(&self) {
        let mut at = self.disk.start;
        while at < self.reference.end() {
            let read = self.disk.read(at, self.reference.end(), 4096);
            let read = read.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
            assert!(!read.is_empty(), "seed {}: the log ends at {at}", self.seed);
            for entry in read {
                at = Seq(at.0 + 1);
                let expected = &self.reference.entries[usize::try_from(at.0 - 1).expect("few")];
                assert_eq!(&entry, expected, "seed {}: another entry", self.seed);
            }
        }
    }

    pub(super) fn site_of(&self, site: SiteId) -> Option<usize> {
        self.sites.iter().position(|side| side.id == Some(site))
    }

    /// Nothing of a site comes into the log once its right to write is durably gone.
    pub(super) fn check_fences(&self, entries: &[Arc<Entry>]) {
        for entry in entries {
            let nonce = Write::decode(&entry.payload).nonce;
            let writer = self.reference.writers.get(&nonce);
            assert!(
                writer.is_none_or(|writer| !self.fenced.contains(writer)),
                "seed {}: entry {} of a site whose right to write was taken away",
                self.seed,
                entry.position
            );
        }
    }

    /// Nothing is trimmed that no copy has.
    pub(super) fn check_trim(&self, through: Seq) {
        let complete = self
            .sites
            .iter()
            .filter_map(|side| match &side.copy.holding {
                Holding::At { position, .. } => Some(position.seq),
                _ => None,
            });
        let furthest = complete.max().unwrap_or_default();
        assert!(
            through <= furthest,
            "seed {}: trimmed through {through}, and no copy is past {furthest}",
            self.seed
        );
        // A site that keeps its place in the log can go on from there.
        let known = self.hub.iter().flat_map(|hub| hub.status(self.now));
        for site in known.filter(|site| site.phase == Phase::Live) {
            assert!(
                through <= site.at,
                "seed {}: trimmed through {through}, and {} goes on from {}",
                self.seed,
                site.name,
                site.at
            );
        }
    }

    fn is_site_at_rest(&self, n: usize) -> bool {
        let side = &self.sites[n];
        let is_at_end = matches!(&side.copy.holding, Holding::At { position, ahead: None }
            if position.seq == self.reference.end());
        is_at_end
            && side.copy.outbox.is_empty()
            && side.copy.parked.is_empty()
            && side
                .site
                .as_ref()
                .is_some_and(|site| site.view().is_connected)
    }

    pub(super) fn is_at_rest(&self, sites: &BTreeSet<usize>) -> bool {
        self.hub.is_some()
            && self.wishes.values().all(|wish| wish.acked.is_some())
            && sites.iter().all(|n| self.is_site_at_rest(*n))
    }

    /// At rest: copies are equal, and nothing that was acknowledged is missing.
    pub(super) fn check_rest(&self, sites: &BTreeSet<usize>) {
        let end = self.reference.end();
        let expected = self.reference.rows(end, &[]);
        for n in sites {
            let rows = self.sites[*n].copy.rows;
            assert_eq!(
                rows, expected,
                "seed {}: site {n} differs at rest",
                self.seed
            );
        }
        for (nonce, wish) in &self.wishes {
            let seq = wish.acked.expect("acknowledged");
            self.reference.check_acknowledged(self.seed, *nonce, seq);
        }
        for writer in (0..self.plan.writers).filter(|writer| sites.contains(writer)) {
            assert_eq!(
                self.reference.sources[writer], self.sites[writer].copy.captured,
                "seed {}: captured changes of site {writer} are missing",
                self.seed
            );
        }
    }

    /// Why the world is not at rest.
    pub(super) fn describe(&self, sites: &BTreeSet<usize>) -> String {
        use std::fmt::Write as _;
        let open = self
            .wishes
            .values()
            .filter(|wish| wish.acked.is_none())
            .count();
        let mut text = format!(
            "end {}, hub {}, {open} publishes open, {:?}",
            self.reference.end(),
            self.hub.is_some(),
            self.plan
        );
        for n in sites.iter().filter(|n| !self.is_site_at_rest(**n)) {
            let side = &self.sites[*n];
            let view = side.site.as_ref().map(waystation_replica::Site::view);
            let _ = write!(
                text,
                "\n site {n}: {:?}, outbox {}, {view:?}",
                side.copy.holding,
                side.copy.outbox.len()
            );
        }
        if let Some(hub) = &self.hub {
            let _ = write!(text, "\n {:?}", hub.status(self.now));
        }
        text
    }
}
