//! A chat on ports and a directory of its own, whose processes can be killed.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use waystation_im::store::{Append, ChatStore, SqliteStore, WriteOperation};

use super::{Up, run, stdout};

/// Conversations of the user that [`with_conversations_of_ada`] makes.
pub(crate) const MANY: usize = 5_000;

/// Looks at something until it is true, and between them.
const LOOKS: u32 = 1200;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Time for an answer over HTTP.
const ANSWER: Duration = Duration::from_secs(30);

/// `waystation up` with the chat.
pub(crate) struct Chat {
    dir: TempDir,
    /// How many sites; two if nothing is said.
    sites: Option<&'static str>,
    entry: String,
    registry: String,
    route: String,
    report: String,
    /// More that it is started with.
    flags: Vec<String>,
    console: String,
    up: Option<Up>,
}

/// An address that is free now, and that the system gives to nobody who does not
/// ask for it: its port is below those for outgoing connections. A role that is
/// killed finds it free again.
pub(crate) fn free_address() -> String {
    address(free_ports(1))
}

/// The first of some ports in a row for which that is true.
fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(37);
    loop {
        let next = NEXT.fetch_add(count.into(), Ordering::Relaxed);
        let next = first.wrapping_add(next) % 10_000;
        let first = 20_000 + u16::try_from(next).unwrap();
        if (first..first + count).all(|port| TcpListener::bind(address(port)).is_ok()) {
            return first;
        }
    }
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

impl Chat {
    pub(crate) fn start() -> Self {
        Self::configured("")
    }

    /// A chat of one site with these lines of configuration.
    pub(crate) fn configured(lines: &str) -> Self {
        Self::prepared(lines, |_| {})
    }

    /// A chat over what `prepare` put into its directory.
    pub(crate) fn prepared(lines: &str, prepare: impl FnOnce(&Path)) -> Self {
        let listen = free_address();
        let lines = format!("{lines}[registry]\nlisten = \"{listen}\"\n");
        let registry = format!("embedded://{listen}");
        Self::with(Some("1"), &lines, registry, Vec::new(), prepare)
    }

    /// A chat of two sites, a and b, over what `prepare` put into its directory.
    pub(crate) fn with_sites(lines: &str, prepare: impl FnOnce(&Path)) -> Self {
        let (listen, hub) = (free_address(), free_address());
        let lines = format!("[up]\nhub = \"{hub}\"\n{lines}[registry]\nlisten = \"{listen}\"\n");
        let registry = format!("embedded://{listen}");
        Self::with(None, &lines, registry, Vec::new(), prepare)
    }

    /// A chat whose roles find each other by that registry, as flags say; by
    /// several, each behind a space.
    pub(crate) fn joined_by(registry: &str) -> Self {
        let urls = registry.split(' ');
        let flags = urls.flat_map(|url| ["--registry", url]);
        let flags = flags.map(str::to_owned).collect();
        Self::with(Some("1"), "", registry.to_owned(), flags, |_| {})
    }

    fn with(
        sites: Option<&'static str>,
        lines: &str,
        registry: String,
        flags: Vec<String>,
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let mut chat = Self {
            dir: tempfile::tempdir().unwrap(),
            sites,
            entry: address(free_ports(2)),
            registry,
            route: free_address(),
            report: free_address(),
            flags,
            console: String::new(),
            up: None,
        };
        prepare(chat.dir.path());
        let (route, report) = (&chat.route, &chat.report);
        let servers = format!(
            "[route]\nlisten = \"{route}\"\n[report]\nlisten = \"{report}\"\n[agent]\nudp_port = 0\n"
        );
        std::fs::write(chat.config(), format!("{lines}{servers}")).unwrap();
        chat.start_up();
        chat
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("waystation.toml")
    }

    /// Starts `up` (again) on the chat's directory.
    pub(crate) fn start_up(&mut self) {
        let (dir, config) = (self.dir.path().to_str().unwrap(), self.config());
        let mut args = vec![
            "--dir",
            dir,
            "--config",
            config.to_str().unwrap(),
            "--entry",
            &self.entry,
            "--console",
            "127.0.0.1:0",
        ];
        args.extend(self.sites.iter().flat_map(|sites| ["--sites", sites]));
        args.extend(self.flags.iter().map(String::as_str));
        let mut up = Up::start(&args);
        self.console = up.ready();
        self.up = Some(up);
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The URL of the registry by which its roles find each other.
    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    /// Where its route server listens.
    pub(crate) fn route(&self) -> &str {
        &self.route
    }

    /// Where its report server listens.
    pub(crate) fn report(&self) -> &str {
        &self.report
    }

    /// What `waystation host ...` says on its directory, one JSON object a line;
    /// nothing when it fails.
    pub(crate) fn host(&self, args: &[&str]) -> Vec<Value> {
        let dir = self.dir().to_str().unwrap();
        let output = run(&[&["host"], args, &["--json", "--dir", dir]].concat());
        let text = stdout(&output);
        let lines = text.lines().map(serde_json::from_str);
        lines.map(Result::unwrap).collect()
    }

    /// Where Entry listens, as `IP:PORT`.
    pub(crate) fn entry(&self) -> &str {
        &self.entry
    }

    /// Where the Entry of a site listens, `a` or `b`.
    pub(crate) fn entry_at(&self, site: &str) -> String {
        let first: u16 = self.entry.rsplit(':').next().unwrap().parse().unwrap();
        address(first + u16::from(site == "b"))
    }

    /// Where the hub of its sites listens.
    pub(crate) fn hub(&self) -> String {
        let config = std::fs::read_to_string(self.config()).unwrap();
        let line = config.lines().find(|line| line.starts_with("hub = "));
        line.unwrap().split('"').nth(1).unwrap().to_owned()
    }

    /// The address of the chat page, with what follows its `?`.
    pub(crate) fn page(&self, query: &str) -> String {
        format!("http://{}/?{query}", self.entry)
    }

    /// Asks Entry over HTTP, as somebody who has no connection; the answer's
    /// JSON, an error's too.
    pub(crate) fn ask(&self, method: &str, body: &Value) -> Value {
        ask(&self.entry, method, body)
    }

    /// The same of the Entry of a site.
    pub(crate) fn ask_at(&self, site: &str, method: &str, body: &Value) -> Value {
        ask(&self.entry_at(site), method, body)
    }

    /// Sends a message over HTTP. It must be new.
    pub(crate) fn post(&self, uid: &str, to: &str, body: &str) {
        post(&self.entry, uid, to, body);
    }

    /// A page of the console.
    pub(crate) fn console(&self, path: &str) -> String {
        exchange(&self.console, &format!("GET {path} HTTP/1.1"), "")
    }

    /// JSON of the console.
    pub(crate) fn json(&self, path: &str) -> Value {
        json_of(&self.console(path))
    }

    /// The process ids of the roles that serve.
    pub(crate) fn pids(&self) -> HashMap<String, u64> {
        let rows = self.json("/api/v1/processes");
        let rows = rows.as_array().unwrap().iter();
        let serving = rows.filter(|row| row["state"] == "healthy");
        serving
            .map(|row| {
                let role = row["role"].as_str().unwrap().to_owned();
                (role, row["pid"].as_u64().unwrap())
            })
            .collect()
    }

    /// The process id of a role, whether it serves or not.
    pub(crate) fn pid(&self, role: &str) -> Option<u64> {
        let rows = self.json("/api/v1/processes");
        let mut rows = rows.as_array().unwrap().iter();
        rows.find(|row| row["role"] == role)?["pid"].as_u64()
    }

    /// Sends a role a signal, such as `KILL`; its process id, for
    /// [`Self::await_successor`].
    pub(crate) fn signal(&self, role: &str, name: &str) -> u64 {
        let pid = self.pids()[role];
        signal(pid, name);
        pid
    }

    /// Waits until another process than `killed` serves as `role`.
    pub(crate) fn await_successor(&self, role: &str, killed: u64) {
        let is_there = || self.pids().get(role).is_some_and(|pid| *pid != killed);
        look_until(&format!("something takes the place of {role}"), is_there);
    }

    /// Kills a role and waits until its successor serves.
    pub(crate) fn kill(&self, role: &str) {
        let killed = self.signal(role, "KILL");
        self.await_successor(role, killed);
    }

    /// Kills the supervisor and starts another on the same directory.
    pub(crate) fn kill_supervisor(&mut self) {
        let up = self.take_up();
        signal(up.pid().into(), "KILL");
        drop(up);
        self.start_up();
    }

    /// The running `up`, to end it; [`Self::start_up`] starts another.
    pub(crate) fn take_up(&mut self) -> Up {
        self.up.take().unwrap()
    }
}

/// Asks the Entry at an address over HTTP; the answer's JSON, an error's too.
pub(crate) fn ask(entry: &str, method: &str, body: &Value) -> Value {
    let body = body.to_string();
    let length = body.len();
    let head = format!("POST /im.Entry/{method} HTTP/1.1\r\ncontent-length: {length}");
    json_of(&exchange(entry, &head, &body))
}

/// Sends a message over HTTP, by the Entry at an address. It must be new; its
/// number.
pub(crate) fn post(entry: &str, uid: &str, to: &str, body: &str) -> u64 {
    let id = format!("{uid} {body}");
    let message = json!({ "uid": uid, "to": to, "clientId": id, "body": body });
    let answer = ask(entry, "Send", &message);
    assert_eq!(answer["duplicate"], Value::Null, "{answer}");
    // Numbers of 64 bits are text in JSON.
    let seq = answer["seq"].as_str().and_then(|seq| seq.parse().ok());
    seq.unwrap_or_else(|| panic!("{answer}"))
}

/// Puts a store into a chat's directory in which ada has [`MANY`]
/// conversations, each with one message: `d:ada:u0000` and so on.
pub(crate) fn with_conversations_of_ada(dir: &Path) {
    let mut store = SqliteStore::open(&dir.join("chat.sqlite")).unwrap();
    let appends = (0..MANY).map(|n| {
        WriteOperation::Append(Append {
            conversation: format!("d:ada:u{n:04}"),
            sender: "ada".to_owned(),
            client_id: "1".to_owned(),
            body: format!("hello, {n}"),
            at_ms: 1_700_000_000_000,
        })
    });
    let results = store.write(appends.collect());
    assert!(results.iter().all(Result::is_ok));
}

/// Sends a process a signal, such as `KILL`.
pub(crate) fn signal(pid: u64, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Waits until something is true of other processes.
#[allow(
    clippy::disallowed_methods,
    reason = "paces the looks at other processes"
)]
pub(crate) fn look_until(what: &str, mut is_true: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if is_true() {
            return;
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    panic!("not so in time: {what}");
}

fn json_of(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// One request over HTTP; the body of its answer.
fn exchange(address: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    write!(
        stream,
        "{head}\r\nhost: x\r\nconnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}
