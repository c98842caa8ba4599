//! A real etcd, as a process of its own.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;

use tempfile::TempDir;
use waystation_registry::RegistryUrl;
use waystation_test_process::{Watchdog, component};

use crate::fixture::{Ability, Fixture};
use crate::proxy::Proxy;

/// Starts before it is given up: the port may be taken in between.
const STARTS: usize = 5;

/// Keys that are written at once, of the 128 that a server takes.
const TXN_OPS_MAX: usize = 100;

/// One member of etcd, behind two proxies: one that always passes, so that its
/// address is the same over restarts, and one for faults.
pub struct Etcd {
    folder: TempDir,
    server: Option<Server>,
    door: Proxy,
    faulty: Proxy,
}

/// Three members of etcd, of which two are enough.
pub struct EtcdCluster {
    folder: TempDir,
    program: PathBuf,
    seats: Vec<Seat>,
    servers: Vec<Option<Server>>,
}

/// A running etcd; killed with SIGKILL when it is dropped.
struct Server {
    child: Child,
    _watchdog: Watchdog,
    address: SocketAddr,
    /// Reads what it says, so that it never waits for that.
    reader: Option<JoinHandle<()>>,
}

/// Where etcd's program is: as `cargo xtask test` says, or where Debian has it.
/// Nothing when it is missing, which is said, and a failure with `CI=true`.
///
/// # Panics
/// When it is missing with `CI=true`.
pub fn etcd_program() -> Option<PathBuf> {
    component::find("etcd", "/usr/bin/etcd")
}

/// Where a member is, and who the others are.
struct Seat {
    name: String,
    client: SocketAddr,
    /// Where it listens for other members, and where they are told it does.
    peer_listen: String,
    peer: String,
    /// All members, as etcd wants them.
    cluster: String,
}

/// An etcd that may not be ready.
struct Starting {
    server: Server,
    lines: Lines<BufReader<ChildStderr>>,
}

fn free_address() -> SocketAddr {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    free.local_addr().expect("it is bound")
}

impl Seat {
    /// Of a member without others: its port for them is of no use to anybody.
    fn alone() -> Self {
        let peer = "http://127.0.0.1:1";
        Self {
            name: "t".to_owned(),
            client: free_address(),
            peer_listen: "http://127.0.0.1:0".to_owned(),
            peer: peer.to_owned(),
            cluster: format!("t={peer}"),
        }
    }
}

impl Starting {
    fn new(program: &Path, data: &Path, seat: &Seat) -> Self {
        let url = format!("http://{}", seat.client);
        let mut child = Command::new(program)
            .args(["--name", &seat.name, "--data-dir"])
            .arg(data)
            .args(["--listen-client-urls", &url])
            .args(["--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &seat.peer_listen])
            .args(["--initial-advertise-peer-urls", &seat.peer])
            .args(["--initial-cluster", &seat.cluster])
            // An election at each start takes as long as this.
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcd runs");
        let watchdog = Watchdog::over(&child);
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let server = Server {
            child,
            _watchdog: watchdog,
            address: seat.client,
            reader: None,
        };
        Self { server, lines }
    }

    /// Waits until it serves; `None` when it ended instead.
    fn ready(self) -> Option<Server> {
        let Self {
            mut server,
            mut lines,
        } = self;
        let is_ready = |line: &String| line.contains("ready to serve client requests");
        lines.by_ref().map_while(Result::ok).find(is_ready)?;
        let reader = std::thread::Builder::new().name("etcd".to_owned());
        let reader = reader.spawn(move || lines.map_while(Result::ok).for_each(drop));
        server.reader = Some(reader.expect("a thread"));
        Some(server)
    }
}

impl Server {
    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl Etcd {
    /// Asks etcd's own gateway from JSON to its calls, as an operator would by
    /// other tools.
    fn ask(&self, path: &str, body: &str) -> String {
        let server = self.server.as_ref().expect("it runs");
        let mut stream = TcpStream::connect(server.address).expect("a connection");
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: etcd\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("it is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it is text");
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        answer
    }

    /// Where the server is, by no proxy.
    ///
    /// # Panics
    /// When it is not started.
    pub fn server(&self) -> SocketAddr {
        self.server.as_ref().expect("it runs").address
    }

    /// Writes a key, past every client.
    pub fn write(&self, key: &str, value: &str) {
        let body = format!(
            r#"{{"key":"{}","value":"{}"}}"#,
            base64(key.as_bytes()),
            base64(value.as_bytes())
        );
        self.ask("/v3/kv/put", &body);
    }

    /// Writes instances, each an id and a text, past every client.
    ///
    /// # Panics
    /// When the server does not.
    pub fn write_all(&self, instances: &[(String, String)]) {
        let put = |(id, text): &(String, String)| {
            let key = base64(format!("/suite/instances/{id}").as_bytes());
            let value = base64(text.as_bytes());
            format!(r#"{{"requestPut":{{"key":"{key}","value":"{value}"}}}}"#)
        };
        for some in instances.chunks(TXN_OPS_MAX) {
            let puts: Vec<String> = some.iter().map(put).collect();
            let body = format!(r#"{{"success":[{}]}}"#, puts.join(","));
            self.ask("/v3/kv/txn", &body);
        }
    }

    /// Deletes a key, past every client.
    pub fn delete(&self, key: &str) {
        let body = format!(r#"{{"key":"{}"}}"#, base64(key.as_bytes()));
        self.ask("/v3/kv/deleterange", &body);
    }

    /// Deletes all keys, past every client.
    pub fn delete_all(&self) {
        let all = base64(&[0]);
        let body = format!(r#"{{"key":"{all}","range_end":"{all}"}}"#);
        self.ask("/v3/kv/deleterange", &body);
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &str) -> Option<String> {
        let body = format!(r#"{{"key":"{}"}}"#, base64(key.as_bytes()));
        let answer = self.ask("/v3/kv/range", &body);
        let value = answer.split("\"value\":\"").nth(1)?;
        let bytes = from_base64(value.split('"').next()?);
        Some(String::from_utf8(bytes).expect("it is text"))
    }

    /// Has it say that its disk is full, and take nothing more; or take back that
    /// it is.
    pub fn set_full(&self, is_full: bool) {
        let action = if is_full { "ACTIVATE" } else { "DEACTIVATE" };
        let body = format!(r#"{{"action":"{action}","memberID":"0","alarm":"NOSPACE"}}"#);
        self.ask("/v3/maintenance/alarm", &body);
    }

    /// Forgets all that was before the present revision.
    pub fn compact(&self) {
        let body = format!(r#"{{"key":"{}"}}"#, base64(b"/"));
        let answer = self.ask("/v3/kv/range", &body);
        let number = answer.split("\"revision\":\"").nth(1).expect("a header");
        let number = number.split('"').next().expect("a number");
        let body = format!(r#"{{"revision":"{number}","physical":true}}"#);
        self.ask("/v3/kv/compaction", &body);
    }
}

impl EtcdCluster {
    /// Starts all three.
    ///
    /// # Panics
    /// When they cannot be started.
    pub fn new(program: PathBuf) -> Self {
        let mut cluster = Self {
            folder: tempfile::tempdir().expect("a folder"),
            program,
            seats: Vec::new(),
            servers: Vec::new(),
        };
        for _ in 0..STARTS {
            cluster.seats = seats();
            let starting: Vec<Starting> = (0..3).map(|member| cluster.begin(member)).collect();
            cluster.servers = starting.into_iter().map(Starting::ready).collect();
            if cluster.servers.iter().all(Option::is_some) {
                return cluster;
            }
            cluster.servers.clear();
            cluster.folder = tempfile::tempdir().expect("a folder");
        }
        panic!("no ports for three members in {STARTS} tries");
    }

    fn begin(&self, member: usize) -> Starting {
        let seat = &self.seats[member];
        Starting::new(&self.program, &self.folder.path().join(&seat.name), seat)
    }

    /// Kills a member.
    pub fn kill(&mut self, member: usize) {
        self.servers[member] = None;
    }

    /// Starts a member again.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&mut self, member: usize) {
        let server = self.begin(member).ready();
        self.servers[member] = Some(server.expect("it starts again"));
    }

    /// Where all of them are.
    ///
    /// # Panics
    /// Never: it is a URL.
    pub fn url(&self) -> RegistryUrl {
        let hosts = self.seats.iter().map(|seat| seat.client.to_string());
        let hosts: Vec<String> = hosts.collect();
        let url = format!("etcd://{}/suite", hosts.join(","));
        url.parse().expect("it is a URL")
    }
}

/// The places of three members.
fn seats() -> Vec<Seat> {
    let peers: Vec<String> = (0..3)
        .map(|_| format!("http://{}", free_address()))
        .collect();
    let named = peers.iter().enumerate();
    let named: Vec<String> = named.map(|(at, peer)| format!("m{at}={peer}")).collect();
    let seat = |(at, peer): (usize, &String)| Seat {
        name: format!("m{at}"),
        client: free_address(),
        peer_listen: peer.clone(),
        peer: peer.clone(),
        cluster: named.join(","),
    };
    peers.iter().enumerate().map(seat).collect()
}

fn url(proxy: &Proxy) -> RegistryUrl {
    let url = format!("etcd://{}/suite", proxy.address());
    url.parse().expect("it is a URL")
}

impl Fixture for Etcd {
    const NAME: &'static str = "etcd";
    const ABILITIES: &'static [Ability] = &[
        Ability::Register,
        Ability::Network,
        Ability::Holders,
        Ability::Epochs,
    ];

    fn new(_program: &Path, _is_alone: bool) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            server: None,
            door: Proxy::new(),
            faulty: Proxy::new(),
        }
    }

    fn start(&mut self) {
        let program = etcd_program().expect("the suite runs only where etcd is");
        let data = self.data();
        let start = |_| Starting::new(&program, &data, &Seat::alone()).ready();
        let mut starts = (0..STARTS).filter_map(start);
        let server = starts.next().expect("etcd starts");
        self.door.lead_to(Some(server.address));
        self.faulty.lead_to(Some(server.address));
        self.server = Some(server);
    }

    fn kill(&mut self) {
        self.door.lead_to(None);
        self.faulty.lead_to(None);
        self.server = None;
    }

    fn url(&self) -> RegistryUrl {
        url(&self.door)
    }

    fn proxied_url(&self) -> RegistryUrl {
        url(&self.faulty)
    }

    fn proxy(&self) -> &Proxy {
        &self.faulty
    }

    fn wipe(&mut self) {
        self.delete_all();
    }

    fn add_foreign(&mut self) -> Vec<&'static str> {
        let places = ["/suite/somebody/else", "/suite/instances/bad-1"];
        self.write(places[0], "was here");
        self.write(places[1], "{");
        places.into()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 as in RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let is_there = place <= three.len();
            let digit = (bits >> (18 - 6 * place)) as usize & 63;
            text.push(if is_there {
                char::from(DIGITS[digit])
            } else {
                '='
            });
        }
    }
    text
}

fn from_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').collect();
    for four in digits.chunks(4) {
        let digit = |byte: &u8| {
            let place = DIGITS.iter().position(|one| one == byte);
            u32::try_from(place.expect("a digit")).expect("one of 64")
        };
        let bits = four.iter().fold(0, |bits, byte| bits << 6 | digit(byte));
        let bits = bits << (6 * (4 - four.len()));
        let count = four.len() * 6 / 8;
        bytes.extend(&bits.to_be_bytes()[1..=count]);
    }
    bytes
}
