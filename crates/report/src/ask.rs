//! Questions to a report server, from the command line.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::batch::{HistoryQuery, HistoryRow};
use crate::error::AskError;
use crate::ledger::CallRow;
use crate::limits::ANSWER_BYTES_MAX;

#[derive(Deserialize)]
struct Rows<T> {
    rows: Vec<T>,
    is_all: bool,
}

/// The present counts of a service (`MODID/CMDID` for Lars), or of all, and
/// whether these are all rows. Waits `within` for each part of the answer.
///
/// # Errors
/// [`AskError`].
pub fn ask_calls(
    address: SocketAddr,
    service: Option<&str>,
    limit: usize,
    within: Duration,
) -> Result<(Vec<CallRow>, bool), AskError> {
    let mut path = format!("/v1/calls?limit={limit}");
    put_service(&mut path, service);
    let found: Rows<CallRow> = ask(address, &path, within)?;
    Ok((found.rows, found.is_all))
}

/// History, the latest first, and whether these are all rows.
///
/// # Errors
/// [`AskError`].
pub fn ask_history(
    address: SocketAddr,
    query: &HistoryQuery,
    within: Duration,
) -> Result<(Vec<HistoryRow>, bool), AskError> {
    let HistoryQuery {
        span,
        since,
        until,
        limit,
        ..
    } = query;
    let span = span.name();
    let mut path = format!("/v1/history?span={span}&since={since}&until={until}&limit={limit}");
    put_service(&mut path, query.service.as_deref());
    let found: Rows<HistoryRow> = ask(address, &path, within)?;
    Ok((found.rows, found.is_all))
}

/// What the server says of itself: counters, and `store` with how that fares.
///
/// # Errors
/// [`AskError`].
pub fn ask_status(address: SocketAddr, within: Duration) -> Result<serde_json::Value, AskError> {
    ask(address, "/v1/status", within)
}

fn put_service(path: &mut String, service: Option<&str>) {
    let Some(service) = service else { return };
    path.push_str("&service=");
    for byte in service.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
}

fn ask<T: DeserializeOwned>(
    address: SocketAddr,
    path: &str,
    within: Duration,
) -> Result<T, AskError> {
    let unreachable = |source| AskError::Unreachable { address, source };
    let answer = fetch(address, path, within).map_err(unreachable)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(AskError::Answer)?;
    if head.starts_with("HTTP/1.1 200 ") {
        return serde_json::from_str(body).map_err(|_| AskError::Answer);
    }
    let told: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let told = told.as_ref().and_then(|told| told["error"].as_str());
    let line = head.lines().next().unwrap_or_default();
    Err(AskError::Refused(told.unwrap_or(line).to_owned()))
}

fn fetch(address: SocketAddr, path: &str, within: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
