//! The route server: which hosts serve what.
//!
//! A [`RouteServer`] shows permanent hosts, which are rows of a store, and those
//! that registries know, as one. Agents of Lars ask and are pushed to by Lars'
//! protocol; native subscribers watch it by `route://HOST:PORT` as they would a
//! registry (crate `waystation-registry`); operators change routes by an API over
//! HTTP. All of them use one port.
//!
//! | store | URL | changes are seen |
//! |---|---|---|
//! | `SQLite`, the default | `sqlite://PATH` | at once |
//! | `MariaDB` and `MySQL`, with the tables of Lars | `mysql://…/DATABASE` | at once, those of others within a second |
//! | `PostgreSQL` | `postgres://…/DATABASE` | at once, by notification |
//!
//! A store that is lost changes nothing: routes stay as they were, and a server
//! that starts without its store serves by a copy on disk and says so. A store
//! that has lost more than half of its routes at once must insist on that.
//!
//! It runs on one thread; the store has one of its own. Whoever asks sees a table
//! that only that thread changes, so that no question waits for a lock or for a
//! reload.
//!
//! The crate leaves out which host a caller picks.
//!
//! ```
//! use waystation_route::{AdminClient, RouteConfig, RouteForm, RouteServer};
//!
//! # let folder = tempfile::tempdir()?;
//! # let dir = folder.path().to_owned();
//! let store = format!("sqlite://{}", dir.join("routes.db").display()).parse()?;
//! let server = RouteServer::start(RouteConfig::new(dir, "127.0.0.1:0".parse()?, store))?;
//!
//! let client = AdminClient::new(server.address().to_string().parse()?);
//! let form = RouteForm::new("pay", "10.0.0.1:7000");
//! client.add(&form)?;
//! assert_eq!(client.list(Some("pay"))?.len(), 1);
//! server.drain();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod limits;

mod admin;
mod client;
mod desk;
mod error;
mod http;
mod keeper;
mod lars;
mod merge;
mod row;
mod server;
mod snapshot;
mod store;
mod table;
mod watch;

pub use admin::{ListedRoute, PatchForm, RouteForm, StatusReport};
pub use client::{AdminClient, AdminError};
pub use error::Error;
pub use keeper::{ChangeError, StoreStatus};
pub use lars::LarsCounters;
pub use merge::{Merge, Settled};
pub use row::{Patch, Route, RouteKey, WEIGHT_DEFAULT};
pub use server::{RouteConfig, RouteServer};
pub use store::{
    Answer, Change, Loaded, MysqlStore, Outcome, PostgresStore, Refusal, RouteStore, Skipped,
    SqliteStore, StoreError, StoreUrl, StoreUrlError,
};
