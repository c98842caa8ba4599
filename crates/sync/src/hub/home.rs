//! Which shard serves a site: the one that its id names, modulo their number.
//!
//! A connection is moved there before it opens, by the name in its hello. A name
//! that the hub has not seen is served where it arrives, until it connects again.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use waystation_base::{ShardId, SiteId};
use waystation_net::{Home, Remote};
use waystation_replica::SiteName;
use waystation_wire::HEADER_LEN;

use crate::codec::id;

/// The first byte of a native frame.
const MAGIC: u8 = 0xf7;

/// Where the message id stands in a frame, and where its body begins to name the
/// site: behind the head of the piece, the message's kind and its version.
const MESSAGE_AT: usize = 8;
const NAME_AT: usize = HEADER_LEN + 4;

/// The ids of known sites, shared by all shards.
#[derive(Debug, Default)]
pub(super) struct Homes {
    sites: RwLock<BTreeMap<SiteName, SiteId>>,
}

impl Homes {
    /// A site with this name was admitted.
    pub(super) fn note(&self, name: &SiteName, site: SiteId) {
        let mut sites = self.sites.write().unwrap_or_else(PoisonError::into_inner);
        sites.insert(name.clone(), site);
    }

    fn find(&self, name: &SiteName) -> Option<SiteId> {
        let sites = self.sites.read().unwrap_or_else(PoisonError::into_inner);
        sites.get(name).copied()
    }

    /// Where a connection with this beginning belongs; `keys` has a key for each
    /// shard.
    pub(super) fn home(&self, head: &[u8], keys: &[u64]) -> Home {
        match name_in(head) {
            Named::Not => Home::Here,
            Named::NeedMore => Home::NeedMore,
            Named::Site(name) => match self.find(&name) {
                Some(site) => {
                    let shard = usize::from(site.0) % keys.len().max(1);
                    keys.get(shard).map_or(Home::Here, |key| Home::Key(*key))
                }
                None => Home::Here,
            },
        }
    }
}

/// A key for each shard, as connections are moved by.
pub(super) fn keys_of(remote: &Remote) -> Vec<u64> {
    let shards = u16::try_from(remote.shards()).unwrap_or(u16::MAX);
    // A few tries for each shard find one; a million are as good as all.
    let key = |shard| (0..1_000_000).find(|key| remote.shard_of(*key) == ShardId(shard));
    (0..shards).filter_map(key).collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Named {
    /// No site begins like this.
    Not,
    NeedMore,
    Site(SiteName),
}

fn name_in(head: &[u8]) -> Named {
    if head.first().is_some_and(|first| *first != MAGIC) {
        return Named::Not;
    }
    let Some(message) = head.get(MESSAGE_AT..MESSAGE_AT + 4) else {
        return Named::NeedMore;
    };
    if message != id::TO_HUB.0.to_le_bytes() {
        return Named::Not;
    }
    let Some(length) = head.get(NAME_AT..NAME_AT + 4) else {
        return Named::NeedMore;
    };
    let length = length.try_into().map_or(0, u32::from_le_bytes);
    let Ok(length @ 1..=64) = usize::try_from(length) else {
        return Named::Not;
    };
    let Some(name) = head.get(NAME_AT + 4..NAME_AT + 4 + length) else {
        return Named::NeedMore;
    };
    let name = std::str::from_utf8(name).ok().map(SiteName::new);
    match name {
        Some(Ok(name)) => Named::Site(name),
        _ => Named::Not,
    }
}

#[cfg(test)]
mod tests {
    use waystation_replica::{Hello, Holding, LifeId, ToHub};
    use waystation_wire::{Header, encode_into};

    use super::*;
    use crate::codec::FromSite;

    fn hello() -> Vec<u8> {
        let hello = ToHub::Hello(Hello {
            name: SiteName::new("room-b").unwrap(),
            life: LifeId(1),
            holding: Holding::Fresh,
            zone: "".into(),
            has_rows: true,
            captured: None,
        });
        let mut body = vec![0];
        body.extend_from_slice(&FromSite::Core(hello).encode());
        let mut frame = Vec::new();
        encode_into(&Header::push(id::TO_HUB), &body, &mut frame).unwrap();
        frame
    }

    #[test]
    fn a_known_site_goes_to_the_shard_of_its_id_and_others_stay() {
        let homes = Homes::default();
        let keys = [70, 71, 72];
        assert_eq!(homes.home(&hello(), &keys), Home::Here);
        homes.note(&SiteName::new("room-b").unwrap(), SiteId(5));
        assert_eq!(homes.home(&hello(), &keys), Home::Key(72));
        assert_eq!(homes.home(b"GET / HTTP/1.1", &keys), Home::Here);
        let mut publish = hello();
        publish[MESSAGE_AT..MESSAGE_AT + 4].copy_from_slice(&id::PUBLISH.0.to_le_bytes());
        assert_eq!(homes.home(&publish, &keys), Home::Here);
    }

    #[test]
    fn a_beginning_that_is_too_short_needs_more_and_nonsense_stays() {
        let homes = Homes::default();
        homes.note(&SiteName::new("room-b").unwrap(), SiteId(1));
        let hello = hello();
        let whole = NAME_AT + 4 + "room-b".len();
        for cut in 0..whole {
            assert_eq!(homes.home(&hello[..cut], &[7]), Home::NeedMore, "{cut}");
        }
        assert_eq!(homes.home(&hello[..whole], &[7]), Home::Key(7));
        let mut nonsense = hello;
        nonsense[NAME_AT..NAME_AT + 4].fill(0xff);
        assert_eq!(homes.home(&nonsense, &[7]), Home::Here);
    }
}
