//! Routes, as they stand in a store.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};
use waystation_base::ServiceName;
use waystation_membership::limits::WEIGHT_MAX;
use waystation_membership::{Address, Instance, InstanceId, Label, LarsPair, Lifetime, Owner};

use crate::limits::SHOWN_CHARS_MAX;

/// The weight of a route that says none.
pub const WEIGHT_DEFAULT: u32 = 100;

/// A permanent host of a service: it is there until an operator removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The service. A route of Lars without a name is one of the pair's own
    /// service, [`LarsPair::service`].
    pub service: ServiceName,
    /// Where the host is reached.
    pub address: Address,
    /// The service's numbers for callers of Lars.
    pub lars: Option<LarsPair>,
    /// Its share of requests against the others'; 0 takes none.
    pub weight: u32,
    /// The machine room it stands in.
    pub site: Option<Label>,
    /// The part of the site it stands in.
    pub zone: Option<Label>,
    /// Anything else.
    pub metadata: BTreeMap<String, String>,
}

/// What tells a route from others: a service has an address once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// The service.
    pub service: ServiceName,
    /// The address.
    pub address: Address,
}

/// What is to be different about a route; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// The pair, or none from now on.
    pub lars: Option<Option<LarsPair>>,
    /// The weight.
    pub weight: Option<u32>,
    /// The site, or none from now on.
    pub site: Option<Option<Label>>,
    /// The zone, or none from now on.
    pub zone: Option<Option<Label>>,
    /// All of the metadata.
    pub metadata: Option<BTreeMap<String, String>>,
}

impl Route {
    /// A route with the defaults; one of a pair's own service has that pair.
    pub fn new(service: ServiceName, address: Address) -> Self {
        Self {
            lars: LarsPair::of_service(&service),
            service,
            address,
            weight: WEIGHT_DEFAULT,
            site: None,
            zone: None,
            metadata: BTreeMap::new(),
        }
    }

    /// A host of Lars, as a row of `RouteData` has it.
    ///
    /// # Errors
    /// Nobody can connect to the address.
    pub fn of_lars(pair: LarsPair, ip: u32, port: u16) -> Result<Self, String> {
        let address = Address::V4(SocketAddrV4::new(Ipv4Addr::from_bits(ip), port));
        address.validate().map_err(|error| error.to_string())?;
        Ok(Self::new(pair.service(), address))
    }

    /// What tells it from others.
    pub fn key(&self) -> RouteKey {
        RouteKey {
            service: self.service.clone(),
            address: self.address.clone(),
        }
    }

    /// Whether it has no other name than its pair.
    pub fn is_nameless(&self) -> bool {
        LarsPair::of_service(&self.service).is_some()
    }

    /// Its row in a table of Lars, if it can stand there: pair, address, port.
    pub fn in_lars(&self) -> Option<(LarsPair, u32, u16)> {
        match (self.lars, &self.address) {
            (Some(pair), Address::V4(address)) => {
                Some((pair, address.ip().to_bits(), address.port()))
            }
            _ => None,
        }
    }

    /// The same with what `patch` says.
    #[must_use]
    pub fn patched(&self, patch: &Patch) -> Self {
        let mut route = self.clone();
        if let Some(lars) = patch.lars {
            route.lars = lars;
        }
        if let Some(weight) = patch.weight {
            route.weight = weight;
        }
        if let Some(site) = &patch.site {
            route.site.clone_from(site);
        }
        if let Some(zone) = &patch.zone {
            route.zone.clone_from(zone);
        }
        if let Some(metadata) = &patch.metadata {
            route.metadata.clone_from(metadata);
        }
        route
    }

    /// Checks everything that its types do not.
    ///
    /// # Errors
    /// The first fault, for people.
    pub fn validate(&self) -> Result<(), String> {
        let own = LarsPair::of_service(&self.service);
        if own.is_some() && self.lars != own {
            return Err(format!("{} has its own pair and no other", self.service));
        }
        if self.weight > WEIGHT_MAX {
            return Err(format!("weight {} is over {WEIGHT_MAX}", self.weight));
        }
        let id = InstanceId::new("route").map_err(|error| error.to_string())?;
        let valid = self.instance(id, self.service.clone()).validate();
        valid.map_err(|error| error.to_string())
    }

    /// It as an instance of `service`, under this id.
    pub fn instance(&self, id: InstanceId, service: ServiceName) -> Instance {
        let mut instance = Instance::new(id, service, self.address.clone(), Owner::default());
        instance.lars = self.lars;
        instance.weight = self.weight;
        instance.site.clone_from(&self.site);
        instance.zone.clone_from(&self.zone);
        instance.metadata.clone_from(&self.metadata);
        instance.lifetime = Lifetime::Permanent;
        instance
    }
}

/// A row as a store has it, before anything of it is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RawRow {
    pub(crate) service: String,
    pub(crate) address: String,
    pub(crate) modid: Option<i64>,
    pub(crate) cmdid: Option<i64>,
    pub(crate) weight: i64,
    pub(crate) site: Option<String>,
    pub(crate) zone: Option<String>,
    /// A JSON object of texts.
    pub(crate) metadata: String,
}

impl RawRow {
    /// The row of a route.
    pub(crate) fn of(route: &Route) -> Self {
        let text = |label: &Option<Label>| label.as_ref().map(ToString::to_string);
        Self {
            service: route.service.to_string(),
            address: route.address.to_string(),
            modid: route.lars.map(|pair| pair.modid.into()),
            cmdid: route.lars.map(|pair| pair.cmdid.into()),
            weight: route.weight.into(),
            site: text(&route.site),
            zone: text(&route.zone),
            metadata: serde_json::to_string(&route.metadata).expect("texts are JSON"),
        }
    }

    /// Which row it is, for people.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", shorten(&self.service), shorten(&self.address))
    }

    /// The route, checked.
    pub(crate) fn route(&self) -> Result<Route, String> {
        let service = ServiceName::new(&self.service);
        let service = service.map_err(|error| format!("service: {error}"))?;
        let address: Address =
            (self.address.parse()).map_err(|error| format!("address: {error}"))?;
        let label = |what: &str, text: &Option<String>| {
            let label = text.as_deref().map(Label::new).transpose();
            label.map_err(|error| format!("{what}: {error}"))
        };
        let number = |what: &str, number: i64| {
            i32::try_from(number).map_err(|_| format!("{what} {number} is out of range"))
        };
        let lars = match (self.modid, self.cmdid) {
            (Some(modid), Some(cmdid)) => Some(LarsPair {
                modid: number("modid", modid)?,
                cmdid: number("cmdid", cmdid)?,
            }),
            (None, None) => None,
            _ => return Err("a pair is two numbers".to_owned()),
        };
        let weight = u32::try_from(self.weight);
        let metadata = serde_json::from_str(&self.metadata);
        let route = Route {
            service,
            address,
            lars,
            weight: weight.map_err(|_| format!("weight {} is out of range", self.weight))?,
            site: label("site", &self.site)?,
            zone: label("zone", &self.zone)?,
            metadata: metadata.map_err(|error| format!("metadata: {error}"))?,
        };
        route.validate()?;
        Ok(route)
    }
}

/// A number of Lars' unsigned columns as the protocol's signed one: they have
/// the same 32 bits. One that fits neither is out of range.
pub(crate) fn lars_number(what: &str, number: i128) -> Result<i32, String> {
    if let Ok(signed) = i32::try_from(number) {
        return Ok(signed);
    }
    let unsigned = u32::try_from(number).map(u32::cast_signed);
    unsigned.map_err(|_| format!("{what} {number} is out of range"))
}

/// At most so many characters of a text that came from outside.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        let mut route = Route::new("pay".parse().unwrap(), "[fd00::1]:7000".parse().unwrap());
        route.lars = Some(LarsPair {
            modid: -5,
            cmdid: 7,
        });
        route.weight = 50;
        route.zone = Some("hel-1".parse().unwrap());
        route.metadata = [("rack".to_owned(), "7".to_owned())].into();
        route
    }

    #[test]
    fn every_field_survives_a_row() {
        assert_eq!(RawRow::of(&route()).route(), Ok(route()));
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        let refuse = |change: &dyn Fn(&mut RawRow)| {
            let mut raw = RawRow::of(&route());
            change(&mut raw);
            raw.route().unwrap_err()
        };
        assert!(refuse(&|raw| raw.service = "No".to_owned()).starts_with("service: "));
        assert!(refuse(&|raw| raw.address = "10.0.0.1:0".to_owned()).starts_with("address: "));
        assert_eq!(refuse(&|raw| raw.weight = -1), "weight -1 is out of range");
        assert_eq!(
            refuse(&|raw| raw.weight = 10_001),
            "weight 10001 is over 10000"
        );
        assert_eq!(
            refuse(&|raw| raw.modid = Some(1 << 40)),
            "modid 1099511627776 is out of range"
        );
        assert_eq!(refuse(&|raw| raw.modid = None), "a pair is two numbers");
        assert!(refuse(&|raw| raw.metadata = "[]".to_owned()).starts_with("metadata: "));
        assert!(refuse(&|raw| raw.zone = Some(String::new())).starts_with("zone: "));
        assert_eq!(
            refuse(&|raw| raw.service = "lars.1.1".to_owned()),
            "lars.1.1 has its own pair and no other"
        );
    }

    /// Negative ids indexed outside of the reference's arrays; in its tables they
    /// stand as large unsigned numbers.
    #[test]
    fn unsigned_columns_have_the_bits_of_the_protocols_numbers() {
        assert_eq!(lars_number("modid", 4_294_967_291), Ok(-5));
        assert_eq!(lars_number("modid", -5), Ok(-5));
        assert_eq!(lars_number("modid", 7), Ok(7));
        let refused = lars_number("modid", 1 << 32).unwrap_err();
        assert_eq!(refused, "modid 4294967296 is out of range");
        assert!(Route::of_lars(LarsPair { modid: 1, cmdid: 1 }, 0, 80).is_err());
        assert!(Route::of_lars(LarsPair { modid: 1, cmdid: 1 }, 1 << 31, 80).is_ok());
    }

    #[test]
    fn a_patch_changes_what_it_says() {
        let patch = Patch {
            weight: Some(3),
            zone: Some(None),
            ..Patch::default()
        };
        let patched = route().patched(&patch);
        assert_eq!((patched.weight, patched.zone), (3, None));
        assert_eq!(patched.metadata, route().metadata);
    }
}
