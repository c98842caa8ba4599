//! A copy of a large file, by a join and by hand.

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rusqlite::Connection;
use waystation_net::Address;
use waystation_replica::{Holding, SiteConfig, SiteName};
use waystation_sync::adapter::SqliteDatabase;
use waystation_sync::hub::{HubOptions, HubServer};
use waystation_sync::site::{SiteOptions, SiteServer};

use super::WAIT;
use crate::stats::number;
use crate::timing::now;

/// Bytes of a row, about.
const ROW_BYTES: u64 = 1000;

/// A file, and a hub with a site over it.
pub(crate) struct Donor {
    folder: tempfile::TempDir,
    hub: HubServer,
    _site: SiteServer,
    bytes: u64,
    rows: i64,
}

impl Donor {
    /// Makes the file: rows of a kilobyte with an index over one column.
    ///
    /// # Errors
    /// It cannot be made, or the hub does not start.
    pub(crate) fn new(mib: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("donor.db");
        let connection = Connection::open(&file)?;
        let rows = (mib << 20) / (ROW_BYTES + 40);
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
             CREATE TABLE doc (id INTEGER PRIMARY KEY, owner INTEGER, title TEXT, body BLOB);
             CREATE INDEX by_owner ON doc (owner);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO doc SELECT i, i * 7919 % 10007, 'document ' || i, randomblob({ROW_BYTES})
                 FROM n;
             PRAGMA wal_checkpoint(TRUNCATE);"
        ))?;
        drop(connection);
        let bytes = std::fs::metadata(&file)?.len();
        let listen: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        let options = HubOptions::new(folder.path().join("log"), Address::from(listen));
        let hub = HubServer::start(&options)?;
        let site = start(&hub, "master", &file)?;
        wait(&site)?;
        Ok(Self {
            folder,
            hub,
            _site: site,
            bytes,
            rows: i64::try_from(rows)?,
        })
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("donor.db")
    }

    /// MB a second of the donor's file.
    fn rate(&self, took: Duration) -> f64 {
        number(self.bytes) / 1e6 / took.as_secs_f64()
    }

    fn check(&self, file: &std::path::Path) -> Result<()> {
        let sql = "SELECT count(*) FROM doc";
        let count: i64 = Connection::open(file)?.query_row(sql, [], |row| row.get(0))?;
        ensure!(
            count == self.rows,
            "{count} rows of {} are there",
            self.rows
        );
        Ok(())
    }
}

fn start(hub: &HubServer, name: &str, file: &std::path::Path) -> Result<SiteServer> {
    let core = SiteConfig::new(SiteName::new(name)?);
    let options = SiteOptions::new(hub.address().clone(), core);
    Ok(SiteServer::start(
        options,
        Arc::new(SqliteDatabase::new(file)),
    )?)
}

/// Waits until a copy is whole.
fn wait(site: &SiteServer) -> Result<()> {
    let deadline = now() + WAIT;
    let (_never, pause) = std::sync::mpsc::channel::<()>();
    loop {
        let view = site.view()?;
        if view.is_connected && !view.is_joining && matches!(view.holding, Holding::At { .. }) {
            return Ok(());
        }
        if now() > deadline {
            bail!("no copy in time: {view:?}");
        }
        let _ = pause.recv_timeout(Duration::from_millis(5));
    }
}

/// MB a second by a join.
///
/// # Errors
/// It does not end in time, or rows are missing.
pub(crate) fn ours(donor: &Donor) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("copy.db");
    let began = now();
    // Another name each time: the hub knows those before.
    let name = format!("room-{}", began.as_nanos());
    let site = start(&donor.hub, &name, &file)?;
    wait(&site)?;
    let took = now().saturating_since(began);
    site.stop();
    donor.check(&file)?;
    Ok(donor.rate(took))
}

/// MB a second by `VACUUM INTO` and a copy over loopback that is synced.
///
/// # Errors
/// The disk or the sockets.
pub(crate) fn peer(donor: &Donor) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let (dump, copy) = (folder.path().join("dump.db"), folder.path().join("copy.db"));
    let began = now();
    let source = Connection::open(donor.file())?;
    source.execute("VACUUM INTO ?1", [dump.to_str().context("a path")?])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let target = copy.clone();
    let receiver = std::thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut file = File::create(target)?;
        io::copy(&mut stream, &mut file)?;
        file.sync_all()
    });
    let mut stream = TcpStream::connect(address)?;
    io::copy(&mut File::open(dump)?, &mut stream)?;
    drop(stream);
    receiver
        .join()
        .map_err(|_| anyhow!("the receiver panicked"))??;
    let took = now().saturating_since(began);
    donor.check(&copy)?;
    Ok(donor.rate(took))
}
