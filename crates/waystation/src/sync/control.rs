//! What operators ask a site that runs on this machine: the audited list, a parked
//! entry applied after all, an entry decided about, a copy taken anew.
//!
//! A site answers on `DIR/run/sync-site-NAME.control`: one JSON object a connection
//! and line, and one line back. Whoever may enter that folder may ask.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use waystation_base::Seq;
use waystation_replica::Verdict;
use waystation_sync::adapter::{Audited, Fate};
use waystation_sync::site::{SiteError, SiteServer};

use crate::config::Config;
use crate::dir::{Sockets, remove_socket};
use crate::failure::Failure;
use crate::limits::{
    AUDIT_SHOWN_MAX, CONTROL_ANSWER_WAIT, CONTROL_QUESTION_BYTES_MAX, CONTROL_WAIT,
};

/// What an operator wants of a site.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Question {
    /// The audited list.
    Audit,
    /// A parked entry applied.
    Replay { seq: u64 },
    /// The entry that failed left out.
    Skip { seq: u64 },
    /// The entry that failed put aside.
    Park { seq: u64 },
    /// The entry that failed tried again.
    Resume,
    /// The copy taken anew.
    Rejoin,
}

/// What a site says.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Why it does not do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    /// The last entries of the audited list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) audit: Vec<AuditLine>,
}

/// An entry that was not applied when its turn came.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AuditLine {
    /// Its sequence.
    pub(super) seq: u64,
    /// `parked`, `replayed` or `skipped`.
    pub(super) fate: String,
    /// Length of its payload.
    pub(super) bytes: u64,
}

impl From<&Audited> for AuditLine {
    fn from(one: &Audited) -> Self {
        let fate = match one.fate {
            Fate::Parked => "parked",
            Fate::Replayed => "replayed",
            Fate::Skipped => "skipped",
        };
        Self {
            seq: one.seq.0,
            fate: fate.to_owned(),
            bytes: one.payload.len() as u64,
        }
    }
}

fn path_of(config: &Config, site: &str) -> PathBuf {
    let sockets = Sockets::of(config.dir());
    sockets.run().join(format!("sync-site-{site}.control"))
}

/// Takes the place where operators ask. The socket stays behind at the end of the
/// process; the next site of this name takes it.
///
/// # Errors
/// A site of this name runs on the directory, or the socket cannot be made.
pub(super) fn listen(config: &Config, site: &str) -> Result<UnixListener, Failure> {
    let path = path_of(config, site);
    let sockets = Sockets::of(config.dir());
    let run = sockets.run();
    std::fs::create_dir_all(run).with_context(|| format!("cannot make {}", run.display()))?;
    if UnixStream::connect(&path).is_ok() {
        let dir = config.dir().display();
        let error = anyhow!("a site {site} runs on {dir}; another one needs another --dir");
        return Err(Failure::Operation(error));
    }
    remove_socket(&path).context("cannot listen")?;
    let listener = UnixListener::bind(&path);
    Ok(listener.with_context(|| format!("cannot listen on {}", path.display()))?)
}

/// Begins to answer operators.
///
/// # Errors
/// Its thread cannot be started.
pub(super) fn serve(listener: UnixListener, server: &Arc<SiteServer>) -> Result<(), Failure> {
    let server = Arc::downgrade(server);
    let thread = thread::Builder::new().name("sync control".to_owned());
    let spawned = thread.spawn(move || accept(&listener, &server));
    spawned.context("cannot start a thread")?;
    Ok(())
}

/// One operator at a time, until the site is gone.
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
        Ok(question) => answer(server, &question),
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

fn answer(server: &SiteServer, question: &Question) -> Answer {
    done(server, question).unwrap_or_else(|error| refusal(error.to_string()))
}

fn done(server: &SiteServer, question: &Question) -> Result<Answer, SiteError> {
    let mut answer = Answer::default();
    match *question {
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
    }
    Ok(answer)
}

fn decide(server: &SiteServer, seq: u64, verdict: Verdict) -> Result<Option<String>, SiteError> {
    let is_decided = server.decide(Seq(seq), verdict)?;
    Ok((!is_decided).then(|| format!("the site does not stand at entry {seq}")))
}

/// Asks a site that runs on this machine.
///
/// # Errors
/// It does not run, does not answer, or refuses.
pub(super) fn ask(config: &Config, site: &str, question: &Question) -> Result<Answer, Failure> {
    let path = path_of(config, site);
    let answer = exchange(&path, question);
    let dir = config.dir().display();
    let answer = answer.with_context(|| format!("no answer of a site {site} on {dir}"))?;
    match answer.error {
        Some(error) => Err(Failure::Operation(anyhow!(error))),
        None => Ok(answer),
    }
}

fn exchange(path: &Path, question: &Question) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(CONTROL_ANSWER_WAIT))?;
    stream.set_write_timeout(Some(CONTROL_WAIT))?;
    let mut text = serde_json::to_vec(question).map_err(io::Error::other)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}
