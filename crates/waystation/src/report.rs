//! `waystation report`.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::Serialize;
use serde_json::Value;
use waystation_net::unix_time;
use waystation_report::{
    AskError, CallRow, HistoryQuery, HistoryRow, ReportConfig, ReportServer, Retention, StoreUrl,
    ask_calls, ask_history, ask_status,
};

use crate::cli::{ReportAskArgs, ReportCommand, ReportServeArgs, ReportShowArgs};
use crate::config::Config;
use crate::descriptors;
use crate::dir::check_folder;
use crate::failure::Failure;
use crate::{serving, table};

/// For how long an answer is waited for.
const WAIT: Duration = Duration::from_secs(10);

/// Runs one of `waystation report`'s commands.
///
/// # Errors
/// The address or the directory cannot be used, or nobody answers.
pub(crate) fn run(command: &ReportCommand, config: &Config, as_json: bool) -> Result<(), Failure> {
    match command {
        ReportCommand::Serve(args) => serve(args, config, as_json),
        ReportCommand::Show(args) => show(args, config, as_json),
        ReportCommand::Status(args) => status(args, config, as_json),
    }
}

/// Serves until a signal ends it.
fn serve(_: &ReportServeArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let section = &config.report;
    descriptors::raise(section.connections_max);
    let store: StoreUrl = if section.store.is_empty() {
        StoreUrl::Sqlite(config.dir().join("report/reports.db"))
    } else {
        let wrong = |why: String| Failure::Usage(anyhow!("report.store: {why}"));
        let url = section.store.parse::<StoreUrl>();
        let url = url.map_err(|error| wrong(error.to_string()))?;
        if let StoreUrl::Sqlite(path) = &url {
            check_folder(path).map_err(wrong)?;
        }
        url
    };
    tracing::info!(%store, "counts are stored there");
    let mut settings = ReportConfig::new(section.listen, store);
    settings.shards = section.shards;
    settings.connections_max = section.connections_max;
    settings.flush = Duration::from_millis(section.flush_ms);
    settings.retention = Retention {
        ten_seconds_s: section.keep_10s_s,
        minutes_s: section.keep_1m_s,
        hours_s: section.keep_1h_s,
    };
    let server =
        ReportServer::start(&settings).map_err(|error| Failure::Operation(error.into()))?;
    let signals = serving::catch_signals()?;
    let net = server.server().context("the server has ended")?;
    let attendant = serving::attend(config, "report-1", net)?;
    serving::say_ready(&server.address().to_string(), &[], as_json);
    serving::wait(signals);
    drop(attendant);
    server.drain();
    Ok(())
}

fn show(args: &ReportShowArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let server = server(&args.ask, config);
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let service = args.service.as_deref();
    let mut out = io::stdout().lock();
    let is_all = if let Some(span) = args.history {
        let now_s = unix_time().as_secs();
        let query = HistoryQuery {
            span: span.into(),
            service: service.map(str::to_owned),
            since: now_s.saturating_sub(args.since),
            until: now_s.saturating_add(1),
            limit,
        };
        let (rows, is_all) = ask_history(server, &query, WAIT).map_err(failed)?;
        print(&rows, as_json, &mut out, HISTORY, history_cells).context("cannot print")?;
        is_all
    } else {
        let (rows, is_all) = ask_calls(server, service, limit, WAIT).map_err(failed)?;
        print(&rows, as_json, &mut out, CALLS, call_cells).context("cannot print")?;
        is_all
    };
    if !is_all {
        tracing::warn!("there are more rows; ask for them with --limit");
        if !as_json {
            writeln!(out, "… more: --limit").context("cannot print")?;
        }
    }
    for loss in losses(&ask_status(server, WAIT).map_err(failed)?) {
        // Rows stay rows for programs.
        let printed = if as_json {
            writeln!(io::stderr(), "not counted: {loss}")
        } else {
            writeln!(out, "… not counted: {loss}")
        };
        printed.context("cannot print")?;
    }
    Ok(())
}

fn server(args: &ReportAskArgs, config: &Config) -> SocketAddr {
    args.server.unwrap_or(config.report_server())
}

fn failed(error: AskError) -> Failure {
    Failure::Operation(error.into())
}

/// What a server was told and did not count: where its status has the figure, and
/// what it is.
const LOSSES: [(&str, &str); 4] = [
    (
        "/refused_keys",
        "results of more services, hosts and callers than there is room for",
    ),
    ("/bad_names", "results under names that are none"),
    ("/bad_bodies", "messages that make no sense"),
    (
        "/bad_frames",
        "connections that ended with a frame that makes no sense",
    ),
];

fn figure(status: &Value, at: &str) -> u64 {
    status.pointer(at).and_then(Value::as_u64).unwrap_or(0)
}

/// A line for each kind of loss that there was.
fn losses(status: &Value) -> Vec<String> {
    let all = LOSSES.iter();
    let all = all.map(|(at, what)| (figure(status, at), what));
    all.filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect()
}

fn status(args: &ReportAskArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let status = ask_status(server(args, config), WAIT).map_err(failed)?;
    let lines = if as_json {
        vec![status.to_string()]
    } else {
        status_lines(&status)
    };
    let mut out = io::stdout().lock();
    let mut lines = lines.iter();
    Ok(lines
        .try_for_each(|line| writeln!(out, "{}", table::clean(line)))
        .context("cannot print")?)
}

fn status_lines(status: &Value) -> Vec<String> {
    let of = |at: &str| figure(status, at);
    let fault = status.pointer("/store/fault").and_then(Value::as_str);
    let mut lines = vec![
        format!(
            "store        {}",
            fault.map_or_else(
                || "takes counts".to_owned(),
                |fault| format!("fails: {fault}")
            )
        ),
        format!(
            "taken in     {} results in {} messages",
            of("/records"),
            of("/messages")
        ),
        format!(
            "held         {} keys, {} counts that wait for the store",
            of("/keys"),
            of("/waiting_cells")
        ),
        format!(
            "written      {} rows in {} batches",
            of("/rows"),
            of("/store/written")
        ),
    ];
    let losses = losses(status);
    if losses.is_empty() {
        lines.push("not counted  nothing".to_owned());
    }
    lines.extend(losses.iter().map(|loss| format!("not counted  {loss}")));
    for (at, what) in [
        (
            "/merged_buckets",
            "buckets of history that became one with the next",
        ),
        (
            "/store/unstorable_rows",
            "rows that the table of Lars cannot hold",
        ),
        (
            "/store/skipped_rows",
            "rows of the store that make no sense",
        ),
        ("/unknown_messages", "messages of no use here"),
    ] {
        if of(at) > 0 {
            lines.push(format!("besides      {} {what}", of(at)));
        }
    }
    lines
}

fn print<T: Serialize, const N: usize>(
    rows: &[T],
    as_json: bool,
    out: &mut dyn Write,
    head: [&str; N],
    cells: fn(&T) -> [String; N],
) -> io::Result<()> {
    if as_json {
        for row in rows {
            writeln!(out, "{}", serde_json::to_string(row)?)?;
        }
        return Ok(());
    }
    let rows: Vec<[String; N]> = rows.iter().map(cells).collect();
    table::write(out, head, &rows)
}

const CALLS: [&str; 7] = ["service", "host", "caller", "ok", "failed", "state", "told"];

fn call_cells(row: &CallRow) -> [String; 7] {
    let state = if row.is_out { "overloaded" } else { "idle" };
    [
        row.service.clone(),
        row.host.clone(),
        row.caller.clone(),
        row.ok.to_string(),
        row.failed.to_string(),
        state.to_owned(),
        row.ts.to_string(),
    ]
}

const HISTORY: [&str; 6] = ["start", "service", "host", "caller", "ok", "failed"];

fn history_cells(row: &HistoryRow) -> [String; 6] {
    [
        row.start.to_string(),
        row.service.clone(),
        row.host.clone(),
        row.caller.clone(),
        row.ok.to_string(),
        row.failed.to_string(),
    ]
}
