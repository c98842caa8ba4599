//! Of which site a conversation is.
//!
//! Where several sites keep copies of one store, each conversation has a home: the
//! site that numbers its messages and writes all its rows. The home stands beside
//! the conversation and travels with it, so that sites that come later change
//! nothing of those that are there. Who gives a home to a name that is new is
//! decided by the table of slots, which the first site fills when it founds the
//! store and which travels, too: no two sites ever make the same conversation.
//!
//! Ids of conversations begin with the number of their home, so that they differ.

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use waystation_base::hash64;
use waystation_sync::adapter::{SqliteDatabase, Stage};

use crate::store::error::StoreError;

/// Names that are new are spread over the sites by so many slots.
const SLOTS: u64 = 64;

/// Bits of an id beside the number of the site.
const ID_BITS: u32 = 40;

/// Sites of one store, at most: what is left of an id.
pub const SITES_MAX: usize = 1 << 16;

/// A site of a store of which several sites keep copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSite {
    /// Its name.
    pub name: String,
    /// All sites by their names. The first one founds the store: it writes down
    /// which sites there are, and all others have that from it.
    pub sites: Vec<String>,
}

impl StoreSite {
    fn is_founder(&self) -> bool {
        self.sites.first() == Some(&self.name)
    }
}

/// Who writes in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Writer {
    /// The site's number; 0 without sites.
    number: i64,
    has_sites: bool,
}

/// Refuses a store that sites have copies of to somebody who is none of them.
pub(super) fn check_alone(connection: &Connection) -> Result<(), StoreError> {
    let site = name_of(connection, 0)?;
    site.map_or(Ok(()), |name| Err(StoreError::OfSites { name }))
}

/// Writes down which sites there are, if this is the first one.
pub(super) fn found(connection: &mut Connection, site: &StoreSite) -> Result<(), StoreError> {
    if !site.is_founder() {
        return Ok(());
    }
    StoreError::check_size("number of sites", site.sites.len(), SITES_MAX)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut next: i64 = transaction.query_row(
        "SELECT coalesce(max(number), -1) + 1 FROM site",
        [],
        |row| row.get(0),
    )?;
    for name in &site.sites {
        let sql = "INSERT INTO site SELECT ?1, ?2 WHERE ?2 NOT IN (SELECT name FROM site)";
        let added = transaction.execute(sql, params![next, name])?;
        next += i64::try_from(added).unwrap_or_default();
    }
    fill_slots(&transaction)?;
    transaction.commit()?;
    Ok(())
}

/// Gives the slots to the sites that there are, once and for all.
fn fill_slots(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let filled: bool =
        transaction.query_row("SELECT EXISTS (SELECT 1 FROM birth)", [], |row| row.get(0))?;
    if filled {
        return Ok(());
    }
    let sql = "INSERT INTO birth SELECT ?1, ?1 % count(*) FROM site";
    let mut statement = transaction.prepare(sql)?;
    for slot in 0..SLOTS {
        statement.execute([slot.cast_signed()])?;
    }
    Ok(())
}

fn name_of(connection: &Connection, number: i64) -> Result<Option<String>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT name FROM site WHERE number = ?1")?;
    let name = statement.query_row([number], |row| row.get(0));
    Ok(name.optional()?)
}

/// The home that the store gives to a name that is new; none before it is founded.
fn birth_of(connection: &Connection, name: &str) -> Result<Option<i64>, StoreError> {
    let slot = (hash64(name.as_bytes()) % SLOTS).cast_signed();
    let mut statement = connection.prepare_cached("SELECT home FROM birth WHERE slot = ?1")?;
    let home = statement.query_row([slot], |row| row.get(0));
    Ok(home.optional()?)
}

/// Refuses a copy of which a part is missing; see [`SqliteDatabase::stage`].
pub(super) fn check_whole(connection: &Connection) -> Result<(), StoreError> {
    match SqliteDatabase::stage(connection)? {
        Stage::Partial => Err(StoreError::NotWhole),
        Stage::Own | Stage::Whole => Ok(()),
    }
}

/// The home of a conversation, or of a name that is new, by its name.
///
/// # Errors
/// [`StoreError::NotWhole`].
pub(super) fn home_of(connection: &Connection, conversation: &str) -> Result<String, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT home FROM conversation WHERE name = ?1")?;
    let stored = statement.query_row([conversation], |row| row.get(0));
    let home = match stored.optional()? {
        Some(home) => Some(home),
        None => birth_of(connection, conversation)?,
    };
    let name = match home {
        Some(home) => name_of(connection, home)?,
        None => None,
    };
    name.ok_or(StoreError::NotWhole)
}

impl Writer {
    /// Who writes where there are no sites.
    pub(super) const ALONE: Self = Self {
        number: 0,
        has_sites: false,
    };

    /// The site as it is known in the transaction at hand.
    ///
    /// # Errors
    /// [`StoreError::NotWhole`]: the copy has not come, or not all of it.
    pub(super) fn of(connection: &Connection, site: &StoreSite) -> Result<Self, StoreError> {
        // What the founder has before the hub knows it is what all others copy.
        match SqliteDatabase::stage(connection)? {
            Stage::Whole => {}
            Stage::Own if site.is_founder() => {}
            Stage::Own | Stage::Partial => return Err(StoreError::NotWhole),
        }
        let mut statement = connection.prepare_cached("SELECT number FROM site WHERE name = ?1")?;
        let number = statement.query_row([&site.name], |row| row.get(0));
        Ok(Self {
            number: number.optional()?.ok_or(StoreError::NotWhole)?,
            has_sites: true,
        })
    }

    /// The home of what it makes.
    pub(super) fn number(self) -> i64 {
        self.number
    }

    /// Below the ids that it gives, and above them.
    pub(super) fn ids(self) -> [i64; 2] {
        [self.number << ID_BITS, (self.number + 1) << ID_BITS]
    }

    /// Refuses to change a conversation with another home: this is a copy of it.
    ///
    /// # Errors
    /// [`StoreError::OtherHome`].
    pub(super) fn check_home(
        self,
        connection: &Connection,
        conversation: &str,
        home: i64,
    ) -> Result<(), StoreError> {
        if home == self.number || !self.has_sites {
            return Ok(());
        }
        Err(StoreError::OtherHome {
            conversation: conversation.to_owned(),
            home: name_of(connection, home)?.ok_or(StoreError::NotWhole)?,
        })
    }

    /// Refuses to make a conversation that another site would make.
    ///
    /// # Errors
    /// [`StoreError::OtherHome`].
    pub(super) fn check_birth(
        self,
        connection: &Connection,
        conversation: &str,
    ) -> Result<(), StoreError> {
        if !self.has_sites {
            return Ok(());
        }
        let home = birth_of(connection, conversation)?.ok_or(StoreError::NotWhole)?;
        self.check_home(connection, conversation, home)
    }
}
