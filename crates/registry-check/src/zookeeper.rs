//! A real `ZooKeeper`, as processes of its own.

mod ensemble;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use waystation_registry::RegistryUrl;
use waystation_test_process::{Watchdog, component};
use zookeeper_client as zk;

use crate::fixture::{Ability, Fixture};
use crate::proxy::Proxy;
use crate::world::{WAIT, now, since};

pub use ensemble::Ensemble;

const JAR: &str = "/usr/share/java/zookeeper.jar";

/// Starts before it is given up: the port may be taken in between.
const STARTS: usize = 5;

/// Nodes that are written at once, below the megabyte that a server takes.
const MULTI_NODES: usize = 500;

/// Whether `ZooKeeper` is installed. When it is not that is said, and a failure
/// with `CI=true`.
///
/// # Panics
/// When it is missing with `CI=true`.
pub fn has_zookeeper() -> bool {
    component::find("zookeeper", "/usr/share/zookeeper/bin/zkServer.sh").is_some()
}

/// A server of its own, or the one that all cases share which do not kill it; a
/// root of its own in any case. It is behind two proxies: one that always passes,
/// so that its address is the same over restarts, and one for faults.
pub struct ZooKeeper {
    server: Option<Server>,
    is_alone: bool,
    folder: TempDir,
    door: Proxy,
    faulty: Proxy,
    root: String,
    /// Where the server is.
    address: Option<SocketAddr>,
}

/// What stands at a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// What it holds.
    pub text: String,
    /// The transaction that made it.
    pub czxid: i64,
    /// The session that it lives with; zero if it stays.
    pub session: i64,
}

/// The shared server and how many use it; it ends with the last of them.
static SHARED: Mutex<(Option<Server>, usize)> = Mutex::new((None, 0));
static ROOTS: AtomicU32 = AtomicU32::new(0);

/// A running server; killed with SIGKILL when it is dropped.
struct Server {
    process: Child,
    _watchdog: Watchdog,
    address: SocketAddr,
    /// Its data, if it is to go with it.
    folder: Option<TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        drop(self.folder.take());
    }
}

fn free_port() -> u16 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    free.local_addr().expect("it is bound").port()
}

/// Starts a server in a folder, on a port for its clients and with more lines of
/// configuration.
fn spawn(folder: &Path, port: u16, more: &str) -> Server {
    let config = format!(
        "tickTime=500\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
         admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n{more}",
        folder.join("data").display()
    );
    let config_path = folder.join("zoo.cfg");
    std::fs::write(&config_path, config).expect("a file");
    let log = std::fs::File::create(folder.join("log")).expect("a file");
    let process = Command::new("java")
        .args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .args(["-cp", &format!("{}:{JAR}", folder.display())])
        // It tells of a cluster only by the second of these.
        .arg(if more.is_empty() {
            "org.apache.zookeeper.server.ZooKeeperServerMain"
        } else {
            "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        })
        .arg(&config_path)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file"))
        .stderr(log)
        .spawn()
        .expect("java runs");
    Server {
        _watchdog: Watchdog::over(&process),
        process,
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        folder: None,
    }
}

/// Waits until a server serves; `None` when it ended instead.
fn ready(mut server: Server) -> Option<Server> {
    let start = now();
    while since(start) < WAIT && !matches!(server.process.try_wait(), Ok(Some(_))) {
        // Its first words are of another kind while there is no quorum.
        if ask(server.address, "srvr").is_some_and(|text| text.contains("Mode:")) {
            return Some(server);
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    None
}

/// What a server answers to one of its four-letter words.
fn ask(address: SocketAddr, word: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(word.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn start(folder: &Path) -> Server {
    let mut starts = (0..STARTS).filter_map(|_| ready(spawn(folder, free_port(), "")));
    starts.next().unwrap_or_else(|| {
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        panic!("{JAR} does not start: {log}")
    })
}

/// Runs what a client starts on the present runtime.
struct OnTokio;

impl spawns_core::Spawn for OnTokio {
    fn spawn(&self, task: spawns_core::Task) {
        tokio::spawn(Box::into_pin(task.future));
    }
}

/// Does something at a server as any other client would.
fn with_client<T>(address: SocketAddr, work: impl AsyncFnOnce(&zk::Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let spawner = OnTokio;
    let _scope = spawns_core::enter(&spawner);
    runtime.expect("an event loop").block_on(async {
        let client = zk::Client::connect(&address.to_string()).await;
        work(&client.expect("it connects")).await
    })
}

impl ZooKeeper {
    fn url_by(&self, address: SocketAddr) -> RegistryUrl {
        let url = format!("zookeeper://{address}{}", self.root);
        url.parse().expect("it is a URL")
    }

    fn address(&self) -> SocketAddr {
        self.address.expect("it runs")
    }

    fn path(&self, place: &str) -> String {
        format!("{}/{place}", self.root)
    }

    /// Writes a node below the root that stays, past every client.
    ///
    /// # Panics
    /// When the server does not.
    pub fn write(&self, place: &str, text: &str) {
        let path = self.path(place);
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        with_client(self.address(), async |client| {
            let folder = path.rsplit_once('/').expect("it has a folder").0;
            client.mkdir(folder, &options).await.expect("a folder");
            match client.create(&path, text.as_bytes(), &options).await {
                Err(zk::Error::NodeExists) => {
                    let written = client.set_data(&path, text.as_bytes(), None).await;
                    written.map(drop).expect("it is written");
                }
                made => made.map(drop).expect("it is made"),
            }
        });
    }

    /// Writes instances, each an id and a text, as nodes that stay, past every
    /// client. Either all of them are new, or none is.
    ///
    /// # Panics
    /// When the server does not.
    pub fn write_all(&self, instances: &[(String, String)]) {
        let folder = self.path("instances");
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        with_client(self.address(), async |client| {
            client.mkdir(&folder, &options).await.expect("a folder");
            let (_, stat) = client.get_data(&folder).await.expect("it is there");
            for some in instances.chunks(MULTI_NODES) {
                let mut writer = client.new_multi_writer();
                for (id, text) in some {
                    let path = format!("{folder}/{id}");
                    let added = if stat.num_children == 0 {
                        writer.add_create(&path, text.as_bytes(), &options)
                    } else {
                        writer.add_set_data(&path, text.as_bytes(), None)
                    };
                    added.expect("it is a path");
                }
                writer.commit().await.map(drop).expect("it is written");
            }
        });
    }

    /// Whether clients may delete what is in that folder.
    ///
    /// # Panics
    /// When the server does not say so.
    pub fn allow_deletes(&self, folder: &str, may_delete: bool) {
        let path = self.path(folder);
        let all = zk::Permission::ALL;
        let others = zk::Permission::READ | zk::Permission::WRITE;
        let others = others | zk::Permission::CREATE | zk::Permission::ADMIN;
        let allowed = if may_delete { all } else { others };
        let acl = [zk::Acl::new(allowed, zk::AuthId::anyone())];
        with_client(self.address(), async |client| {
            let set = client.set_acl(&path, &acl, None).await;
            set.map(drop).expect("it is set");
        });
    }

    /// Deletes a node below the root, past every client.
    ///
    /// # Panics
    /// When the server does not.
    pub fn delete(&self, place: &str) {
        let path = self.path(place);
        with_client(self.address(), async |client| {
            client.delete(&path, None).await.expect("it is deleted");
        });
    }

    /// What stands below the root, if anything does; or why it is not told.
    ///
    /// # Errors
    /// What the server says.
    pub fn get(&self, place: &str) -> Result<Option<Stand>, String> {
        let path = self.path(place);
        with_client(self.address(), async |client| {
            match client.get_data(&path).await {
                Ok((data, stat)) => Ok(Some(Stand {
                    text: String::from_utf8(data).expect("it is text"),
                    czxid: stat.czxid,
                    session: stat.ephemeral_owner,
                })),
                Err(zk::Error::NoNode) => Ok(None),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    /// Where the server is, by no proxy.
    ///
    /// # Panics
    /// When it is not started.
    pub fn server(&self) -> SocketAddr {
        self.address()
    }
}

impl Fixture for ZooKeeper {
    const NAME: &'static str = "zookeeper";
    const ABILITIES: &'static [Ability] = &[
        Ability::Register,
        Ability::Network,
        Ability::Holders,
        Ability::Epochs,
    ];
    const AT_ONCE: usize = 4;

    fn new(_program: &Path, is_alone: bool) -> Self {
        let number = ROOTS.fetch_add(1, Ordering::Relaxed);
        Self {
            server: None,
            is_alone,
            folder: tempfile::tempdir().expect("a folder"),
            door: Proxy::new(),
            faulty: Proxy::new(),
            root: format!("/check/{number}"),
            address: None,
        }
    }

    fn start(&mut self) {
        let address = if self.is_alone {
            let server = start(self.folder.path());
            let address = server.address;
            self.server = Some(server);
            address
        } else {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            shared.1 += 1;
            let server = shared.0.get_or_insert_with(|| {
                let folder = tempfile::tempdir().expect("a folder");
                let mut server = start(folder.path());
                server.folder = Some(folder);
                server
            });
            server.address
        };
        self.address = Some(address);
        self.door.lead_to(Some(address));
        self.faulty.lead_to(Some(address));
    }

    fn kill(&mut self) {
        assert!(self.is_alone, "others use the server");
        self.door.lead_to(None);
        self.faulty.lead_to(None);
        self.server = None;
    }

    fn url(&self) -> RegistryUrl {
        self.url_by(self.door.address())
    }

    fn proxied_url(&self) -> RegistryUrl {
        self.url_by(self.faulty.address())
    }

    fn proxy(&self) -> &Proxy {
        &self.faulty
    }

    fn wipe(&mut self) {
        let folder = self.path("instances");
        with_client(self.address(), async |client| {
            loop {
                let names = client.list_children(&folder).await;
                for name in names.unwrap_or_default() {
                    // One that its owner takes out meanwhile is out.
                    let _ = client.delete(&format!("{folder}/{name}"), None).await;
                }
                // Owners come back while this is going on.
                match client.delete(&folder, None).await {
                    Err(zk::Error::NotEmpty) => {}
                    deleted => return deleted.expect("it is deleted"),
                }
            }
        });
    }

    fn add_foreign(&mut self) -> Vec<&'static str> {
        let places = ["instances/somebody~else", "instances/bad-1"];
        self.write(places[0], "was here");
        self.write(places[1], "{");
        places.into()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        if !self.is_alone && self.address.is_some() {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            shared.1 -= 1;
            if shared.1 == 0 {
                shared.0 = None;
            }
        }
    }
}
