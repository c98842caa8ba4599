//! What makes a batch durable: our log, or a database in its place.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use redb::{Database, Durability, TableDefinition};
use rusqlite::{Connection, params};
use waystation_base::{Epoch, Moment, Seq};
use waystation_net::Address;
use waystation_replica::{Batch, Entry, HubRestored};
use waystation_sync::hub::{HubOptions, HubServer};
use waystation_sync::{AppendError, LogStore, ReadError};

/// A store behind the hub's front end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Log,
    Sqlite,
    Redb,
}

impl Store {
    pub(crate) const ALL: [Self; 3] = [Self::Log, Self::Sqlite, Self::Redb];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Sqlite => "SQLite",
            Self::Redb => "redb",
        }
    }

    /// A hub over it, in an empty folder.
    pub(crate) fn hub(self, folder: &Path) -> Result<HubServer> {
        let listen: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        let options = HubOptions::new(folder.join("log"), Address::from(listen));
        Ok(match self {
            Self::Log => HubServer::start(&options)?,
            Self::Sqlite => HubServer::start_on(&options, Box::new(Sqlite::new(folder)?))?,
            Self::Redb => HubServer::start_on(&options, Box::new(Redb::new(folder)?))?,
        })
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> AppendError {
    AppendError::Unknown(io::Error::other(error))
}

struct Sqlite {
    connection: Connection,
    end: Seq,
}

impl Sqlite {
    fn new(folder: &Path) -> Result<Self> {
        let connection = Connection::open(folder.join("entries.db"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE entry (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL)",
        )?;
        let end = Seq(0);
        Ok(Self { connection, end })
    }

    fn store(&mut self, batch: &Batch) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let sql = "INSERT INTO entry VALUES (?1, ?2)";
        let mut insert = transaction.prepare_cached(sql)?;
        for entry in &batch.entries {
            let seq = entry.position.seq.0.cast_signed();
            insert.execute(params![seq, entry.payload.as_ref()])?;
        }
        drop(insert);
        transaction.commit()
    }
}

struct Redb {
    database: Database,
    end: Seq,
}

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");

impl Redb {
    fn new(folder: &Path) -> Result<Self> {
        let database = Database::create(folder.join("entries.redb"))?;
        let end = Seq(0);
        Ok(Self { database, end })
    }

    fn store(&self, batch: &Batch) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(ENTRIES)?;
            for entry in &batch.entries {
                table.insert(entry.position.seq.0, entry.payload.as_ref())?;
            }
        }
        Ok(transaction.commit()?)
    }
}

/// A store that is written and not read.
macro_rules! log_store {
    ($store:ident) => {
        impl LogStore for $store {
            fn epoch(&self) -> Epoch {
                Epoch(1)
            }

            fn start(&self) -> Seq {
                Seq(0)
            }

            fn end(&self) -> Seq {
                self.end
            }

            fn append(&mut self, batch: &Batch) -> Result<(), AppendError> {
                self.store(batch).map_err(failed)?;
                if let Some(last) = batch.entries.last() {
                    self.end = last.position.seq;
                }
                Ok(())
            }

            fn read(&self, _: Seq, _: Seq, _: u64) -> Result<Vec<Arc<Entry>>, ReadError> {
                Ok(Vec::new())
            }

            fn trim(&mut self, _: Seq) -> io::Result<()> {
                Ok(())
            }

            fn restored(&mut self, _: Moment, _: u64) -> HubRestored {
                HubRestored::empty(Epoch(1))
            }
        }
    };
}

log_store!(Sqlite);
log_store!(Redb);
