//! A request to the admin socket of a role: HTTP over a Unix socket, with a
//! deadline and a bound.

use std::io;
use std::path::Path;
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::limits::{ADMIN_BODY_BYTES_MAX, REASON_CHARS_MAX};

/// Why a role gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// Nobody listens: the role is not running, or only just starting.
    #[error("nobody listens on its socket")]
    NotListening,
    /// The socket cannot be reached for another reason.
    #[error("its socket cannot be reached: {0}")]
    Connect(io::Error),
    /// It did not answer in time: it hangs, or the machine is overloaded.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Its answer is larger than this process wants to hold.
    #[error("an answer of more than {ADMIN_BODY_BYTES_MAX} bytes")]
    TooLarge,
    /// It ended in the middle, or what it said is no HTTP.
    #[error("no whole answer: {0}")]
    Broken(String),
    /// It answered with another status than 200.
    #[error("status {status}: {reason}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The beginning of its body.
        reason: String,
    },
}

/// Asks for `path` and returns the body of a 200.
///
/// # Errors
/// Every [`Error`]. Never takes longer than `timeout`.
pub(crate) async fn get(socket: &Path, path: &str, timeout: Duration) -> Result<Bytes, Error> {
    match tokio::time::timeout(timeout, exchange(socket, path)).await {
        Ok(result) => result,
        Err(_) => Err(Error::TimedOut(timeout)),
    }
}

async fn exchange(socket: &Path, path: &str) -> Result<Bytes, Error> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NotListening,
            _ => Error::Connect(error),
        })?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    // Ends with this function, also when the deadline drops it.
    let _driver = AbortOnDrop(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("admin connection: {error}");
        }
    }));
    let request = Request::get(path)
        .header(HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Error::Broken(error.to_string()))?;
    let response = requests
        .send_request(request)
        .await
        .map_err(|error| broken(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ADMIN_BODY_BYTES_MAX)
        .collect()
        .await;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Error::TooLarge
        } else {
            Error::Broken(error.to_string())
        }
    })?;
    let body = body.to_bytes();
    if status.as_u16() == 200 {
        return Ok(body);
    }
    Err(Error::Refused {
        status: status.as_u16(),
        reason: reason_in(&body),
    })
}

/// What a refusal says: the `error` of a JSON object, or else the text itself.
fn reason_in(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Fault {
        error: String,
    }
    let text = match serde_json::from_slice(body) {
        Ok(Fault { error }) => error,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.trim().chars().take(REASON_CHARS_MAX).collect()
}

fn broken(error: &hyper::Error) -> Error {
    Error::Broken(error.to_string())
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    const LONG: Duration = Duration::from_secs(30);

    /// A role that answers one request with exactly `answer`, then closes.
    async fn ask(answer: Vec<u8>) -> Result<Bytes, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("role.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let role = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            // The caller may hang up as soon as it has had enough.
            let _ = stream.write_all(&answer).await;
        });
        let result = get(&path, "/healthz", LONG).await;
        role.await.unwrap();
        result
    }

    #[tokio::test]
    async fn the_body_of_a_good_answer_comes_back() {
        let body = ask(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec())
            .await
            .unwrap();
        assert_eq!(body.as_ref(), b"ok");
    }

    #[tokio::test]
    async fn a_refusal_brings_its_reason() {
        let answer = b"HTTP/1.1 503 No\r\ncontent-length: 7\r\n\r\nno das\n".to_vec();
        let error = ask(answer).await.unwrap_err();
        assert_eq!(error.to_string(), "status 503: no das");
        let answer =
            b"HTTP/1.1 503 No\r\ncontent-length: 20\r\n\r\n{\"error\":\"shard 1\"}\n".to_vec();
        let error = ask(answer).await.unwrap_err();
        assert_eq!(error.to_string(), "status 503: shard 1");
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off() {
        let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        answer.resize(ADMIN_BODY_BYTES_MAX + 100, b'x');
        assert!(matches!(ask(answer).await, Err(Error::TooLarge)));
    }

    #[tokio::test]
    async fn what_is_no_http_is_an_error() {
        assert!(matches!(
            ask(b"\xf7\x01\x00".to_vec()).await,
            Err(Error::Broken(_))
        ));
        let torn = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nonly this".to_vec();
        assert!(matches!(ask(torn).await, Err(Error::Broken(_))));
    }

    #[tokio::test]
    async fn a_missing_or_abandoned_socket_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("role.sock");
        assert!(matches!(
            get(&path, "/", LONG).await,
            Err(Error::NotListening)
        ));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(
            get(&path, "/", LONG).await,
            Err(Error::NotListening)
        ));
    }

    #[tokio::test]
    async fn a_role_that_hangs_costs_no_more_than_the_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("role.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let error = get(&path, "/", Duration::from_millis(10))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::TimedOut(_)), "{error}");
    }
}
