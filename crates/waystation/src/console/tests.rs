//! The console over loopback, with roles that the tests play.

use std::path::Path;

use axum::{Router, routing::get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use waystation_base::Moment;

use super::*;
use crate::config::{self, Config, Sources};
use crate::supervise::ProcessView;

struct World {
    folder: tempfile::TempDir,
    snapshots: watch::Sender<Snapshot>,
    endpoints: Vec<Endpoint>,
    limits: config::Console,
    closing: watch::Sender<bool>,
}

fn process(role: &str, healthy: bool) -> ProcessView {
    ProcessView {
        role: role.to_owned(),
        pid: Some(42),
        state: if healthy { "healthy" } else { "unhealthy" },
        healthy,
        reason: (!healthy).then(|| "no das".to_owned()),
        started_at: Some(Moment::ZERO),
        restarts: 3,
        last_exit: None,
    }
}

impl World {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            snapshots: watch::Sender::new(Snapshot::default()),
            endpoints: Vec::new(),
            limits: Config::load(Sources::default()).unwrap().console,
            closing: watch::Sender::new(false),
        }
    }

    fn endpoint(&mut self, role: &str) -> std::path::PathBuf {
        let socket = self.folder.path().join(format!("{role}.sock"));
        self.endpoints.push(Endpoint {
            role: role.to_owned(),
            socket: socket.clone(),
        });
        socket
    }

    /// A role that says this of its contexts and metrics.
    fn role(&mut self, role: &str, contexts: &'static str, metrics: &'static str) {
        let listener = UnixListener::bind(self.endpoint(role)).unwrap();
        let router = Router::new()
            .route("/api/v1/contexts", get(move || async move { contexts }))
            .route("/metrics", get(move || async move { metrics }));
        tokio::spawn(async move { axum::serve(listener, router).await });
    }

    fn publish(&self, processes: Vec<ProcessView>, draining: bool) {
        self.snapshots.send_replace(Snapshot {
            processes,
            draining,
        });
    }

    /// Serves; returns the address.
    async fn serve(&self) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let console = Console {
            snapshots: self.snapshots.subscribe(),
            endpoints: self.endpoints.clone(),
            scrape_timeout: self.limits.scrape_timeout(),
            chat_url: None,
            clock: Uptime::start(),
            counters: Counters::default(),
        };
        let limits = self.limits.clone();
        tokio::spawn(serve(
            listener,
            console.shared(),
            limits,
            self.closing.subscribe(),
        ));
        at
    }
}

/// Sends `request` and reads until the console closes.
async fn exchange(at: std::net::SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    // The console may close before it has read all.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn fetch(at: std::net::SocketAddr, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = exchange(at, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn health_is_good_only_when_all_serve() {
    let world = World::new();
    let at = world.serve().await;
    let good = vec![process("das-1", true), process("logic-1", true)];
    world.publish(good.clone(), false);
    let (head, body) = fetch(at, "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], "ok");
    assert_eq!(body["roles"][1]["role"], "logic-1");

    world.publish(
        vec![process("das-1", true), process("logic-1", false)],
        false,
    );
    let (head, body) = fetch(at, "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], "degraded");
    assert_eq!(body["roles"][1]["reason"], "no das");

    world.publish(good, true);
    let (head, body) = fetch(at, "/healthz").await;
    assert!(
        head.starts_with("HTTP/1.1 503 ") && body.contains("draining"),
        "{head} {body}"
    );
}

/// Story: one role hung, and the page of all the others hung with it.
#[tokio::test]
async fn a_role_that_hangs_or_is_gone_hides_no_other() {
    let mut world = World::new();
    world.limits.scrape_timeout_ms = 200;
    let _hangs = UnixListener::bind(world.endpoint("das-1")).unwrap();
    world.endpoint("logic-2");
    world.role("logic-1", r#"[{"sid":"5","state":"waiting"}]"#, "");
    let at = world.serve().await;
    let (head, body) = fetch(at, "/api/v1/contexts").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let contexts: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(contexts[0]["process"], "das-1");
    assert_eq!(contexts[0]["error"], "no answer within 200ms");
    assert_eq!(contexts[1]["error"], "nobody listens on its socket");
    assert_eq!(contexts[2]["sid"], "5");

    let (_, tasks) = fetch(at, "/api/v1/tasks").await;
    assert!(
        tasks.contains("status 404"),
        "logic-1 of this test has none: {tasks}"
    );
}

#[tokio::test]
async fn metrics_are_one_exposition_of_everyone() {
    let mut world = World::new();
    let logic = "# TYPE waystation_net_connections_open gauge\n\
        waystation_net_connections_open{shard=\"0\"} 2\n\
        waystation_net_connections_open{shard=\"1\"} 5\nnonsense\n# EOF\n";
    world.role("logic-1", "[]", logic);
    world.role(
        "logic-2",
        "[]",
        "# TYPE waystation_net_connections_open gauge\nwaystation_net_connections_open 1\n# EOF\n",
    );
    world.endpoint("das-1");
    world.publish(vec![process("logic-1", true)], false);
    let at = world.serve().await;

    // What was left out is counted by the scrape that meets it and shown by the
    // next.
    fetch(at, "/metrics").await;
    let (head, text) = fetch(at, "/metrics").await;
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    for line in [
        "waystation_net_connections_open{role=\"logic-1\",shard=\"1\"} 5",
        "waystation_net_connections_open{role=\"logic-2\"} 1",
        "waystation_scrape_success{role=\"logic-2\"} 1",
        "waystation_scrape_success{role=\"das-1\"} 0",
        "waystation_role_healthy{role=\"logic-1\"} 1",
        "waystation_role_restarts_total{role=\"logic-1\"} 3",
        "waystation_console_rejected_lines_total 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is missing:\n{text}"
        );
    }
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(text.matches("# EOF").count(), 1);
    assert_eq!(
        text.matches("# TYPE waystation_net_connections_open ")
            .count(),
        1
    );

    let (_, rows) = fetch(at, "/api/v1/processes").await;
    let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
    assert_eq!(rows[0]["role"], "logic-1");
    assert_eq!(rows[0]["connections"], 7);
    assert_eq!(rows[0]["requests_in_flight"], serde_json::Value::Null);
}

/// Story: a registry was restored from an old backup and went on with instances that
/// had left long ago. A line in a log was all that said so.
#[tokio::test]
async fn a_registry_that_went_back_is_shown_to_operators() {
    let mut world = World::new();
    let logic = "# TYPE waystation_registry_connected gauge\n\
        waystation_registry_connected{registry=\"etcd://a:1/<b>\"} 1\n\
        waystation_registry_connected{registry=\"zookeeper://c:2/w\"} 0\n\
        # TYPE waystation_registry_went_back counter\n\
        waystation_registry_went_back_total{registry=\"etcd://a:1/<b>\"} 2\n\
        # TYPE waystation_registry_skipped counter\n\
        waystation_registry_skipped_total{registry=\"etcd://a:1/<b>\"} 3\n# EOF\n";
    world.role("logic-1", "[]", logic);
    world.endpoint("das-1");
    let at = world.serve().await;
    let (_, rows) = fetch(at, "/api/v1/registries").await;
    let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
    let expected = serde_json::json!([
        {
            "role": "logic-1", "registry": "etcd://a:1/<b>",
            "connected": true, "skipped": 3, "went_back": 2,
        },
        {
            "role": "logic-1", "registry": "zookeeper://c:2/w",
            "connected": false, "skipped": 0, "went_back": 0,
        },
    ]);
    assert_eq!(rows, expected);
    let (_, page) = fetch(at, "/").await;
    for text in [
        "went back to an old state",
        ">lost<",
        "etcd://a:1/&lt;b&gt;",
    ] {
        assert!(page.contains(text), "{text} is missing:\n{page}");
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let world = World::new();
    let at = world.serve().await;
    let (head, page) = fetch(at, "/").await;
    assert!(head.contains("content-type: text/html"), "{head}");
    assert!(head.contains("default-src 'none'"), "{head}");
    for address in ["://", "\"//", "url(", "@import"] {
        assert!(
            !page.contains(address),
            "an address of elsewhere: {address}"
        );
    }
}

#[tokio::test]
async fn oversized_heads_and_nonsense_are_refused() {
    let mut world = World::new();
    world.limits.max_header_bytes = 8_192;
    let at = world.serve().await;
    let mut large = b"GET / HTTP/1.1\r\nx: ".to_vec();
    large.resize(100_000, b'y');
    let answer = exchange(at, &large).await;
    // The rest that nobody reads may reset the connection before the answer.
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    let answer = exchange(at, b"\xf7\x01\x02\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(fetch(at, "/nowhere").await.0.starts_with("HTTP/1.1 404 "));
    let post =
        b"POST /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    assert!(exchange(at, post).await.starts_with("HTTP/1.1 405 "));
}

#[tokio::test]
async fn a_peer_that_sends_nothing_is_closed() {
    let mut world = World::new();
    world.limits.header_timeout_ms = 20;
    let at = world.serve().await;
    assert!(!exchange(at, b"GET / HT").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_peer_that_stays_is_closed_for_its_age() {
    let mut world = World::new();
    world.limits.connection_timeout_ms = 100;
    let at = world.serve().await;
    let answer = exchange(at, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 "),
        "answered first: {answer}"
    );
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_the_next_is_served() {
    let mut world = World::new();
    world.limits.max_connections = 1;
    let at = world.serve().await;
    let mut first = TcpStream::connect(at).await.unwrap();
    first
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0];
    first.read_exact(&mut byte).await.unwrap();
    assert_eq!(
        exchange(at, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await,
        ""
    );
    drop(first);
    // The console notices the end of the first a moment later.
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let text = loop {
        let answer = exchange(at, request).await;
        if !answer.is_empty() {
            break answer;
        }
    };
    assert!(
        !text.contains("waystation_console_refused_total 0\n"),
        "{text}"
    );
}

#[tokio::test]
async fn closing_lets_answers_leave_and_frees_the_port() {
    let world = World::new();
    let at = world.serve().await;
    let idle = TcpStream::connect(at).await.unwrap();
    fetch(at, "/healthz").await;
    world.closing.send_replace(true);
    let mut rest = Vec::new();
    let mut idle = idle;
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    while TcpStream::connect(at).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

/// The sockets of a directory are found by their names alone.
#[test]
fn endpoints_are_what_the_roles_are_told() {
    let sockets = crate::dir::Sockets::of(Path::new("/d"));
    assert_eq!(sockets.admin("logic-2"), Path::new("/d/run/logic-2.sock"));
}
