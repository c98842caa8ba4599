//! In which form Lars' own table takes numbers.

use std::fmt::Write as _;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use crate::batch::{LarsRow, Told};
use crate::key::LarsKey;
use crate::store::StoreError;
use crate::totals::Totals;

/// What a column can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `int`.
    Signed,
    /// `int unsigned`.
    Unsigned,
    /// `bigint` and others that hold both.
    Wide,
}

const COLUMNS: [&str; 8] = [
    "modid", "cmdid", "ip", "port", "caller", "succ_cnt", "err_cnt", "ts",
];

/// The forms of all number columns, in the order of [`COLUMNS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forms([Form; COLUMNS.len()]);

/// Those of a table that is made here.
impl Default for Forms {
    fn default() -> Self {
        use Form::{Signed, Unsigned, Wide};
        Self([
            Signed, Signed, Unsigned, Signed, Unsigned, Unsigned, Unsigned, Wide,
        ])
    }
}

impl Forms {
    /// Those of the table that is there.
    pub(super) async fn read(conn: &mut Conn) -> Result<Self, StoreError> {
        let sql = "SELECT COLUMN_NAME, COLUMN_TYPE FROM information_schema.COLUMNS \
                   WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'ServerCallStatus'";
        let columns: Vec<(String, String)> = conn.query(sql).await?;
        let mut forms = Self::default();
        for (name, kind) in columns {
            let at = COLUMNS
                .iter()
                .position(|one| name.eq_ignore_ascii_case(one));
            if let Some(at) = at {
                forms.0[at] = form(&kind.to_ascii_lowercase());
            }
        }
        Ok(forms)
    }

    /// Appends a row, behind a comma if it is not the first; false, with nothing
    /// appended, when its ids do not fit. Counts and times that do not are cut to
    /// the most that does.
    pub(super) fn put(self, row: &LarsRow, has_rows: bool, sql: &mut String) -> bool {
        let (key, told) = (&row.key, &row.told);
        let ids = [
            self.id(0, key.modid),
            self.id(1, key.cmdid),
            Some(self.address(2, key.ip)),
            self.id(3, key.port),
            Some(self.address(4, key.caller)),
        ];
        let [Some(modid), Some(cmdid), Some(ip), Some(port), Some(caller)] = ids else {
            return false;
        };
        let between = if has_rows { "," } else { "" };
        // Writing to a string does not fail.
        let _ = write!(
            sql,
            "{between}({modid},{cmdid},{ip},{port},{caller},{},{},{},'{}')",
            self.count(5, told.totals.ok),
            self.count(6, told.totals.failed),
            self.count(7, told.ts),
            u8::from(told.is_out)
        );
        true
    }

    /// The condition that finds a key's row; nothing when its ids do not fit.
    pub(super) fn place(self, key: &LarsKey) -> Option<String> {
        let [modid, cmdid, port] = [
            self.id(0, key.modid)?,
            self.id(1, key.cmdid)?,
            self.id(3, key.port)?,
        ];
        let (ip, caller) = (self.address(2, key.ip), self.address(4, key.caller));
        Some(format!(
            "(modid={modid} AND cmdid={cmdid} AND ip={ip} AND port={port} AND caller={caller})"
        ))
    }

    fn id(self, at: usize, id: i32) -> Option<i64> {
        (self.0[at] != Form::Unsigned || id >= 0).then_some(id.into())
    }

    fn address(self, at: usize, address: i32) -> i64 {
        match self.0[at] {
            Form::Signed => address.into(),
            Form::Unsigned | Form::Wide => address.cast_unsigned().into(),
        }
    }

    fn count(self, at: usize, count: u64) -> u64 {
        count.min(match self.0[at] {
            Form::Signed => i32::MAX.unsigned_abs().into(),
            Form::Unsigned => u32::MAX.into(),
            Form::Wide => i64::MAX.unsigned_abs(),
        })
    }
}

/// A row that was read: of addresses, whatever form they have.
pub(super) fn lars_row(row: &Row) -> Option<LarsRow> {
    let number = |at: usize| match row.as_ref(at)? {
        Value::Int(number) => Some(*number),
        Value::UInt(number) => i64::try_from(*number).ok(),
        _ => None,
    };
    let id = |at: usize| i32::try_from(number(at)?).ok();
    let address = |at: usize| {
        let number = number(at)?;
        let unsigned = u32::try_from(number).ok().map(u32::cast_signed);
        unsigned.or_else(|| i32::try_from(number).ok())
    };
    let count = |at: usize| u32::try_from(number(at)?).ok().map(u64::from);
    let is_out = match row.as_ref(8)? {
        Value::Bytes(bytes) => bytes == b"1",
        Value::Int(number) => *number != 0,
        _ => return None,
    };
    Some(LarsRow {
        key: LarsKey {
            modid: id(0)?,
            cmdid: id(1)?,
            ip: address(2)?,
            port: id(3)?,
            caller: address(4)?,
        },
        told: Told {
            totals: Totals::new(count(5)?, count(6)?),
            source: 0,
            ts: u64::try_from(number(7)?).ok()?,
            is_out,
        },
    })
}

fn form(kind: &str) -> Form {
    match () {
        () if kind.starts_with("bigint") => Form::Wide,
        () if kind.contains("unsigned") => Form::Unsigned,
        () => Form::Signed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(modid: i32, ip: i32, ok: u64) -> LarsRow {
        LarsRow {
            key: LarsKey {
                modid,
                ip,
                ..LarsKey::default()
            },
            told: Told {
                totals: Totals::new(ok, 0),
                ..Told::default()
            },
        }
    }

    /// An address from 128.0.0.0 on did not fit a column without `unsigned`, and
    /// strict `MySQL` refused the statement with all its rows.
    #[test]
    fn numbers_are_written_as_the_table_can_hold_them() {
        let put = |forms: Forms, row: &LarsRow| {
            let mut sql = String::new();
            forms.put(row, false, &mut sql).then_some(sql)
        };
        let high = row(-1, -2, u32::MAX.into());
        let ours = put(Forms::default(), &high);
        assert_eq!(
            ours.as_deref(),
            Some("(-1,0,4294967294,0,0,4294967295,0,0,'0')")
        );
        let signed = put(Forms([Form::Signed; 8]), &high);
        assert_eq!(signed.as_deref(), Some("(-1,0,-2,0,0,2147483647,0,0,'0')"));
        assert_eq!(put(Forms([Form::Unsigned; 8]), &high), None);
        assert!(put(Forms([Form::Unsigned; 8]), &row(1, -2, 0)).is_some());
    }

    #[test]
    fn kinds_of_columns_are_told_apart() {
        assert_eq!(form("int(11)"), Form::Signed);
        assert_eq!(form("int(10) unsigned"), Form::Unsigned);
        assert_eq!(form("bigint(20) unsigned"), Form::Wide);
    }
}
