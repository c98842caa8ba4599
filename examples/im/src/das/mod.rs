//! Das (data access): the chat's data behind typed methods.
//!
//! It hides the database's brand and how writes are made fast: many requests
//! share one durable commit ([`StoreHandle`]). It numbers messages; whatever
//! it has answered is on disk. Where several sites keep copies of the chat, each has
//! a Das, which is also what keeps its copy equal to the others ([`SyncConfig`]).

mod arrivals;
mod handlers;
mod limits;
mod site;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use waystation_net::{CloseReason, Kind};
use waystation_service::metrics::Page;
use waystation_service::{App, Peer};

use self::arrivals::Watchers;
use self::handlers::DataAccess;
use self::site::Site;
pub use self::site::SyncConfig;
use crate::error::Error;
use crate::im::das;
use crate::joined::{self, Awaited, Entrant, Joined, instance_id};
use crate::role::RoleConfig;
use crate::store::{SqliteStore, StoreHandle, StoreOptions, StoreSite};

/// Settings of a Das.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it stands.
    pub role: RoleConfig,
    /// How writes are gathered and reads are spread.
    pub store: StoreOptions,
    /// The database, if it is not `chat.sqlite` in the role's directory.
    pub file: Option<PathBuf>,
    /// How its copy is kept, where several sites have one; the role says which
    /// site this is.
    pub sync: Option<SyncConfig>,
}

/// How long what is queued may take to reach the disk at the end.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Commits in a row that the storage failed, from which on Das says that it is
/// not healthy. One that succeeds ends that.
const FAILING_MAX: u64 = 3;

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`Error`] when it could not start.
pub fn run(config: &Config) -> Result<(), Error> {
    let role = &config.role;
    role.prepare()?;
    let file = config.file.clone();
    let file = file.unwrap_or_else(|| role.dir.join("chat.sqlite"));
    if let Some(folder) = file.parent() {
        crate::role::make(folder)?;
    }
    let (store, site) = open(config, &file)?;
    let name = role.name("das");
    let joined = Joined::open(role, &name, None)?;
    let app = start(config, &store, &joined, site.as_ref())?;
    let entrant = Entrant {
        role,
        id: instance_id(&name)?,
        service: joined::DAS,
        address: app.server().addresses()[0].clone(),
        when_taken: "start this one in its directory, with another --index",
        // Its numbers come from one database, which several may write to.
        is_of_one_directory: true,
        after: site.as_ref().map(|site| Awaited {
            reason: "this site's copy of the chat is not whole yet",
            is_true: site.is_whole(),
        }),
    };
    joined.run(app, &entrant)?;
    store.close(CLOSE_WAIT)?;
    Ok(())
}

/// Opens the store, and begins to keep it equal to those of other sites.
fn open(config: &Config, file: &Path) -> Result<(StoreHandle, Option<Site>), Error> {
    let (Some(name), Some(sync)) = (&config.role.site, &config.sync) else {
        return Ok((StoreHandle::open(file, config.store)?, None));
    };
    let names = sync.sites.iter();
    let store = SqliteStore::open_at(
        file,
        StoreSite {
            name: name.as_str().to_owned(),
            sites: names.map(|name| name.as_str().to_owned()).collect(),
        },
    )?;
    let site = Site::start(name, sync, file, &config.role.dir.join("run"))?;
    let store = StoreHandle::start(Box::new(store), config.store)?;
    Ok((store, Some(site)))
}

fn start(
    config: &Config,
    store: &StoreHandle,
    joined: &Joined,
    site: Option<&Site>,
) -> Result<App, Error> {
    let role = &config.role;
    let limits = role.clone();
    let arrivals = site.map(Site::arrivals);
    let told = store.clone();
    let ousted = joined.ousted();
    let (served, watched, counted) = (store.clone(), store.clone(), store.clone());
    let app = App::builder(role.name("das"), role.net())
        .admin(role.admin("das"))
        .health(joined.health())
        .health(Arc::new(move || {
            let failing = watched.counters().failing;
            match (watched.is_open(), failing) {
                (false, _) => Err("the store is closed".to_owned()),
                (true, 0..FAILING_MAX) => Ok(()),
                (true, _) => Err(format!("the last {failing} commits failed")),
            }
        }))
        .metrics(joined.metrics())
        .metrics(Arc::new(move |page| metrics(page, &counted)))
        .on_shard(move |shard| {
            if let Some(arrivals) = &arrivals {
                let watchers = Watchers::start(shard, told.clone(), arrivals.subscribe());
                shard.set_extension(watchers);
            }
        })
        .listen(role.service("das"), move |router| {
            limits.limit_within(router);
            let watchers = router.shard().extension::<Watchers>();
            if let Some(watchers) = watchers.clone() {
                router.on_close(move |peer: &Peer, _: CloseReason| watchers.remove(peer));
            }
            let access = DataAccess::new(served.clone(), watchers, ousted.clone());
            das::register(router, Rc::new(access))
        })
        .start()?;
    Ok(app)
}

fn metrics(page: &mut Page, store: &StoreHandle) {
    let counters = store.counters();
    let rows = [
        (
            "waystation_im_commits",
            Kind::Counter,
            "Durable commits.",
            counters.commits,
        ),
        (
            "waystation_im_writes",
            Kind::Counter,
            "Operations in them.",
            counters.operations,
        ),
        (
            "waystation_im_duplicates",
            Kind::Counter,
            "Messages sent again.",
            counters.duplicates,
        ),
        (
            "waystation_im_reads",
            Kind::Counter,
            "Reads.",
            counters.reads,
        ),
        (
            "waystation_im_write_queue",
            Kind::Gauge,
            "Writes that wait.",
            counters.queue_length,
        ),
    ];
    for (name, kind, help, value) in rows {
        page.family(name, kind, help);
        page.sample(name, kind, "", value);
    }
}
