//! Entries as HTTP requests to a URL: `docs/formats/sync-handler.md`.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::{Authority, PathAndQuery};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use waystation_replica::{Chunk, Origin};

use super::{Delivery, Handler, HandlerError};
use crate::limits::{HANDLER_ANSWER_BYTES_MAX, HANDLER_WAIT_MAX};

/// Letters of an answer that go into the error that operators see.
const SHOWN_MAX: usize = 200;

/// Why a text is no URL of a handler.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// It is no URL.
    #[error("`{0}` is no URL: write http://HOST:PORT/PATH")]
    Malformed(String),
    /// Something else than plain HTTP.
    #[error("{0}:// is not built yet; http:// is")]
    Scheme(String),
}

/// A handler behind a URL: every entry is the body of a POST to it.
pub struct HttpHandler {
    authority: Authority,
    path: PathAndQuery,
    /// Of its own, since it is called from a thread without one. None only while
    /// it is dropped.
    runtime: Option<Runtime>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// What goes into a request.
struct Post {
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

/// An answer.
struct Answer {
    status: StatusCode,
    text: String,
}

impl HttpHandler {
    /// A handler at a URL. It connects at the first entry.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn new(url: &str) -> Result<Self, UrlError> {
        let malformed = || UrlError::Malformed(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| malformed())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some(scheme) => return Err(UrlError::Scheme(scheme.to_owned())),
            None => return Err(malformed()),
        }
        let authority = uri.authority().cloned().ok_or_else(malformed)?;
        let path = uri.path_and_query().cloned();
        Ok(Self {
            authority,
            path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
            runtime: None,
            sender: None,
        })
    }

    fn post(&mut self, post: &Post) -> Result<(), HandlerError> {
        let unavailable = |error: String| HandlerError::Unavailable(error);
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| unavailable(error.to_string()))?,
        };
        let exchange = self.exchange(post);
        let answer = runtime.block_on(async {
            let limited = tokio::time::timeout(HANDLER_WAIT_MAX, exchange).await;
            limited.unwrap_or_else(|_| Err(too_late(HANDLER_WAIT_MAX)))
        });
        self.runtime = Some(runtime);
        match answer {
            Ok(answer) => judge(&answer),
            Err(error) => {
                // Half an answer may be left on it.
                self.sender = None;
                Err(unavailable(error))
            }
        }
    }

    /// One request and its answer. A connection that was kept may have ended
    /// meanwhile: then once more over another one, which the key makes safe.
    async fn exchange(&mut self, post: &Post) -> Result<Answer, String> {
        if let Some(mut kept) = self.sender.take()
            && kept.ready().await.is_ok()
            && let Ok(answer) = self.send(&mut kept, post).await
        {
            self.sender = Some(kept);
            return Ok(answer);
        }
        let mut sender = self.connect().await?;
        let answer = self.send(&mut sender, post).await?;
        self.sender = Some(sender);
        Ok(answer)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let (host, port) = (
            self.authority.host(),
            self.authority.port_u16().unwrap_or(80),
        );
        let host = host.trim_matches(['[', ']']);
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.authority);
        let stream = TcpStream::connect((host, port)).await;
        let stream = stream.map_err(|error| told(&error))?;
        stream.set_nodelay(true).map_err(|error| told(&error))?;
        let made = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| told(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a handler ended");
            }
        });
        Ok(sender)
    }

    async fn send(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        post: &Post,
    ) -> Result<Answer, String> {
        let mut request = Request::post(self.path.as_str())
            .header(HOST, self.authority.as_str())
            .header(CONTENT_TYPE, "application/octet-stream");
        for (name, value) in &post.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(post.body.clone()));
        let request = request.map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| format!("{}: {error}", self.authority))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), HANDLER_ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Answer { status, text })
    }
}

fn too_late(wait: Duration) -> String {
    format!("no answer within {} s", wait.as_secs())
}

/// What an answer means: done, again later, or never.
fn judge(answer: &Answer) -> Result<(), HandlerError> {
    let status = answer.status;
    if status.is_success() {
        return Ok(());
    }
    let shown: String = answer.text.trim().chars().take(SHOWN_MAX).collect();
    let text = if shown.is_empty() {
        status.to_string()
    } else {
        format!("{status}: {shown}")
    };
    let is_passing = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
    if is_passing {
        return Err(HandlerError::Unavailable(text));
    }
    Err(HandlerError::Refused(text))
}

impl Handler for HttpHandler {
    fn deliver(&mut self, delivery: &Delivery<'_>) -> Result<(), HandlerError> {
        let position = delivery.position;
        let mut headers = vec![
            ("idempotency-key", delivery.key()),
            ("waystation-kind", kind_of(delivery).to_owned()),
            ("waystation-epoch", position.epoch.to_string()),
            ("waystation-sequence", position.seq.to_string()),
        ];
        if let Some(origin) = delivery.origin {
            let origin = match origin {
                Origin::Client { .. } => "client".to_owned(),
                Origin::Site { site, .. } => format!("site {}", site.0),
            };
            headers.push(("waystation-origin", origin));
        }
        if delivery.is_statement() {
            headers.push(("waystation-unsafe", "statement".to_owned()));
        }
        let body = delivery.payload.clone();
        self.post(&Post { headers, body })
    }

    fn restore(&mut self, chunk: &Chunk) -> Result<(), HandlerError> {
        let headers = vec![
            ("idempotency-key", format!("{:032x}", chunk.hash)),
            ("waystation-kind", "chunk".to_owned()),
            ("waystation-chunk", chunk.index.to_string()),
            ("waystation-rows", chunk.rows.to_string()),
            ("waystation-last", chunk.to.is_none().to_string()),
        ];
        let body = chunk.data.clone();
        self.post(&Post { headers, body })
    }
}

fn kind_of(delivery: &Delivery<'_>) -> &'static str {
    if delivery.origin.is_some() {
        "entry"
    } else {
        "replay"
    }
}

impl Drop for HttpHandler {
    fn drop(&mut self) {
        // The last owner may be a task of another runtime, which must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_handler_or_its_fault() {
        let handler = HttpHandler::new("http://room:81/in?x=1").unwrap();
        assert_eq!(handler.path.as_str(), "/in?x=1");
        assert_eq!(handler.authority.as_str(), "room:81");
        assert_eq!(HttpHandler::new("http://[::1]").unwrap().path.as_str(), "/");
        for url in ["", "room:81/in", "/in", "http://", "http://a b"] {
            let refused = HttpHandler::new(url).err();
            assert!(refused.is_some(), "{url}");
        }
        let https = HttpHandler::new("https://room").err().unwrap();
        assert_eq!(https, UrlError::Scheme("https".to_owned()));
    }

    #[test]
    fn an_answer_says_done_later_or_never() {
        let judged = |code: u16| {
            judge(&Answer {
                status: StatusCode::from_u16(code).unwrap(),
                text: " why ".to_owned(),
            })
        };
        assert_eq!(judged(204), Ok(()));
        for later in [408, 425, 429, 500, 503] {
            let answer = judged(later);
            assert!(
                matches!(answer, Err(HandlerError::Unavailable(_))),
                "{later}"
            );
        }
        for never in [302, 400, 404, 409, 422] {
            let Err(HandlerError::Refused(text)) = judged(never) else {
                panic!("{never}")
            };
            assert!(text.ends_with(": why"), "{text}");
        }
    }
}
