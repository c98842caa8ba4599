//! A static list of instances as a backend: a file that is read again whenever
//! it changes.
//!
//! Each line is an instance in JSON, as `waystation node list --json` prints
//! it; empty lines and lines that begin with `#` are left out. A line that is
//! no instance is skipped and told. A file that is gone or cannot be read is a
//! registry that cannot be talked to: what was read before stays.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use waystation_base::{Epoch, Moment};
use waystation_membership::{Content, Instance, InstanceId, SubscriberId, ViewVersion, Watch};
use waystation_net::{Label, Shard, WaitsFor, waiting};

use crate::backend::{Ask, Backend, Event, Events, Reply};
use crate::error::AskError;
use crate::limits::{FILE_BYTES_MAX, FILE_POLL, LINE_BYTES_MAX};
use crate::mirror::Mirror;
use crate::registry::ListedService;
use crate::text::instance_from_json;

/// The backend of `file://PATH`.
pub(crate) struct FileBackend {
    shared: Rc<Shared>,
}

struct Shared {
    shard: Shard,
    path: PathBuf,
    events: Events,
    mirror: RefCell<Mirror>,
    is_connected: Cell<bool>,
    /// Questions that wait for the first reading.
    waiting: RefCell<Vec<(u64, Watch, Moment)>>,
    /// The version of what was read last.
    at: Cell<ViewVersion>,
}

/// What tells a file from what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// What one look at the file gave.
struct Look {
    stamp: Stamp,
    /// `None` when it is as it was.
    text: Option<String>,
}

impl FileBackend {
    pub(crate) fn new(shard: &Shard, path: PathBuf, events: Events) -> Self {
        let shared = Rc::new(Shared {
            shard: shard.clone(),
            path,
            events,
            mirror: RefCell::new(Mirror::new()),
            is_connected: Cell::new(false),
            waiting: RefCell::default(),
            at: Cell::new(ViewVersion {
                epoch: Epoch(1),
                number: 0,
            }),
        });
        let task = follow(shard.clone(), Rc::downgrade(&shared));
        shard.spawn(Label::of("registry file"), task);
        Self { shared }
    }
}

/// Looks at the file again and again, for as long as the backend is used.
async fn follow(shard: Shard, shared: Weak<Shared>) {
    let mut known = None;
    loop {
        let Some(path) = shared.upgrade().map(|shared| shared.path.clone()) else {
            return;
        };
        let look = shard
            .offload("registry file", move || look(&path, known))
            .await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match look {
            Ok(Ok(look)) => {
                known = Some(look.stamp);
                shared.handle_look(look.text.as_deref());
            }
            Ok(Err(fault)) => {
                known = None;
                shared.handle_fault(fault);
            }
            Err(error) => shared.handle_fault(error.to_string()),
        }
        drop(shared);
        waiting(WaitsFor::plain("file poll"), shard.sleep(FILE_POLL)).await;
    }
}

/// Reads the file if it is not as it was. Blocks.
fn look(path: &Path, known: Option<Stamp>) -> Result<Look, String> {
    let fault = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(fault)?;
    let about = file.metadata().map_err(fault)?;
    let stamp = Stamp {
        inode: about.ino(),
        bytes: about.len(),
        modified: (about.mtime(), about.mtime_nsec()),
    };
    if known == Some(stamp) {
        return Ok(Look { stamp, text: None });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(fault)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!(
            "{} is larger than {FILE_BYTES_MAX} bytes",
            path.display()
        ));
    }
    let text = Some(String::from_utf8_lossy(&bytes).into_owned());
    Ok(Look { stamp, text })
}

/// An instance that was found, or the line that is none and why.
type Parsed = Result<Arc<Instance>, (usize, String)>;

/// The instances of a list, and what was skipped. The first of two with one id
/// counts.
fn parse(text: &str) -> Vec<Parsed> {
    let mut seen: BTreeMap<InstanceId, usize> = BTreeMap::new();
    let mut parsed = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (number, line) = (index + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.len() > LINE_BYTES_MAX {
            parsed.push(Err((number, format!("longer than {LINE_BYTES_MAX} bytes"))));
            continue;
        }
        let instance = instance_from_json(line).map_err(|error| (number, error.to_string()));
        parsed.push(
            instance.and_then(|instance| match seen.insert(instance.id.clone(), number) {
                None => Ok(Arc::new(instance)),
                Some(first) => {
                    seen.insert(instance.id.clone(), first);
                    let holder = format!("instance {} stands in line {first} already", instance.id);
                    Err((number, holder))
                }
            }),
        );
    }
    parsed
}

impl Shared {
    /// The file is there; `text` is what is in it, if it is news.
    fn handle_look(&self, text: Option<&str>) {
        if let Some(text) = text {
            self.read(text);
        }
        if !self.is_connected.replace(true) {
            // The driver subscribes anew, and is pushed whole views.
            self.events.push(Event::Connected);
        }
        for (question, watch, _) in self.waiting.take() {
            self.answer(question, &watch);
        }
    }

    fn read(&self, text: &str) {
        let mut instances = Vec::new();
        for parsed in parse(text) {
            match parsed {
                Ok(instance) => instances.push(instance),
                Err((line, reason)) => {
                    let place = format!("{}:{line}", self.path.display());
                    self.events.push(Event::Skipped { place, reason });
                }
            }
        }
        let at = self.go_on(self.at.get());
        let pushes = self.mirror.borrow_mut().fill(at, instances);
        for (subscriber, content) in pushes {
            self.events.push(Event::Push(subscriber, content));
        }
    }

    /// The next version above this one.
    fn go_on(&self, above: ViewVersion) -> ViewVersion {
        let at = ViewVersion {
            number: above.number + 1,
            ..above
        };
        self.at.set(at);
        at
    }

    /// A subscriber holds this, which may be of a process before this one: of the
    /// same number, and not of the same list.
    fn see(&self, have: ViewVersion) {
        if have >= self.at.get() {
            let at = self.go_on(have);
            self.mirror.borrow_mut().raise(at);
        }
    }

    fn handle_fault(&self, fault: String) {
        self.is_connected.set(false);
        self.events.push(Event::Disconnected(fault));
    }

    fn answer(&self, question: u64, watch: &Watch) {
        let views = self.mirror.borrow().list(watch);
        let listed = views.into_iter().map(|view| ListedService {
            view,
            holders: Vec::new(),
        });
        let with_instances = listed.filter(|one| !one.view.instances.is_empty());
        let reply = Reply::Listed(with_instances.collect());
        self.events.push(Event::Answered(question, Ok(reply)));
    }

    fn push(&self, subscriber: SubscriberId, content: Content) {
        self.events.push(Event::Push(subscriber, content));
    }
}

impl Backend for FileBackend {
    fn handle(&self, ask: Ask) {
        let shared = &self.shared;
        match ask {
            // A client of a static list takes no registrations.
            Ask::Registration { .. } | Ask::Ack(_) => {}
            Ask::Subscribe {
                subscriber,
                watch,
                have,
            } => {
                if let Some(have) = have {
                    shared.see(have);
                }
                let views = shared.mirror.borrow_mut().subscribe(subscriber, watch);
                for view in views {
                    shared.push(subscriber, Content::View(view));
                }
                shared.events.push(Event::Subscribed(subscriber, Ok(())));
            }
            Ask::Resync {
                subscriber,
                service,
            } => {
                let view = shared.mirror.borrow().view(&service);
                shared.push(subscriber, Content::View(view));
            }
            Ask::Unsubscribe(subscriber) | Ask::Linger(subscriber) => {
                shared.mirror.borrow_mut().unsubscribe(subscriber);
            }
            Ask::List {
                question,
                watch,
                deadline,
                ..
            } => {
                if shared.is_connected.get() {
                    shared.answer(question, &watch);
                } else {
                    let mut waiting = shared.waiting.borrow_mut();
                    // What waited too long was answered by the driver.
                    let now = shared.shard.now();
                    waiting.retain(|(_, _, at)| *at > now);
                    waiting.push((question, watch, deadline));
                }
            }
            Ask::Drain { question, .. } => {
                let url = format!("file://{}", shared.path.display());
                let answer = Err(AskError::ReadOnly { url });
                shared.events.push(Event::Answered(question, answer));
            }
        }
    }

    fn close(&self) -> LocalBoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use waystation_base::ShardId;
    use waystation_net::{NetConfig, Server};

    use super::*;

    /// Each process counted what it read from one again, so that a view that was
    /// kept over a restart was taken for a later one, and the list for an old
    /// backup of itself.
    #[test]
    fn a_list_goes_on_above_what_is_held_of_an_earlier_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        std::fs::write(
            &path,
            "{\"id\":\"a\",\"service\":\"s\",\"address\":\"10.0.0.1:1\"}\n",
        )
        .unwrap();
        let server = Server::builder(NetConfig::default()).start().unwrap();
        let (tell, told) = mpsc::channel();
        let have = ViewVersion {
            epoch: Epoch(1),
            number: 5,
        };
        let job = move |shard: &Shard| {
            let events = Events::default();
            let backend = FileBackend::new(shard, path, events.clone());
            shard.spawn(Label::of("test"), async move {
                loop {
                    events.ready().await;
                    match events.pop() {
                        Some(Event::Connected) => backend.handle(Ask::Subscribe {
                            subscriber: SubscriberId(1),
                            watch: Watch::Prefix("".into()),
                            have: Some(have),
                        }),
                        Some(Event::Push(_, content)) => break tell.send(content.at()).unwrap(),
                        _ => {}
                    }
                }
            });
        };
        server.remote().run_on(ShardId(0), job).unwrap();
        let at = told.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(at > have, "{at}");
        server.drain();
    }

    #[test]
    fn a_list_skips_what_is_no_instance_and_names_the_line() {
        let text = "\n# a comment\n{\"id\":\"a\",\"service\":\"s\",\"address\":\"10.0.0.1:1\"}\n\
                    nonsense\n{\"id\":\"a\",\"service\":\"s\",\"address\":\"10.0.0.2:1\"}\n";
        let parsed = parse(text);
        assert_eq!(parsed.len(), 3);
        assert_eq!(
            parsed[0].as_ref().unwrap().address.to_string(),
            "10.0.0.1:1"
        );
        assert_eq!(parsed[1].as_ref().unwrap_err().0, 4);
        assert_eq!(
            parsed[2].as_ref().unwrap_err(),
            &(5, "instance a stands in line 3 already".to_owned())
        );
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        assert!(
            parse(&long)[0]
                .as_ref()
                .unwrap_err()
                .1
                .starts_with("longer than")
        );
    }
}
