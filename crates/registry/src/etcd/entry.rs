//! What stands under a prefix of etcd: keys, values, tokens.

use waystation_base::{Epoch, FencingToken};
use waystation_membership::limits::TOKEN_COUNTER_BITS;
use waystation_membership::{Instance, InstanceId, SubscriberId};

use super::proto::KeyValue;
use crate::limits::LINE_BYTES_MAX;
use crate::text::{instance_from_json, instance_to_json};

/// Highest epoch: what a token has room for.
pub(super) const EPOCH_MAX: u64 = u64::MAX >> TOKEN_COUNTER_BITS;

const COUNTER_MASK: u64 = (1 << TOKEN_COUNTER_BITS) - 1;

/// The keys of one registry.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    root: String,
}

/// What a key is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Epoch,
    Instance(InstanceId),
    /// The word of somebody that an instance leaves by its own will.
    Left,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            root: format!("/{prefix}/"),
        }
    }

    /// The range of all keys: its first, and the first behind it.
    pub(super) fn all(&self) -> (Vec<u8>, Vec<u8>) {
        let from = self.root.clone().into_bytes();
        let mut to = from.clone();
        // The root ends with a slash, so that this does not overflow.
        if let Some(last) = to.last_mut() {
            *last += 1;
        }
        (from, to)
    }

    pub(super) fn epoch(&self) -> Vec<u8> {
        format!("{}epoch", self.root).into_bytes()
    }

    pub(super) fn instance(&self, id: &InstanceId) -> Vec<u8> {
        format!("{}instances/{id}", self.root).into_bytes()
    }

    /// Where a lease's owner says which of its instances leaves. One key for all of
    /// them: it is written over and never deleted, which all watchers would be told.
    pub(super) fn left(&self, lease: i64) -> Vec<u8> {
        format!("{}left/{lease:x}", self.root).into_bytes()
    }

    /// The range of all subscribers' keys. They stand beside the others, since
    /// only who drains something reads them.
    pub(super) fn subscribers(&self) -> (Vec<u8>, Vec<u8>) {
        let from = self.subscribers_root();
        let mut to = from.clone();
        if let Some(last) = to.last_mut() {
            *last += 1;
        }
        (from, to)
    }

    pub(super) fn subscriber(&self, id: SubscriberId) -> Vec<u8> {
        let mut key = self.subscribers_root();
        key.extend(id.to_string().into_bytes());
        key
    }

    /// Whose key it is.
    pub(super) fn subscriber_of(&self, key: &[u8]) -> Option<SubscriberId> {
        let rest = key.strip_prefix(&*self.subscribers_root())?;
        let text = std::str::from_utf8(rest).ok()?;
        u128::from_str_radix(text, 16).ok().map(SubscriberId)
    }

    fn subscribers_root(&self) -> Vec<u8> {
        format!("{}.subscribers/", self.root.trim_end_matches('/')).into_bytes()
    }

    /// What a key is for, or why it is none of ours.
    pub(super) fn place(&self, key: &[u8]) -> Result<Place, String> {
        let text = std::str::from_utf8(key).map_err(|_| "the key is not text".to_owned())?;
        let path = text.strip_prefix(&self.root).unwrap_or(text);
        if path == "epoch" {
            return Ok(Place::Epoch);
        }
        let id = |text: &str| InstanceId::new(text).map_err(|error| error.to_string());
        if let Some(rest) = path.strip_prefix("instances/") {
            return id(rest).map(Place::Instance);
        }
        if path.starts_with("left/") {
            return Ok(Place::Left);
        }
        Err("not a key of a registry".to_owned())
    }
}

/// The instance that stands at `id`'s key, or why there is none.
pub(super) fn instance_of(id: &InstanceId, kv: &KeyValue) -> Result<Instance, String> {
    if kv.value.len() > LINE_BYTES_MAX {
        return Err(format!("longer than {LINE_BYTES_MAX} bytes"));
    }
    let text = std::str::from_utf8(&kv.value).map_err(|_| "not text".to_owned())?;
    let mut instance = instance_from_json(text).map_err(|error| error.to_string())?;
    if instance.id != *id {
        return Err(format!("the value is about {}", instance.id));
    }
    instance.token = token_of(instance.token, kv.create_revision);
    Ok(instance)
}

/// Who leaves, by the word of its owner.
pub(super) fn left_of(kv: &KeyValue) -> Option<InstanceId> {
    InstanceId::new(std::str::from_utf8(&kv.value).ok()?).ok()
}

/// What is written to an instance's key.
pub(super) fn value_of(instance: &Instance) -> Vec<u8> {
    instance_to_json(instance).into_bytes()
}

/// The epoch that stands there; zero when nothing does, or nonsense.
pub(super) fn epoch_of(kv: Option<&KeyValue>) -> Epoch {
    let text = kv.and_then(|kv| std::str::from_utf8(&kv.value).ok());
    let number = text.and_then(|text| text.trim().parse().ok());
    Epoch(number.filter(|epoch| *epoch <= EPOCH_MAX).unwrap_or(0))
}

/// The token to write into a key that is to be created: the revision is left
/// out, since it is the one at which that happens.
pub(super) fn token_to_come(epoch: Epoch) -> FencingToken {
    FencingToken(epoch.0 << TOKEN_COUNTER_BITS)
}

/// The token that stands for `written` in a key created at that revision.
pub(super) fn token_of(written: FencingToken, create_revision: i64) -> FencingToken {
    if written.0 & COUNTER_MASK == 0 {
        return FencingToken(written.0 | number_of(create_revision) & COUNTER_MASK);
    }
    written
}

/// The token of who replaces what was written at that revision. It is above the
/// token replaced, since that is of the revision at most, and below all that
/// come later: the replacement itself has a revision at least as high.
pub(super) fn token_behind(epoch: Epoch, mod_revision: i64) -> FencingToken {
    let counter = number_of(mod_revision) + 1;
    FencingToken(epoch.0 << TOKEN_COUNTER_BITS | counter & COUNTER_MASK)
}

/// A revision as the number of a version.
pub(super) fn number_of(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{full_instance, instance};

    fn kv(value: Vec<u8>, create_revision: i64) -> KeyValue {
        KeyValue {
            key: b"/w/instances/logic-1".to_vec().into(),
            value: value.into(),
            create_revision,
            mod_revision: create_revision,
            lease: 0,
        }
    }

    #[test]
    fn a_key_says_what_it_is_for() {
        let keys = Keys::new("w/x");
        let id: InstanceId = "logic-1".parse().unwrap();
        let place = |key: Vec<u8>| keys.place(&key);
        assert_eq!(place(keys.epoch()), Ok(Place::Epoch));
        assert_eq!(place(keys.instance(&id)), Ok(Place::Instance(id.clone())));
        assert_eq!(place(keys.left(0x7f)), Ok(Place::Left));
        assert_eq!(left_of(&kv(id.to_string().into(), 1)), Some(id));
        assert_eq!(left_of(&kv(Vec::new(), 1)), None);
        for foreign in ["/w/x/", "/w/x/instances/", "/w/x/instances/a/b", "/w/x/z"] {
            assert!(place(foreign.into()).is_err(), "{foreign}");
        }
        assert!(place(b"/w/x/instances/\xff".to_vec()).is_err());
        let (from, to) = keys.all();
        assert_eq!((&*from, &*to), (&b"/w/x/"[..], &b"/w/x0"[..]));
        assert!(from < keys.epoch() && keys.epoch() < to);
    }

    #[test]
    fn an_instance_survives_and_takes_its_token_from_the_revision() {
        let mut one = full_instance();
        one.token = token_to_come(Epoch(3));
        let read = instance_of(&one.id, &kv(value_of(&one), 57)).unwrap();
        assert_eq!(read.token, FencingToken((3 << 40) + 57));
        one.token = read.token;
        assert_eq!(read, one);
        let read = instance_of(&one.id, &kv(value_of(&one), 99)).unwrap();
        assert_eq!(read.token, one.token, "what is written down stays");
    }

    #[test]
    fn what_is_no_instance_has_a_reason() {
        let id: InstanceId = "logic-1".parse().unwrap();
        let refuse = |value: &[u8]| instance_of(&id, &kv(value.to_vec(), 1)).unwrap_err();
        assert_eq!(refuse(b"\xff"), "not text");
        assert!(refuse(b"nonsense").starts_with("not an instance"));
        let other = value_of(&instance("s", "logic-2"));
        assert_eq!(refuse(&other), "the value is about logic-2");
        let long = vec![b' '; LINE_BYTES_MAX + 1];
        assert!(refuse(&long).starts_with("longer than"));
    }

    #[test]
    fn tokens_rise_from_holder_to_holder() {
        let epoch = Epoch(2);
        let created = token_of(token_to_come(epoch), 10);
        // Replaced by a later start, again at once, then left and created anew.
        let replaced = token_behind(epoch, 10);
        let again = token_behind(epoch, 11);
        let anew = token_of(token_to_come(epoch), 14);
        let restored = token_of(token_to_come(Epoch(3)), 2);
        let tokens = [created, replaced, again, anew, restored];
        assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    }

    #[test]
    fn an_epoch_is_a_number_with_room_in_a_token() {
        let epoch = |text: &str| epoch_of(Some(&kv(text.into(), 1)));
        assert_eq!(epoch("7\n"), Epoch(7));
        assert_eq!(epoch("-1"), Epoch(0));
        assert_eq!(epoch(&(EPOCH_MAX + 1).to_string()), Epoch(0));
        assert_eq!(epoch_of(None), Epoch(0));
    }
}
