//! `waystation registry` and `waystation node` as a user runs them.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use common::chat::look_until;
use common::role::{Process, metric};
use common::{run, stderr, stdout, waystation};
use waystation_base::ServiceName;
use waystation_membership::Watch;
use waystation_registry::{Acks, Client, Registry as _, WatchOptions};
use waystation_registry_check::{Fixture, ZooKeeper, has_zookeeper};
use waystation_test_process::Watchdog;

/// Looks until something is gone.
const LOOKS: u32 = 600;

/// A running command, killed when it is dropped.
struct Running {
    child: Child,
    _watchdog: Watchdog,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut child = waystation(args).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self {
            _watchdog: Watchdog::over(&child),
            child,
            out,
        }
    }

    /// Its next line; empty at its end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(kill.unwrap().success());
    }

    /// Waits for the end; returns the exit code and what else it printed.
    fn wait(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A registry on a port and a directory of its own.
struct Registry {
    process: Running,
    url: String,
    folder: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), &[])
    }

    fn start_with(folder: tempfile::TempDir, more: &[&str]) -> Self {
        let (process, url) = Self::serve_with(&folder, "127.0.0.1:0", more);
        Self {
            process,
            url,
            folder,
        }
    }

    fn serve(folder: &tempfile::TempDir, listen: &str) -> (Running, String) {
        Self::serve_with(folder, listen, &[])
    }

    fn serve_with(folder: &tempfile::TempDir, listen: &str, more: &[&str]) -> (Running, String) {
        let dir = folder.path().to_str().unwrap();
        let args = ["registry", "serve", "--dir", dir, "--listen", listen];
        let mut process = Running::start(&[&args, more].concat());
        let line = process.line();
        let url = line
            .strip_prefix("ready ")
            .unwrap_or_else(|| panic!("{line:?}"));
        (process, url.to_owned())
    }

    fn node(&self, args: &[&str]) -> std::process::Output {
        run(&self.args(args))
    }

    fn start_node(&self, args: &[&str]) -> Running {
        Running::start(&self.args(args))
    }

    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [&["node"], args, &["--registry", &self.url]].concat()
    }
}

#[test]
fn a_node_is_registered_listed_watched_and_drained_by_a_signal() {
    let registry = Registry::start();
    let mut watch = registry.start_node(&["watch", "im.logic", "--json"]);
    let register = [
        "register",
        "im.logic",
        "127.0.0.1:7100",
        "--id",
        "logic-1",
        "--site",
        "hel",
        "--zone",
        "hel-1",
    ];
    let mut node = registry.start_node(&register);
    let line = node.line();
    let is_it =
        line.starts_with("logic-1 of im.logic is registered at 127.0.0.1:7100 under token ");
    assert!(is_it, "{line}");

    let added = watch.line();
    assert!(
        added.contains(r#""change":"added""#) && added.contains(r#""id":"logic-1""#),
        "{added}"
    );
    let list = registry.node(&["list"]);
    assert_eq!(list.status.code(), Some(0));
    let text = stdout(&list);
    assert!(
        text.starts_with(
            "service   id       address         state    weight  site  zone   token\n"
        ),
        "{text}"
    );
    assert!(
        text.contains("im.logic  logic-1  127.0.0.1:7100  serving  100     hel   hel-1"),
        "{text}"
    );
    let json = stdout(&registry.node(&["list", "im.*", "--json"]));
    assert!(json.starts_with(r#"{"id":"logic-1","service":"im.logic","address":"127.0.0.1:7100""#));
    assert_eq!(stdout(&registry.node(&["list", "im.das", "--json"])), "");
    let holders = stdout(&registry.node(&["list", "im.logic", "--holders", "--json"]));
    assert!(holders.contains(r#""peer":"127.0.0.1:"#), "{holders}");

    node.signal("TERM");
    let (code, rest) = node.wait();
    assert_eq!(code, Some(0), "{rest}");
    assert!(
        rest.starts_with("logic-1 of im.logic is draining\n"),
        "{rest}"
    );
    let changes: Vec<String> = (0..2).map(|_| watch.line()).collect();
    assert!(changes[0].contains(r#""state":"draining""#), "{changes:?}");
    assert!(changes[1].contains(r#""change":"removed""#), "{changes:?}");
    assert_eq!(stdout(&registry.node(&["list", "--json"])), "");
}

#[test]
fn a_node_is_drained_by_an_operator_and_its_process_ends() {
    let registry = Registry::start();
    let mut node = registry.start_node(&["register", "a", "127.0.0.1:7100", "--id", "a-1"]);
    assert!(node.line().starts_with("a-1 of a is registered"));
    let drain = registry.node(&["drain", "a-1", "--json"]);
    assert_eq!(drain.status.code(), Some(0), "{}", stderr(&drain));
    let text = stdout(&drain);
    assert!(
        text.ends_with("{\"behind\":[],\"id\":\"a-1\",\"service\":\"a\",\"state\":\"out\"}\n"),
        "{text}"
    );
    let (code, rest) = node.wait();
    assert_eq!(code, Some(0), "{rest}");
    let again = registry.node(&["drain", "a-1"]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(stderr(&again), "error: no instance a-1 is registered\n");
}

/// A drain stood still, and nobody could tell who held it up.
#[test]
fn who_holds_up_a_drain_is_named_with_the_version_that_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("waystation.toml");
    // Far longer than the test takes.
    std::fs::write(&config, "[registry]\ndrain_ack_ms = 600000\n").unwrap();
    let config = config.to_str().unwrap();
    let registry = Registry::start_with(folder, &["--config", config]);
    let mut node = registry.start_node(&["register", "a", "127.0.0.1:7100", "--id", "a-1"]);
    assert!(node.line().starts_with("a-1 of a is registered"));
    let client = Client::open(&registry.url.parse().unwrap()).unwrap();
    let options = WatchOptions {
        acks: Acks::ByCaller,
        ..WatchOptions::default()
    };
    let service: ServiceName = "a".parse().unwrap();
    let slow = client.watch(Watch::Service(service.clone()), options);
    let slow = slow.unwrap();
    let wait = Duration::from_secs(30);
    let view = slow.wait_view("a", wait, |view| !view.instances.is_empty());
    let seen = view.unwrap().at;
    slow.acknowledge(&service, seen);

    let drain = registry.node(&["drain", "a-1", "--wait", "1"]);
    assert_eq!(drain.status.code(), Some(1));
    let text = stdout(&drain);
    assert!(text.contains("not acknowledged by 127.0.0.1:"), "{text}");
    let holders = stdout(&registry.node(&["list", "a", "--holders", "--json"]));
    let subscriber = slow.subscriber().to_string();
    let own = holders.lines().find(|line| line.contains(&subscriber));
    let own: serde_json::Value = serde_json::from_str(own.expect(&holders)).unwrap();
    assert_eq!(own["seen"], seen.to_string(), "{holders}");
    assert_ne!(own["sent"], own["seen"], "{holders}");

    let view = slow.wait_view("a", wait, |view| view.at > seen);
    slow.acknowledge(&service, view.unwrap().at);
    assert_eq!(node.wait().0, Some(0), "it goes on with its word");
}

/// A registry that was killed dropped every node when it came back. Here the node
/// is killed before, so that only what was stored can bring it back, until its
/// lease is over.
#[test]
fn a_killed_registry_has_its_nodes_when_it_is_back() {
    let registry = Registry::start();
    let register = ["register", "a", "127.0.0.1:7100", "--id", "a-1"];
    let mut node = registry.start_node(&[&register[..], &["--ttl", "2", "--json"]].concat());
    assert!(node.line().contains(r#""event":"registered""#));
    let listen = registry.url.strip_prefix("embedded://").unwrap().to_owned();
    node.signal("KILL");
    assert_eq!(node.wait().0, None);
    registry.process.signal("KILL");
    assert_eq!(registry.process.wait().0, None);
    let (_process, url) = Registry::serve(&registry.folder, &listen);
    let listed = || {
        let list = run(&["node", "list", "--json", "--registry", &url]);
        stdout(&list).contains(r#""id":"a-1""#)
    };
    assert!(listed(), "it is there until its lease is over");
    let looks = (0..LOOKS).find(|_| {
        std::thread::park_timeout(Duration::from_millis(50));
        !listed()
    });
    assert!(looks.is_some(), "it is there for ever");
}

/// Story: a registry was restored from an old backup, and a line in its log was all
/// that said so.
#[test]
fn a_registry_from_an_old_backup_is_told_to_who_looks() {
    let registry = Registry::start();
    let listen = registry.url.strip_prefix("embedded://").unwrap().to_owned();
    let state = registry.folder.path().join("registry");
    let kept = ["epoch", "instances.jsonl"].map(|name| state.join(name));
    let old = kept.each_ref().map(|path| std::fs::read(path).unwrap());
    let said = registry.folder.path().join("said");
    let mut watch = waystation(&["node", "watch", "--registry", &registry.url]);
    watch.stdout(Stdio::piped());
    watch.stderr(std::fs::File::create(&said).unwrap());
    let mut watch = Process::new(&mut watch);
    let mut shows = |what: &str| {
        loop {
            let line = watch.first_line();
            assert!(!line.is_empty(), "it ended before {what:?}");
            if line.starts_with(what) {
                break;
            }
        }
    };
    registry.process.signal("KILL");
    assert_eq!(registry.process.wait().0, None);
    // Who watches hears of later epochs than the backup knows.
    for id in ["a-1", "a-2"] {
        let (process, url) = Registry::serve(&registry.folder, &listen);
        let args = [
            "node",
            "register",
            "a",
            "127.0.0.1:7101",
            "--registry",
            &url,
        ];
        let mut node = Running::start(&[&args[..], &["--id", id]].concat());
        assert!(node.line().starts_with(&format!("{id} of a is registered")));
        shows(&format!("+ a {id} "));
        process.signal("KILL");
        assert_eq!(process.wait().0, None);
    }
    for (path, old) in kept.iter().zip(old) {
        std::fs::write(path, old).unwrap();
    }
    let (_process, _) = Registry::serve(&registry.folder, &listen);
    look_until("who watches is told", || {
        let said = std::fs::read_to_string(&said).unwrap();
        said.contains("the registry went back to an old state: epoch ")
    });
    let socket = registry.folder.path().join("run/registry-1.sock");
    assert!(metric(&socket, "waystation_registry_was_old_total") >= 1.0);
}

#[test]
fn what_the_registry_prints_is_a_registry() {
    let registry = Registry::start();
    let mut node = registry.start_node(&["register", "a", "127.0.0.1:7100", "--id", "a-1"]);
    assert!(node.line().starts_with("a-1 of a is registered"));
    let json = stdout(&registry.node(&["list", "--json"]));
    let path = registry.folder.path().join("nodes.jsonl");
    std::fs::write(&path, &json).unwrap();
    let url = format!("file://{}", path.display());
    assert_eq!(
        stdout(&run(&["node", "list", "--json", "--registry", &url])),
        json
    );
    let register = run(&[
        "node",
        "register",
        "a",
        "127.0.0.1:7101",
        "--registry",
        &url,
    ]);
    assert_eq!(register.status.code(), Some(2));
    assert!(
        stderr(&register).contains("takes no registrations"),
        "{}",
        stderr(&register)
    );
}

#[test]
fn a_duplicate_id_is_told_where_the_holder_is() {
    let registry = Registry::start();
    let mut first = registry.start_node(&["register", "a", "127.0.0.1:7100", "--id", "a-1"]);
    assert!(first.line().starts_with("a-1 of a is registered"));
    let mut second = registry.start_node(&["register", "a", "127.0.0.1:7101", "--id", "a-1"]);
    let line = second.line();
    assert!(
        line.starts_with("a-1 of a is refused: the id is held by owner "),
        "{line}"
    );
    assert!(line.ends_with(" at 127.0.0.1:7100; trying again"), "{line}");
    // Who was never registered said that it drained, for a quarter of a minute, and
    // then that the registry had not confirmed it.
    second.signal("TERM");
    assert_eq!(second.wait(), (Some(1), String::new()));
    let list = stdout(&registry.node(&["list", "a"]));
    assert!(list.contains("127.0.0.1:7100  serving"), "{list}");
}

#[test]
fn two_registries_do_not_share_a_directory() {
    let registry = Registry::start();
    let dir = registry.folder.path().to_str().unwrap();
    let second = run(&["registry", "serve", "--dir", dir, "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains("error: another server runs on "),
        "{}",
        stderr(&second)
    );
}

/// The same commands with a registry in `ZooKeeper`.
#[test]
fn needs_zookeeper_a_node_is_registered_listed_and_drained_there() {
    if !has_zookeeper() {
        return;
    }
    let mut server = ZooKeeper::new(std::path::Path::new(""), true);
    server.start();
    let url = format!("zookeeper://{}/test", server.server());
    let register = [
        "node",
        "register",
        "im.logic",
        "10.0.0.1:7000",
        "--id",
        "logic-1",
    ];
    let mut node = Running::start(&[&register[..], &["--registry", &url]].concat());
    let line = node.line();
    assert!(line.contains("is registered at 10.0.0.1:7000"), "{line}");
    let list = run(&["node", "list", "im.logic", "--json", "--registry", &url]);
    assert!(stdout(&list).contains("\"logic-1\""), "{}", stderr(&list));
    let mut watch = Running::start(&["node", "watch", "im.*", "--registry", &url]);
    let line = watch.line();
    assert!(line.starts_with("+ im.logic logic-1 "), "{line}");
    let drain = run(&["node", "drain", "logic-1", "--registry", &url]);
    assert_eq!(drain.status.code(), Some(0), "{}", stderr(&drain));
    assert_eq!(node.wait().0, Some(0));
    let list = run(&["node", "list", "im.logic", "--json", "--registry", &url]);
    assert_eq!(stdout(&list), "");
}

/// On the way from one registry to another both are named: the node is in both,
/// and who asks both sees it once.
#[test]
fn a_node_is_in_two_registries_at_once() {
    let (first, second) = (Registry::start(), Registry::start());
    let both = ["--registry", &first.url, "--registry", &second.url];
    let register = [
        "node",
        "register",
        "im.logic",
        "10.0.0.1:7000",
        "--id",
        "logic-1",
    ];
    let mut node = Running::start(&[&register[..], &both].concat());
    assert!(node.line().contains("is registered"));
    for registry in [&first, &second] {
        let mut watch = registry.start_node(&["watch", "im.logic"]);
        let line = watch.line();
        assert!(line.starts_with("+ im.logic logic-1 "), "{line}");
    }
    let list = run(&[&["node", "list", "--json"][..], &both].concat());
    assert_eq!(list.status.code(), Some(0), "{}", stderr(&list));
    assert_eq!(stdout(&list).matches("\"logic-1\"").count(), 1);
    let watch = ["node", "watch", "--holders"];
    let watch = run(&[&watch[..], &both].concat());
    assert_eq!(watch.status.code(), Some(2));
    assert!(stderr(&watch).contains("--holders asks one registry"));
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    // A port that was free a moment ago, and that nobody else is given soon.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("embedded://127.0.0.1:{port}");
    let list = run(&["node", "list", "--registry", &url]);
    assert_eq!(list.status.code(), Some(1));
    assert!(
        stderr(&list).starts_with(&format!("error: no answer from {url}: ")),
        "{}",
        stderr(&list)
    );
}

/// Story: a list that could not be read was an empty one, without a word.
#[test]
fn what_makes_no_sense_in_a_list_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nodes");
    let good = "{\"id\":\"a\",\"service\":\"pay\",\"address\":\"127.0.0.1:1\"}";
    std::fs::write(&path, format!("garbage\n{good}\n{{}}\n")).unwrap();
    let url = format!("file://{}", path.display());
    let list = run(&["node", "list", "--json", "--registry", &url]);
    assert_eq!(list.status.code(), Some(0));
    assert_eq!(stdout(&list).lines().count(), 1, "{}", stdout(&list));
    let said = stderr(&list);
    for line in [1, 3] {
        let place = format!("skipped {}:{line}: not an instance", path.display());
        assert!(said.contains(&place), "{said}");
    }
}

#[test]
fn faults_of_usage_end_with_2_and_say_what_is_wrong() {
    let calls: [(&[&str], &str); 7] = [
        (
            &["node", "list", "--registry", "127.0.0.1:1"],
            "--registry: `127.0.0.1:1` is not embedded://HOST:PORT",
        ),
        (&["node", "list", "Im"], "SERVICE \"Im\": 'I' at byte 0"),
        (&["node", "register", "Im", "127.0.0.1:1"], "'I' at byte 0"),
        (
            &["node", "register", "im", "0.0.0.0:1"],
            "cannot be connected to",
        ),
        (
            &["node", "register", "im", "127.0.0.1:1", "--weight", "10001"],
            "--weight <N>",
        ),
        (
            &["node", "register", "im", "127.0.0.1:1", "--ttl", "1"],
            "--ttl <SECONDS>",
        ),
        (&["registry", "serve", "--listen", "x"], "--listen <ADDR>"),
    ];
    for (args, part) in calls {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            stderr(&output).contains(part),
            "{args:?}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}
