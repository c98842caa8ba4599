//! How far each site's copy is behind, from what the hub says in its metrics.

use std::collections::BTreeMap;

use super::gather::Answer;
use super::openmetrics::Exposition;
use super::whole;

/// One site's copy, as the page shows it. What the hub does not say is missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CopyRow {
    pub(super) site: String,
    pub(super) up: Option<u64>,
    pub(super) lag_entries: Option<u64>,
    pub(super) lag_bytes: Option<u64>,
    pub(super) lag_seconds: Option<u64>,
    pub(super) applied: Option<u64>,
    pub(super) parked: Option<u64>,
    pub(super) stands: Option<u64>,
}

impl CopyRow {
    /// How it is: the class of its cell on the page, and a few words.
    pub(super) fn state(&self) -> (&'static str, &'static str) {
        match (self.up, self.stands, self.parked) {
            (Some(0), _, _) => ("unhealthy", "away"),
            (_, Some(1..), _) => ("unhealthy", "needs an operator"),
            (_, _, Some(1..)) => ("waiting", "has parked entries"),
            _ => ("healthy", "follows"),
        }
    }

    /// Whether its site is away, or stands until an operator decides.
    pub(super) fn is_wrong(&self) -> bool {
        self.state().0 == "unhealthy"
    }
}

/// All copies that any role tells of, by site.
pub(super) fn copy_rows(answers: &[Answer<'_>]) -> Vec<CopyRow> {
    let mut rows = BTreeMap::new();
    let texts = answers
        .iter()
        .filter_map(|answer| answer.body.as_ref().ok());
    for text in texts.filter_map(|body| std::str::from_utf8(body).ok()) {
        read(text, &mut rows);
    }
    rows.into_values().collect()
}

fn read(text: &str, rows: &mut BTreeMap<String, CopyRow>) {
    let exposition = Exposition::parse(text);
    for sample in exposition.samples() {
        let figure = sample.name.strip_prefix("waystation_sync_site_");
        let (Some(figure), Some(site)) = (figure, sample.label("site")) else {
            continue;
        };
        let row = rows.entry(site.to_owned()).or_insert_with(|| CopyRow {
            site: site.to_owned(),
            ..CopyRow::default()
        });
        let place = match figure {
            "up" => &mut row.up,
            "lag_entries" => &mut row.lag_entries,
            "lag_bytes" => &mut row.lag_bytes,
            "lag_seconds" => &mut row.lag_seconds,
            "applied_entries" => &mut row.applied,
            "parked_entries" => &mut row.parked,
            "stands" => &mut row.stands,
            _ => continue,
        };
        *place = Some(whole(sample.value));
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;

    use super::*;
    use crate::admin;

    #[test]
    fn copies_are_read_from_what_a_hub_tells() {
        let text = "# TYPE waystation_sync_site_up gauge\n\
            waystation_sync_site_up{site=\"b\"} 1\nwaystation_sync_site_up{site=\"a\"} 0\n\
            # TYPE waystation_sync_site_lag_entries gauge\n\
            waystation_sync_site_lag_entries{site=\"b\"} 17\n\
            waystation_sync_site_later{site=\"b\"} 5\n\
            waystation_sync_site_lag_bytes 9\nwaystation_im_reads{site=\"c\"} 3\n# EOF\n";
        let answers = [
            Answer {
                role: "a-das-1",
                body: Err(admin::Error::NotListening),
            },
            Answer {
                role: "hub-1",
                body: Ok(Bytes::from_static(text.as_bytes())),
            },
        ];
        let rows = copy_rows(&answers);
        let [a, b] = rows.as_slice() else {
            panic!("{rows:?}")
        };
        assert_eq!((a.site.as_str(), a.up, a.lag_entries), ("a", Some(0), None));
        assert_eq!(
            (b.site.as_str(), b.up, b.lag_entries),
            ("b", Some(1), Some(17))
        );
    }
}
