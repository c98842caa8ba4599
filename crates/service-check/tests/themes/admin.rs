//! What can be seen of a process while it runs.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use waystation_base::CallId;
use waystation_net::{Address, MemoryIo, NetConfig};
use waystation_service::{App, AppError, ContextInfo, Ctx, Method};
use waystation_service_check::demo::shop::method::{Act as Acting, Echo};
use waystation_service_check::demo::{Act, Parcel, Script};
use waystation_service_check::{
    HttpPeer, NativePeer, Stage, WebSocketPeer, admin, block_on, config, eventually, memory,
    metric, run_on, shop_under, wait_for_metric,
};
use waystation_wire::Header;

use crate::script;

/// A shop with an admin socket in a folder of its own.
fn shop(io: &MemoryIo, stage: &Stage) -> (App, PathBuf, TempDir) {
    shop_of(config(io), stage)
}

fn shop_of(config: NetConfig, stage: &Stage) -> (App, PathBuf, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("shop.sock");
    let app = shop_under(config, stage, |_| ()).admin(Address::Unix(socket.clone()));
    (app.start().unwrap(), socket, dir)
}

fn rows(socket: &Path, path: &str) -> Vec<serde_json::Value> {
    let answer = admin(socket, path);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("waystation-left-out: 0"), "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

/// Nobody could say where a request was while it was in progress.
#[test]
fn requests_are_listed_while_they_run() {
    let (io, stage) = (memory(), Stage::default());
    let (app, socket, _dir) = shop(&io, &stage);
    assert!(rows(&socket, "/api/v1/contexts").is_empty());
    let mut peer = NativePeer::dial(&io, "shop");
    block_on(async {
        let header =
            Header::request(Acting::ID, CallId(1)).with_deadline_left(Some(Duration::from_mins(1)));
        let waits = prost::Message::encode_to_vec(&script(&[Act::Gate]));
        peer.send(&header, &waits).await;
        peer.request::<Acting>(2, &script(&[Act::Call])).await;
        stage.begun.happened(2).await;
        stage.gated.happened(1).await;
    });
    let mut rows = rows(&socket, "/api/v1/contexts");
    rows.sort_by_key(|row| row["waiting_for"].to_string());
    let [calling, gated] = rows.as_slice() else {
        panic!("{rows:?}")
    };
    assert_eq!(gated["waiting_for"], "gate");
    assert_eq!(calling["waiting_for"], "connection to memory:depot");
    for row in [calling, gated] {
        assert_eq!(row["role"], "shop-1");
        assert_eq!(row["method"], "demo.Shop/Act");
        assert_eq!(row["state"], "acting");
        assert_eq!(row["shard"], 0);
        assert_eq!(row["sid"].as_str().unwrap().len(), 32);
        assert!(row["peer"].as_str().unwrap().starts_with("memory:client-"));
        assert!(row["age_ms"].is_u64());
    }
    assert_ne!(calling["sid"], gated["sid"]);
    let left = gated["deadline_ms"].as_i64().unwrap();
    assert!((0..=60_000).contains(&left), "{left}");
    let tasks = self::rows(&socket, "/api/v1/tasks");
    let mine = tasks
        .iter()
        .find(|task| task["task"] == "demo.Shop/Act")
        .unwrap();
    assert_eq!(
        (&mine["role"], &mine["waiting_for"]),
        (&"shop-1".into(), &"gate".into())
    );
    block_on(peer.cancel(2));
    stage.gate.raise();
    stage.gone.wait(2);
    peer.hang_up();
    app.drain();
    assert!(!socket.exists(), "the socket goes with its process");
}

/// A context that was kept beyond its request's end stayed in the list, as if
/// the request were in progress.
#[test]
fn a_request_is_off_the_list_once_it_is_answered() {
    let (io, stage) = (memory(), Stage::default());
    let (app, socket, _dir) = shop(&io, &stage);
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        for call in 1..=3 {
            peer.request::<Acting>(call, &script(&[Act::KeepCtx])).await;
            assert!(peer.answer::<Acting>().await.1.is_ok());
        }
        peer.request::<Acting>(4, &script(&[Act::KeepCtx, Act::Gate]))
            .await;
        stage.gated.happened(1).await;
        let rows = rows(&socket, "/api/v1/contexts");
        assert_eq!(rows.len(), 1, "{rows:?}");
        stage.gate.raise();
        assert!(peer.answer::<Acting>().await.1.is_ok());
    });
    assert!(rows(&socket, "/api/v1/contexts").is_empty());
    assert_eq!(metric(&socket, "waystation_contexts"), 0);
    app.drain();
}

#[test]
fn background_work_and_parts_are_listed_while_they_live() {
    let (app, socket, _dir) = shop(&memory(), &Stage::default());
    let states = run_on(&app, |shard| async move {
        let ctx = Ctx::background(&shard, "sweep", Duration::from_secs(9));
        ctx.set_state("sweeping");
        let part = ctx.within(Duration::from_secs(1));
        part.set_state("a corner");
        assert_eq!(part.sid(), ctx.sid());
        assert!(part.deadline() < ctx.deadline());
        let longer = part.within(Duration::from_secs(100));
        assert!(
            longer.deadline() <= part.deadline(),
            "a part never has more time"
        );
        drop(longer);
        let listed = ContextInfo::list(&shard);
        let states: Vec<_> = listed
            .into_iter()
            .map(|row| (row.method, row.state))
            .collect();
        drop((ctx, part));
        assert!(ContextInfo::list(&shard).is_empty());
        states
    });
    assert_eq!(states, [("sweep", "sweeping"), ("sweep", "a corner")]);
    assert!(rows(&socket, "/api/v1/contexts").is_empty());
    app.drain();
}

/// The admin side asked a blocked shard and hung with it.
#[test]
fn a_blocked_shard_is_named_with_its_handler_while_the_other_works() {
    for wire in ["native", "http"] {
        let (io, stage) = (memory(), Stage::default());
        let config = NetConfig {
            shards: 2,
            ..config(&io)
        };
        let (app, socket, _dir) = shop_of(config, &stage);
        let mut peer = NativePeer::dial(&io, "shop");
        let mut http = HttpPeer::dial(&io, "shop");
        block_on(async {
            if wire == "native" {
                peer.request::<Acting>(1, &script(&[Act::Block])).await;
            } else {
                http.request("POST /demo.Shop/Act", r#"{"acts":["ACT_BLOCK"]}"#)
                    .await;
            }
            stage.gated.happened(1).await;
        });
        eventually(|| (app.server().blocked().total() == 1).then_some(()));
        check_blocked(&socket);
        stage.gate.raise();
        eventually(|| (admin(&socket, "/healthz").status == 200).then_some(()));
        assert!(rows(&socket, "/api/v1/contexts").is_empty());
        app.drain();
    }
}

/// What the admin side says while one of two shards is blocked.
fn check_blocked(socket: &Path) {
    let answer = admin(socket, "/api/v1/contexts");
    assert_eq!(answer.status, 503);
    let fault: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let fault = fault["error"].as_str().unwrap();
    let expected = "did not answer in 1 s; blocked by demo.Shop/Act";
    assert!(fault.contains(expected), "{fault}");
    let health = admin(socket, "/healthz");
    assert_eq!(health.status, 503);
    assert!(health.body.contains(expected), "{health:?}");
    let blocked = rows(socket, "/api/v1/blocked");
    assert_eq!(blocked[0]["handler"], "demo.Shop/Act");
    let stack = blocked[0]["stack"].to_string();
    assert!(stack.contains("park_timeout"), "{stack}");
    let page = admin(socket, "/metrics").body;
    assert!(page.contains("\nwaystation_shards_silent 1\n"), "{page}");
    assert!(
        page.contains("\nwaystation_blocked_handlers_total 1\n"),
        "{page}"
    );
    assert!(
        page.contains("\nwaystation_requests_started_total{shard="),
        "{page}"
    );
}

#[test]
fn health_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("shop.sock");
    let ok = Arc::new(AtomicBool::new(true));
    let asked = ok.clone();
    let app = waystation_service_check::shop(&memory(), &Stage::default())
        .admin(Address::Unix(socket.clone()))
        .health(Arc::new(move || {
            if asked.load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err("no store".to_owned())
            }
        }))
        .start()
        .unwrap();
    let answer = admin(&socket, "/healthz");
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    ok.store(false, Ordering::SeqCst);
    let answer = admin(&socket, "/healthz");
    assert_eq!((answer.status, answer.body.as_str()), (503, "no store\n"));
    app.drain();
}

#[test]
fn health_says_that_the_process_drains() {
    let (io, stage) = (memory(), Stage::default());
    let (app, socket, _dir) = shop(&io, &stage);
    let mut peer = NativePeer::dial(&io, "shop");
    block_on(async {
        peer.request::<Acting>(1, &script(&[Act::Gate])).await;
        stage.gated.happened(1).await;
    });
    let drain = std::thread::spawn(move || app.drain());
    eventually(|| {
        let answer = admin(&socket, "/healthz");
        (answer.status == 503 && answer.body.starts_with("draining")).then_some(())
    });
    assert_eq!(rows(&socket, "/api/v1/contexts").len(), 1);
    stage.gate.raise();
    assert!(block_on(peer.answer::<Acting>()).1.is_ok());
    peer.hang_up();
    drain.join().unwrap();
}

/// An empty file or a document at the socket's place was deleted, and the
/// socket of a living process taken over.
#[test]
fn only_a_socket_that_nobody_listens_on_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x.sock");
    let start = |stage: &Stage| {
        let app = waystation_service_check::shop(&memory(), stage);
        app.admin(Address::Unix(socket.clone())).start()
    };
    std::fs::write(&socket, "a document").unwrap();
    let refused = start(&Stage::default()).err().unwrap();
    assert!(matches!(refused, AppError::Admin { .. }), "{refused:?}");
    assert!(refused.to_string().contains("x.sock"), "{refused}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "a document");
    std::fs::remove_file(&socket).unwrap();

    let listener = UnixListener::bind(&socket).unwrap();
    assert!(start(&Stage::default()).is_err(), "someone listens");
    drop(listener);
    assert!(socket.exists(), "it is left over");
    let app = start(&Stage::default()).unwrap();
    assert_eq!(admin(&socket, "/healthz").status, 200);
    assert!(start(&Stage::default()).is_err(), "we listen");
    assert_eq!(admin(&socket, "/healthz").status, 200);
    app.drain();
}

/// The sums that every request must fall into.
fn accounts(socket: &Path) -> [u64; 7] {
    [
        "started",
        "answered",
        "failed",
        "cancelled",
        "refused",
        "unreadable",
        "timeouts",
    ]
    .map(|name| metric(socket, &format!("waystation_requests_{name}_total")))
}

/// Requests that could not be decoded counted as failed without having been
/// started, and those refused counted twice.
#[test]
fn every_request_is_counted_once() {
    let (io, stage) = (memory(), Stage::default());
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("shop.sock");
    let app = shop_under(config(&io), &stage, |router| {
        router.limits(2, Duration::from_secs(10));
    });
    let app = app.admin(Address::Unix(socket.clone())).start().unwrap();
    let mut peer = NativePeer::dial(&io, "shop");
    let mut http = HttpPeer::dial(&io, "shop");
    let mut web = block_on(WebSocketPeer::dial(&io, "shop"));
    block_on(async {
        // Answered: 3. Failed: 3, one of them late. Unreadable: 2.
        peer.request::<Echo>(1, &Parcel::default()).await;
        peer.receive().await;
        http.post("/demo.Shop/Echo", "{}").await;
        web.ask(r#"{"call":1,"method":"demo.Shop/Echo"}"#).await;
        peer.send(&Header::request(Echo::ID, CallId(2)), &[0xFF])
            .await;
        peer.receive().await;
        http.post("/demo.Shop/Act", r#"{"acts":["ACT_PANIC"]}"#)
            .await;
        let acts = r#"{"call":2,"method":"demo.Shop/Act","deadline_ms":10,"body":{"acts":["ACT_FOREVER"]}}"#;
        web.ask(acts).await;
        web.ask("{").await;
        http.request("POST /demo.Shop/Echo\nwaystation-deadline-ms: x", "")
            .await;
        http.answer().await;
        // Neither: these reach nobody.
        http.post("/nowhere", "").await;
        web.ask(r#"{"call":3,"method":"nobody"}"#).await;
    });
    assert_eq!(accounts(&socket), [6, 3, 3, 0, 0, 2, 1]);
    block_on(async {
        // Cancelled: 1, refused: 3, in progress: 1.
        for call in [3, 4] {
            peer.request::<Acting>(call, &script(&[Act::Gate])).await;
        }
        stage.gated.happened(2).await;
        peer.request::<Echo>(5, &Parcel::default()).await;
        peer.receive().await;
        http.post("/demo.Shop/Echo", "{}").await;
        web.ask(r#"{"call":4,"method":"demo.Shop/Echo"}"#).await;
        peer.cancel(3).await;
    });
    wait_for_metric(&socket, "waystation_requests_cancelled_total", 1);
    assert_eq!(accounts(&socket), [8, 3, 3, 1, 3, 2, 1]);
    assert_eq!(metric(&socket, "waystation_requests_in_flight"), 1);
    stage.gate.raise();
    peer.hang_up();
    wait_for_metric(&socket, "waystation_requests_in_flight", 0);
    app.drain();
}

/// Checks a page against the text format: each family once, with its type and
/// help, its samples together and rightly named, numbers as values, the end
/// mark at the end.
fn check_open_metrics(page: &str) -> Vec<String> {
    let mut families: Vec<String> = Vec::new();
    let mut is_counter = false;
    let body = page.strip_suffix("# EOF\n").expect("the end mark");
    let mut lines = body.lines();
    while let Some(line) = lines.next() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            assert!(
                !families.iter().any(|known| known == name),
                "{name} comes twice"
            );
            assert!(
                name.starts_with("waystation_") || name.starts_with("tea_"),
                "{name}"
            );
            assert!(!name.ends_with("_total"), "{name}");
            families.push(name.to_owned());
            is_counter = match kind {
                "counter" => true,
                "gauge" => false,
                other => panic!("{other}"),
            };
            let help = lines.next().unwrap().strip_prefix("# HELP ").unwrap();
            assert!(help.starts_with(&format!("{name} ")), "{help}");
            continue;
        }
        let family = families.last().expect("a sample belongs to a family");
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match sample.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
            None => (sample, ""),
        };
        let suffix = if is_counter { "_total" } else { "" };
        assert_eq!(name, format!("{family}{suffix}"), "{line}");
        assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once('=').unwrap();
            assert!(
                key.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{line}"
            );
            assert!(
                value.len() >= 2 && value.starts_with('"') && value.ends_with('"'),
                "{line}"
            );
        }
    }
    families
}

#[test]
fn metrics_are_open_metrics() {
    let (io, stage) = (memory(), Stage::default());
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("shop.sock");
    let app = shop_under(
        NetConfig {
            shards: 2,
            ..config(&io)
        },
        &stage,
        |_| (),
    )
    .admin(Address::Unix(socket.clone()))
    .metrics(Arc::new(|page| {
        let kind = waystation_net::Kind::Counter;
        page.family("tea_cups", kind, "Cups \"of\" tea,\nin C:\\shop.");
        page.sample("tea_cups", kind, "", 3);
        page.sample("tea_cups", kind, "kind=\"green\"", 4);
    }));
    let app = app.start().unwrap();
    block_on(async {
        let mut peer = NativePeer::dial(&io, "shop");
        peer.request::<Acting>(1, &Script::default()).await;
        assert!(peer.answer::<Acting>().await.1.is_ok());
    });
    let answer = admin(&socket, "/metrics");
    assert!(
        answer
            .head
            .contains("application/openmetrics-text; version=1.0.0")
    );
    let families = check_open_metrics(&answer.body);
    for name in [
        "waystation_net_accepted",
        "waystation_net_closed",
        "waystation_requests_started",
        "waystation_latency_recent_seconds",
        "waystation_blocked_handlers",
        "tea_cups",
    ] {
        assert!(families.iter().any(|family| family == name), "{name}");
    }
    assert!(
        answer
            .body
            .contains("# HELP tea_cups Cups \\\"of\\\" tea,\\nin C:\\\\shop.\n")
    );
    assert!(answer.body.contains("\ntea_cups_total 3\n"));
    assert_eq!(metric(&socket, "waystation_requests_answered_total"), 1);
    assert_eq!(metric(&socket, "waystation_net_accepted_total"), 1);
    app.drain();
}

#[test]
fn other_paths_and_verbs_are_refused() {
    let (app, socket, _dir) = shop(&memory(), &Stage::default());
    assert_eq!(admin(&socket, "/api/v1/nothing").status, 404);
    app.drain();
}
