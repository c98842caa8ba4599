//! Hubs and sites for tests: on Unix sockets, so that a hub that starts again is
//! found where it was.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use waystation_net::Address;
use waystation_replica::{SiteConfig, SiteName};
use waystation_sync::adapter::{MemoryChange, MemoryDatabase};
use waystation_sync::client::HubClient;
use waystation_sync::hub::{HubOptions, HubServer};
use waystation_sync::site::{SiteOptions, SiteServer};

/// More than anything here takes on a machine under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `is_done`, and says what for if it never is.
pub(crate) fn wait_until(what: &str, mut is_done: impl FnMut() -> bool) {
    let (_never, pause) = channel::<()>();
    for _ in 0..PATIENCE.as_millis() / 10 {
        if is_done() {
            return;
        }
        let _ = pause.recv_timeout(Duration::from_millis(10));
    }
    panic!("waited in vain until {what}");
}

/// A hub's folder and address.
pub(crate) struct Place {
    pub folder: TempDir,
    pub options: HubOptions,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("hub.sock"));
        let mut options = HubOptions::new(folder.path().join("log"), address);
        options.log.segment_bytes = 1 << 20;
        Self { folder, options }
    }

    pub(crate) fn start(&self) -> HubServer {
        let socket = self.folder.path().join("hub.sock");
        if Path::exists(&socket) {
            std::fs::remove_file(socket).unwrap();
        }
        HubServer::start(&self.options).unwrap()
    }

    pub(crate) fn address(&self) -> Address {
        self.options.listen.clone()
    }

    pub(crate) fn client(&self) -> HubClient {
        HubClient::start(self.address()).unwrap()
    }

    pub(crate) fn site(&self, name: &str, table: &MemoryDatabase) -> SiteServer {
        self.site_with(name, table, |_| ())
    }

    /// A site with other settings.
    pub(crate) fn site_with(
        &self,
        name: &str,
        table: &MemoryDatabase,
        change: impl FnOnce(&mut SiteOptions),
    ) -> SiteServer {
        let core = SiteConfig::new(SiteName::new(name).unwrap());
        let mut options = SiteOptions::new(self.address(), core);
        change(&mut options);
        SiteServer::start(options, Arc::new(table.clone())).unwrap()
    }
}

/// The payload of an entry that appends to a row.
pub(crate) fn append(key: &str, value: &str) -> Bytes {
    MemoryChange::encode(&[change(key, value)])
}

pub(crate) fn change(key: &str, value: &str) -> MemoryChange {
    MemoryChange::Append(key.into(), Bytes::copy_from_slice(value.as_bytes()))
}

/// The value of a row.
pub(crate) fn row(table: &MemoryDatabase, key: &str) -> Option<Bytes> {
    table.rows().get(key.as_bytes()).cloned()
}

/// Waits until a row has this value.
pub(crate) fn wait_for_row(table: &MemoryDatabase, key: &str, value: &str) {
    wait_until(&format!("{key} is {value}"), || {
        row(table, key).is_some_and(|found| found == value.as_bytes())
    });
}
