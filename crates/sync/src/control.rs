//! What operators ask a site that runs on this machine: the audited list, a parked
//! entry applied after all, an entry decided about, a copy taken anew.
//!
//! A site answers on a Unix socket, [`socket`]: one JSON object a connection and
//! line, and one line back. Whoever may enter its folder may ask.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use waystation_base::Seq;
use waystation_replica::{Decider, Verdict};

use crate::adapter::{Audited, Fate};
use crate::limits::{
    AUDIT_SHOWN_MAX, CONTROL_ANSWER_WAIT, CONTROL_QUESTION_BYTES_MAX, CONTROL_WAIT,
};
use crate::site::{SiteError, SiteServer};

/// What an operator wants of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// The audited list.
    Audit,
    /// A parked entry applied.
    Replay {
        /// Its sequence.
        seq: u64,
    },
    /// The entry that failed left out.
    Skip {
        /// Its sequence.
        seq: u64,
    },
    /// The entry that failed put aside.
    Park {
        /// Its sequence.
        seq: u64,
    },
    /// The entry that failed tried again.
    Resume,
    /// The copy taken anew.
    Rejoin,
    /// The copy was put right: it differs no more.
    Repaired,
}

/// What a site says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Why it does not do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The last entries of the audited list, at most
    /// [`AUDIT_SHOWN_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audit: Vec<AuditLine>,
}

/// An entry that was not applied when its turn came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// Its sequence.
    pub seq: u64,
    /// `parked`, `replayed` or `skipped`.
    pub fate: String,
    /// Who decided that: `policy`, `operator`, or `order` where it waits behind another.
    pub by: String,
    /// When, in seconds since 1970; 0 if nobody noted it.
    pub at: u64,
    /// Why it failed; empty where it waits behind another.
    pub error: String,
    /// Length of its payload.
    pub bytes: u64,
}

impl From<&Audited> for AuditLine {
    fn from(one: &Audited) -> Self {
        let fate = match one.fate {
            Fate::Parked => "parked",
            Fate::Replayed => "replayed",
            Fate::Skipped => "skipped",
        };
        let by = match one.by {
            Decider::Policy => "policy",
            Decider::Operator => "operator",
            Decider::Order => "order",
        };
        Self {
            seq: one.seq.0,
            fate: fate.to_owned(),
            by: by.to_owned(),
            at: one.at,
            error: one.error.clone(),
            bytes: one.payload.len() as u64,
        }
    }
}

/// Why a site has no place where operators could ask.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Another site of this name answers there.
    #[error("another site answers on {}", path.display())]
    Taken {
        /// Where.
        path: PathBuf,
    },
    /// The socket, or the thread behind it, cannot be made.
    #[error("cannot answer operators on {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where the site of this name answers, in the folder that the processes of a
/// machine have for their sockets.
pub fn socket(run: &Path, site: &str) -> PathBuf {
    run.join(format!("sync-site-{site}.control"))
}

/// The place where operators will ask, taken before the site runs.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Takes the place. The socket stays behind at the end of the process; the next
    /// site of this name takes it.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn listen(path: PathBuf) -> Result<Self, ControlError> {
        if UnixStream::connect(&path).is_ok() {
            return Err(ControlError::Taken { path });
        }
        let removed = std::fs::remove_file(&path);
        let removed = removed.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        });
        match removed.and_then(|()| UnixListener::bind(&path)) {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(ControlError::Io { path, source }),
        }
    }

    /// Begins to answer operators, one at a time, until the site is gone.
    ///
    /// # Errors
    /// [`ControlError::Io`]: its thread cannot be started.
    pub fn serve(self, server: &Arc<SiteServer>) -> Result<(), ControlError> {
        let Self { listener, path } = self;
        let server = Arc::downgrade(server);
        let thread = thread::Builder::new().name("sync control".to_owned());
        let spawned = thread.spawn(move || accept(&listener, &server));
        let fault = |source| ControlError::Io { path, source };
        spawned.map(drop).map_err(fault)
    }
}

fn accept(listener: &UnixListener, server: &Weak<SiteServer>) {
    for stream in listener.incoming() {
        let Some(server) = server.upgrade() else {
            return;
        };
        let served = stream.and_then(|stream| serve_one(&stream, &server));
        if let Err(error) = served {
            tracing::warn!(%error, "an operator got no answer");
        }
    }
}

fn serve_one(stream: &UnixStream, server: &SiteServer) -> io::Result<()> {
    stream.set_read_timeout(Some(CONTROL_WAIT))?;
    stream.set_write_timeout(Some(CONTROL_WAIT))?;
    let mut line = String::new();
    let bounded = stream.take(CONTROL_QUESTION_BYTES_MAX);
    BufReader::new(bounded).read_line(&mut line)?;
    if line.is_empty() {
        // It only wanted to know whether somebody is there.
        return Ok(());
    }
    let answer = match serde_json::from_str(&line) {
        Ok(question) => answer(server, question),
        Err(error) => refusal(error.to_string()),
    };
    let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
    text.push(b'\n');
    let mut stream = stream;
    stream.write_all(&text)
}

fn refusal(error: String) -> Answer {
    Answer {
        error: Some(error),
        ..Answer::default()
    }
}

fn answer(server: &SiteServer, question: Question) -> Answer {
    done(server, question).unwrap_or_else(|error| refusal(error.to_string()))
}

fn done(server: &SiteServer, question: Question) -> Result<Answer, SiteError> {
    let mut answer = Answer::default();
    match question {
        Question::Audit => {
            let audited = server.audit()?;
            let first = audited.len().saturating_sub(AUDIT_SHOWN_MAX);
            answer.audit = audited[first..].iter().map(Into::into).collect();
        }
        Question::Replay { seq } => {
            let refused = server.replay(Seq(seq))?.err();
            answer.error = refused.map(|refused| refused.to_string());
        }
        Question::Skip { seq } => answer.error = decide(server, seq, Verdict::Skip)?,
        Question::Park { seq } => answer.error = decide(server, seq, Verdict::Park)?,
        Question::Resume => server.resume()?,
        Question::Rejoin => server.rejoin()?,
        Question::Repaired => server.set_repaired()?,
    }
    Ok(answer)
}

fn decide(server: &SiteServer, seq: u64, verdict: Verdict) -> Result<Option<String>, SiteError> {
    let is_decided = server.decide(Seq(seq), verdict)?;
    Ok((!is_decided).then(|| format!("the site does not stand at entry {seq}")))
}

/// Asks the site that answers there. Blocks for
/// [`CONTROL_ANSWER_WAIT`] at most.
///
/// # Errors
/// It does not run, or does not answer.
pub fn ask(path: &Path, question: Question) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(CONTROL_ANSWER_WAIT))?;
    stream.set_write_timeout(Some(CONTROL_WAIT))?;
    let mut text = serde_json::to_vec(&question).map_err(io::Error::other)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}
