//! Views that a server shows although their instances have no lease with it.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use waystation_base::{Epoch, ServiceName};
use waystation_membership::{
    DirectoryConfig, Instance, InstanceId, Refusal, Removal, View, ViewVersion,
};
use waystation_net::native::{Control, Router};
use waystation_net::{CloseReason, Conn, Label, Shard};

use super::disk::Folder;
use super::server::{VIEW_ROUTES, new_directory, put_routes};
use super::state::Registry;
use crate::error::ServeError;
use crate::limits::REQUESTS_PER_CONNECTION;

/// The directory of a server of views: its lock, and the epoch of this start.
#[derive(Debug)]
pub struct ViewsHome {
    folder: Arc<Folder>,
    epoch: Epoch,
}

impl ViewsHome {
    /// Makes the directory if there is none, locks it, and stores the epoch of
    /// this start. Blocks.
    ///
    /// # Errors
    /// The directory cannot be used, or is in use.
    pub fn open(dir: &Path) -> Result<Self, ServeError> {
        let folder = Arc::new(Folder::open(dir)?);
        let epoch = folder.next_epoch()?;
        Ok(Self { folder, epoch })
    }

    /// The epoch of this start.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// Views on a shard, and whoever subscribed to them by native frames, as to an
/// embedded registry: pushes of what changed, each encoded once;
/// acknowledgements; whole views after a gap. Clones share them.
///
/// What is placed is shown until it is displaced. Changes that are made before
/// [`Views::publish`] are one version.
#[derive(Clone)]
pub struct Views {
    registry: Rc<Registry>,
}

struct Closing<F> {
    registry: Rc<Registry>,
    on_close: F,
}

impl<F: Fn(&Conn) + 'static> Control for Closing<F> {
    fn on_close(&self, conn: &Conn, _reason: CloseReason) {
        self.registry.handle_close(conn);
        (self.on_close)(conn);
    }
}

impl Views {
    /// Begins without any view.
    pub fn begin(shard: &Shard, home: ViewsHome, config: DirectoryConfig) -> Self {
        let directory = new_directory(shard.now(), home.epoch, config);
        let registry = Registry::new(shard, directory, home.folder);
        let time = Rc::clone(&registry).keep_time();
        shard.spawn(Label::of("views"), time);
        Self { registry }
    }

    /// Serves subscribers and listings; `on_close` is called at the end of each
    /// connection.
    pub fn router(&self, on_close: impl Fn(&Conn) + 'static) -> Router {
        let mut router = Router::new();
        put_routes(&self.registry, &mut router, VIEW_ROUTES);
        router.set_control(Rc::new(Closing {
            registry: Rc::clone(&self.registry),
            on_close,
        }));
        router.set_concurrency(REQUESTS_PER_CONNECTION);
        router
    }

    /// Shows an instance, in place of the one with its id.
    ///
    /// # Errors
    /// It is not valid, or there is no room for its service.
    pub fn place(&self, instance: Instance) -> Result<(), Refusal> {
        let now = self.registry.shard.now();
        let mut directory = self.registry.directory.borrow_mut();
        directory.handle_place(now, instance)
    }

    /// Takes an instance of a service away, for this reason. One that was placed
    /// into another service since stays there.
    pub fn displace(&self, service: &ServiceName, id: &InstanceId, why: Removal) {
        let now = self.registry.shard.now();
        let mut directory = self.registry.directory.borrow_mut();
        if directory.service_of(id) == Some(service) {
            directory.handle_displace(now, id, why);
        }
    }

    /// Pushes what changed. Cost: O(changes · subscribers).
    pub fn publish(&self) {
        self.registry.flush();
        // What is due by time may have changed.
        self.registry.touch();
    }

    /// The view of a service as it was last published.
    pub fn view(&self, service: &str) -> Option<Arc<View>> {
        self.registry.directory.borrow().view(service)
    }

    /// Whether every subscriber of a service sees it at `at` or later. One that
    /// was lost is waited for as long as the configuration says.
    pub fn is_seen(&self, service: &str, at: ViewVersion) -> bool {
        let directory = self.registry.directory.borrow();
        let mut holders = directory.holders(service);
        holders.all(|one| one.acked >= Some(at))
    }
}
