//! Watching over HTTP: which hosts there are, and then which come, change and go.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write as _;
use std::ops::Bound;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{LocalBoxStream, unfold};
use tokio::sync::Notify;
use waystation_base::{Moment, ServiceName};
use waystation_membership::{Instance, View, ViewVersion, Watch};
use waystation_net::until;
use waystation_registry::instance_to_json;

use crate::admin::service_of;
use crate::desk::Desk;
use crate::http::given;
use crate::limits::{WATCH_DEFAULT, WATCH_MAX, WATCH_PIECE_BYTES, WATCH_SILENCE, WATCHERS_MAX};

/// What is asked for by a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    watch: Watch,
    /// After so long it ends.
    length: Duration,
}

impl Asked {
    /// Of `service=NAME|MODID/CMDID|PREFIX*&seconds=N`, both of which may be absent.
    ///
    /// # Errors
    /// The first fault, for people.
    pub(crate) fn of(query: &str) -> Result<Self, String> {
        let watch = match given(query, "service")? {
            None => Watch::Prefix("".into()),
            Some(text) => match text.strip_suffix('*') {
                Some(prefix) => Watch::Prefix(prefix.into()),
                None => Watch::Service(service_of(&text)?),
            },
        };
        let length = given(query, "seconds")?.map_or(Ok(WATCH_DEFAULT), |text| {
            let seconds = text.parse::<u64>().ok().map(Duration::from_secs);
            let seconds = seconds.filter(|one| !one.is_zero() && *one <= WATCH_MAX);
            seconds
                .ok_or_else(|| format!("seconds {text:?}: not from 1 to {}", WATCH_MAX.as_secs()))
        })?;
        Ok(Self { watch, length })
    }
}

/// All who watch over HTTP.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Vec<Weak<Watcher>>);

/// One of them. What it has not been told is kept as names of services, each once,
/// so that one who reads slowly costs no more than that.
#[derive(Debug)]
struct Watcher {
    watch: Watch,
    changed: RefCell<BTreeSet<ServiceName>>,
    wake: Notify,
}

impl Watchers {
    /// These services show something else. Cost: O(services · watchers).
    pub(crate) fn tell(&self, services: &[ServiceName]) {
        for watcher in self.0.iter().filter_map(Weak::upgrade) {
            let covered = services.iter().filter(|one| watcher.watch.covers(one));
            let mut changed = watcher.changed.borrow_mut();
            changed.extend(covered.cloned());
            if !changed.is_empty() {
                watcher.wake.notify_one();
            }
        }
    }

    /// Takes one more; none where there are as many as may be.
    fn admit(&mut self, watch: Watch) -> Option<Rc<Watcher>> {
        self.0.retain(|one| one.strong_count() > 0);
        if self.0.len() >= WATCHERS_MAX {
            return None;
        }
        let watcher = Rc::new(Watcher {
            watch,
            changed: RefCell::default(),
            wake: Notify::new(),
        });
        self.0.push(Rc::downgrade(&watcher));
        Some(watcher)
    }
}

/// A line of an instance: what became of it, and in which version.
type Line = (&'static str, ViewVersion, Arc<Instance>);

/// The lines for one watcher, in the order in which they are sent.
struct Lines {
    desk: Rc<Desk>,
    watcher: Rc<Watcher>,
    end: Moment,
    /// Where the first round through all services goes on; none behind it.
    round: Option<Bound<String>>,
    /// What was told, of each service that has hosts.
    told: BTreeMap<ServiceName, Arc<View>>,
    /// Lines of the last service that was looked at.
    waiting: VecDeque<Line>,
    is_complete: bool,
    /// When something was said last.
    said: Moment,
}

/// All hosts, the mark that these are all, and then what changes, until the time is
/// over; none where as many watch as may.
pub(crate) fn follow(desk: &Rc<Desk>, asked: Asked) -> Option<LocalBoxStream<'static, Bytes>> {
    let round = match &asked.watch {
        Watch::Service(_) => None,
        Watch::Prefix(prefix) => Some(Bound::Included(prefix.to_string())),
    };
    let first = match &asked.watch {
        Watch::Service(service) => Some(service.clone()),
        Watch::Prefix(_) => None,
    };
    let watcher = desk.watchers.borrow_mut().admit(asked.watch)?;
    watcher.changed.borrow_mut().extend(first);
    let lines = Lines {
        desk: Rc::clone(desk),
        watcher,
        end: desk.shard.now() + asked.length,
        round,
        told: BTreeMap::new(),
        waiting: VecDeque::new(),
        is_complete: false,
        said: desk.shard.now(),
    };
    let next = |mut lines: Lines| async move {
        let piece = lines.next().await?;
        Some((piece, lines))
    };
    Some(Box::pin(unfold(lines, next)))
}

impl Lines {
    /// What is sent next; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let now = self.desk.shard.now();
            if now >= self.end {
                return None;
            }
            let piece = self.piece();
            if !piece.is_empty() {
                self.said = now;
                return Some(piece.into());
            }
            // Counted from what was said: news that come to nothing say nothing.
            let silence = self.end.min(self.said + WATCH_SILENCE);
            let told = until(&self.desk.shard, silence, self.watcher.wake.notified());
            if told.await.is_err() && silence < self.end {
                self.said = self.desk.shard.now();
                // A peer that is gone is found by this.
                return Some(Bytes::from_static(b"\n"));
            }
        }
    }

    /// Lines that are due, up to the bound and one more; none when all is told.
    fn piece(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < WATCH_PIECE_BYTES {
            if let Some((change, at, instance)) = self.waiting.pop_front() {
                let node = instance_to_json(&instance);
                // Writing to memory does not fail, and no text here needs an escape.
                let _ = writeln!(
                    out,
                    r#"{{"change":"{change}","version":"{at}","node":{node}}}"#
                );
            } else if let Some(service) = self.next_service() {
                self.compare(service);
            } else {
                if !std::mem::replace(&mut self.is_complete, true) {
                    out.extend_from_slice(b"{\"change\":\"complete\"}\n");
                }
                break;
            }
        }
        out
    }

    /// A service that may show something else than what was told.
    fn next_service(&mut self) -> Option<ServiceName> {
        if let Some(from) = self.round.take() {
            let merge = self.desk.merge.borrow();
            let next = merge.shown_from(from.as_ref().map(String::as_str));
            if let Some(service) = next.filter(|one| self.watcher.watch.covers(one)) {
                self.round = Some(Bound::Excluded(service.to_string()));
                return Some(service.clone());
            }
        }
        self.watcher.changed.borrow_mut().pop_first()
    }

    fn compare(&mut self, service: ServiceName) {
        let none = |at| Arc::new(View::empty(service.clone(), at));
        let told = self.told.remove(&service);
        let told = told.unwrap_or_else(|| none(ViewVersion::default()));
        let view = self.desk.views.view(service.as_str());
        let view = view.unwrap_or_else(|| none(told.at));
        let delta = told.delta_to(&view);
        let gone = delta.removed.iter();
        let gone = gone.filter_map(|(id, _)| told.instances.get(id).cloned());
        let lines = (gone.map(|one| ("removed", one)))
            .chain(delta.added.into_iter().map(|one| ("added", one)))
            .chain(delta.changed.into_iter().map(|one| ("changed", one)));
        self.waiting
            .extend(lines.map(|(change, one)| (change, view.at, one)));
        if !view.instances.is_empty() {
            self.told.insert(service, view);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_and_wrong_ones_refused() {
        let asked = |query: &str| Asked::of(query);
        let all = asked("").unwrap();
        assert_eq!(all.watch, Watch::Prefix("".into()));
        assert_eq!(all.length, WATCH_DEFAULT);
        let pair = asked("service=1%2F2&seconds=86400").unwrap();
        assert_eq!(pair.watch, Watch::Service("lars.1.2".parse().unwrap()));
        assert_eq!(pair.length, WATCH_MAX);
        let some = asked("service=lars.1.*").unwrap();
        assert_eq!(some.watch, Watch::Prefix("lars.1.".into()));
        for (query, why) in [
            ("service=", "service \"\": "),
            ("service=No", "service \"No\": "),
            ("service=%FF", "service: not a text"),
            ("service=%f", "service: not a text"),
            ("seconds=0", "seconds \"0\": not from 1 to 86400"),
            ("seconds=86401", "seconds \"86401\": "),
            ("seconds=-1", "seconds \"-1\": "),
            ("seconds=99999999999999999999999", "seconds "),
            ("seconds=%FF", "seconds: not a text"),
        ] {
            let refused = asked(query).unwrap_err();
            assert!(refused.starts_with(why), "{query}: {refused}");
        }
    }

    #[test]
    fn who_watches_counts_until_it_is_gone() {
        let mut watchers = Watchers::default();
        let watch = || Watch::Prefix("pay".into());
        let mut all: Vec<_> = (0..WATCHERS_MAX)
            .map(|_| watchers.admit(watch()).unwrap())
            .collect();
        assert!(watchers.admit(watch()).is_none());
        all.pop();
        let last = watchers.admit(watch()).unwrap();
        let services = ["pay", "pay.b", "other"].map(|one| one.parse().unwrap());
        watchers.tell(&services);
        watchers.tell(&services);
        let changed: Vec<String> = last
            .changed
            .borrow()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(changed, ["pay", "pay.b"]);
    }
}
