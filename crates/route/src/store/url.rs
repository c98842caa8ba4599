//! Where a store is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use super::{MysqlStore, PostgresStore, RouteStore, SqliteStore};

/// Where a store is: `sqlite://PATH`, `mysql://USER:PASSWORD@HOST:PORT/DATABASE`
/// or `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. It is printed without the
/// password.
///
/// ```
/// use waystation_route::StoreUrl;
///
/// let url: StoreUrl = "mysql://lars:secret@10.0.0.3/lars_dns".parse().unwrap();
/// assert_eq!(url.to_string(), "mysql://lars@10.0.0.3/lars_dns");
/// assert!("oracle://x".parse::<StoreUrl>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreUrl {
    /// A file of `SQLite`; it is made if there is none.
    Sqlite(PathBuf),
    /// `MariaDB` or `MySQL`, with Lars' tables.
    Mysql(String),
    /// `PostgreSQL`.
    Postgres(String),
}

/// Why a text is not the URL of a store.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreUrlError {
    /// The scheme is none that this version knows.
    #[error("a store is sqlite://PATH, mysql://… or postgres://…")]
    Scheme,
    /// Nothing follows `sqlite://`.
    #[error("sqlite:// needs a path")]
    Path,
    /// What follows the scheme makes no sense. The text is left out: it may hold
    /// a password.
    #[error("{scheme}://: {why}")]
    Rest {
        /// The scheme.
        scheme: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl StoreUrl {
    /// The store, not opened yet.
    pub(crate) fn store(&self) -> Box<dyn RouteStore> {
        match self {
            Self::Sqlite(path) => Box::new(SqliteStore::new(path.clone())),
            Self::Mysql(url) => Box::new(MysqlStore::new(url.clone())),
            Self::Postgres(url) => Box::new(PostgresStore::new(url.clone())),
        }
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        let fault = |scheme, error: &dyn fmt::Display| StoreUrlError::Rest {
            scheme,
            why: error.to_string(),
        };
        if let Some(path) = text.strip_prefix("sqlite://") {
            if path.is_empty() || path.contains('\0') {
                return Err(StoreUrlError::Path);
            }
            return Ok(Self::Sqlite(path.into()));
        }
        if text.starts_with("mysql://") {
            let opts = mysql_async::Opts::from_url(text);
            let opts = opts.map_err(|error| fault("mysql", &error))?;
            if opts.db_name().is_none_or(str::is_empty) {
                return Err(fault("mysql", &"a database is missing"));
            }
            return Ok(Self::Mysql(text.to_owned()));
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            let config: Result<tokio_postgres::Config, _> = text.parse();
            config.map_err(|error| fault("postgres", &super::postgres::told(&error)))?;
            return Ok(Self::Postgres(text.to_owned()));
        }
        Err(StoreUrlError::Scheme)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Sqlite(path) => return write!(f, "sqlite://{}", path.display()),
            Self::Mysql(text) | Self::Postgres(text) => text,
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        // Settings behind `?` may hold one as well.
        let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
        let Some((user, host)) = rest.rsplit_once('@') else {
            return write!(f, "{scheme}://{rest}");
        };
        let user = user.split_once(':').map_or(user, |(user, _)| user);
        write!(f, "{scheme}://{user}@{host}")
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        for (text, printed) in [
            ("sqlite:///var/lib/routes.db", "sqlite:///var/lib/routes.db"),
            ("mysql://a:b%40c@h:3306/n", "mysql://a@h:3306/n"),
            ("mysql://h/n", "mysql://h/n"),
            ("postgres://a:b@h/n?password=c", "postgres://a@h/n"),
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), printed);
            assert!(!format!("{url:?}").contains("b%40c"));
        }
    }

    #[test]
    fn faults_are_told_by_kind() {
        let refuse = |text: &str| text.parse::<StoreUrl>().unwrap_err();
        assert_eq!(refuse("/var/lib/routes.db"), StoreUrlError::Scheme);
        assert_eq!(refuse("sqlite://"), StoreUrlError::Path);
        for text in ["mysql://h", "mysql://", "postgres://h:x/n"] {
            let refused = refuse(text);
            assert!(matches!(refused, StoreUrlError::Rest { .. }), "{text}");
        }
    }
}
