//! Instances as JSON that a person can read, edit and type.
//!
//! One form for all of them: the journal of an embedded registry, static lists,
//! nodes of a shared registry, and what the command line prints.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;
use waystation_base::{Epoch, FencingToken, ServiceName, ServiceNameError};
use waystation_membership::{
    Address, AddressError, Instance, InstanceError, InstanceId, Label, LarsPair, Lifetime, Owner,
    OwnerId, State, TextError, View, ViewVersion,
};

/// Why a text is not an instance.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InstanceTextError {
    /// It is not JSON, or lacks a field, or has one of another type.
    #[error("not an instance: {0}")]
    Json(#[from] serde_json::Error),
    /// An id, label or owner is out of rule.
    #[error("{field} {text:?}: {source}")]
    Text {
        /// Which field.
        field: &'static str,
        /// The first 64 characters of its text.
        text: String,
        /// What is wrong.
        source: TextError,
    },
    /// The owner is not 32 hexadecimal digits.
    #[error("owner {text:?} is not 32 hexadecimal digits")]
    Owner {
        /// The first 64 characters of its text.
        text: String,
    },
    /// The service's name is out of rule.
    #[error("service {text:?}: {source}")]
    Service {
        /// The first 64 characters of its text.
        text: String,
        /// What is wrong.
        source: ServiceNameError,
    },
    /// Nobody can connect to the address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// An instance in a view is one of another service.
    #[error("instance {id} is one of another service")]
    Astray {
        /// The instance.
        id: InstanceId,
    },
    /// Another rule is broken.
    #[error(transparent)]
    Instance(#[from] InstanceError),
}

/// The JSON form of an instance. What is absent has its default; what is not
/// known is ignored, so that newer versions may write more.
#[derive(Debug, Serialize, Deserialize)]
struct Form {
    id: String,
    service: String,
    address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(default = "default_weight")]
    weight: u32,
    #[serde(default)]
    state: StateForm,
    #[serde(default, skip_serializing_if = "is_default")]
    permanent: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lars: Option<LarsForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    incarnation: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    token: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StateForm {
    Starting,
    #[default]
    Serving,
    Draining,
}

#[derive(Debug, Serialize, Deserialize)]
struct LarsForm {
    modid: i32,
    cmdid: i32,
}

fn default_weight() -> u32 {
    100
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The instance as one line of JSON.
///
/// ```
/// use waystation_registry::{instance_from_json, instance_to_json};
///
/// let line = r#"{"id":"a-1","service":"a","address":"10.0.0.1:7000"}"#;
/// let instance = instance_from_json(line).unwrap();
/// assert_eq!(
///     instance_to_json(&instance),
///     r#"{"id":"a-1","service":"a","address":"10.0.0.1:7000","weight":100,"state":"serving"}"#,
/// );
/// ```
pub fn instance_to_json(instance: &Instance) -> String {
    let label = |label: &Option<Label>| label.as_ref().map(ToString::to_string);
    let has_owner = instance.owner.id != OwnerId::default();
    let form = Form {
        id: instance.id.to_string(),
        service: instance.service.to_string(),
        address: instance.address.to_string(),
        site: label(&instance.site),
        zone: label(&instance.zone),
        weight: instance.weight,
        state: match instance.state {
            State::Starting => StateForm::Starting,
            State::Serving => StateForm::Serving,
            State::Draining => StateForm::Draining,
        },
        permanent: instance.lifetime == Lifetime::Permanent,
        version: label(&instance.version),
        metadata: instance.metadata.clone(),
        lars: instance.lars.map(|pair| LarsForm {
            modid: pair.modid,
            cmdid: pair.cmdid,
        }),
        owner: has_owner.then(|| instance.owner.id.to_string()),
        incarnation: instance.owner.incarnation,
        token: instance.token.0,
    };
    serde_json::to_string(&form).expect("texts and numbers are JSON")
}

thread_local! {
    static READ: Cell<u64> = const { Cell::new(0) };
}

/// How many instances this thread has read from text: how much of a whole list
/// is handled before others of a shard have their turn.
#[doc(hidden)]
pub fn instances_read() -> u64 {
    READ.get()
}

/// The instance that `text` describes, checked.
///
/// # Errors
/// Names the first fault.
pub fn instance_from_json(text: &str) -> Result<Instance, InstanceTextError> {
    READ.set(READ.get() + 1);
    let form: Form = serde_json::from_str(text)?;
    let owner = Owner {
        id: form
            .owner
            .as_deref()
            .map_or(Ok(OwnerId::default()), owner)?,
        incarnation: form.incarnation,
    };
    let id = InstanceId::new(&form.id).map_err(|source| fault("id", &form.id, source))?;
    let service = ServiceName::new(&form.service).map_err(|source| InstanceTextError::Service {
        text: shorten(&form.service),
        source,
    })?;
    let address: Address = form.address.parse()?;
    let mut instance = Instance::new(id, service, address, owner);
    instance.site = label("site", form.site)?;
    instance.zone = label("zone", form.zone)?;
    instance.version = label("version", form.version)?;
    instance.weight = form.weight;
    instance.state = match form.state {
        StateForm::Starting => State::Starting,
        StateForm::Serving => State::Serving,
        StateForm::Draining => State::Draining,
    };
    if form.permanent {
        instance.lifetime = Lifetime::Permanent;
    }
    instance.metadata = form.metadata;
    instance.lars = form.lars.map(|pair| LarsPair {
        modid: pair.modid,
        cmdid: pair.cmdid,
    });
    instance.token = FencingToken(form.token);
    instance.validate()?;
    Ok(instance)
}

/// A view as one line of JSON: its service, its version, its instances.
///
/// ```
/// use waystation_registry::{view_from_json, view_to_json};
///
/// let line = r#"{"service":"a","epoch":3,"number":17,"instances":[]}"#;
/// let view = view_from_json(line).unwrap();
/// assert_eq!(view.at.to_string(), "3.17");
/// assert_eq!(view_to_json(&view), line);
/// ```
pub fn view_to_json(view: &View) -> String {
    let instances = view.instances.values().map(|one| {
        let text = instance_to_json(one);
        RawValue::from_string(text).expect("it is JSON")
    });
    let form = ViewForm {
        service: view.service.to_string(),
        epoch: view.at.epoch.0,
        number: view.at.number,
        instances: instances.collect(),
    };
    serde_json::to_string(&form).expect("texts and numbers are JSON")
}

/// The view that `text` describes, checked.
///
/// # Errors
/// Names the first fault; an instance of another service is one.
pub fn view_from_json(text: &str) -> Result<View, InstanceTextError> {
    let form: ViewForm = serde_json::from_str(text)?;
    let service = ServiceName::new(&form.service).map_err(|source| InstanceTextError::Service {
        text: shorten(&form.service),
        source,
    })?;
    let at = ViewVersion {
        epoch: Epoch(form.epoch),
        number: form.number,
    };
    let mut view = View::empty(service, at);
    for text in form.instances {
        let instance = instance_from_json(text.get())?;
        if instance.service != view.service {
            let id = instance.id;
            return Err(InstanceTextError::Astray { id });
        }
        view.instances
            .insert(instance.id.clone(), Arc::new(instance));
    }
    Ok(view)
}

/// The JSON form of a view.
#[derive(Serialize, Deserialize)]
struct ViewForm {
    service: String,
    epoch: u64,
    number: u64,
    instances: Vec<Box<RawValue>>,
}

fn label(field: &'static str, text: Option<String>) -> Result<Option<Label>, InstanceTextError> {
    let Some(text) = text else { return Ok(None) };
    let label = Label::new(&text).map_err(|source| fault(field, &text, source))?;
    Ok(Some(label))
}

fn owner(text: &str) -> Result<OwnerId, InstanceTextError> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_hex
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten();
    number.map(OwnerId).ok_or_else(|| InstanceTextError::Owner {
        text: shorten(text),
    })
}

fn fault(field: &'static str, text: &str, source: TextError) -> InstanceTextError {
    InstanceTextError::Text {
        field,
        text: shorten(text),
        source,
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::full_instance;

    #[test]
    fn every_field_survives() {
        let instance = full_instance();
        let text = instance_to_json(&instance);
        assert_eq!(instance_from_json(&text).unwrap(), instance);
        assert!(!text.contains('\n'));
    }

    #[test]
    fn a_view_survives_and_one_with_a_stray_instance_is_refused() {
        let instance = full_instance();
        let at = ViewVersion {
            epoch: Epoch(3),
            number: 1,
        };
        let mut view = View::empty(instance.service.clone(), at);
        view.instances
            .insert(instance.id.clone(), Arc::new(instance));
        let text = view_to_json(&view);
        assert_eq!(view_from_json(&text).unwrap(), view);
        view.service = "another".parse().unwrap();
        let stray = view_from_json(&view_to_json(&view)).unwrap_err();
        assert!(matches!(stray, InstanceTextError::Astray { .. }));
    }

    #[test]
    fn faults_name_the_field() {
        let refuse = |change: &str| {
            let text = format!(r#"{{"id":"a","service":"s","address":"10.0.0.1:1",{change}}}"#);
            instance_from_json(&text).unwrap_err().to_string()
        };
        assert!(refuse(r#""zone":"a b""#).starts_with("zone \"a b\": ' ' at byte 1"));
        assert!(refuse(r#""owner":"+1""#).starts_with("owner \"+1\" is not 32"));
        assert_eq!(
            refuse(r#""weight":10001"#),
            "instance a: weight 10001 is over 10000"
        );
        assert!(refuse(r#""state":"asleep""#).starts_with("not an instance: unknown variant"));
        let text = r#"{"id":"a","service":"S","address":"10.0.0.1:1"}"#;
        let error = instance_from_json(text).unwrap_err().to_string();
        assert!(error.starts_with("service \"S\":"), "{error}");
        let text = r#"{"id":"a","service":"s","address":"0.0.0.0:1"}"#;
        assert!(matches!(
            instance_from_json(text),
            Err(InstanceTextError::Address(AddressError::NotReachable))
        ));
    }

    #[test]
    fn what_a_newer_version_adds_is_ignored() {
        let text = r#"{"id":"a","service":"s","address":"10.0.0.1:1","colour":"red"}"#;
        assert_eq!(instance_from_json(text).unwrap().weight, 100);
    }
}
