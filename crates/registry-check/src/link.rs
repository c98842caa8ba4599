//! Partitions in the kernel. A proxy that says nothing still accepts connections
//! and acknowledges bytes; a link that is down does neither.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use waystation_test_process::Watchdog;
use waystation_test_process::namespace::{self, Namespaces};

use crate::proxy::{Mode, Proxy};
use crate::world::{WAIT, now, since};

const NEAR: &str = "waystation0";
const FAR: &str = "waystation1";
const NEAR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const FAR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const NEAR_HARDWARE: &str = "02:00:00:00:00:01";
const FAR_HARDWARE: &str = "02:00:00:00:00:02";

/// Makes the two ends, and sees whether there can be another network for one of them.
const SETUP: &str = r#""$0" link set lo up &&
"$0" link add waystation0 address 02:00:00:00:00:01 type veth \
    peer name waystation1 address 02:00:00:00:00:02 &&
unshare --net true"#;

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
/// program with the name of the test. Where there are none that is said, and a
/// failure with `CI=true`.
///
/// # Panics
/// When the test does, or when there are no namespaces with `CI=true`.
pub fn on_a_link(test: &str, run: impl FnOnce(&Link)) {
    if namespace::is_inside() {
        let ip = namespace::ip().expect("it made the link");
        return run(&Link::between_namespaces(ip));
    }
    match Namespaces::find(SETUP) {
        Ok(namespaces) => namespaces.again(SETUP, test).passes(),
        Err(reason) => {
            let why = format!("{test}: no network namespaces ({reason}), so by a proxy");
            namespace::say(&why);
            run(&Link::by_proxy());
        }
    }
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
