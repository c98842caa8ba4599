//! Routes from a route server: asked for when somebody here wants them, and
//! forgotten when nobody does.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use waystation_base::{Moment, ServiceName};
use waystation_client::machine_now;
use waystation_membership::{View, ViewVersion, Watch};
use waystation_net::{Label, Shard};
use waystation_registry::{
    Acks, Client, Registry as _, WatchOptions, Watching, replace_file, view_from_json, view_to_json,
};

use crate::desk::Desk;
use crate::limits::{COPY_EVERY, REFRESH_EVERY, ROUTE_LOOK, ROUTES_MAX};

/// Where what is known of a service comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The source, which is there.
    Live,
    /// The source, before it was lost.
    Kept,
    /// The copy on disk: the source has not answered since the start.
    Disk,
}

impl Origin {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Kept => "kept",
            Self::Disk => "disk",
        }
    }

    pub(crate) fn of(watching: &Watching) -> Self {
        match (watching.is_complete(), watching.is_connected()) {
            (false, _) => Self::Disk,
            (true, true) => Self::Live,
            (true, false) => Self::Kept,
        }
    }
}

/// A service that is asked for.
struct Asked {
    /// When somebody here wanted it last.
    at: Moment,
    means: Means,
}

/// Where what is known of a service comes from.
enum Means {
    /// Nobody has asked yet.
    Nowhere,
    Watching(Rc<Watching>),
    Lars(Origin),
}

/// Which services are asked for.
#[derive(Default)]
pub(crate) struct Asking {
    by_service: BTreeMap<ServiceName, Asked>,
    /// Those that nobody has begun to watch.
    new: BTreeSet<ServiceName>,
    /// There are some.
    news: Rc<Notify>,
    /// A view came.
    arrived: Rc<Notify>,
}

impl Asking {
    /// Somebody here wants a service. False when there is no room for another.
    pub(crate) fn want(&mut self, now: Moment, service: &ServiceName) -> bool {
        if let Some(asked) = self.by_service.get_mut(service) {
            asked.at = now;
            return true;
        }
        if self.by_service.len() >= ROUTES_MAX {
            return false;
        }
        let asked = Asked {
            at: now,
            means: Means::Nowhere,
        };
        self.by_service.insert(service.clone(), asked);
        self.new.insert(service.clone());
        self.news.notify_one();
        true
    }

    /// Those who are told of drains wait for callers of this agent, which are to go
    /// on without it. Cost: O(services).
    pub(crate) fn linger(&self) {
        for asked in self.by_service.values() {
            if let Means::Watching(watching) = &asked.means {
                watching.linger();
            }
        }
    }

    /// Where what is known of a service comes from.
    pub(crate) fn origin(&self, service: &ServiceName) -> Option<Origin> {
        match &self.by_service.get(service)?.means {
            Means::Nowhere => None,
            Means::Watching(watching) => Some(Origin::of(watching)),
            Means::Lars(origin) => Some(*origin),
        }
    }

    pub(crate) fn set_origin(&mut self, service: &ServiceName, origin: Origin) {
        if let Some(asked) = self.by_service.get_mut(service) {
            asked.means = Means::Lars(origin);
        }
    }

    /// Services that were not asked for before.
    pub(crate) fn take_new(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.new)
    }

    /// A service is not asked for any more.
    pub(crate) fn forget(&mut self, service: &ServiceName) {
        self.by_service.remove(service);
    }

    /// What is notified when there are services that were not asked for before.
    pub(crate) fn news(&self) -> Rc<Notify> {
        Rc::clone(&self.news)
    }

    /// What is notified when a view has come.
    pub(crate) fn arrived(&self) -> Rc<Notify> {
        Rc::clone(&self.arrived)
    }

    pub(crate) fn handle_view(&self) {
        self.arrived.notify_waiters();
    }

    /// Whether nobody has wanted a service for so long.
    pub(crate) fn is_unwanted(&self, now: Moment, service: &ServiceName, after: Duration) -> bool {
        let asked = self.by_service.get(service);
        asked.is_none_or(|asked| now.saturating_since(asked.at) > after)
    }
}

/// Watches what is wanted, for ever. `restored` is the copy from before.
pub(crate) fn start(shard: &Shard, desk: &Rc<RefCell<Desk>>, source: Client, restored: Vec<View>) {
    let mut restored: BTreeMap<ServiceName, View> = restored
        .into_iter()
        .map(|view| (view.service.clone(), view))
        .collect();
    {
        let mut desk = desk.borrow_mut();
        for service in restored.keys() {
            desk.want(machine_now(), service);
        }
    }
    let news = desk.borrow().asking().news();
    let (inner, its) = (shard.clone(), Rc::clone(desk));
    shard.spawn(Label::of("routes"), async move {
        loop {
            let new = its.borrow_mut().asking_mut().take_new();
            for service in new {
                let copy = restored.remove(&service);
                begin(&inner, &its, &source, service, copy);
            }
            tokio::select! {
                () = inner.drain_begun() => return,
                () = news.notified() => {}
            }
        }
    });
}

fn begin(
    shard: &Shard,
    desk: &Rc<RefCell<Desk>>,
    source: &Client,
    service: ServiceName,
    copy: Option<View>,
) {
    let options = WatchOptions {
        acks: Acks::ByCaller,
        restored: copy.into_iter().collect(),
        ..WatchOptions::default()
    };
    let watching = match source.watch(Watch::Service(service.clone()), options) {
        Ok(watching) => Rc::new(watching),
        Err(error) => {
            tracing::warn!(%service, %error, "cannot ask for a route");
            desk.borrow_mut().asking_mut().forget(&service);
            return;
        }
    };
    if let Some(asked) = desk.borrow_mut().asking_mut().by_service.get_mut(&service) {
        asked.means = Means::Watching(Rc::clone(&watching));
    }
    let (inner, its) = (shard.clone(), Rc::clone(desk));
    shard.spawn(Label::of("route"), async move {
        follow(&inner, &its, &service, &watching).await;
    });
}

/// Follows one service until nobody wants it any more.
async fn follow(
    shard: &Shard,
    desk: &Rc<RefCell<Desk>>,
    service: &ServiceName,
    watching: &Watching,
) {
    let mut refresh_at = machine_now() + REFRESH_EVERY;
    loop {
        tokio::select! {
            () = shard.drain_begun() => return,
            changes = watching.changes() => {
                for change in changes {
                    desk.borrow_mut().handle_view(machine_now(), &change.view);
                    // Callers see it in their segments from here on.
                    watching.acknowledge(&change.view.service, change.view.at);
                }
            }
            () = shard.sleep(ROUTE_LOOK) => {}
        }
        let now = machine_now();
        if desk.borrow_mut().forget_unwanted(now, service) {
            return;
        }
        if now >= refresh_at {
            // A push that was lost against all promises is noticed so.
            watching.refresh();
            refresh_at = now + REFRESH_EVERY;
        }
    }
}

/// Keeps a copy on disk of what is known, for a start without the source.
pub(crate) async fn copy(shard: Shard, desk: Rc<RefCell<Desk>>, path: PathBuf) {
    let mut copied: BTreeMap<ServiceName, ViewVersion> = BTreeMap::new();
    loop {
        tokio::select! {
            () = shard.drain_begun() => return,
            () = shard.sleep(COPY_EVERY) => {}
        }
        let views: Vec<Arc<View>> = desk.borrow().views().cloned().collect();
        let versions = views.iter().map(|view| (view.service.clone(), view.at));
        let versions: BTreeMap<ServiceName, ViewVersion> = versions.collect();
        if versions == copied {
            continue;
        }
        let at = path.clone();
        let write = move || write_copy(&at, &views);
        let fault = match shard.offload("route copy", write).await {
            Ok(Ok(())) => {
                copied = versions;
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(path = %path.display(), fault, "cannot keep a copy of the routes");
    }
}

/// The views of a copy; none where there is none. Lines that make no sense, such
/// as one that is cut short, are left out. Blocks.
pub(crate) fn read_copy(path: &Path) -> Vec<View> {
    let Ok(file) = File::open(path) else {
        return Vec::new();
    };
    let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
    let views = lines.filter_map(|line| view_from_json(std::str::from_utf8(&line).ok()?).ok());
    views.take(ROUTES_MAX).collect()
}

fn write_copy(path: &Path, views: &[Arc<View>]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    replace_file(path, |out| {
        for view in views {
            writeln!(out, "{}", view_to_json(view))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that was restarted while the route server was down knew no
    /// routes.
    #[test]
    fn a_copy_that_was_cut_gives_what_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/routes.jsonl");
        assert_eq!(read_copy(&path), []);
        let view = |name: &str| {
            let service = ServiceName::new(name).unwrap();
            Arc::new(View::empty(service, ViewVersion::default()))
        };
        let views = [view("a"), view("b")];
        write_copy(&path, &views).unwrap();
        let all: Vec<View> = views.iter().map(|view| (**view).clone()).collect();
        assert_eq!(read_copy(&path), all);
        let bytes = fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(all.starts_with(&read_copy(&path)), "cut at {length}");
        }
    }

    #[test]
    fn what_is_asked_for_is_bounded() {
        let mut asking = Asking::default();
        let now = Moment::ZERO;
        for n in 0..ROUTES_MAX {
            assert!(asking.want(now, &ServiceName::new(&format!("s{n}")).unwrap()));
        }
        assert!(!asking.want(now, &ServiceName::new("more").unwrap()));
        assert!(asking.want(now, &ServiceName::new("s7").unwrap()));
        assert_eq!(asking.take_new().len(), ROUTES_MAX);
    }
}
