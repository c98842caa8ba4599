//! The admin API in JSON: what is asked, and what is answered.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/routes?service=NAME&after=NAME` | | [`ListedRoute`]s, and whether there are more |
//! | `POST /v1/routes` | [`RouteForm`] | 201, or 409 when it is there |
//! | `PATCH /v1/routes` | [`PatchForm`] | 200, or 404 |
//! | `DELETE /v1/routes?service=NAME&address=ADDR` | | 200, or 404 |
//! | `GET /v1/watch?service=NAME&seconds=N` | | hosts as they come, change and go |
//! | `GET /v1/status` | | [`StatusReport`] |
//!
//! A `service` may be a pair, as `MODID/CMDID`. A refusal is `{"error": "…"}`.
//!
//! A watch is of a service, of all whose names begin so (`NAME*`), or of all. Its
//! answer is JSON objects, one a line, as `waystation route watch --json` prints
//! them: `{"change":"added","version":"3.172","node":{…}}`, where `change` may be
//! `changed` and `removed`, too. It begins with what is there, each host added, and
//! `{"change":"complete"}`. Then it says what changes, and an empty line at least
//! every 15 s. Who reads slowly is told how it is, not all that it was in between;
//! who reads nothing for 30 s is closed. It ends after `seconds` (3,600 without
//! them, 86,400 at most), or when the server goes away; whoever watches on asks
//! again, and forgets what is not added before `complete`. As many as may watch, and
//! one more: 503.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use waystation_base::ServiceName;
use waystation_membership::{Address, Instance, Label, LarsPair, State};

use crate::row::{Patch, Route, RouteKey, WEIGHT_DEFAULT};

/// A new route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteForm {
    /// The service, or `MODID/CMDID`.
    pub service: String,
    /// Where the host is reached.
    pub address: String,
    /// The pair, as `MODID/CMDID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lars: Option<String>,
    /// The weight; 100 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// The zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// What is to be different about a route. What is absent stays; `null` is none
/// from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchForm {
    /// The service, or `MODID/CMDID`.
    pub service: String,
    /// The address.
    pub address: String,
    /// The pair.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub lars: Option<Option<String>>,
    /// The weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The site.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub site: Option<Option<String>>,
    /// The zone.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub zone: Option<Option<String>>,
    /// All of the metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// A value that is there, `null` or not.
#[expect(clippy::option_option, reason = "`null` is not absent")]
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// A host of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRoute {
    /// The service.
    pub service: String,
    /// Where it is reached.
    pub address: String,
    /// Its pair, as `MODID/CMDID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lars: Option<String>,
    /// Its weight.
    pub weight: u32,
    /// `starting`, `serving` or `draining`.
    pub state: String,
    /// Its site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// `store` for a route, `registry` for an instance that is registered.
    pub source: String,
}

/// A page of hosts.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) routes: Vec<ListedRoute>,
    /// Go on behind this service; none at the end.
    pub(crate) next: Option<String>,
}

/// How a route server fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Where routes are kept, without a password.
    pub store: String,
    /// Where routes come from: `live`, `kept` while the store does not answer, or
    /// `disk` while it has not answered since the start.
    pub source: String,
    /// Why the store did not answer last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Routes that are served.
    pub routes: usize,
    /// Rows of the store that are no routes.
    pub skipped: u64,
    /// The first of them, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped_rows: Vec<(String, String)>,
    /// Routes that are kept although the store lost them, with more than half of
    /// all, a moment ago.
    pub doubted: usize,
    /// `connected`, `connecting` or `closed`; none without a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// Subscriptions of agents of Lars.
    pub lars_subscriptions: usize,
    /// Questions of agents of Lars.
    pub lars_questions: u64,
    /// Pushes to agents of Lars.
    pub lars_pushes: u64,
    /// Frames of Lars that were skipped.
    pub lars_skipped: u64,
    /// Hosts that did not fit an answer.
    pub lars_left_out: u64,
}

impl RouteForm {
    /// A route of this service to this address, with the defaults.
    pub fn new(service: impl Into<String>, address: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            address: address.into(),
            ..Self::default()
        }
    }

    /// The route that it describes.
    ///
    /// # Errors
    /// The first fault, for people.
    pub fn route(&self) -> Result<Route, String> {
        let key = key_of(&self.service, &self.address)?;
        let mut route = Route::new(key.service, key.address);
        if let Some(text) = &self.lars {
            route.lars = Some(pair_of(text)?);
        }
        route.weight = self.weight.unwrap_or(WEIGHT_DEFAULT);
        route.site = label_of("site", self.site.as_deref())?;
        route.zone = label_of("zone", self.zone.as_deref())?;
        route.metadata.clone_from(&self.metadata);
        route.validate()?;
        Ok(route)
    }
}

impl PatchForm {
    /// Which route, and what is different.
    ///
    /// # Errors
    /// The first fault, for people.
    pub fn patch(&self) -> Result<(RouteKey, Patch), String> {
        let key = key_of(&self.service, &self.address)?;
        let lars = self.lars.as_ref();
        let lars = lars.map(|text| text.as_deref().map(pair_of).transpose());
        let label = |what, text: &Option<Option<String>>| {
            let text = text.as_ref();
            text.map(|text| label_of(what, text.as_deref())).transpose()
        };
        let patch = Patch {
            lars: lars.transpose()?,
            weight: self.weight,
            site: label("site", &self.site)?,
            zone: label("zone", &self.zone)?,
            metadata: self.metadata.clone(),
        };
        Ok((key, patch))
    }
}

impl ListedRoute {
    pub(crate) fn of_route(route: &Route) -> Self {
        let instance = route.instance(
            waystation_membership::InstanceId::new("route").expect("it is an id"),
            route.service.clone(),
        );
        Self::of(&instance, "store")
    }

    pub(crate) fn of(instance: &Instance, source: &str) -> Self {
        let text = |label: &Option<Label>| label.as_ref().map(ToString::to_string);
        Self {
            service: instance.service.to_string(),
            address: instance.address.to_string(),
            lars: instance.lars.map(|pair| pair.to_string()),
            weight: instance.weight,
            state: match instance.state {
                State::Starting => "starting",
                State::Serving => "serving",
                State::Draining => "draining",
            }
            .to_owned(),
            site: text(&instance.site),
            zone: text(&instance.zone),
            metadata: instance.metadata.clone(),
            source: source.to_owned(),
        }
    }
}

/// A service by its name or its pair.
pub(crate) fn service_of(text: &str) -> Result<ServiceName, String> {
    if let Ok(pair) = text.parse::<LarsPair>() {
        return Ok(pair.service());
    }
    ServiceName::new(text).map_err(|error| format!("service {text:?}: {error}"))
}

/// What a service and an address name.
pub(crate) fn key_of(service: &str, address: &str) -> Result<RouteKey, String> {
    let address: Result<Address, _> = address.parse();
    Ok(RouteKey {
        service: service_of(service)?,
        address: address.map_err(|error| error.to_string())?,
    })
}

fn pair_of(text: &str) -> Result<LarsPair, String> {
    text.parse().map_err(|error| format!("lars: {error}"))
}

fn label_of(what: &str, text: Option<&str>) -> Result<Option<Label>, String> {
    let label = text.map(Label::new).transpose();
    label.map_err(|error| format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_a_route_or_says_why_not() {
        let route = |text: &str| {
            let form: RouteForm = serde_json::from_str(text).map_err(|error| error.to_string())?;
            form.route()
        };
        let full = r#"{"service":"pay","address":"[fd00::1]:7000","lars":"-5/7","weight":5,
            "zone":"hel-1","metadata":{"a":"b"}}"#;
        let full = route(full).unwrap();
        assert_eq!(full.lars.unwrap().modid, -5);
        assert_eq!((full.weight, full.metadata.len()), (5, 1));
        let nameless = route(r#"{"service":"1/2","address":"10.0.0.1:1"}"#).unwrap();
        assert_eq!(nameless.service.as_str(), "lars.1.2");
        for (text, why) in [
            (r#"{"service":"pay"}"#, "missing field `address`"),
            (
                r#"{"service":"pay","address":"x","colour":1}"#,
                "unknown field",
            ),
            (
                r#"{"service":"No","address":"10.0.0.1:1"}"#,
                "service \"No\": ",
            ),
            (r#"{"service":"pay","address":"x"}"#, "\"x\" is not IP:PORT"),
            (
                r#"{"service":"pay","address":"10.0.0.1:1","lars":"x"}"#,
                "lars: ",
            ),
            (
                r#"{"service":"pay","address":"10.0.0.1:1","weight":10001}"#,
                "weight 10001",
            ),
            (
                r#"{"service":"pay","address":"10.0.0.1:1","zone":""}"#,
                "zone: ",
            ),
        ] {
            let refused = route(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    #[test]
    fn a_patch_tells_absent_from_none() {
        let patch = |text: &str| {
            let form: PatchForm = serde_json::from_str(text).unwrap();
            form.patch().unwrap().1
        };
        let nothing = patch(r#"{"service":"pay","address":"10.0.0.1:1"}"#);
        assert_eq!(nothing, Patch::default());
        let some = patch(r#"{"service":"pay","address":"10.0.0.1:1","zone":null,"lars":"1/2"}"#);
        assert_eq!(some.zone, Some(None));
        assert_eq!(some.lars, Some(Some(LarsPair { modid: 1, cmdid: 2 })));
        assert_eq!(some.site, None);
        // As the client writes it.
        let form = PatchForm {
            zone: Some(None),
            ..PatchForm::default()
        };
        let text = serde_json::to_string(&form).unwrap();
        assert_eq!(text, r#"{"service":"","address":"","zone":null}"#);
    }
}
