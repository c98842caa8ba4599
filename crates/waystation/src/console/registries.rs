//! How it stands between each role and its registries, from what the role says in
//! its metrics.

use std::collections::BTreeMap;

use super::gather::Answer;
use super::openmetrics::Exposition;
use super::whole;

/// A role and a registry that it uses, as `/api/v1/registries` and the page show
/// them.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct RegistryRow {
    pub(super) role: String,
    pub(super) registry: String,
    /// Whether the role can talk to it.
    pub(super) connected: bool,
    /// Entries that are not ours or malformed.
    pub(super) skipped: u64,
    /// Times that it was found to come from an old state.
    pub(super) went_back: u64,
}

impl RegistryRow {
    /// The class and the word that the page has for it.
    pub(super) fn state(&self) -> (&'static str, &'static str) {
        match self {
            Self {
                connected: false, ..
            } => ("unhealthy", "lost"),
            Self { went_back: 1.., .. } => ("waiting", "went back to an old state"),
            Self { skipped: 1.., .. } => ("waiting", "has what is not ours"),
            _ => ("healthy", "connected"),
        }
    }
}

/// All of which any role tells, by role and registry.
pub(super) fn registry_rows(answers: &[Answer<'_>]) -> Vec<RegistryRow> {
    let mut rows = BTreeMap::new();
    for Answer { role, body } in answers {
        let body = body.as_ref().ok();
        if let Some(text) = body.and_then(|body| std::str::from_utf8(body).ok()) {
            read(role, text, &mut rows);
        }
    }
    rows.into_values().collect()
}

fn read<'a>(role: &'a str, text: &str, rows: &mut BTreeMap<(&'a str, String), RegistryRow>) {
    let exposition = Exposition::parse(text);
    for sample in exposition.samples() {
        let figure = sample.name.strip_prefix("waystation_registry_");
        let registry = sample.label("registry");
        let (Some(figure), Some(registry)) = (figure, registry) else {
            continue;
        };
        if !matches!(figure, "connected" | "skipped_total" | "went_back_total") {
            continue;
        }
        let row = rows.entry((role, registry.to_owned()));
        let row = row.or_insert_with(|| RegistryRow {
            role: role.to_owned(),
            registry: registry.to_owned(),
            ..RegistryRow::default()
        });
        let value = whole(sample.value);
        match figure {
            "connected" => row.connected = value > 0,
            "skipped_total" => row.skipped = value,
            _ => row.went_back = value,
        }
    }
}
