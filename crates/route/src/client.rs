//! Asking a route server's admin API, for command lines: one question a
//! connection, and the thread waits.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::admin::{Listed, ListedRoute, PatchForm, RouteForm, StatusReport};
use crate::limits::CHANGE_WAIT;

/// How long an answer is waited for: longer than the server waits for its store.
const WAIT: Duration = Duration::from_secs(CHANGE_WAIT.as_secs() + 5);

/// How long a connection may take.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// Longest answer in bytes. A longer one is an error.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Asks one route server.
#[derive(Clone, Debug)]
pub struct AdminClient {
    at: SocketAddr,
}

/// Why a question has no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The server cannot be reached, or ended in the middle: after a change look
    /// whether it is made.
    #[error("no answer from the route server at {at}: {source}")]
    Io {
        /// Where it was asked.
        at: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The server refuses; the text is its own.
    #[error("{text}")]
    Refused {
        /// Its HTTP status.
        status: u16,
        /// Why.
        text: String,
    },
    /// What it answered makes no sense: it is no route server.
    #[error("the answer of {at} makes no sense: {text}")]
    Nonsense {
        /// Where it was asked.
        at: SocketAddr,
        /// What is wrong with it.
        text: String,
    },
}

#[derive(Deserialize)]
struct Fault {
    error: String,
}

impl AdminClient {
    /// A client of the server at this address.
    pub fn new(at: SocketAddr) -> Self {
        Self { at }
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn add(&self, form: &RouteForm) -> Result<ListedRoute, AdminError> {
        self.ask("POST", "/v1/routes", &json(form))
    }

    /// Changes a route.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn set(&self, form: &PatchForm) -> Result<ListedRoute, AdminError> {
        self.ask("PATCH", "/v1/routes", &json(form))
    }

    /// Removes a route.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn remove(&self, service: &str, address: &str) -> Result<(), AdminError> {
        let (service, address) = (encoded(service), encoded(address));
        let path = format!("/v1/routes?service={service}&address={address}");
        let _nothing: Option<ListedRoute> = self.ask("DELETE", &path, "")?;
        Ok(())
    }

    /// The hosts of a service, or of all.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn list(&self, service: Option<&str>) -> Result<Vec<ListedRoute>, AdminError> {
        if let Some(service) = service {
            let path = format!("/v1/routes?service={}", encoded(service));
            let listed: Listed = self.ask("GET", &path, "")?;
            return Ok(listed.routes);
        }
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/v1/routes?after={}", encoded(&after));
            let listed: Listed = self.ask("GET", &path, "")?;
            all.extend(listed.routes);
            match listed.next {
                Some(next) => after = next,
                None => return Ok(all),
            }
        }
    }

    /// How the server fares.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn status(&self) -> Result<StatusReport, AdminError> {
        self.ask("GET", "/v1/status", "")
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<T, AdminError> {
        let at = self.at;
        let exchanged = self.exchange(method, path, body);
        let answer = exchanged.map_err(|source| AdminError::Io { at, source })?;
        let nonsense = |text: String| AdminError::Nonsense { at, text };
        let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let head = head.ok_or_else(|| nonsense("it has no end of its head".to_owned()))?;
        let (head, body) = (&answer[..head], &answer[head + 4..]);
        let status = String::from_utf8_lossy(head);
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse::<u16>().ok());
        let status = status.ok_or_else(|| nonsense("it has no status".to_owned()))?;
        if !(200..300).contains(&status) {
            let fault = serde_json::from_slice::<Fault>(body);
            let text = fault.map_or_else(|_| format!("status {status}"), |fault| fault.error);
            return Err(AdminError::Refused { status, text });
        }
        serde_json::from_slice(body).map_err(|error| nonsense(error.to_string()))
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.at, CONNECT_WAIT)?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_write_timeout(Some(WAIT))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.at,
            body.len()
        );
        stream.write_all((head + body).as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

fn json(form: &impl serde::Serialize) -> String {
    serde_json::to_string(form).expect("texts and numbers are JSON")
}

/// A text as a value of a query.
fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    let encode = |byte: u8| {
        if is_plain(byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(encode).collect()
}
