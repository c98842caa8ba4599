//! The keys and values of a shard.

use std::cell::RefCell;
use std::collections::HashMap;

/// What the store counts for a key beside its bytes and those of its value:
/// about the memory of the two vectors and of the place in the table.
const ENTRY_BYTES: usize = 96;

/// Keys and their values, bounded in bytes.
pub(crate) struct Store {
    inner: RefCell<Inner>,
}

struct Inner {
    values: HashMap<Vec<u8>, Vec<u8>>,
    bytes: usize,
    bytes_max: usize,
}

/// Why a command changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It would pass the store's bound.
    Full,
    /// The value is no number of 64 bits.
    NotANumber,
    /// The number would not fit into 64 bits.
    Overflow,
}

impl Store {
    /// An empty store for at most so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            inner: RefCell::new(Inner {
                values: HashMap::new(),
                bytes: 0,
                bytes_max,
            }),
        }
    }

    /// Calls `read` with the value, if there is one. No copy is made.
    pub(crate) fn get<T>(&self, key: &[u8], read: impl FnOnce(Option<&[u8]>) -> T) -> T {
        read(self.inner.borrow().values.get(key).map(Vec::as_slice))
    }

    /// Keeps a value, replacing the last.
    pub(crate) fn set(&self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        let inner = &mut *self.inner.borrow_mut();
        if let Some(old) = inner.values.get_mut(key) {
            let bytes = inner.bytes - old.len() + value.len();
            if bytes > inner.bytes_max {
                return Err(Refused::Full);
            }
            inner.bytes = bytes;
            if old.len() == value.len() {
                old.copy_from_slice(value);
            } else {
                // A vector of its own size: one that was cleared keeps its memory.
                *old = value.to_vec();
            }
            return Ok(());
        }
        let bytes = inner.bytes + ENTRY_BYTES + key.len() + value.len();
        if bytes > inner.bytes_max {
            return Err(Refused::Full);
        }
        inner.bytes = bytes;
        inner.values.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    /// Forgets a key; true when there was one.
    pub(crate) fn delete(&self, key: &[u8]) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        let old = inner.values.remove(key);
        if let Some(value) = &old {
            inner.bytes -= ENTRY_BYTES + key.len() + value.len();
        }
        old.is_some()
    }

    /// Adds one to the number that is the value; a missing one counts as 0.
    pub(crate) fn increment(&self, key: &[u8]) -> Result<i64, Refused> {
        let number = self.get(key, |value| value.map_or(Ok(0), number))?;
        let next = number.checked_add(1).ok_or(Refused::Overflow)?;
        self.set(key, next.to_string().as_bytes())?;
        Ok(next)
    }
}

/// A number as [`Store::increment`] writes it: no space, no plus, no leading
/// zero, so that a value is the same after it was read and written.
fn number(value: &[u8]) -> Result<i64, Refused> {
    let text = std::str::from_utf8(value).map_err(|_| Refused::NotANumber)?;
    let number: i64 = text.parse().map_err(|_| Refused::NotANumber)?;
    if number.to_string() == text {
        Ok(number)
    } else {
        Err(Refused::NotANumber)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(store: &Store, key: &str) -> Option<String> {
        store.get(key.as_bytes(), |value| {
            value.map(|value| String::from_utf8(value.to_vec()).unwrap())
        })
    }

    #[test]
    fn numbers_count_and_other_values_do_not() {
        let store = Store::new(1 << 20);
        assert_eq!(store.increment(b"n"), Ok(1));
        assert_eq!(store.increment(b"n"), Ok(2));
        for bad in ["", "x", "1 ", "+1", "01", "9223372036854775808"] {
            store.set(b"n", bad.as_bytes()).unwrap();
            assert_eq!(store.increment(b"n"), Err(Refused::NotANumber), "{bad:?}");
        }
        store.set(b"n", i64::MAX.to_string().as_bytes()).unwrap();
        assert_eq!(store.increment(b"n"), Err(Refused::Overflow));
        assert_eq!(value(&store, "n"), Some(i64::MAX.to_string()));
    }

    #[test]
    fn the_bound_holds_and_a_refusal_changes_nothing() {
        let store = Store::new(ENTRY_BYTES + 10);
        assert_eq!(store.set(b"k", &[b'v'; 9]), Ok(()));
        assert_eq!(store.set(b"k", &[b'w'; 10]), Err(Refused::Full));
        assert_eq!(store.set(b"l", b""), Err(Refused::Full));
        assert_eq!(value(&store, "k").unwrap(), "v".repeat(9));
        assert!(store.delete(b"k") && !store.delete(b"k"));
        assert_eq!(store.set(b"l", &[b'v'; 9]), Ok(()));
    }

    proptest! {
        /// Whatever is set and deleted, the count of bytes is that of what is there.
        #[test]
        fn bytes_are_counted_exactly(
            list in prop::collection::vec((0..6_u8, prop::option::of(0..40_usize)), 0..60),
        ) {
            let store = Store::new(1000);
            for (key, length) in list {
                match length {
                    Some(length) => { let _ = store.set(&[key], &vec![b'v'; length]); }
                    None => { store.delete(&[key]); }
                }
                let inner = store.inner.borrow();
                let entries = inner.values.iter();
                let bytes: usize = entries.map(|(k, v)| ENTRY_BYTES + k.len() + v.len()).sum();
                prop_assert_eq!(bytes, inner.bytes);
                prop_assert!(bytes <= 1000);
            }
        }
    }
}
