//! The configuration: a TOML file, overrides from the environment, flags.
//!
//! It is read once, before anything binds or starts. Later sources win: default,
//! file, `WAYSTATION_SECTION__KEY`, flag. Every fault of every source is
//! collected, so that one run shows all that is to be corrected; the faults
//! leave through [`Faults`] and end the process with exit code 2.

mod environment;
mod fault;
mod field;
mod file;
mod health_section;
mod import_lars;
mod lars_sections;
mod listeners;
#[cfg(test)]
mod reference;
mod registry_section;
mod sections;
mod show;
mod up_registries;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Value;

pub(crate) use environment::{Variable, variables};
pub(crate) use fault::{Fault, Faults, Origin};
pub(crate) use field::{Section, did_you_mean};
pub(crate) use file::bytes_of;
use health_section::Health;
pub(crate) use import_lars::import as import_lars;
use lars_sections::{Agent, Lars, Report, Route};
use registry_section::Registry;
pub(crate) use sections::{Console, Das, Entry, LOG_LEVELS, Log, Logic, Net, Up};
pub(crate) use show::show;

/// Every section, in the order of the reference page.
pub(crate) const SECTIONS: &[&Section] = &[
    &Up::SECTION,
    &Console::SECTION,
    &Net::SECTION,
    &Registry::SECTION,
    &Health::SECTION,
    &Entry::SECTION,
    &Logic::SECTION,
    &Das::SECTION,
    &Route::SECTION,
    &Report::SECTION,
    &Agent::SECTION,
    &Lars::SECTION,
    &Log::SECTION,
];

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Setting {
    /// The value, checked against its field.
    pub(crate) value: Value,
    /// Who set it.
    pub(crate) origin: Origin,
}

/// Settings by section and key.
pub(crate) type Values = BTreeMap<(&'static str, &'static str), Setting>;

/// A flag of the command line that sets a field.
#[derive(Debug, Clone)]
pub(crate) struct Flag {
    /// As it is typed, such as `--dir`.
    pub(crate) name: &'static str,
    /// The field's section.
    pub(crate) section: &'static str,
    /// The field.
    pub(crate) key: &'static str,
    /// What it sets.
    pub(crate) value: Value,
}

/// Where a configuration is read from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// `--config`.
    pub(crate) file: Option<PathBuf>,
    /// The overrides, as [`variables`] found them.
    pub(crate) variables: Vec<Variable>,
    /// Flags that set fields.
    pub(crate) flags: Vec<Flag>,
}

/// The configuration in force.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// `[up]`.
    pub(crate) up: Up,
    /// `[console]`.
    pub(crate) console: Console,
    /// `[net]`.
    pub(crate) net: Net,
    /// `[registry]`.
    pub(crate) registry: Registry,
    /// `[health]`.
    pub(crate) health: Health,
    /// `[entry]`.
    pub(crate) entry: Entry,
    /// `[logic]`.
    pub(crate) logic: Logic,
    /// `[das]`.
    pub(crate) das: Das,
    /// `[route]`.
    pub(crate) route: Route,
    /// `[report]`.
    pub(crate) report: Report,
    /// `[agent]`.
    pub(crate) agent: Agent,
    /// `[lars]`.
    pub(crate) lars: Lars,
    /// `[log]`.
    pub(crate) log: Log,
    /// The same as plain values with their origins.
    pub(crate) values: Values,
    /// The file that was read, to be handed to child processes.
    pub(crate) file: Option<PathBuf>,
}

impl Config {
    /// Reads and checks all sources.
    ///
    /// # Errors
    /// All faults of all sources at once.
    pub(crate) fn load(sources: Sources) -> Result<Self, Faults> {
        let mut values = defaults();
        let mut faults = Vec::new();
        if let Some(path) = &sources.file {
            file::read(path, SECTIONS, &mut values, &mut faults);
        }
        environment::apply(&sources.variables, SECTIONS, &mut values, &mut faults);
        apply_flags(sources.flags, &mut values, &mut faults);

        let up: Option<Up> = typed(&Up::SECTION, &values, &mut faults);
        let console = typed(&Console::SECTION, &values, &mut faults);
        let net: Option<Net> = typed(&Net::SECTION, &values, &mut faults);
        let registry = typed(&Registry::SECTION, &values, &mut faults);
        let health = typed(&Health::SECTION, &values, &mut faults);
        let entry: Option<Entry> = typed(&Entry::SECTION, &values, &mut faults);
        let logic: Option<Logic> = typed(&Logic::SECTION, &values, &mut faults);
        let das: Option<Das> = typed(&Das::SECTION, &values, &mut faults);
        let parts = lars_parts(&values, &mut faults);
        let log = typed(&Log::SECTION, &values, &mut faults);
        if let Some(up) = &up {
            place_faults(Up::SECTION.name, up.validate(), &values, &mut faults);
        }
        if let (Some(up), Some(entry), Some(logic), Some(das)) = (&up, &entry, &logic, &das) {
            let drains = [
                (Entry::SECTION.name, entry.drain_ms),
                (Logic::SECTION.name, logic.drain_ms),
                (Das::SECTION.name, das.drain_ms),
            ];
            check_together(up, drains, &values, &mut faults);
        }
        listeners::check(&values, &mut faults);
        if let Some(net) = &net {
            let low_is_set = is_set(&values, Net::SECTION.name, "output_low_water_bytes");
            let found = net.validate(low_is_set);
            place_faults(Net::SECTION.name, found, &values, &mut faults);
        }
        match (
            up, console, net, registry, health, entry, logic, das, parts, log,
        ) {
            (
                Some(up),
                Some(console),
                Some(net),
                Some(registry),
                Some(health),
                Some(entry),
                Some(logic),
                Some(das),
                Some((route, report, agent, lars)),
                Some(log),
            ) if faults.is_empty() => Ok(Self {
                up,
                console,
                net,
                registry,
                health,
                entry,
                logic,
                das,
                route,
                report,
                agent,
                lars,
                log,
                values,
                file: sources.file,
            }),
            _ => {
                faults.sort();
                Err(Faults(faults))
            }
        }
    }

    /// The file as a child process can open it: its path made absolute when
    /// the working directory is known.
    pub(crate) fn file_for_children(&self) -> Option<PathBuf> {
        let path = self.file.as_deref()?;
        Some(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// Whether somebody has set a field.
    pub(crate) fn is_set(&self, section: &'static str, key: &'static str) -> bool {
        is_set(&self.values, section, key)
    }

    /// The route server that commands ask: the agent's, or the one that would run
    /// here.
    pub(crate) fn route_server(&self) -> SocketAddr {
        let (agent, own) = (self.agent.route, self.route.listen);
        if self.is_set("agent", "route") {
            agent
        } else {
            reachable(own)
        }
    }

    /// The report server that commands ask: the agent's, or the one that would run
    /// here.
    pub(crate) fn report_server(&self) -> SocketAddr {
        let (agent, own) = (self.agent.report, self.report.listen);
        if self.is_set("agent", "report") {
            agent
        } else {
            reachable(own)
        }
    }

    /// The directory of `up`.
    pub(crate) fn dir(&self) -> &Path {
        &self.up.dir
    }
}

/// Where this machine reaches who listens on `at`.
pub(crate) fn reachable(mut at: SocketAddr) -> SocketAddr {
    if at.ip().is_unspecified() {
        at.set_ip(if at.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            [0, 0, 0, 0, 0, 0, 0, 1].into()
        });
    }
    at
}

fn defaults() -> Values {
    let fields = SECTIONS.iter().flat_map(|section| {
        section.fields.iter().map(|field| {
            let setting = Setting {
                value: field.default.to_value(),
                origin: Origin::Default,
            };
            ((section.name, field.key), setting)
        })
    });
    fields.collect()
}

/// Whether somebody has set a field.
fn is_set(values: &Values, section: &'static str, key: &'static str) -> bool {
    let setting = values.get(&(section, key));
    setting.is_some_and(|setting| setting.origin != Origin::Default)
}

/// The sections of the parts that take over from Lars.
fn lars_parts(values: &Values, faults: &mut Vec<Fault>) -> Option<(Route, Report, Agent, Lars)> {
    let route = typed(&Route::SECTION, values, faults);
    let report = typed(&Report::SECTION, values, faults);
    let agent = typed(&Agent::SECTION, values, faults);
    let lars = typed(&Lars::SECTION, values, faults);
    Some((route?, report?, agent?, lars?))
}

fn apply_flags(flags: Vec<Flag>, values: &mut Values, faults: &mut Vec<Fault>) {
    for flag in flags {
        let field = SECTIONS
            .iter()
            .find(|section| section.name == flag.section)
            .and_then(|section| section.field(flag.key))
            .expect("every flag names a field that exists");
        let origin = Origin::Flag(flag.name);
        match field.kind.check(&flag.value) {
            Ok(()) => {
                let setting = Setting {
                    value: flag.value,
                    origin,
                };
                values.insert((flag.section, flag.key), setting);
            }
            Err(message) => faults.push(Fault { origin, message }),
        }
    }
}

/// The typed struct of a section. The values have been checked against the
/// table, so a failure means that the struct asks for more than its table says;
/// it is reported like any other fault.
fn typed<T: DeserializeOwned>(
    section: &Section,
    values: &Values,
    faults: &mut Vec<Fault>,
) -> Option<T> {
    let fields = section.fields.iter().filter_map(|field| {
        let setting = values.get(&(section.name, field.key))?;
        Some((field.key.to_owned(), setting.value.clone()))
    });
    match Value::Table(fields.collect()).try_into() {
        Ok(section) => Some(section),
        Err(error) => {
            let message = format!("{}: {}", section.name, error.message());
            faults.push(Fault {
                origin: Origin::Default,
                message,
            });
            None
        }
    }
}

/// Adds the faults of settings of several sections that cannot stand together.
fn check_together(
    up: &Up,
    drains: [(&'static str, u64); 3],
    values: &Values,
    faults: &mut Vec<Fault>,
) {
    for (section, drain_ms) in drains {
        place_faults(section, up.check_drain(drain_ms), values, faults);
    }
}

/// Adds the faults of a `validate()`, each placed at the field that it begins
/// with.
fn place_faults(
    section: &'static str,
    messages: Vec<String>,
    values: &Values,
    faults: &mut Vec<Fault>,
) {
    for message in messages {
        let key = message.split(':').next().unwrap_or_default();
        let setting = values
            .iter()
            .find(|((owner, name), _)| *owner == section && *name == key);
        let origin = setting.map_or(Origin::Default, |(_, setting)| setting.origin.clone());
        faults.push(Fault {
            origin,
            message: format!("{section}.{message}"),
        });
    }
}

/// The message for a key that `section` does not have.
fn unknown_key(section: &Section, key: &str) -> String {
    let known = section.fields.iter().map(|field| field.key);
    match did_you_mean(key, known) {
        Some(near) => format!("unknown key; did you mean `{near}`?"),
        None => "unknown key".to_owned(),
    }
}

#[cfg(test)]
mod tests;
