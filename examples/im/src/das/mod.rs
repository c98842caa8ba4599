//! Das (data access): the chat's data behind typed methods.
//!
//! It hides the database's brand and how writes are made fast: many requests
//! share one durable commit ([`StoreHandle`]). It numbers messages; whatever
//! it has answered is on disk.

mod handlers;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use waystation_net::Kind;
use waystation_service::App;
use waystation_service::metrics::Page;

use self::handlers::DataAccess;
use crate::error::Error;
use crate::im::das;
use crate::joined::{self, Entrant, Joined, instance_id};
use crate::role::RoleConfig;
use crate::store::{StoreHandle, StoreOptions};

/// Settings of a Das.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it stands.
    pub role: RoleConfig,
    /// How writes are gathered and reads are spread.
    pub store: StoreOptions,
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
    let store = StoreHandle::open(&role.dir.join("chat.sqlite"), config.store)?;
    let name = role.name("das");
    let joined = Joined::open(role, &name, None)?;
    let app = start(config, &store, &joined)?;
    let entrant = Entrant {
        role,
        id: instance_id(&name)?,
        service: joined::DAS,
        address: app.server().addresses()[0].clone(),
        when_taken: "start this one in its directory, with another --index",
        // Its numbers come from one database, which several may write to.
        is_of_one_directory: true,
    };
    joined.run(app, &entrant)?;
    store.close(CLOSE_WAIT)?;
    Ok(())
}

fn start(config: &Config, store: &StoreHandle, joined: &Joined) -> Result<App, Error> {
    let role = &config.role;
    let limits = role.clone();
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
        .metrics(Arc::new(move |page| metrics(page, &counted)))
        .listen(role.service("das"), move |router| {
            limits.limit_within(router);
            das::register(router, Rc::new(DataAccess::new(served.clone())))
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
