//! What stands under the root of a registry in `ZooKeeper`: paths, what nodes
//! hold, tokens.

use serde::{Deserialize, Serialize};
use waystation_base::{Epoch, FencingToken};
use waystation_membership::{Instance, InstanceId, SubscriberId, ViewVersion};
use zookeeper_client::Stat;

use crate::limits::LINE_BYTES_MAX;
use crate::text::{instance_from_json, instance_to_json};

/// What the name of a node ends with that only comes and goes, to say that an
/// instance left by its own will. No id has such a character.
const LEFT: &str = "~left";

/// Where the nodes of one registry are.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    root: String,
}

/// What changed, going by the path of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Touched {
    /// The folder itself.
    Folder,
    /// An instance, or something foreign in its place.
    Name(String),
    /// The word that an instance leaves by its own will.
    Left(InstanceId),
    /// Nothing that matters.
    Elsewhere,
}

impl Paths {
    pub(super) fn new(root: &str) -> Self {
        let root = root.to_owned();
        Self { root }
    }

    pub(super) fn instances(&self) -> String {
        format!("{}/instances", self.root)
    }

    pub(super) fn name(&self, name: &str) -> String {
        format!("{}/instances/{name}", self.root)
    }

    pub(super) fn instance(&self, id: &InstanceId) -> String {
        self.name(id.as_str())
    }

    pub(super) fn left(&self, id: &InstanceId) -> String {
        format!("{}/instances/{id}{LEFT}", self.root)
    }

    /// The folder of all subscribers. It stands beside the others, since only
    /// who drains something reads it.
    pub(super) fn subscribers(&self) -> String {
        format!("{}/subscribers", self.root)
    }

    pub(super) fn subscriber(&self, id: SubscriberId) -> String {
        format!("{}/subscribers/{id}", self.root)
    }

    /// Whose node it is, by its name.
    pub(super) fn subscriber_of(name: &str) -> Option<SubscriberId> {
        u128::from_str_radix(name, 16).ok().map(SubscriberId)
    }

    /// What the path of an event is about.
    pub(super) fn touched(&self, path: &str) -> Touched {
        let Some(rest) = path.strip_prefix(&*self.instances()) else {
            return Touched::Elsewhere;
        };
        match rest.strip_prefix('/') {
            None if rest.is_empty() => Touched::Folder,
            // What is below an instance is nobody's.
            Some(name) if !name.contains('/') => match name.strip_suffix(LEFT) {
                Some(id) => InstanceId::new(id).map_or(Touched::Elsewhere, Touched::Left),
                None => Touched::Name(name.to_owned()),
            },
            _ => Touched::Elsewhere,
        }
    }
}

/// What the folder of all instances holds: how to read the numbers below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marks {
    /// Rises whenever the store was found to have gone back.
    epoch: u64,
    /// What is added to the number of a transaction: at least all numbers that
    /// were seen before the store went back.
    #[serde(default)]
    above: u64,
}

impl Marks {
    pub(super) fn new(epoch: Epoch, above: u64) -> Self {
        let epoch = epoch.0;
        Self { epoch, above }
    }

    /// What stands there; epoch zero when that is nonsense.
    pub(super) fn read(data: &[u8]) -> Self {
        let marks: Self = serde_json::from_slice(data).unwrap_or_default();
        // With more there would be no room for what comes.
        let has_room = marks.epoch < u64::MAX / 2 && marks.above < u64::MAX / 2;
        if has_room { marks } else { Self::default() }
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).expect("numbers are JSON")
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    /// The number of a transaction. Unlike its own, it never goes back.
    pub(super) fn number(&self, zxid: i64) -> u64 {
        let number = u64::try_from(zxid).unwrap_or(0);
        self.above.saturating_add(number)
    }

    /// The version that a transaction made.
    pub(super) fn version(&self, zxid: i64) -> ViewVersion {
        ViewVersion {
            epoch: self.epoch(),
            number: self.number(zxid),
        }
    }

    /// The token of a node that this transaction created.
    pub(super) fn token(&self, czxid: i64) -> FencingToken {
        FencingToken(self.number(czxid))
    }
}

/// The instance that a node called `name` holds, or why there is none.
pub(super) fn instance_of(
    name: &str,
    data: &[u8],
    stat: &Stat,
    marks: &Marks,
) -> Result<Instance, String> {
    if data.len() > LINE_BYTES_MAX {
        return Err(format!("longer than {LINE_BYTES_MAX} bytes"));
    }
    let text = std::str::from_utf8(data).map_err(|_| "not text".to_owned())?;
    let mut instance = instance_from_json(text).map_err(|error| error.to_string())?;
    if instance.id.as_str() != name {
        return Err(format!("the node is about {}", instance.id));
    }
    instance.token = marks.token(stat.czxid);
    Ok(instance)
}

/// What is written to an instance's node. The token is the node's, not a part of
/// what it holds.
pub(super) fn data_of(instance: &Instance) -> Vec<u8> {
    let mut instance = instance.clone();
    instance.token = FencingToken(0);
    instance_to_json(&instance).into_bytes()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::test_support::{full_instance, instance};

    /// What a server says of a node that was made and changed so.
    pub(in crate::zookeeper) fn stat(czxid: i64, mzxid: i64, session: i64) -> Stat {
        Stat {
            czxid,
            mzxid,
            pzxid: czxid,
            ctime: 0,
            mtime: 0,
            version: 0,
            cversion: 0,
            aversion: 0,
            ephemeral_owner: session,
            data_length: 0,
            num_children: 0,
        }
    }

    #[test]
    fn a_path_says_what_it_is_about() {
        let paths = Paths::new("/way/station");
        let id: InstanceId = "logic-1".parse().unwrap();
        assert_eq!(paths.touched(&paths.instances()), Touched::Folder);
        let touched = paths.touched(&paths.instance(&id));
        assert_eq!(touched, Touched::Name("logic-1".to_owned()));
        assert_eq!(paths.touched(&paths.left(&id)), Touched::Left(id.clone()));
        for elsewhere in [
            "",
            "/",
            "/way/station",
            "/way/station/instances-2/a",
            "/way/station/instances/a/b",
            "/way/station/instances/a b~left",
            "/way/station/subscribers/07",
        ] {
            assert_eq!(
                paths.touched(elsewhere),
                Touched::Elsewhere,
                "{elsewhere:?}"
            );
        }
        let subscriber = SubscriberId(7);
        let path = paths.subscriber(subscriber);
        let name = path.rsplit('/').next().unwrap();
        assert_eq!(Paths::subscriber_of(name), Some(subscriber));
        assert_eq!(Paths::subscriber_of("x"), None);
    }

    #[test]
    fn an_instance_survives_and_takes_its_token_from_its_creation() {
        let mut one = full_instance();
        let marks = Marks::new(Epoch(3), 1000);
        let data = data_of(&one);
        let read = instance_of(one.id.as_str(), &data, &stat(57, 60, 9), &marks).unwrap();
        assert_eq!(read.token, FencingToken(1057));
        one.token = read.token;
        assert_eq!(read, one);
        assert_eq!(data_of(&one), data, "the token is not written down");
    }

    #[test]
    fn what_is_no_instance_has_a_reason() {
        let refuse = |data: &[u8]| {
            let stat = stat(1, 1, 9);
            instance_of("logic-1", data, &stat, &Marks::default()).unwrap_err()
        };
        assert_eq!(refuse(b"\xff"), "not text");
        assert!(refuse(b"nonsense").starts_with("not an instance"));
        let other = data_of(&instance("s", "logic-2"));
        assert_eq!(refuse(&other), "the node is about logic-2");
        let long = vec![b' '; LINE_BYTES_MAX + 1];
        assert!(refuse(&long).starts_with("longer than"));
    }

    #[test]
    fn marks_are_read_as_they_are_written() {
        let marks = Marks::new(Epoch(7), 1 << 40);
        assert_eq!(marks.text(), r#"{"epoch":7,"above":1099511627776}"#);
        assert_eq!(Marks::read(marks.text().as_bytes()), marks);
        assert_eq!(Marks::read(br#"{"epoch":2}"#), Marks::new(Epoch(2), 0));
        for nonsense in [
            "",
            "7",
            r#"{"epoch":-1}"#,
            r#"{"epoch":18446744073709551615}"#,
        ] {
            assert_eq!(Marks::read(nonsense.as_bytes()).epoch(), Epoch(0));
        }
    }

    #[test]
    fn tokens_rise_when_the_store_went_back() {
        let before = Marks::new(Epoch(1), 0);
        let highest = before.token(0x0003_0000_0010);
        let after = Marks::new(Epoch(2), highest.0);
        assert!(after.token(1) > highest);
    }
}
