//! What an agent counts, among its metrics.

use std::sync::Arc;

use waystation_agent::{FigureBoard, Figures};
use waystation_net::Kind;
use waystation_service::metrics::Source;

type Figure = (&'static str, Kind, &'static str, fn(&Figures) -> u64);

const FIGURES: [Figure; 22] = [
    (
        "waystation_agent_calls_sent",
        Kind::Counter,
        "Calls that native callers sent.",
        |of| of.sent,
    ),
    (
        "waystation_agent_calls_abandoned",
        Kind::Counter,
        "Calls whose callers were gone before their end.",
        |of| of.abandoned,
    ),
    (
        "waystation_agent_stale_results",
        Kind::Counter,
        "Results for hosts that were gone.",
        |of| of.stale_results,
    ),
    (
        "waystation_agent_calls_uncounted",
        Kind::Counter,
        "Ends of calls that no report tells, for want of room or of their host.",
        |of| of.uncounted,
    ),
    (
        "waystation_agent_calls_dropped",
        Kind::Counter,
        "Calls in callers' memory that made no sense.",
        |of| of.dropped,
    ),
    (
        "waystation_agent_hosts_left_out",
        Kind::Counter,
        "Hosts that shared memory had no room for when it was written.",
        |of| of.left_out,
    ),
    (
        "waystation_agent_picks",
        Kind::Counter,
        "Picks for callers who asked.",
        |of| of.picks,
    ),
    (
        "waystation_agent_no_picks",
        Kind::Counter,
        "Questions for a pick without a host.",
        |of| of.no_picks,
    ),
    (
        "waystation_agent_panic_picks",
        Kind::Counter,
        "Picks for callers who asked while too few hosts were available.",
        |of| of.panic_picks,
    ),
    (
        "waystation_agent_ejected",
        Kind::Counter,
        "Hosts that were ejected.",
        |of| of.ejected,
    ),
    (
        "waystation_agent_not_ejected",
        Kind::Counter,
        "Hosts that too many others were out beside to be ejected.",
        |of| of.not_ejected,
    ),
    (
        "waystation_agent_lars_picks",
        Kind::Counter,
        "Hosts given to callers of Lars.",
        |of| of.lars_picks,
    ),
    (
        "waystation_agent_lars_no_picks",
        Kind::Counter,
        "Questions of callers of Lars without a host.",
        |of| of.lars_no_picks,
    ),
    (
        "waystation_agent_lars_reports",
        Kind::Counter,
        "Results of callers of Lars.",
        |of| of.lars_reports,
    ),
    (
        "waystation_agent_lars_stale_reports",
        Kind::Counter,
        "Results of callers of Lars for hosts that are not there.",
        |of| of.lars_stale_reports,
    ),
    (
        "waystation_agent_lars_dropped",
        Kind::Counter,
        "Datagrams that were none of Lars' protocol.",
        |of| of.lars_dropped,
    ),
    (
        "waystation_agent_lars_left_out",
        Kind::Counter,
        "Hosts of routes that did not fit an answer by UDP.",
        |of| of.lars_left_out,
    ),
    (
        "waystation_agent_services",
        Kind::Gauge,
        "Services that callers use.",
        |of| of.services,
    ),
    (
        "waystation_agent_ledgers",
        Kind::Gauge,
        "Processes that share memory, once for each service.",
        |of| of.ledgers,
    ),
    (
        "waystation_agent_panics",
        Kind::Gauge,
        "Services of which all hosts are used since few are available.",
        |of| of.panics,
    ),
    (
        "waystation_agent_routes_kept",
        Kind::Gauge,
        "Services whose source of routes is lost.",
        |of| of.routes_kept,
    ),
    (
        "waystation_agent_routes_from_disk",
        Kind::Gauge,
        "Services whose routes are those on disk.",
        |of| of.routes_from_disk,
    ),
];

/// The figures of an agent, for the page of its metrics.
pub(super) fn source(board: &FigureBoard) -> Source {
    let board = board.clone();
    Arc::new(move |page| {
        let figures = board.figures();
        for (name, kind, help, of) in FIGURES {
            page.family(name, kind, help);
            page.sample(name, kind, "", of(&figures));
        }
    })
}
