//! Whether two settings make listeners of the same place.

use std::net::SocketAddr;

use super::up_registries::UpRegistries;
use super::{Fault, Origin, Setting, Values};

/// Every setting that says where something listens by TCP, those that all
/// others must leave alone first.
const LISTENERS: &[(&str, &str)] = &[
    ("console", "listen"),
    ("up", "entry"),
    ("registry", "listen"),
    ("up", "hub"),
    ("route", "listen"),
    ("report", "listen"),
];

/// A listener: where, and whose setting it is.
struct Listener<'a> {
    name: (&'static str, &'static str),
    at: SocketAddr,
    setting: &'a Setting,
}

/// Adds a fault for each two listeners that cannot both have their place,
/// placed at the one that somebody set.
pub(super) fn check(values: &Values, faults: &mut Vec<Fault>) {
    let listeners: Vec<_> = LISTENERS
        .iter()
        .filter_map(|&name| {
            let setting = values.get(&name)?;
            let at = setting.value.as_str()?.parse().ok()?;
            let listener = Listener { name, at, setting };
            listener.is_used(values).then_some(listener)
        })
        .collect();
    for (index, second) in listeners.iter().enumerate() {
        for first in &listeners[..index] {
            if first.excludes(second.at) {
                let is_first = second.setting.origin == Origin::Default;
                let (told, other) = if is_first {
                    (first, second)
                } else {
                    (second, first)
                };
                faults.push(told.fault(other));
            }
        }
    }
}

impl Listener<'_> {
    /// Whether anything listens there beside the others.
    fn is_used(&self, values: &Values) -> bool {
        let runs_registry = || {
            let registries = values.get(&("up", "registry"))?.value.as_str()?;
            registries.parse().ok().map(|found: UpRegistries| found.own)
        };
        let runs_chat = || {
            let demo = values.get(&("up", "demo"));
            demo.and_then(|setting| setting.value.as_bool()) != Some(false)
        };
        match self.name {
            // One that is told by its own flag runs alone.
            ("registry", _) => {
                runs_registry() == Some(true) && self.setting.origin != Origin::Flag("--listen")
            }
            ("up", "hub") => {
                let sites = values.get(&("up", "sites"));
                let sites = sites.and_then(|setting| setting.value.as_integer());
                runs_chat() && sites > Some(1)
            }
            ("up", _) => runs_chat(),
            _ => true,
        }
    }

    fn excludes(&self, other: SocketAddr) -> bool {
        let any = [self.at, other].iter().any(|at| at.ip().is_unspecified());
        let port = self.at.port();
        port != 0 && port == other.port() && (any || self.at.ip() == other.ip())
    }

    fn fault(&self, other: &Listener<'_>) -> Fault {
        let ((section, key), (other_section, other_key)) = (self.name, other.name);
        Fault {
            origin: self.setting.origin.clone(),
            message: format!(
                "{section}.{key}: {} is taken by {other_section}.{other_key}, {}",
                self.at, other.at
            ),
        }
    }
}
