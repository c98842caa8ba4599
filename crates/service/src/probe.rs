//! Active probes: whether whoever listens at an address answers.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waystation_base::CallId;
use waystation_net::{Address, Shard, Stream, WaitsFor, until, waiting};
use waystation_wire::{Decoded, Header, Kind, decode, encode_header};

use crate::limits::{PROBE_ANSWER_BYTES, PROBE_FAILURES, PROBE_INTERVAL, PROBE_WAIT};

/// How an instance is asked for a sign of life.
///
/// ```
/// use waystation_service::ProbeKind;
///
/// let kind: ProbeKind = "http:/healthz".parse().unwrap();
/// assert_eq!(kind.to_string(), "http:/healthz");
/// assert!("udp".parse::<ProbeKind>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// It accepts a connection. A process that hangs does too: its kernel
    /// accepts for it.
    Tcp,
    /// It answers a ping of the native protocol.
    Native,
    /// It answers `GET` of this path with a status from 200 to 399.
    Http {
        /// The path, from its first slash on.
        path: String,
    },
}

/// A text that names no probe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not tcp, native or http:/PATH")]
pub struct ProbeKindError {
    /// What was given.
    pub text: String,
}

impl FromStr for ProbeKind {
    type Err = ProbeKindError;

    fn from_str(text: &str) -> Result<Self, ProbeKindError> {
        let is_path =
            |path: &str| path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        match (text, text.strip_prefix("http:")) {
            ("tcp", _) => Ok(Self::Tcp),
            ("native", _) => Ok(Self::Native),
            (_, Some(path)) if is_path(path) => Ok(Self::Http {
                path: path.to_owned(),
            }),
            _ => Err(ProbeKindError {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Native => f.write_str("native"),
            Self::Http { path } => write!(f, "http:{path}"),
        }
    }
}

/// How the instances of a service are probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeConfig {
    /// How each is asked.
    pub kind: ProbeKind,
    /// How often. A shorter pause finds a dead one sooner, for a connection
    /// each from every caller.
    pub interval: Duration,
    /// How long an answer may take, the connection included.
    pub wait: Duration,
    /// Probes without an answer in a row after which the word is that it
    /// failed; one answer ends that.
    pub failures: u32,
}

impl ProbeConfig {
    /// The defaults for a kind.
    pub fn new(kind: ProbeKind) -> Self {
        Self {
            kind,
            interval: PROBE_INTERVAL,
            wait: PROBE_WAIT,
            failures: PROBE_FAILURES,
        }
    }
}

impl ProbeKind {
    /// Asks whoever listens at `address`, over a connection of its own, until
    /// `wait` has passed.
    ///
    /// # Errors
    /// There is no connection, no answer in time, or none that counts.
    pub async fn probe(&self, shard: &Shard, address: &Address, wait: Duration) -> io::Result<()> {
        let asking = async {
            let stream = shard.io().connect(address).await?;
            self.ask(stream).await
        };
        let asking = waiting(WaitsFor::plain("a sign of life"), asking);
        let answered = until(shard, shard.now() + wait, asking).await;
        answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn ask(&self, mut stream: Box<dyn Stream>) -> io::Result<()> {
        match self {
            Self::Tcp => Ok(()),
            Self::Native => {
                let ping = encode_header(&Header::ping(CallId(0)));
                stream.write_all(&ping).await?;
                read(stream, |seen| match decode(seen) {
                    Ok(Decoded::Frame(header)) if header.kind == Kind::Pong => Answer::Good,
                    Ok(Decoded::Frame(header)) => Answer::Skip(header.frame_len()),
                    Ok(Decoded::Need(_)) => Answer::More,
                    Err(_) => Answer::Bad,
                })
                .await
            }
            Self::Http { path } => {
                let request =
                    format!("GET {path} HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).await?;
                read(stream, status_line).await
            }
        }
    }
}

/// What the bytes so far amount to.
enum Answer {
    More,
    /// So many bytes say nothing.
    Skip(usize),
    Good,
    Bad,
}

/// Judges the status line of an HTTP answer.
fn status_line(seen: &[u8]) -> Answer {
    const BEFORE: &[u8] = b"HTTP/1.1 ";
    let Some(rest) = seen.get(BEFORE.len()..BEFORE.len() + 3) else {
        return Answer::More;
    };
    let is_http = seen.starts_with(b"HTTP/1.");
    if is_http && matches!(rest[0], b'2' | b'3') {
        Answer::Good
    } else {
        Answer::Bad
    }
}

async fn read(mut stream: Box<dyn Stream>, judge: impl Fn(&[u8]) -> Answer) -> io::Result<()> {
    let mut seen = Vec::new();
    loop {
        match judge(&seen) {
            Answer::Good => return Ok(()),
            Answer::Bad => return Err(io::ErrorKind::InvalidData.into()),
            Answer::Skip(len) => {
                seen.drain(..len);
                continue;
            }
            Answer::More if seen.len() >= PROBE_ANSWER_BYTES => {
                return Err(io::ErrorKind::InvalidData.into());
            }
            Answer::More => {}
        }
        if stream.read_buf(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
