//! Plain statements of SQL as entries: allowed, and unsafe.
//!
//! What a statement does depends on the rows that it finds, so that copies that
//! differ may come to differ more; changes of rows do not have that. What would
//! differ even on equal copies is found here before it is published or handed to a
//! handler: functions that are random, ask for the time or for the connection,
//! variables, and limits without an order. A database that applies statements itself
//! knows better still (see [`SqliteDatabase`](crate::adapter::SqliteDatabase)): a
//! default of a column that its schema has is not seen here.
//!
//! ```
//! use waystation_sync::statement::{check, is_statement};
//!
//! assert!(is_statement(b"INSERT INTO t VALUES (1)"));
//! assert!(check("INSERT INTO t VALUES (1)").is_ok());
//! let error = check("UPDATE t SET at = NOW()").unwrap_err();
//! assert!(error.to_string().contains("now()"));
//! ```

use std::ops::ControlFlow;

use sqlparser::ast::{Expr, Query, Statement, Visit, Visitor};
use sqlparser::dialect::{Dialect, GenericDialect, MySqlDialect, PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::Parser;
use thiserror::Error;

/// Words with which a statement begins that changes something. An entry that begins
/// with one of them is taken for a statement.
const FIRST_WORDS: [&str; 12] = [
    "insert", "update", "delete", "replace", "merge", "create", "alter", "drop", "truncate",
    "rename", "with", "call",
];

/// Words with which a text begins that may have statements that change something
/// behind the first one, or in it. Anything else may begin so, too.
const OPENING_WORDS: [&str; 16] = [
    "select",
    "values",
    "begin",
    "start",
    "set",
    "explain",
    "savepoint",
    "release",
    "commit",
    "end",
    "rollback",
    "do",
    "use",
    "lock",
    "analyze",
    "pragma",
];

/// Functions whose value is not that of their arguments and rows alone, in the
/// databases that statements are written for. Those of dates are among them: they
/// take the word `now`.
const FUNCTIONS: [&str; 59] = [
    "changes",
    "clock_timestamp",
    "connection_id",
    "curdate",
    "current_date",
    "current_database",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "currval",
    "curtime",
    "database",
    "date",
    "datetime",
    "found_rows",
    "gen_random_uuid",
    "gen_salt",
    "get_lock",
    "inet_client_addr",
    "julianday",
    "last_insert_id",
    "last_insert_rowid",
    "lastval",
    "load_file",
    "localtime",
    "localtimestamp",
    "nextval",
    "now",
    "pg_backend_pid",
    "rand",
    "random",
    "random_bytes",
    "randomblob",
    "release_lock",
    "row_count",
    "session_user",
    "setval",
    "sleep",
    "statement_timestamp",
    "strftime",
    "sysdate",
    "system_user",
    "time",
    "timediff",
    "timeofday",
    "total_changes",
    "transaction_timestamp",
    "txid_current",
    "unix_timestamp",
    "unixepoch",
    "user",
    "utc_date",
    "utc_time",
    "utc_timestamp",
    "uuid",
    "uuid_short",
    "version",
];

/// Why a statement is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StatementFault {
    /// No dialect that is known reads it: whether it does the same everywhere is not
    /// known.
    #[error("the statement cannot be read: {0}")]
    Unreadable(String),
    /// It would do something else at each site.
    #[error("{what} has another value at each site")]
    Differs {
        /// The part of it that would.
        what: String,
    },
    /// Which rows it takes is not said.
    #[error("a limit without an order may take other rows at each site")]
    Unordered,
}

/// Whether an entry looks like a statement: it is text, and its first word is one
/// that statements begin with. Cost: O(bytes).
pub fn is_statement(payload: &[u8]) -> bool {
    let word = first_word(payload);
    word.is_some_and(|(word, rest)| is_apart(rest) && is_one_of(word, &FIRST_WORDS))
}

/// Whether an entry is nothing that a database could run: it is no text, or begins as
/// no statement and no comment does. Cost: O(bytes).
pub fn is_opaque(payload: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(payload) else {
        return true;
    };
    !may_be_statement(payload) && !skip_comments(text).is_empty()
}

/// Whether an entry is to be looked at by [`check_entry`]. Cost: O(bytes).
pub(crate) fn may_be_statement(payload: &[u8]) -> bool {
    is_statement(payload) || is_opening(payload)
}

/// Refuses an entry of any kind that is a statement, or several, and would do something
/// else at each site though the copies are equal. Cost: a parse in up to four dialects
/// for what begins as statements do; O(bytes) for all else.
///
/// # Errors
/// As [`check`]. What cannot be read is refused only if it [`is_statement`].
pub fn check_entry(payload: &[u8]) -> Result<(), StatementFault> {
    let Ok(text) = std::str::from_utf8(payload) else {
        return Ok(());
    };
    if is_statement(payload) {
        return check(text);
    }
    if !is_opening(payload) {
        return Ok(());
    }
    match check(text) {
        // It is something else.
        Err(StatementFault::Unreadable(_)) => Ok(()),
        checked => checked,
    }
}

/// Whether an entry is text whose first word opens what may be statements.
fn is_opening(payload: &[u8]) -> bool {
    first_word(payload).is_some_and(|(word, rest)| {
        let is_apart = rest.starts_with([';', '(']) || is_apart(rest);
        is_apart && is_one_of(word, &OPENING_WORDS)
    })
}

/// The first word, and what comes behind it.
fn first_word(payload: &[u8]) -> Option<(&str, &str)> {
    let text = skip_comments(std::str::from_utf8(payload).ok()?);
    let end = text.find(|one: char| !one.is_ascii_alphabetic());
    Some(text.split_at(end.unwrap_or(text.len())))
}

fn is_apart(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(|one: char| one.is_whitespace())
}

fn is_one_of(word: &str, words: &[&str]) -> bool {
    words.iter().any(|one| one.eq_ignore_ascii_case(word))
}

/// What comes after blanks, semicolons and comments.
pub(crate) fn skip_comments(mut text: &str) -> &str {
    loop {
        text = text.trim_start_matches(|one: char| one.is_whitespace() || one == ';');
        let rest = if text.starts_with("--") {
            text.split_once('\n').map(|(_, rest)| rest)
        } else if text.starts_with("/*") {
            text.split_once("*/").map(|(_, rest)| rest)
        } else {
            return text;
        };
        let Some(rest) = rest else { return "" };
        text = rest;
    }
}

/// Refuses statements that would do something else at each site though the copies
/// are equal. Cost: a parse in up to four dialects.
///
/// # Errors
/// [`StatementFault`] says what is wrong with the first that is at fault.
pub fn check(sql: &str) -> Result<(), StatementFault> {
    let dialects: [&dyn Dialect; 4] = [
        &GenericDialect {},
        &MySqlDialect {},
        &PostgreSqlDialect {},
        &SQLiteDialect {},
    ];
    let mut error = String::new();
    for dialect in dialects {
        match Parser::parse_sql(dialect, sql) {
            Ok(statements) => return check_all(&statements),
            // What the most general one says is what is told.
            Err(fault) if error.is_empty() => error = fault.to_string(),
            Err(_) => {}
        }
    }
    Err(StatementFault::Unreadable(error))
}

fn check_all(statements: &[Statement]) -> Result<(), StatementFault> {
    for statement in statements {
        if let ControlFlow::Break(fault) = statement.visit(&mut Search) {
            return Err(*fault);
        }
    }
    Ok(())
}

/// Looks for what would differ.
struct Search;

impl Visitor for Search {
    type Break = Box<StatementFault>;

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<Self::Break> {
        let is_unordered = match statement {
            Statement::Update(update) => update.limit.is_some() && update.order_by.is_empty(),
            Statement::Delete(delete) => delete.limit.is_some() && delete.order_by.is_empty(),
            _ => false,
        };
        unordered(is_unordered)
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        let is_limited = query.limit_clause.is_some() || query.fetch.is_some();
        unordered(is_limited && query.order_by.is_none())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<Self::Break> {
        match expression {
            Expr::Function(function) => {
                let last = function.name.0.last();
                let name = last.map(ToString::to_string).unwrap_or_default();
                refuse_function(name.trim_matches(['"', '`']), "()")
            }
            // Some dialects call these without brackets.
            Expr::Identifier(name) if name.quote_style.is_none() => {
                if name.value.starts_with('@') {
                    return differs(name.value.clone());
                }
                match name.value.to_ascii_lowercase().as_str() {
                    word @ ("current_date" | "current_time" | "current_timestamp"
                    | "current_user" | "localtime" | "localtimestamp" | "session_user") => {
                        differs(word.to_owned())
                    }
                    _ => ControlFlow::Continue(()),
                }
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

fn refuse_function(name: &str, brackets: &str) -> ControlFlow<Box<StatementFault>> {
    let name = name.to_ascii_lowercase();
    let is_it = FUNCTIONS.contains(&name.as_str()) || name.starts_with("uuid_generate_");
    if is_it {
        return differs(format!("{name}{brackets}"));
    }
    ControlFlow::Continue(())
}

fn differs(what: String) -> ControlFlow<Box<StatementFault>> {
    ControlFlow::Break(Box::new(StatementFault::Differs { what }))
}

fn unordered(is_so: bool) -> ControlFlow<Box<StatementFault>> {
    if is_so {
        return ControlFlow::Break(Box::new(StatementFault::Unordered));
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_told_from_other_entries() {
        for text in [
            "INSERT INTO t VALUES (1)",
            " ;\n-- first\n/* and */ update t SET a = 1",
            "with x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
            "Drop\ttable t",
        ] {
            assert!(is_statement(text.as_bytes()), "{text}");
        }
        for other in [
            &b"{\"insert\": 1}"[..],
            b"",
            b"-- only a comment",
            b"/* open",
            b"inserted",
            b"update=1&b=2",
            b"insert\xff into",
            b"\x01\x00\x00",
        ] {
            assert!(!is_statement(other), "{other:?}");
        }
    }

    #[test]
    fn what_no_database_could_run_is_opaque() {
        for other in [
            &b"{\"insert\": 1}"[..],
            b"vm\n",
            b"-- a comment\ninserted",
            b"update=1&b=2",
            b"insert\xff into",
            b"\x01\x00\x00",
        ] {
            assert!(is_opaque(other), "{other:?}");
        }
        for text in [
            "INSERT INTO t VALUES (1)",
            "BEGIN; UPDATE t SET a = 1; COMMIT",
            "-- nothing",
            " ;;",
            "",
        ] {
            assert!(!is_opaque(text.as_bytes()), "{text}");
        }
    }

    /// Statements such as `NOW()` and `RAND()` diverge between sites.
    #[test]
    fn what_has_another_value_at_each_site_is_named() {
        let cases = [
            ("INSERT INTO t VALUES (NOW())", "now()"),
            ("UPDATE t SET a = rand() * 2 WHERE id = 1", "rand()"),
            ("INSERT INTO t (a) SELECT uuid() FROM u", "uuid()"),
            (
                "DELETE FROM t WHERE at < CURRENT_TIMESTAMP",
                "current_timestamp",
            ),
            (
                "DELETE FROM t WHERE at < (SELECT max(pg_catalog.clock_timestamp()))",
                "clock_timestamp()",
            ),
            ("INSERT INTO t VALUES (@x)", "@x"),
            ("INSERT INTO `t` VALUES (`rand`())", "rand()"),
            (
                "UPDATE t SET a = 1; UPDATE t SET a = datetime('now')",
                "datetime()",
            ),
            (
                "CREATE TABLE t (a TEXT DEFAULT (gen_random_uuid()))",
                "gen_random_uuid()",
            ),
            (
                "INSERT INTO t VALUES (uuid_generate_v4())",
                "uuid_generate_v4()",
            ),
            ("INSERT INTO t VALUES (nextval('s'))", "nextval()"),
        ];
        for (sql, expected) in cases {
            match check(sql) {
                Err(StatementFault::Differs { what }) => {
                    assert_eq!(
                        what.trim_end_matches("()"),
                        expected.trim_end_matches("()"),
                        "{sql}"
                    );
                }
                other => panic!("{sql}: {other:?}"),
            }
        }
    }

    /// The story: what began with `BEGIN` or `SELECT` was no statement to the hub, and
    /// the statements behind it were durable before the first site refused them.
    #[test]
    fn statements_behind_one_that_changes_nothing_are_looked_at() {
        for sql in [
            "BEGIN; UPDATE t SET a = now(); COMMIT",
            "-- first\nstart transaction; INSERT INTO t VALUES (uuid());",
            "SELECT 1; DELETE FROM t WHERE a < rand()",
            "SELECT nextval('s')",
            "values(random())",
            "set @a = now()",
        ] {
            assert!(may_be_statement(sql.as_bytes()), "{sql}");
            let checked = check_entry(sql.as_bytes());
            assert!(
                matches!(checked, Err(StatementFault::Differs { .. })),
                "{sql}: {checked:?}"
            );
        }
        // Other entries may begin so, and are what they are.
        for other in [
            "BEGIN; UPDATE t SET a = 1; COMMIT",
            "select the best of now()",
            "Set phasers to random() stun",
            "end",
            "selected=now()",
            "{\"update\": \"now()\"}",
            "now()",
            "",
        ] {
            assert_eq!(check_entry(other.as_bytes()), Ok(()), "{other}");
        }
        let unreadable = check_entry(b"update everything to now()");
        assert!(matches!(unreadable, Err(StatementFault::Unreadable(_))));
    }

    #[test]
    fn a_limit_needs_an_order() {
        for sql in [
            "DELETE FROM t LIMIT 5",
            "UPDATE t SET a = 1 LIMIT 5",
            "INSERT INTO t SELECT * FROM u LIMIT 5",
            "DELETE FROM t WHERE id IN (SELECT id FROM t FETCH FIRST 3 ROWS ONLY)",
        ] {
            assert_eq!(check(sql), Err(StatementFault::Unordered), "{sql}");
        }
        for sql in [
            "DELETE FROM t ORDER BY id LIMIT 5",
            "INSERT INTO t SELECT * FROM u ORDER BY id LIMIT 5",
        ] {
            assert_eq!(check(sql), Ok(()), "{sql}");
        }
    }

    #[test]
    fn what_does_the_same_everywhere_passes() {
        for sql in [
            "INSERT INTO t (a, b) VALUES (1, 'now()'), (2, NULL) ON CONFLICT DO NOTHING",
            "INSERT OR REPLACE INTO t VALUES (1)",
            "REPLACE INTO t VALUES (upper('x'), 1 + 2)",
            "UPDATE t SET \"now\" = coalesce(a, 0) + 1 WHERE b LIKE 'x%'",
            "ALTER TABLE t ADD COLUMN c INT",
            "INSERT INTO t VALUES (1); DELETE FROM t WHERE id = 2;",
        ] {
            assert_eq!(check(sql), Ok(()), "{sql}");
        }
        assert!(matches!(
            check("INSERT INTO t VALUES ("),
            Err(StatementFault::Unreadable(_))
        ));
    }
}
