//! The status page: rendered here, refreshed by a few lines of script that
//! fetch it again.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::copies::{CopyRow, copy_rows};
use super::registries::{RegistryRow, registry_rows};
use super::{Console, ProcessRow, merge_arrays};
use crate::supervise::Exit;

const TEMPLATE: &str = include_str!("page.html");

/// Rows of the contexts table; the rest is counted below it.
const CONTEXTS_SHOWN_MAX: usize = 200;

impl Console {
    /// The whole page.
    pub(super) async fn page(&self) -> String {
        let (metrics, contexts) = tokio::join!(self.ask("/metrics"), self.ask("/api/v1/contexts"));
        render(
            self.chat_url.as_deref(),
            &self.rows_of(&metrics),
            &registry_rows(&metrics),
            &copy_rows(&metrics),
            &merge_arrays(&contexts),
        )
    }
}

fn render(
    chat_url: Option<&str>,
    processes: &[ProcessRow],
    registries: &[RegistryRow],
    copies: &[CopyRow],
    contexts: &[Value],
) -> String {
    let healthy = processes
        .iter()
        .filter(|row| row.state == "healthy")
        .count();
    let (class, verdict) = match (processes.len(), healthy) {
        (0, _) => ("good", "No roles run.".to_owned()),
        (all, healthy) if all == healthy => ("good", format!("All {all} roles serve.")),
        (all, healthy) => ("bad", format!("{healthy} of {all} roles serve.")),
    };
    let behind = copies.iter().filter(|row| row.is_wrong()).count();
    let (class, verdict) = match behind {
        0 => (class, verdict),
        behind => {
            let all = copies.len();
            (
                "bad",
                format!("{verdict} Copies that do not follow: {behind} of {all}."),
            )
        }
    };
    let chat = chat_url.map_or_else(String::new, |url| {
        let url = escape(url);
        format!("<a href=\"{url}\">Open the chat</a>")
    });
    TEMPLATE
        .replace("{{verdict_class}}", class)
        .replace("{{verdict}}", &verdict)
        .replace("{{chat}}", &chat)
        .replace("{{processes}}", &process_table(processes))
        .replace("{{registries}}", &registry_table(registries))
        .replace("{{copies}}", &copy_table(copies))
        .replace("{{contexts}}", &context_table(contexts))
}

fn process_table(processes: &[ProcessRow]) -> String {
    if processes.is_empty() {
        return "<p class=\"empty\">Nothing was started (<code>--no-demo</code>, and another registry).</p>".to_owned();
    }
    // That a node was drained and is started again is no fault.
    let done = Exit::Code(0).to_string();
    let mut rows = String::new();
    for row in processes {
        let reason = row
            .reason
            .as_deref()
            .or(row.last_exit.as_deref().filter(|exit| *exit != done))
            .unwrap_or_default();
        let _ = write!(
            rows,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td>\
             <td><span class=\"state {}\">{}</span></td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td>{}</td></tr>",
            escape(&row.role),
            or_dash(row.pid),
            row.state,
            row.state,
            row.uptime_s.map_or_else(dash, duration),
            row.restarts,
            or_dash(row.connections),
            or_dash(row.requests_in_flight),
            escape(reason),
        );
    }
    table(
        &[
            ("Role", false),
            ("Process", true),
            ("State", false),
            ("Up", true),
            ("Restarts", true),
            ("Connections", true),
            ("In flight", true),
            ("Last fault", false),
        ],
        &rows,
    )
}

/// Nothing where no role tells of a registry.
fn registry_table(registries: &[RegistryRow]) -> String {
    if registries.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for row in registries {
        let (class, state) = row.state();
        let _ = write!(
            rows,
            "<tr><th scope=\"row\">{}</th><td>{}</td>\
             <td><span class=\"state {class}\">{state}</span></td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escape(&row.registry),
            escape(&row.role),
            row.skipped,
            row.went_back,
        );
    }
    let head = [
        ("Registry", false),
        ("Role", false),
        ("State", false),
        ("Skipped", true),
        ("Went back", true),
    ];
    format!("<h2>Registries</h2>{}", table(&head, &rows))
}

/// Nothing where there are no sites.
fn copy_table(copies: &[CopyRow]) -> String {
    if copies.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for row in copies {
        let (class, state) = row.state();
        let _ = write!(
            rows,
            "<tr><th scope=\"row\">{}</th><td><span class=\"state {class}\">{state}</span></td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td></tr>",
            escape(&row.site),
            or_dash(row.lag_entries),
            or_dash(row.lag_bytes),
            or_dash(row.lag_seconds),
            or_dash(row.applied),
        );
    }
    let head = [
        ("Site", false),
        ("State", false),
        ("Entries behind", true),
        ("Bytes", true),
        ("Seconds", true),
        ("Applied a second", true),
    ];
    let mut text = format!("<h2>Copies</h2>\n{}", table(&head, &rows));
    if copies.iter().any(|row| row.state().0 != "healthy") {
        text.push_str(
            "<p class=\"empty\"><code>waystation sync status</code> tells at which entry a copy \
             is, and why.</p>",
        );
    }
    text
}

fn context_table(contexts: &[Value]) -> String {
    let contexts: Vec<_> = contexts.iter().filter_map(Value::as_object).collect();
    if contexts.is_empty() {
        return "<p class=\"empty\">No request is being handled.</p>".to_owned();
    }
    let mut rows = String::new();
    for context in contexts.iter().take(CONTEXTS_SHOWN_MAX) {
        let cell = |name: &str| escape(&text_of(context, name));
        let process = cell("process");
        if context.contains_key("error") {
            let error = cell("error");
            let _ = write!(
                rows,
                "<tr><th scope=\"row\">{process}</th><td colspan=\"7\" class=\"bad\">{error}</td></tr>"
            );
            continue;
        }
        let _ = write!(
            rows,
            "<tr><th scope=\"row\">{process}</th><td><code>{}</code></td><td>{}</td><td>{}</td>\
             <td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            cell("sid"),
            cell("method"),
            cell("state"),
            cell("waiting_for"),
            cell("age_ms"),
            cell("deadline_ms"),
            cell("peer"),
        );
    }
    let head = [
        ("Role", false),
        ("Request", false),
        ("Method", false),
        ("State", false),
        ("Waits for", false),
        ("Age, ms", true),
        ("Deadline, ms", true),
        ("From", false),
    ];
    let mut text = table(&head, &rows);
    let hidden = contexts.len().saturating_sub(CONTEXTS_SHOWN_MAX);
    if hidden > 0 {
        let _ = write!(text, "<p class=\"empty\">and {hidden} more</p>");
    }
    text
}

fn table(head: &[(&str, bool)], rows: &str) -> String {
    let mut cells = String::new();
    for (name, numeric) in head {
        let class = if *numeric { " class=\"n\"" } else { "" };
        let _ = write!(cells, "<th scope=\"col\"{class}>{name}</th>");
    }
    format!(
        "<div class=\"scroll\"><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

/// A field of a context in words; empty when it is missing or null.
pub(crate) fn text_of(object: &Map<String, Value>, name: &str) -> String {
    match object.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn dash() -> String {
    "–".to_owned()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(dash, |value| value.to_string())
}

/// `12 s`, `3 min`, `5 h 2 min`, `4 d 1 h`.
fn duration(seconds: f64) -> String {
    let seconds = super::whole(seconds.floor());
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// `text` as it may stand in HTML, between tags and in quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(state: &'static str) -> ProcessRow {
        ProcessRow {
            role: "logic-1".to_owned(),
            pid: Some(7),
            state,
            reason: Some("<no das>".to_owned()),
            uptime_s: Some(3_725.9),
            restarts: 1,
            last_exit: None,
            connections: Some(4),
            requests_in_flight: None,
        }
    }

    #[test]
    fn what_peers_say_cannot_become_markup() {
        let contexts = [
            json!({"process": "logic-1", "sid": "<script>alert(1)</script>", "age_ms": 5}),
            json!({"process": "das-1", "error": "\"<b>\""}),
        ];
        let page = render(
            Some("http://127.0.0.1:7080/"),
            &[row("unhealthy")],
            &[RegistryRow {
                registry: "<u>".to_owned(),
                ..RegistryRow::default()
            }],
            &[CopyRow {
                site: "<i>".to_owned(),
                up: Some(0),
                ..CopyRow::default()
            }],
            &contexts,
        );
        assert!(!page.contains("<script>alert"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)"));
        assert!(page.contains("&quot;&lt;b&gt;&quot;"));
        assert!(page.contains("&lt;no das&gt;"));
        assert!(page.contains("&lt;u&gt;") && !page.contains("<u>"));
        assert!(page.contains("&lt;i&gt;") && page.contains("away"));
        assert!(page.contains("0 of 1 roles serve."));
        assert!(page.contains("<a href=\"http://127.0.0.1:7080/\">"));
        assert!(!page.contains("{{"), "a placeholder was left");
    }

    /// All roles served, and said so in green, while a copy stood at an entry.
    #[test]
    fn a_copy_that_stands_is_told_before_all_else() {
        let copy = |site: &str, stands| CopyRow {
            site: site.to_owned(),
            up: Some(1),
            stands: Some(stands),
            ..CopyRow::default()
        };
        let verdict = |copies: &[CopyRow]| {
            let page = render(None, &[row("healthy")], &[], copies, &[]);
            let line = page.lines().find(|line| line.contains("roles serve."));
            line.unwrap().to_owned()
        };
        let well = verdict(&[copy("a", 0), copy("b", 0)]);
        assert!(!well.contains("Copies that"), "{well}");
        let told = verdict(&[copy("a", 0), copy("b", 1)]);
        assert!(
            told.contains("Copies that do not follow: 1 of 2."),
            "{told}"
        );
        assert!(told.contains("bad"), "{told}");
        let says_where = |copies: &[CopyRow]| {
            let page = render(None, &[row("healthy")], &[], copies, &[]);
            page.contains("waystation sync status")
        };
        assert!(says_where(&[copy("a", 1)]) && !says_where(&[copy("a", 0)]));
    }

    /// Story: a role that was drained and started again had a fault from then on.
    #[test]
    fn an_end_in_order_is_no_fault() {
        let shown = |exit: Exit| {
            let exit = exit.to_string();
            let ended = ProcessRow {
                reason: None,
                last_exit: Some(exit.clone()),
                ..row("healthy")
            };
            render(None, &[ended], &[], &[], &[]).contains(&exit)
        };
        assert!(!shown(Exit::Code(0)));
        assert!(shown(Exit::Code(1)) && shown(Exit::Signal(9)));
    }

    #[test]
    fn a_flood_of_contexts_is_cut_and_counted() {
        let contexts = vec![json!({"process": "logic-1"}); CONTEXTS_SHOWN_MAX + 3];
        let page = render(None, &[row("healthy")], &[], &[], &contexts);
        assert_eq!(
            page.matches("<tr><th scope=\"row\">").count(),
            CONTEXTS_SHOWN_MAX + 1
        );
        assert!(page.contains("and 3 more"));
    }

    #[test]
    fn ages_read_well() {
        let texts = [0.4, 59.9, 61.0, 3_725.9, 90_061.0].map(duration);
        assert_eq!(texts, ["0 s", "59 s", "1 min 1 s", "1 h 2 min", "1 d 1 h"]);
    }
}
