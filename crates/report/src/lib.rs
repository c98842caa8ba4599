//! The report server: agents tell it how calls ended, it sums that up in memory,
//! writes it in bounded batches and answers with history.
//!
//! A [`ReportServer`] listens on one port for agents of Lars
//! ([`waystation_wire::lars`]), for our own ([`waystation_wire::calls`]) and for
//! questions by HTTP. What it takes in goes through a [`Ledger`], which tells new
//! counts from known ones; a thread writes what is new to a [`Store`], with the
//! totals that it goes on from in the same transaction. So after a restart nothing
//! counts twice, and what was lost with the process is told again by those who
//! count, as far as their totals still rise. While a store is down, counts wait in
//! bounded memory. `docs/reports.md` says what is exact and what is not.
//!
//! ```
//! use std::time::Duration;
//! use waystation_report::{ReportConfig, ReportServer, ask_status};
//!
//! let folder = std::env::temp_dir().join(format!("reports-{}", std::process::id()));
//! let store = format!("sqlite://{}/reports.db", folder.display()).parse()?;
//! let server = ReportServer::start(&ReportConfig::new("127.0.0.1:0".parse()?, store))?;
//! let status = ask_status(server.address(), Duration::from_secs(5))?;
//! assert_eq!(status["records"], 0);
//! server.drain();
//! # std::fs::remove_dir_all(folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It leaves out the counting itself, which agents do.

pub mod limits;

mod ask;
mod batch;
mod error;
mod http;
mod key;
mod lars;
mod ledger;
mod native;
mod protocol;
mod server;
mod store;
mod timeline;
mod totals;
mod writer;

pub use ask::{ask_calls, ask_history, ask_status};
pub use batch::{
    BUCKET_S, Batch, CountRow, Found, HistoryQuery, HistoryRow, KeyRow, LarsRow, Loaded, Retention,
    Span, Standing, Told,
};
pub use error::{AskError, Error};
pub use key::{BadName, KeyName, LarsKey};
pub use ledger::{CallRow, Counters, Ledger, LedgerConfig};
pub use server::{ReportConfig, ReportServer};
pub use store::{MySqlStore, SqliteStore, Store, StoreError, StoreUrl, UrlError};
pub use totals::Totals;
pub use writer::StoreState;
