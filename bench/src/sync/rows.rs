//! Rows, and their changes as the payload of entries (`docs/formats/sync-changes.md`).

use bytes::Bytes;

/// The table of catch-ups and publishes.
pub(crate) const TABLE: &str =
    "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, amount REAL, note BLOB)";

/// A row of about a hundred bytes.
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) amount: f64,
    pub(crate) note: [u8; 64],
}

impl Row {
    pub(crate) fn new(id: i64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "any number will do")]
        let amount = id as f64 / 7.0;
        Self {
            id,
            name: format!("item number {id}"),
            amount,
            note: [u8::try_from(id % 251).unwrap_or_default(); 64],
        }
    }

    /// One put of this row.
    pub(crate) fn payload(&self) -> Bytes {
        let mut out = vec![1];
        out.extend(1_u16.to_le_bytes());
        string(&mut out, b"item");
        out.extend(4_u16.to_le_bytes());
        for column in ["id", "name", "amount", "note"] {
            string(&mut out, column.as_bytes());
        }
        // The key: its first column.
        out.extend([1, 0, 0, 0]);
        // A put into the first table.
        out.extend([1, 0, 0]);
        out.push(1);
        out.extend(self.id.to_le_bytes());
        out.push(3);
        string(&mut out, self.name.as_bytes());
        out.push(2);
        out.extend(self.amount.to_bits().to_le_bytes());
        out.push(4);
        string(&mut out, &self.note);
        out.into()
    }
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    out.extend(length.to_le_bytes());
    out.extend(bytes);
}
