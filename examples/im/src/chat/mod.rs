//! A chat in a terminal, or in a pipe: lines in, lines out.
//!
//! A line is sent to the current conversation; a line that begins with `/` is
//! a command (`/help` lists them). What others write is printed with its time
//! and sender. A lost connection is announced and made again; nothing is lost
//! by that, see [`client`](crate::client).

mod command;
mod input;
mod limits;
mod show;
mod talk;
#[cfg(test)]
mod tests;

use std::io::{BufRead, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc;
use waystation_base::ShardId;
use waystation_net::{
    Address, Io, Label, NetConfig, Server, Shard, StartError, SystemIo, unix_time, until,
};
use waystation_service::Status;

use self::command::{Command, parse};
use self::input::{Line, read_line};
use self::limits::{END_WAIT, INPUT_LINES_MAX, LINE_BYTES_MAX, LOGIN_WAIT, OUTPUT_LINES_MAX};
use self::talk::{Ears, Talk};
use crate::client::{Client, ClientConfig};
use crate::store::{StoreError, check_uid};

/// Where a chat begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// With a user.
    User(String),
    /// In a group, which is made when there is none.
    Group(String),
}

/// Settings of a chat.
#[derive(Clone)]
pub struct Config {
    /// The Entry.
    pub entry: Address,
    /// Who writes.
    pub user: String,
    /// Where the chat begins; the user may go elsewhere.
    pub place: Option<Place>,
    /// Sockets, or their stand-in of a test.
    pub io: Arc<dyn Io>,
}

impl Config {
    /// A chat of this user.
    pub fn new(entry: Address, user: impl Into<String>) -> Self {
        Self {
            entry,
            user: user.into(),
            place: None,
            io: Arc::new(SystemIo),
        }
    }

    fn check(&self) -> Result<(), Error> {
        check_uid(&self.user)?;
        match &self.place {
            None => Ok(()),
            Some(Place::User(name) | Place::Group(name)) => Ok(check_uid(name)?),
        }
    }
}

/// Why a chat ended badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name is none.
    #[error(transparent)]
    Name(#[from] StoreError),
    /// The thread did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Entry is away, or does not let this user in.
    #[error("{}", .0.message())]
    Login(Status),
    /// These lines of input came to nothing: messages that were refused or
    /// given up, and what is no line or no command.
    #[error("lines that were not sent: {count}")]
    NotSent {
        /// How many.
        count: u64,
    },
    /// Standard input or output failed.
    #[error("cannot {what}")]
    Io {
        /// Read or print.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// What the printing thread gets.
enum Shown {
    Line(String),
    End(Result<(), Error>),
}

/// Chats until `/quit` or the end of `input`, and then at most 10 s longer,
/// for what was sent but not acknowledged. Prints on the calling thread. A
/// thread that reads `input` may outlive the chat, until its next line.
///
/// # Errors
/// [`Error`].
pub fn run(
    config: Config,
    input: impl BufRead + Send + 'static,
    output: &mut impl Write,
) -> Result<(), Error> {
    config.check()?;
    let net = NetConfig {
        io: config.io.clone(),
        seed: waystation_base::hash64(&unix_time().as_nanos().to_le_bytes()),
        drain: Duration::from_millis(200),
        ..NetConfig::default()
    };
    let server = Server::builder(net).start()?;
    let (printer, printed) = sync_channel(OUTPUT_LINES_MAX);
    let (reader, lines) = mpsc::channel(INPUT_LINES_MAX);
    read(input, reader)?;
    let start = move |shard: &Shard| {
        let task = shard.clone();
        shard.spawn(Label::of("im chat"), async move {
            let end = chat(&task, config, lines, printer.clone()).await;
            // The printer may be behind: wait for it off this thread.
            let ending = task.offload("end of the chat", move || printer.send(Shown::End(end)));
            // Without a printer the chat has ended already.
            let _ = ending.await;
        });
    };
    // A shard that was just started takes its first job.
    let _ = server.remote().run_on(ShardId(0), start);
    let result = print(&printed, output);
    server.drain();
    result
}

/// Reads lines on a thread of its own, since reading may block for ever.
fn read(
    mut input: impl BufRead + Send + 'static,
    lines: mpsc::Sender<std::io::Result<Line>>,
) -> Result<(), Error> {
    let read = move || {
        loop {
            let line = match read_line(&mut input) {
                Ok(Some(line)) => Ok(line),
                Ok(None) => return,
                Err(fault) => Err(fault),
            };
            let failed = line.is_err();
            if lines.blocking_send(line).is_err() || failed {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("input".to_owned());
    let spawned = thread.spawn(read).map(drop);
    spawned.map_err(|source| Error::Io {
        what: "read",
        source,
    })
}

/// Prints until the end.
fn print(printed: &Receiver<Shown>, output: &mut impl Write) -> Result<(), Error> {
    loop {
        match printed.recv() {
            Ok(Shown::Line(line)) => {
                let written = writeln!(output, "{line}").and_then(|()| output.flush());
                written.map_err(|source| Error::Io {
                    what: "print",
                    source,
                })?;
            }
            Ok(Shown::End(end)) => return end,
            // Only a panic on the shard loses the end.
            Err(_) => return Err(Error::Login(Status::internal("the chat broke"))),
        }
    }
}

/// The whole chat, on its shard.
async fn chat(
    shard: &Shard,
    config: Config,
    lines: mpsc::Receiver<std::io::Result<Line>>,
    printer: SyncSender<Shown>,
) -> Result<(), Error> {
    let id = (unix_time().as_millis(), std::process::id(), shard.random());
    let prefix = format!("c{:x}-{:x}-{:08x}-", id.0, id.1, id.2 >> 32);
    let talk = Rc::new(Talk::new(shard, config.user.clone(), prefix, printer));
    let ears = Rc::new(Ears {
        talk: Rc::downgrade(&talk),
    });
    let client = ClientConfig::new(config.entry.clone(), config.user, "terminal");
    talk.set_client(Client::new(shard, client, ears));
    let result = converse(shard, &talk, config.place, lines).await;
    talk.client().close();
    result?;
    match talk.failed() {
        0 => Ok(()),
        count => Err(Error::NotSent { count }),
    }
}

async fn converse(
    shard: &Shard,
    talk: &Rc<Talk>,
    place: Option<Place>,
    mut lines: mpsc::Receiver<std::io::Result<Line>>,
) -> Result<(), Error> {
    let login = talk.client().logged_in(shard.now() + LOGIN_WAIT).await;
    login.map_err(Error::Login)?;
    match place {
        None => {}
        Some(Place::User(user)) => talk.go_to_user(&user),
        Some(Place::Group(name)) => {
            let entered = talk.go_to_group(&name, Vec::new()).await;
            entered.map_err(Error::Login)?;
        }
    }
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            status = refused(talk) => return Err(Error::Login(status)),
        };
        let Some(line) = line else { break };
        let line = line.map_err(|source| Error::Io {
            what: "read",
            source,
        })?;
        match understand(line) {
            Ok(Command::Quit) => break,
            Ok(command) => talk.perform(command).await,
            Err(mistake) => talk.reject(&mistake),
        }
    }
    let quiet = async {
        while talk.client().sends_pending() > 0 {
            talk.changed.notified().await;
        }
    };
    // What is left fails when the client closes, and is counted.
    if until(shard, shard.now() + END_WAIT, quiet).await.is_err() {
        let count = talk.client().sends_pending() as u64 + talk.failed();
        return Err(Error::NotSent { count });
    }
    Ok(())
}

async fn refused(talk: &Talk) -> Status {
    loop {
        if let Some(status) = talk.refused() {
            return status;
        }
        talk.changed.notified().await;
    }
}

fn understand(line: Line) -> Result<Command, String> {
    match line {
        Line::Text(text) => parse(&text),
        Line::TooLong => Err(format!("a line has at most {LINE_BYTES_MAX} bytes")),
        Line::NotText => Err("the line is no text: it is not UTF-8".to_owned()),
    }
}
