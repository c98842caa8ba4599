//! Questions by HTTP: `GET /v1/status`, `/v1/calls`, `/v1/history`, `/metrics`,
//! `/healthz`.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;
use waystation_net::Conn;
use waystation_net::native::HttpHandler;

use crate::batch::{HistoryQuery, Span};
use crate::limits::ANSWER_ROWS_MAX;
use crate::server::{Desk, Status};
use crate::store::EVER;

const JSON: &str = "application/json";

pub(crate) struct Http(pub(crate) Rc<Desk>);

/// Rows, and whether all are there.
#[derive(Serialize)]
struct Rows<T> {
    rows: Vec<T>,
    is_all: bool,
}

impl HttpHandler for Http {
    fn handle(
        &self,
        conn: &Conn,
        request: Request<Bytes>,
    ) -> LocalBoxFuture<'static, Response<Bytes>> {
        let desk = Rc::clone(&self.0);
        let shard = conn.shard().clone();
        Box::pin(async move {
            if request.method() != Method::GET {
                return fault(StatusCode::METHOD_NOT_ALLOWED, "only GET");
            }
            let asked = Asked::of(request.uri().query().unwrap_or_default());
            match request.uri().path() {
                "/healthz" => text("text/plain", "ok\n".to_owned()),
                "/metrics" => text(
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    metrics(&desk.status()),
                ),
                "/v1/status" => json(&desk.status()),
                "/v1/calls" => {
                    let limit = asked.limit();
                    let service = asked.of_name("service");
                    let (rows, count) = desk.shared.ledger().calls(service, limit);
                    let is_all = rows.len() == count;
                    json(&Rows { rows, is_all })
                }
                "/v1/history" => match asked.history() {
                    Ok(query) => history(&shard, &desk, query).await,
                    Err(error) => fault(StatusCode::BAD_REQUEST, error),
                },
                _ => fault(StatusCode::NOT_FOUND, "no such path"),
            }
        })
    }
}

/// Asks the store on another thread: it may take its time.
async fn history(
    shard: &waystation_net::Shard,
    desk: &Desk,
    mut query: HistoryQuery,
) -> Response<Bytes> {
    let reader = Arc::clone(&desk.reader);
    let limit = query.limit;
    // One more tells whether there are more.
    query.limit += 1;
    let read = shard.offload("history", move || {
        let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
        // Its connection may be of a store that was restarted since.
        reader.history(&query).or_else(|_| reader.history(&query))
    });
    match read.await {
        Ok(Ok(mut rows)) => {
            let is_all = rows.len() <= limit;
            rows.truncate(limit);
            json(&Rows { rows, is_all })
        }
        Ok(Err(error)) => fault(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        Err(error) => fault(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

/// What stands behind the `?`.
struct Asked(Vec<(String, String)>);

impl Asked {
    fn of(query: &str) -> Self {
        let pairs = query.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.to_owned(), unescaped(value)?))
        });
        Self(pairs.collect())
    }

    fn of_name(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(one, _)| one == name)?;
        Some(&found.1)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.of_name(name)?.parse().ok()
    }

    fn limit(&self) -> usize {
        let asked = self.number("limit").unwrap_or(1_000);
        usize::try_from(asked).map_or(ANSWER_ROWS_MAX, |limit| limit.min(ANSWER_ROWS_MAX))
    }

    fn history(&self) -> Result<HistoryQuery, &'static str> {
        let span = self.of_name("span").unwrap_or("10s");
        Ok(HistoryQuery {
            span: Span::of_name(span).ok_or("span is 10s, 1m or 1h")?,
            service: self.of_name("service").map(str::to_owned),
            since: self.number("since").unwrap_or(0),
            until: self.number("until").unwrap_or(EVER),
            limit: self.limit(),
        })
    }
}

/// A part of a query (RFC 3986, 2.1).
fn unescaped(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let value = digit()? * 16 + digit()?;
            out.push(u8::try_from(value).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn json(value: &impl Serialize) -> Response<Bytes> {
    match serde_json::to_string(value) {
        Ok(body) => text(JSON, body),
        Err(error) => fault(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn text(kind: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn fault(status: StatusCode, error: &str) -> Response<Bytes> {
    let body = serde_json::json!({ "error": error }).to_string();
    let mut response = text(JSON, body);
    *response.status_mut() = status;
    response
}

type Metric = (&'static str, &'static str, u64);

/// What came in.
const fn counters_in(status: &Status) -> [Metric; 9] {
    let counters = &status.counters;
    [
        (
            "messages",
            "Messages of reports taken in.",
            counters.messages,
        ),
        (
            "records",
            "Results taken in, of one host each.",
            counters.records,
        ),
        (
            "refused_keys",
            "Results refused for too many keys.",
            counters.refused_keys,
        ),
        (
            "bad_names",
            "Results under names that are none.",
            counters.bad_names,
        ),
        (
            "forgotten_keys",
            "Keys forgotten after a long silence.",
            counters.forgotten,
        ),
        (
            "merged_buckets",
            "Buckets that became one with the next.",
            counters.merged_buckets,
        ),
        (
            "unknown_messages",
            "Messages of no use here.",
            status.unknown_messages,
        ),
        ("bad_bodies", "Bodies that are none.", status.bad_bodies),
        (
            "bad_frames",
            "Frames that ended their connection.",
            status.bad_frames,
        ),
    ]
}

/// What went into the store.
const fn counters_out(status: &Status) -> [Metric; 4] {
    let store = &status.store;
    [
        ("written_batches", "Batches in the store.", store.written),
        (
            "written_rows",
            "Rows handed to the store.",
            status.counters.rows,
        ),
        (
            "store_failures",
            "Steps of the store that failed.",
            store.failures,
        ),
        (
            "unstorable_rows",
            "Rows that Lars' table cannot hold.",
            store.unstorable_rows,
        ),
    ]
}

const fn gauges(status: &Status) -> [Metric; 3] {
    [
        ("keys", "Keys held.", status.counters.keys),
        (
            "waiting_cells",
            "Counts that wait for the store.",
            status.counters.waiting_cells,
        ),
        (
            "store_up",
            "Whether the store takes counts.",
            status.store.is_up as u64,
        ),
    ]
}

/// The page of metrics.
fn metrics(status: &Status) -> String {
    let mut page = String::new();
    let counters = counters_in(status).into_iter().chain(counters_out(status));
    // Writing to a string does not fail.
    for (name, help, value) in counters {
        let name = format!("waystation_report_{name}");
        let _ = writeln!(page, "# TYPE {name} counter\n# HELP {name} {help}");
        let _ = writeln!(page, "{name}_total {value}");
    }
    for (name, help, value) in gauges(status) {
        let name = format!("waystation_report_{name}");
        let _ = writeln!(page, "# TYPE {name} gauge\n# HELP {name} {help}");
        let _ = writeln!(page, "{name} {value}");
    }
    page.push_str("# EOF\n");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_and_wrong_ones_refused() {
        let asked = Asked::of("service=1%2F2&span=1m&limit=5&since=x&&=&%");
        let query = asked.history().unwrap();
        assert_eq!(query.service.as_deref(), Some("1/2"));
        assert_eq!((query.span, query.limit, query.since), (Span::Minute, 5, 0));
        assert!(Asked::of("span=2m").history().is_err());
        assert_eq!(Asked::of("limit=99999999999").limit(), ANSWER_ROWS_MAX);
        for broken in ["%", "%1", "%zz", "%ff"] {
            assert_eq!(unescaped(broken), None, "{broken}");
        }
    }
}
