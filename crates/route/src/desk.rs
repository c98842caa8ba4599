//! All that the server knows, on its shard.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use waystation_base::{ServiceName, line_passes};
use waystation_membership::{LarsPair, ViewVersion};
use waystation_net::{Label, Shard, until};
use waystation_registry::{Registries, Registry as _, Session, Views, Watching};

use crate::keeper::{ChangeError, Keeper, StoreStatus, Told};
use crate::lars::{LarsTable, push};
use crate::limits::{ACK_LOOK, CHANGE_WAIT, UNSEEN_MAX};
use crate::merge::Merge;
use crate::snapshot;
use crate::store::{Change, Outcome};
use crate::watch::Watchers;

/// How often what registries showed is copied to disk, if it changed.
const COPY_EVERY: Duration = Duration::from_secs(5);

/// What subscribers have to see before the registry hears that they do.
#[derive(Debug, Default)]
struct Unseen {
    /// The registry's version.
    at: ViewVersion,
    /// Ours, of each service that it changed.
    ours: BTreeMap<ServiceName, ViewVersion>,
}

/// The server's state.
pub(crate) struct Desk {
    pub(crate) shard: Shard,
    pub(crate) views: Views,
    pub(crate) merge: RefCell<Merge>,
    pub(crate) lars: RefCell<LarsTable>,
    pub(crate) watchers: RefCell<Watchers>,
    keeper: Keeper,
    status: RefCell<StoreStatus>,
    registry: Option<(Registries, Watching)>,
    unseen: RefCell<BTreeMap<ServiceName, Unseen>>,
}

impl Desk {
    pub(crate) fn new(
        shard: &Shard,
        views: Views,
        keeper: Keeper,
        registry: Option<(Registries, Watching)>,
    ) -> Rc<Self> {
        Rc::new(Self {
            shard: shard.clone(),
            views,
            merge: RefCell::default(),
            lars: RefCell::default(),
            watchers: RefCell::default(),
            keeper,
            status: RefCell::default(),
            registry,
            unseen: RefCell::default(),
        })
    }

    /// Begins what goes on by itself. `told` was heard before.
    pub(crate) fn start(
        self: &Rc<Self>,
        told: Vec<Told>,
        news: mpsc::Receiver<Told>,
        copy: PathBuf,
    ) {
        for one in told {
            self.hear(one);
        }
        self.hear_registry();
        let shard = &self.shard;
        shard.spawn(Label::of("route store"), Rc::clone(self).follow_store(news));
        if self.registry.is_some() {
            shard.spawn(
                Label::of("route registry"),
                Rc::clone(self).follow_registry(),
            );
            shard.spawn(Label::of("route acks"), Rc::clone(self).acknowledge());
            shard.spawn(Label::of("route copy"), Rc::clone(self).copy(copy));
        }
    }

    /// How the store fares.
    pub(crate) fn status(&self) -> StoreStatus {
        self.status.borrow().clone()
    }

    /// How the registry fares, if there is one.
    pub(crate) fn session(&self) -> Option<Session> {
        let (registry, _) = self.registry.as_ref()?;
        Some(registry.session())
    }

    /// Has a change made; everybody who is subscribed has been told of it, or is
    /// being told, when this is answered.
    pub(crate) async fn change(&self, change: Change) -> Result<Outcome, ChangeError> {
        let (reply, outcome) = oneshot::channel();
        self.keeper.ask(change, reply);
        let deadline = self.shard.now() + CHANGE_WAIT;
        let lost = |why: &str| Err(ChangeError::Unknown(why.to_owned()));
        match until(&self.shard, deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => lost("it has ended"),
            Err(_) => lost("no answer in time"),
        }
    }

    async fn follow_store(self: Rc<Self>, mut news: mpsc::Receiver<Told>) {
        while let Some(told) = news.recv().await {
            self.hear(told);
            // A whole table comes in pieces: others get their turn.
            tokio::task::yield_now().await;
        }
        tracing::error!("the thread of the store has ended; routes stay as they are");
    }

    fn hear(&self, told: Told) {
        match told {
            Told::Routes(difference) => {
                let mut merge = self.merge.borrow_mut();
                for key in &difference.gone {
                    merge.drop_route(key);
                }
                for route in difference.put {
                    merge.put_route(route);
                }
                drop(merge);
                self.settle();
            }
            Told::Status(status) => *self.status.borrow_mut() = status,
            Told::Outcome(reply, outcome) => {
                // Who asked may have given up.
                let _ = reply.send(outcome);
            }
        }
    }

    async fn follow_registry(self: Rc<Self>) {
        let Some((_, watching)) = &self.registry else {
            return;
        };
        loop {
            for change in watching.changes().await {
                let (service, at) = (change.view.service.clone(), change.view.at);
                self.merge.borrow_mut().put_registered(change.view);
                let ours = self.settle();
                self.note_unseen(service, at, ours);
            }
        }
    }

    /// What the registry showed until now, before the first subscriber comes.
    fn hear_registry(&self) {
        let Some((_, watching)) = &self.registry else {
            return;
        };
        let mut merge = self.merge.borrow_mut();
        for change in watching.views() {
            merge.put_registered(change.view);
        }
        drop(merge);
        self.settle();
    }

    /// Shows what changed, and tells all who are subscribed. Which versions of
    /// which services that are.
    fn settle(&self) -> Vec<(ServiceName, ViewVersion)> {
        let mut services = Vec::new();
        loop {
            let Some(settled) = self.merge.borrow_mut().settle() else {
                break;
            };
            for (id, why) in &settled.displaced {
                self.views.displace(&settled.service, id, *why);
            }
            for one in &settled.placed {
                if let Err(refusal) = self.views.place((**one).clone())
                    && let Some(unsaid) = line_passes!(self.shard.now())
                {
                    let (id, service) = (&one.id, &one.service);
                    tracing::warn!(%id, %service, %refusal, unsaid, "a host cannot be shown");
                }
            }
            if let Some(pair) = LarsPair::of_service(&settled.service) {
                self.tell_lars(pair);
            }
            services.push(settled.service);
        }
        self.views.publish();
        self.watchers.borrow().tell(&services);
        let at = |service: ServiceName| {
            let view = self.views.view(service.as_str())?;
            Some((service, view.at))
        };
        services.into_iter().filter_map(at).collect()
    }

    fn tell_lars(&self, pair: LarsPair) {
        let hosts = self.merge.borrow().lars_hosts(pair);
        let told = self.lars.borrow_mut().put(pair, hosts);
        if let Some((frame, to)) = told {
            let pushes = push(&self.shard, &frame, &to);
            self.lars.borrow_mut().counters.pushes += pushes;
        }
    }

    fn note_unseen(
        &self,
        service: ServiceName,
        at: ViewVersion,
        ours: Vec<(ServiceName, ViewVersion)>,
    ) {
        let mut unseen = self.unseen.borrow_mut();
        if unseen.len() >= UNSEEN_MAX && !unseen.contains_key(&service) {
            return;
        }
        let entry = unseen.entry(service).or_default();
        entry.at = at;
        entry.ours.extend(ours);
    }

    /// Acknowledges to the registry what all our subscribers have seen, so that
    /// its drains wait for them.
    async fn acknowledge(self: Rc<Self>) {
        let Some((_, watching)) = &self.registry else {
            return;
        };
        loop {
            self.unseen.borrow_mut().retain(|service, unseen| {
                unseen
                    .ours
                    .retain(|ours, at| !self.views.is_seen(ours.as_str(), *at));
                let is_seen = unseen.ours.is_empty();
                if is_seen {
                    watching.acknowledge(service, unseen.at);
                }
                !is_seen
            });
            self.shard.sleep(ACK_LOOK).await;
        }
    }

    /// Keeps a copy on disk of what registries show.
    async fn copy(self: Rc<Self>, path: PathBuf) {
        let mut copied = BTreeMap::new();
        loop {
            self.shard.sleep(COPY_EVERY).await;
            let views: Vec<_> = self.merge.borrow().registered().cloned().collect();
            let now: BTreeMap<ServiceName, ViewVersion> = views
                .iter()
                .map(|one| (one.service.clone(), one.at))
                .collect();
            if now == copied {
                continue;
            }
            let path = path.clone();
            let write = move || snapshot::write_views(&path, views.iter());
            let fault = match self.shard.offload("route copy", write).await {
                Ok(Ok(())) => {
                    copied = now;
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(fault, "cannot keep a copy of what is registered");
        }
    }
}
