//! One change, in one transaction.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Transaction, TxOpts, params};
use waystation_membership::LarsPair;

use super::{LarsKey, raw};
use crate::limits::CHANGES_KEPT;
use crate::row::{RawRow, Route, RouteKey, WEIGHT_DEFAULT};
use crate::store::{Change, Outcome, Refusal, StoreError};

/// Reads our own table.
pub(super) const OWN: &str =
    "SELECT service, address, modid, cmdid, weight, site, zone, metadata FROM WaystationRoute";

/// Makes a change, or says why not. Writers of ours stand in line at the row of
/// the version.
pub(super) async fn make(
    conn: &mut Conn,
    change: &Change,
    has_own: bool,
) -> Result<Outcome, StoreError> {
    let mut making = Making {
        transaction: conn.start_transaction(TxOpts::default()).await?,
        has_own,
        pairs: Vec::new(),
    };
    let text = "SELECT version FROM RouteVersion WHERE id = 1 FOR UPDATE";
    making.transaction.query_drop(text).await?;
    let outcome = match change {
        Change::Add(route) => making.add(route).await?,
        Change::Edit { key, patch } => match making.find(key).await? {
            None => refused(Refusal::Missing(key.clone())),
            Some(Err(why)) => refused(Refusal::Unable(why)),
            Some(Ok(old)) => making.replace(Some(&old), &old.patched(patch)).await?,
        },
        Change::Remove(key) => making.remove(key).await?,
    };
    if matches!(outcome, Outcome::Done { .. }) {
        making.mark().await?;
        making.transaction.commit().await?;
    } else {
        making.transaction.rollback().await?;
    }
    Ok(outcome)
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

struct Making<'a> {
    transaction: Transaction<'a>,
    has_own: bool,
    /// Pairs that other readers are to be told of.
    pairs: Vec<LarsPair>,
}

impl Making<'_> {
    async fn add(&mut self, route: &Route) -> Result<Outcome, StoreError> {
        let key = route.key();
        match self.find(&key).await? {
            Some(Ok(_)) => Ok(refused(Refusal::Exists(key))),
            Some(Err(why)) => Ok(refused(Refusal::Unable(why))),
            None => self.replace(None, route).await,
        }
    }

    /// The route with this key, if it is there; why it is none, if it is not.
    async fn find(&mut self, key: &RouteKey) -> Result<Option<Result<Route, String>>, StoreError> {
        let own = self.own_row(key).await?;
        let is_own = own.is_some();
        let route = match own {
            Some(Err(why)) => return Ok(Some(Err(why))),
            Some(Ok(raw)) => match raw.route() {
                Err(why) => return Ok(Some(Err(why))),
                Ok(route) => route,
            },
            None if LarsPair::of_service(&key.service).is_none() => return Ok(None),
            None => Route::new(key.service.clone(), key.address.clone()),
        };
        let is_there = match route.in_lars() {
            Some(lars) => self.is_in_lars(lars).await?,
            None => is_own,
        };
        Ok(is_there.then_some(Ok(route)))
    }

    async fn own_row(
        &mut self,
        key: &RouteKey,
    ) -> Result<Option<Result<RawRow, String>>, StoreError> {
        if !self.has_own {
            return Ok(None);
        }
        let text = format!("{OWN} WHERE service = :service AND address = :address");
        let key = params! {
            "service" => key.service.as_str(),
            "address" => key.address.to_string(),
        };
        let row: Option<Row> = self.transaction.exec_first(text, key).await?;
        Ok(row.map(|row| raw(&row).map_err(|(_, why)| why)))
    }

    async fn is_in_lars(&mut self, key: LarsKey) -> Result<bool, StoreError> {
        let text = "SELECT 1 FROM RouteData WHERE modid = :modid AND cmdid = :cmdid \
                    AND serverip = :ip AND serverport = :port LIMIT 1";
        let row: Option<Row> = self.transaction.exec_first(text, lars_params(key)).await?;
        Ok(row.is_some())
    }

    /// Writes a route in place of `old`, which has the same key.
    async fn replace(&mut self, old: Option<&Route>, new: &Route) -> Result<Outcome, StoreError> {
        if let Err(why) = new.validate() {
            return Ok(refused(Refusal::Invalid(why)));
        }
        if needs_own(new) && !self.has_own {
            let why = "this database has no table for more than pairs and IPv4 addresses, \
                       and none may be made";
            return Ok(refused(Refusal::Unable(why.to_owned())));
        }
        let key = new.key();
        if let Some(before) = old.and_then(Route::in_lars)
            && Some(before) != new.in_lars()
        {
            self.delete_lars(before, &key).await?;
        }
        self.delete_own(&key).await?;
        if needs_own(new) {
            self.insert_own(new).await?;
        }
        let mut gone = Vec::new();
        if let Some(lars) = new.in_lars() {
            if !self.is_in_lars(lars).await? {
                let text = "INSERT INTO RouteData (modid, cmdid, serverip, serverport) \
                            VALUES (:modid, :cmdid, :ip, :port)";
                self.transaction.exec_drop(text, lars_params(lars)).await?;
            }
            if !new.is_nameless() {
                // The row may have stood there without a name.
                gone.push(RouteKey {
                    service: lars.0.service(),
                    address: new.address.clone(),
                });
            }
        }
        self.pairs.extend(new.lars);
        Ok(Outcome::Done {
            put: vec![new.clone()],
            gone,
        })
    }

    async fn remove(&mut self, key: &RouteKey) -> Result<Outcome, StoreError> {
        let found = self.find(key).await?;
        let mut was_there = self.delete_own(key).await?;
        if let Some(Ok(route)) = found {
            was_there = true;
            if let Some(lars) = route.in_lars() {
                self.delete_lars(lars, key).await?;
            }
            self.pairs.extend(route.lars);
        }
        Ok(if was_there {
            Outcome::Done {
                put: Vec::new(),
                gone: vec![key.clone()],
            }
        } else {
            refused(Refusal::Missing(key.clone()))
        })
    }

    async fn delete_own(&mut self, key: &RouteKey) -> Result<bool, StoreError> {
        if !self.has_own {
            return Ok(false);
        }
        let text = "DELETE FROM WaystationRoute WHERE service = :service AND address = :address";
        let key = params! {
            "service" => key.service.as_str(),
            "address" => key.address.to_string(),
        };
        self.transaction.exec_drop(text, key).await?;
        Ok(self.transaction.affected_rows() > 0)
    }

    async fn insert_own(&mut self, route: &Route) -> Result<(), StoreError> {
        let raw = RawRow::of(route);
        let text = "INSERT INTO WaystationRoute \
                    (service, address, modid, cmdid, weight, site, zone, metadata) VALUES \
                    (:service, :address, :modid, :cmdid, :weight, :site, :zone, :metadata)";
        let row = params! {
            "service" => raw.service,
            "address" => raw.address,
            "modid" => raw.modid,
            "cmdid" => raw.cmdid,
            "weight" => raw.weight,
            "site" => raw.site,
            "zone" => raw.zone,
            "metadata" => raw.metadata,
        };
        Ok(self.transaction.exec_drop(text, row).await?)
    }

    /// Deletes a row of `RouteData`, unless another route than `key` of ours has
    /// the same.
    async fn delete_lars(&mut self, lars: LarsKey, key: &RouteKey) -> Result<(), StoreError> {
        self.pairs.push(lars.0);
        if self.has_own {
            let text = "SELECT 1 FROM WaystationRoute WHERE modid = :modid AND cmdid = :cmdid \
                        AND address = :address AND service <> :service LIMIT 1";
            let others = params! {
                "modid" => lars.0.modid,
                "cmdid" => lars.0.cmdid,
                "address" => key.address.to_string(),
                "service" => key.service.as_str(),
            };
            let other: Option<Row> = self.transaction.exec_first(text, others).await?;
            if other.is_some() && LarsPair::of_service(&key.service).is_none() {
                return Ok(());
            }
        }
        let text = "DELETE FROM RouteData WHERE modid = :modid AND cmdid = :cmdid \
                    AND serverip = :ip AND serverport = :port";
        Ok(self.transaction.exec_drop(text, lars_params(lars)).await?)
    }

    /// Tells all readers: those of Lars by the version and the pairs, ours by the
    /// counter. The version rises with each change, also within a second.
    async fn mark(&mut self) -> Result<(), StoreError> {
        let transaction = &mut self.transaction;
        if !self.pairs.is_empty() {
            let text = "UPDATE RouteVersion \
                        SET version = GREATEST(version + 1, UNIX_TIMESTAMP()) WHERE id = 1";
            transaction.query_drop(text).await?;
            if transaction.affected_rows() == 0 {
                let text = "INSERT INTO RouteVersion (id, version) VALUES (1, UNIX_TIMESTAMP())";
                transaction.query_drop(text).await?;
            }
            self.pairs.sort_unstable();
            self.pairs.dedup();
            for pair in &self.pairs {
                let text = "INSERT INTO RouteChange (modid, cmdid, version) \
                            SELECT :modid, :cmdid, version FROM RouteVersion WHERE id = 1";
                let row = params! {
                    "modid" => pair.modid.cast_unsigned(),
                    "cmdid" => pair.cmdid.cast_unsigned(),
                };
                transaction.exec_drop(text, row).await?;
            }
            let text = format!(
                "DELETE FROM RouteChange WHERE version < UNIX_TIMESTAMP() - {} ORDER BY id LIMIT 100",
                CHANGES_KEPT.as_secs()
            );
            transaction.query_drop(text).await?;
        }
        if self.has_own {
            let text = "UPDATE WaystationVersion SET version = version + 1 WHERE id = 1";
            transaction.query_drop(text).await?;
        }
        Ok(())
    }
}

/// Whether a route says more than a row of `RouteData` can.
fn needs_own(route: &Route) -> bool {
    !route.is_nameless()
        || route.in_lars().is_none()
        || route.weight != WEIGHT_DEFAULT
        || route.site.is_some()
        || route.zone.is_some()
        || !route.metadata.is_empty()
}

fn lars_params((pair, ip, port): LarsKey) -> mysql_async::Params {
    params! {
        "modid" => pair.modid.cast_unsigned(),
        "cmdid" => pair.cmdid.cast_unsigned(),
        "ip" => ip,
        "port" => port,
    }
}
