//! Partitions in the kernel. A proxy that says nothing still accepts connections
//! and acknowledges bytes; a link that is down does neither.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use waystation_test_process::Watchdog;

use crate::proxy::{Mode, Proxy};
use crate::world::{WAIT, now, since};

const NEAR: &str = "waystation0";
const FAR: &str = "waystation1";
const NEAR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const FAR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const NEAR_HARDWARE: &str = "02:00:00:00:00:01";
const FAR_HARDWARE: &str = "02:00:00:00:00:02";

/// Makes the two ends, and goes on as what follows.
const ENTER: &str = r#""$0" link set lo up &&
"$0" link add waystation0 address 02:00:00:00:00:01 type veth \
    peer name waystation1 address 02:00:00:00:00:02 &&
exec "$@""#;

type Way = &'static [&'static str];

/// To a network of one's own: as root, and as anybody else where that is allowed.
const WAYS: [Way; 2] = [&["--net"], &["--map-root-user", "--net"]];

/// A link between where the test is and a place of its own, which can be broken:
/// a pair of interfaces between two network namespaces, or a proxy where the
/// machine allows none.
pub struct Link {
    door: Proxy,
    hole: Proxy,
    far: Option<Far>,
}

/// A network namespace; gone when it is dropped.
struct Far {
    holder: Child,
    _watchdog: Watchdog,
    namespace: File,
    ip: PathBuf,
}

/// Runs a test on a link. In namespaces that is in a process of its own: this
/// program with the name of the test. Where there are none that is said.
///
/// # Panics
/// When the test does.
pub fn on_a_link(test: &str, run: impl FnOnce(&Link)) {
    match find_way() {
        Ok((ip, None)) => run(&Link::between_namespaces(ip)),
        Ok((ip, Some(way))) => run_inside(&ip, way, test),
        Err(reason) => {
            // Past the harness, which shows what a passed test prints to nobody.
            let text = format!("{test}: no network namespaces ({reason}), so by a proxy\n");
            let _ = std::io::stderr().write_all(text.as_bytes());
            run(&Link::by_proxy());
        }
    }
}

/// Where `ip` is, and the way into a network of one's own unless this process is
/// in one.
fn find_way() -> Result<(PathBuf, Option<Way>), String> {
    let places = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].map(Path::new);
    let ip = places.into_iter().find(|place| place.is_file());
    let ip = ip.ok_or("there is no ip")?.to_owned();
    let show = Command::new(&ip).args(["link", "show", NEAR]).output();
    if show.is_ok_and(|shown| shown.status.success()) {
        return Ok((ip, None));
    }
    let mut reason = String::new();
    for way in WAYS {
        let tried = enter(&ip, way).args(["unshare", "--net", "true"]).output();
        let tried = tried.map_err(|error| format!("unshare: {error}"))?;
        if tried.status.success() {
            return Ok((ip, Some(way)));
        }
        String::from_utf8_lossy(&tried.stderr)
            .trim()
            .clone_into(&mut reason);
    }
    Err(reason)
}

fn enter(ip: &Path, way: Way) -> Command {
    let mut command = Command::new("unshare");
    command.args(way).args(["/bin/sh", "-c", ENTER]).arg(ip);
    command
}

/// Runs this test again, where there is one end of a link.
fn run_inside(ip: &Path, way: Way, test: &str) {
    let inside = enter(ip, way)
        .arg(std::env::current_exe().expect("this program has a path"))
        .args([test, "--exact", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("it just did");
    let watchdog = Watchdog::over(&inside);
    let output = inside.wait_with_output().expect("it is a child of ours");
    drop(watchdog);
    let [out, err] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
    let has_passed = output.status.success() && out.contains("test result: ok. 1 passed");
    assert!(has_passed, "in a network namespace: {out}\n{err}");
}

fn run(command: &mut Command) {
    let output = command.output().expect("it is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

impl Link {
    fn by_proxy() -> Self {
        let hole = Proxy::new();
        hole.lead_to(Some(hole.address()));
        hole.set(Mode::BlackHole);
        Self {
            door: Proxy::new(),
            hole,
            far: None,
        }
    }

    fn between_namespaces(ip: PathBuf) -> Self {
        let far = Far::new(ip);
        far.near_ip(&format!("link set {FAR} netns {}", far.holder.id()));
        far.near_ip(&format!("addr add {NEAR_ADDRESS}/24 dev {NEAR}"));
        far.ip(&format!("addr add {FAR_ADDRESS}/24 dev {FAR}"));
        far.ip(&format!("link set {FAR} up"));
        let link = Self {
            door: Proxy::at((NEAR_ADDRESS, 0).into()),
            far: Some(far),
            ..Self::by_proxy()
        };
        link.heal();
        link
    }

    /// A way over the link to this address, which is where the test is.
    pub fn leads_to(&self, address: SocketAddr) -> SocketAddr {
        self.door.lead_to(Some(address));
        self.door.address()
    }

    /// Does something at the far end: what it opens is there, also by threads
    /// that it starts.
    ///
    /// # Panics
    /// When that does.
    pub fn at_far_end<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Some(far) = &self.far else {
            return work();
        };
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                let network = Some(LinkNameSpaceType::Network);
                let moved = move_into_link_name_space(far.namespace.as_fd(), network);
                moved.expect("the namespace is ours");
                work()
            });
            there.join().expect("it is done")
        })
    }

    /// From here on nothing arrives: no answer to a connection that is opened, no
    /// acknowledgement of what is sent.
    pub fn cut(&self) {
        match &self.far {
            None => self.door.set(Mode::BlackHole),
            Some(far) => far.near_ip(&format!("link set {NEAR} down")),
        }
    }

    /// It carries again.
    pub fn heal(&self) {
        let Some(far) = &self.far else {
            return self.door.set(Mode::Pass);
        };
        far.near_ip(&format!("link set {NEAR} up"));
        // Who asks for the other's hardware address and gets no answer knows too
        // much.
        let known = |address, hardware, end| {
            format!("neigh replace {address} lladdr {hardware} nud permanent dev {end}")
        };
        far.near_ip(&known(FAR_ADDRESS, FAR_HARDWARE, NEAR));
        far.ip(&known(NEAR_ADDRESS, NEAR_HARDWARE, FAR));
    }

    /// An address, seen from where the test is, that takes connections in and
    /// says nothing, or not even that.
    pub fn hole(&self) -> SocketAddr {
        match &self.far {
            None => self.hole.address(),
            Some(far) => {
                far.ip(&format!("link set {FAR} down"));
                (FAR_ADDRESS, 9).into()
            }
        }
    }
}

impl Far {
    fn new(ip: PathBuf) -> Self {
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "3600"])
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("it was tried");
        let watchdog = Watchdog::over(&holder);
        let path = format!("/proc/{}/ns/net", holder.id());
        let ours = std::fs::read_link("/proc/self/ns/net").expect("there is /proc");
        let start = now();
        while std::fs::read_link(&path).is_ok_and(|there| there == ours) {
            assert!(since(start) < WAIT, "no namespace of its own");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        Self {
            namespace: File::open(path).expect("the namespace is ours"),
            holder,
            _watchdog: watchdog,
            ip,
        }
    }

    /// There.
    fn ip(&self, words: &str) {
        let namespace = format!("--net=/proc/{}/ns/net", self.holder.id());
        let mut command = Command::new("nsenter");
        run(command.arg(namespace).arg(&self.ip).args(words.split(' ')));
    }

    /// Here.
    fn near_ip(&self, words: &str) {
        run(Command::new(&self.ip).args(words.split(' ')));
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
