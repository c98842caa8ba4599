//! Who talks to whom in a run.

use std::collections::{BTreeSet, HashMap};

use waystation_base::Rng;

use crate::store::direct_conversation;

/// Users that each client picks as partners of direct conversations. It is
/// picked by others, too.
const PEERS: u32 = 4;

/// Members of a group.
const GROUP_MEMBERS: usize = 10;

/// Groups that each client is a member of.
const GROUPS: u32 = 2;

/// One conversation of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Room {
    /// Its name, as the servers know it.
    pub(super) name: String,
    /// Its members' clients. Of a group the first creates it.
    pub(super) members: Vec<u32>,
    /// Whether it has to be created.
    pub(super) is_group: bool,
}

/// The conversations that one client may send to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) direct: Vec<u32>,
    pub(super) groups: Vec<u32>,
}

/// All users and conversations of a run. Their names carry the run's own
/// word, so that runs on one store never meet.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) uids: Vec<String>,
    pub(super) rooms: Vec<Room>,
    pub(super) places: Vec<Places>,
    by_name: HashMap<String, u32>,
}

impl Topology {
    /// Draws a topology: each client has a few partners and a few groups.
    /// `run` is 1 to 40 bytes of `a-z`, `0-9`.
    pub(super) fn new(run: &str, clients: u32, rng: &mut Rng) -> Self {
        let uids: Vec<String> = (0..clients).map(|n| format!("l{run}-{n}")).collect();
        let mut pairs = BTreeSet::new();
        for client in 0..clients {
            for _ in 0..PEERS.min(clients - 1) {
                // Any other client: those from this one on move up by one.
                let drawn = u32::try_from(rng.below(u64::from(clients - 1))).unwrap_or(0);
                let peer = drawn + u32::from(drawn >= client);
                pairs.insert((client.min(peer), client.max(peer)));
            }
        }
        let direct = pairs.into_iter().map(|(one, other)| Room {
            name: direct_conversation(&uids[one as usize], &uids[other as usize])
                .expect("uids of a run follow the rules"),
            members: vec![one, other],
            is_group: false,
        });
        let mut rooms: Vec<Room> = direct.collect();
        let mut everyone: Vec<u32> = (0..clients).collect();
        for round in 0..GROUPS {
            rng.shuffle(&mut everyone);
            let chunks = everyone.chunks(GROUP_MEMBERS).enumerate();
            rooms.extend(chunks.filter(|(_, members)| members.len() > 1).map(
                |(number, members)| Room {
                    name: format!("g:l{run}-{round}-{number}"),
                    members: members.to_vec(),
                    is_group: true,
                },
            ));
        }
        Self::from_rooms(uids, rooms)
    }

    /// The topology of these conversations.
    pub(super) fn from_rooms(uids: Vec<String>, rooms: Vec<Room>) -> Self {
        let mut places = vec![Places::default(); uids.len()];
        let mut by_name = HashMap::with_capacity(rooms.len());
        for (index, room) in rooms.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            by_name.insert(room.name.clone(), index);
            for member in &room.members {
                let places = &mut places[*member as usize];
                if room.is_group {
                    places.groups.push(index);
                } else {
                    places.direct.push(index);
                }
            }
        }
        Self {
            uids,
            rooms,
            places,
            by_name,
        }
    }

    /// The conversation of that name.
    pub(super) fn room_of(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// Recipients of an average message, the sender included, when a share
    /// of `group_percent` goes to groups.
    pub(super) fn recipients_mean(&self, group_percent: u64) -> f64 {
        let mean = |is_group| {
            let rooms = self.rooms.iter().filter(|room| room.is_group == is_group);
            let (count, members) = rooms.fold((0_u32, 0_u32), |(count, members), room| {
                let more = u32::try_from(room.members.len()).unwrap_or(u32::MAX);
                (count + 1, members.saturating_add(more))
            });
            f64::from(members) / f64::from(count.max(1))
        };
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        let group_share = group_percent as f64 / 100.0;
        mean(true) * group_share + mean(false) * (1.0 - group_share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ConversationName;

    #[test]
    fn every_client_has_partners_and_groups_and_names_are_valid() {
        for clients in [2, 3, 10, 11, 500] {
            let topology = Topology::new("abc1", clients, &mut Rng::from_seed(3));
            assert_eq!(topology.uids.len(), clients as usize);
            for places in &topology.places {
                assert!(!places.direct.is_empty(), "{clients} clients");
            }
            let in_groups = topology.places.iter().filter(|p| !p.groups.is_empty());
            assert!(in_groups.count() + 1 >= clients as usize);
            for (index, room) in topology.rooms.iter().enumerate() {
                assert!(ConversationName::parse(&room.name).is_ok(), "{room:?}");
                assert!(room.members.len() > 1);
                let members: BTreeSet<_> = room.members.iter().collect();
                assert_eq!(members.len(), room.members.len());
                assert_eq!(topology.room_of(&room.name), u32::try_from(index).ok());
            }
        }
    }

    #[test]
    fn the_seed_decides_and_the_run_names() {
        let one = Topology::new("a", 50, &mut Rng::from_seed(1));
        let same = Topology::new("a", 50, &mut Rng::from_seed(1));
        let other = Topology::new("b", 50, &mut Rng::from_seed(1));
        assert_eq!(one.rooms, same.rooms);
        assert!(
            one.rooms
                .iter()
                .all(|room| other.room_of(&room.name).is_none())
        );
        assert_ne!(
            one.rooms,
            Topology::new("a", 50, &mut Rng::from_seed(2)).rooms
        );
    }

    #[test]
    fn recipients_follow_the_share_of_groups() {
        let topology = Topology::new("a", 100, &mut Rng::from_seed(1));
        assert!((topology.recipients_mean(0) - 2.0).abs() < 1e-9);
        assert!((topology.recipients_mean(100) - 10.0).abs() < 1e-9);
        assert!((topology.recipients_mean(25) - 4.0).abs() < 1e-9);
    }
}
