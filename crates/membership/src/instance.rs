//! What a node says about itself.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use waystation_base::{FencingToken, ServiceName};

use crate::address::{Address, AddressError};
use crate::ids::{InstanceId, Label, Owner};
use crate::limits::{METADATA_BYTES_MAX, METADATA_ENTRIES_MAX, WEIGHT_MAX};

/// A service's number in the Lars protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LarsPair {
    /// The module.
    pub modid: i32,
    /// The command within it.
    pub cmdid: i32,
}

impl LarsPair {
    /// The service that is the pair itself, `lars.MODID.CMDID`: all hosts of the
    /// pair, whatever other service they are copies of.
    ///
    /// ```
    /// use waystation_membership::LarsPair;
    ///
    /// let pair = LarsPair { modid: -5, cmdid: 7 };
    /// assert_eq!(pair.service().as_str(), "lars.-5.7");
    /// assert_eq!(LarsPair::of_service(&pair.service()), Some(pair));
    /// ```
    pub fn service(self) -> ServiceName {
        let name = format!("lars.{}.{}", self.modid, self.cmdid);
        ServiceName::new(&name).expect("numbers and dots are a name")
    }

    /// The pair that a service is, if it is one.
    pub fn of_service(service: &ServiceName) -> Option<Self> {
        let (modid, cmdid) = service.as_str().strip_prefix("lars.")?.split_once('.')?;
        let pair = Self {
            modid: modid.parse().ok()?,
            cmdid: cmdid.parse().ok()?,
        };
        // `lars.+1.01` is another name.
        (pair.service() == *service).then_some(pair)
    }
}

impl fmt::Display for LarsPair {
    /// `MODID/CMDID`, as in `-5/7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.modid, self.cmdid)
    }
}

/// Why a text is not a pair of Lars.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not MODID/CMDID, two numbers of 32 bits")]
pub struct LarsPairError {
    /// The first 64 characters of the text.
    pub text: String,
}

impl FromStr for LarsPair {
    type Err = LarsPairError;

    fn from_str(text: &str) -> Result<Self, LarsPairError> {
        let parse = || {
            let (modid, cmdid) = text.split_once('/')?;
            Some(Self {
                modid: modid.parse().ok()?,
                cmdid: cmdid.parse().ok()?,
            })
        };
        parse().ok_or_else(|| LarsPairError {
            text: text.chars().take(64).collect(),
        })
    }
}

/// Whether an instance takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Registered, but not ready for requests yet.
    Starting,
    /// Takes requests.
    #[default]
    Serving,
    /// Answers what it has, takes nothing new, and leaves.
    Draining,
}

/// How long an instance's entry lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lifetime {
    /// As long as its lease is renewed; it lives in the registry.
    #[default]
    Ephemeral,
    /// Until an operator removes it; it is a row of the route store.
    Permanent,
}

/// One running copy of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its id, unique in the registry.
    pub id: InstanceId,
    /// The service it is a copy of.
    pub service: ServiceName,
    /// The service's number for Lars callers, if it has one.
    pub lars: Option<LarsPair>,
    /// Where it is reached.
    pub address: Address,
    /// The machine room it stands in.
    pub site: Option<Label>,
    /// The part of the site it stands in.
    pub zone: Option<Label>,
    /// Its share of requests against the others'. 0 to [`WEIGHT_MAX`]; 0 takes
    /// none unless asked for by id.
    pub weight: u32,
    /// Whether it takes requests.
    pub state: State,
    /// How long its entry lives.
    pub lifetime: Lifetime,
    /// The version of its software.
    pub version: Option<Label>,
    /// Anything else; at most [`METADATA_ENTRIES_MAX`] entries and
    /// [`METADATA_BYTES_MAX`] bytes together.
    pub metadata: BTreeMap<String, String>,
    /// Who owns the entry.
    pub owner: Owner,
    /// The lease's fencing token; zero before the registry granted one.
    pub token: FencingToken,
}

/// Why an instance is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InstanceError {
    /// Nobody can connect to its address.
    #[error("instance {id}")]
    Address {
        /// The instance.
        id: InstanceId,
        /// What is wrong with the address.
        source: AddressError,
    },
    /// Its weight is over [`WEIGHT_MAX`].
    #[error("instance {id}: weight {weight} is over {WEIGHT_MAX}")]
    Weight {
        /// The instance.
        id: InstanceId,
        /// The weight asked for.
        weight: u32,
    },
    /// It has too many metadata entries.
    #[error("instance {id}: {found} metadata entries are over {METADATA_ENTRIES_MAX}")]
    MetadataEntries {
        /// The instance.
        id: InstanceId,
        /// How many it has.
        found: usize,
    },
    /// Its metadata is too large.
    #[error("instance {id}: {found_bytes} bytes of metadata are over {METADATA_BYTES_MAX}")]
    MetadataBytes {
        /// The instance.
        id: InstanceId,
        /// How many bytes its keys and values have.
        found_bytes: usize,
    },
    /// A metadata key is empty.
    #[error("instance {id}: a metadata key is empty")]
    MetadataKey {
        /// The instance.
        id: InstanceId,
    },
}

impl Instance {
    /// A serving, ephemeral instance of weight 100 without labels.
    pub fn new(id: InstanceId, service: ServiceName, address: Address, owner: Owner) -> Self {
        Self {
            id,
            service,
            lars: None,
            address,
            site: None,
            zone: None,
            weight: 100,
            state: State::default(),
            lifetime: Lifetime::default(),
            version: None,
            metadata: BTreeMap::new(),
            owner,
            token: FencingToken(0),
        }
    }

    /// Checks everything that its types do not. Cost: O(metadata).
    ///
    /// # Errors
    /// The first fault.
    pub fn validate(&self) -> Result<(), InstanceError> {
        let id = || self.id.clone();
        self.address
            .validate()
            .map_err(|source| InstanceError::Address { id: id(), source })?;
        if self.weight > WEIGHT_MAX {
            return Err(InstanceError::Weight {
                id: id(),
                weight: self.weight,
            });
        }
        let found = self.metadata.len();
        if found > METADATA_ENTRIES_MAX {
            return Err(InstanceError::MetadataEntries { id: id(), found });
        }
        let found_bytes = self.metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
        if found_bytes > METADATA_BYTES_MAX {
            return Err(InstanceError::MetadataBytes {
                id: id(),
                found_bytes,
            });
        }
        if self.metadata.contains_key("") {
            return Err(InstanceError::MetadataKey { id: id() });
        }
        Ok(())
    }
}

/// What an owner changes about its instance; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The new weight.
    pub weight: Option<u32>,
    /// All of the new metadata.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Whether a starting instance is serving now. Draining has its own way,
    /// and a draining instance stays so.
    pub is_serving: bool,
}

impl Update {
    /// Makes this update and then `later` one.
    pub fn merge(&mut self, later: Self) {
        self.weight = later.weight.or(self.weight);
        self.metadata = later.metadata.or_else(|| self.metadata.take());
        self.is_serving |= later.is_serving;
    }

    /// Changes `instance` accordingly.
    pub fn apply(&self, instance: &mut Instance) {
        if let Some(weight) = self.weight {
            instance.weight = weight;
        }
        if let Some(metadata) = &self.metadata {
            instance.metadata.clone_from(metadata);
        }
        if self.is_serving && instance.state == State::Starting {
            instance.state = State::Serving;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::instance;

    #[test]
    fn a_plain_instance_is_valid() {
        assert_eq!(instance("a", 1).validate(), Ok(()));
    }

    #[test]
    fn each_fault_has_its_reason() {
        let refuse = |change: &dyn Fn(&mut Instance)| {
            let mut one = instance("a", 1);
            change(&mut one);
            one.validate().unwrap_err()
        };
        assert!(matches!(
            refuse(&|one| one.address = Address::Unix("x".into())),
            InstanceError::Address { .. }
        ));
        let heavy = refuse(&|one| one.weight = WEIGHT_MAX + 1);
        assert_eq!(heavy.to_string(), "instance a: weight 10001 is over 10000");
        let many = |one: &mut Instance| {
            one.metadata = (0..33).map(|n| (n.to_string(), String::new())).collect();
        };
        assert!(matches!(
            refuse(&many),
            InstanceError::MetadataEntries { found: 33, .. }
        ));
        let large = |one: &mut Instance| {
            one.metadata = [("k".to_owned(), "x".repeat(METADATA_BYTES_MAX))].into();
        };
        assert!(matches!(
            refuse(&large),
            InstanceError::MetadataBytes {
                found_bytes: 4097,
                ..
            }
        ));
        let nameless = |one: &mut Instance| one.metadata = [(String::new(), String::new())].into();
        assert!(matches!(
            refuse(&nameless),
            InstanceError::MetadataKey { .. }
        ));
    }

    #[test]
    fn pairs_print_as_they_parse_and_are_services() {
        let pair: LarsPair = "-5/7".parse().unwrap();
        assert_eq!(pair.to_string(), "-5/7");
        for text in ["5", "5/", "/7", "5/7/9", "5/4294967296", "a/b"] {
            assert!(text.parse::<LarsPair>().is_err(), "{text}");
        }
        for name in [
            "lars.+1.2",
            "lars.1.02",
            "lars.1",
            "lars.1.2.3",
            "pay",
            "lars..",
        ] {
            let service = ServiceName::new(name);
            let pair = service.ok().and_then(|name| LarsPair::of_service(&name));
            assert_eq!(pair, None, "{name}");
        }
    }

    #[test]
    fn an_update_never_ends_a_drain() {
        let mut one = instance("a", 1);
        one.state = State::Draining;
        let update = Update {
            weight: Some(7),
            is_serving: true,
            ..Update::default()
        };
        update.apply(&mut one);
        assert_eq!((one.weight, one.state), (7, State::Draining));
        one.state = State::Starting;
        update.apply(&mut one);
        assert_eq!(one.state, State::Serving);
    }
}
