//! `waystation sync site --handler` as a user runs it: entries come to a URL.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use common::sync::{PATIENCE, Place, Server, publish, status, wait_until};
use common::{run, stderr, stdout};

/// What came: its kind, its key, its label and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Came {
    kind: String,
    key: String,
    label: String,
    body: Vec<u8>,
}

/// A server that says busy to every third request and takes the others.
fn serve() -> (String, Receiver<Came>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/entries", listener.local_addr().unwrap());
    let (told, came) = channel();
    std::thread::spawn(move || {
        let mut count = 0;
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            while serve_one(&stream, &mut count, &told).is_some() {}
        }
    });
    (url, came)
}

fn serve_one(stream: &TcpStream, count: &mut u32, told: &Sender<Came>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line.to_ascii_lowercase());
    }
    let value = |name: &str| {
        let mut lines = head.lines();
        let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_default().to_owned()
    };
    let mut body = vec![0; value("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    *count += 1;
    let is_busy = count.is_multiple_of(3);
    if !is_busy {
        let came = Came {
            kind: value("waystation-kind"),
            key: value("idempotency-key"),
            label: value("waystation-unsafe"),
            body,
        };
        told.send(came).ok()?;
    }
    let answer = if is_busy { "503 Busy" } else { "200 OK" };
    let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
    (&*stream).write_all(answer.as_bytes()).ok()
}

fn start(place: &Place, url: &str) -> Server {
    let dir = place.folder.path().to_str().unwrap();
    Server::start(&[
        "sync",
        "site",
        "--name",
        "search",
        "--hub",
        &place.hub,
        "--dir",
        dir,
        "--handler",
        url,
    ])
}

/// The next entry; copies of rows come before.
fn next(came: &Receiver<Came>) -> Came {
    loop {
        let one = came.recv_timeout(PATIENCE).unwrap();
        if one.kind == "entry" {
            return one;
        }
        assert_eq!(one.kind, "chunk");
    }
}

#[test]
fn entries_reach_a_url_in_order_and_a_copy_of_rows_comes_before() {
    let (place, _hub) = Place::new();
    let app = place.open("master");
    app.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY); INSERT INTO item VALUES (1)")
        .unwrap();
    let _master = place.site("master", &[]);
    publish(&place, "INSERT INTO item VALUES (2)");
    wait_until("the master has it", || status(&place, "master")["at"] == 1);
    let (url, came) = serve();
    let site = start(&place, &url);
    assert_eq!(site.ready, "search");
    let copy = came.recv_timeout(PATIENCE).unwrap();
    assert_eq!(copy.kind, "chunk");
    publish(&place, "INSERT INTO item VALUES (3)");
    publish(&place, "-- nothing");
    let (first, second) = (next(&came), next(&came));
    assert!(
        first.key.ends_with("-2") && second.key.ends_with("-3"),
        "{first:?} {second:?}"
    );
    assert_eq!(first.body, b"INSERT INTO item VALUES (3)");
    assert_eq!(
        (first.label.as_str(), second.label.as_str()),
        ("statement", "")
    );
    site.end("KILL");
    publish(&place, "INSERT INTO item VALUES (4)");
    let site = start(&place, &url);
    let mut third = next(&came);
    while third == first || third == second {
        // At least once: its place may not have been stored before the kill.
        third = next(&came);
    }
    assert!(third.key.ends_with("-4"), "{third:?}");
    // It has no rows, and makes no proof fail.
    let _room = place.site("room-2", &[]);
    let verify = || run(&["sync", "verify", "--hub", &place.hub]);
    wait_until("the databases are equal", || {
        let proof = verify();
        proof.status.success() && stdout(&proof).contains("no rows")
    });
    assert_eq!(site.end("TERM"), Some(0));
}

/// Statements such as `NOW()` diverge between sites.
#[test]
fn a_statement_that_would_differ_is_not_published_unless_that_is_asked_for() {
    let (place, _hub) = Place::new();
    let file = place.folder.path().join("now.sql");
    std::fs::write(&file, "UPDATE item SET at = NOW()").unwrap();
    let file = file.to_str().unwrap();
    let refused = run(&["sync", "publish", "--hub", &place.hub, file]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("now()"), "{}", stderr(&refused));
    let more = [
        "sync",
        "publish",
        "--hub",
        &place.hub,
        "--allow-nondeterministic",
        file,
    ];
    let published = run(&more);
    assert!(published.status.success(), "{}", stderr(&published));
    assert!(
        stdout(&published).trim_end().ends_with("/1"),
        "nothing came before"
    );
    assert!(stderr(&published).contains("unsafe"));
}

/// Story: whoever published a file that was no statement had every site with a
/// database stand at it until each of them was told to skip it.
#[test]
fn an_entry_for_handlers_is_refused_while_a_site_has_a_database() {
    let (place, _hub) = Place::new();
    place.open("master");
    let _master = place.site("master", &[]);
    let file = place.folder.path().join("entry.json");
    std::fs::write(&file, "{\"n\": 2}").unwrap();
    let file = file.to_str().unwrap();
    let refused = run(&["sync", "publish", "--hub", &place.hub, file]);
    assert_eq!(refused.status.code(), Some(1));
    let said = "not published: the databases of master would stand at it";
    assert!(stderr(&refused).contains(said), "{}", stderr(&refused));
    // By HTTP the hub goes by what it knew a moment ago.
    wait_until("it is refused over HTTP", || {
        let (code, body) = post(&place.hub, "-- nothing");
        assert_eq!(code, 200, "{body}");
        let (code, body) = post(&place.hub, "{\"n\": 3}");
        assert!(
            code == 200 || body.contains("the databases of master"),
            "{body}"
        );
        code == 400
    });
    let more = ["--allow-nondeterministic", file];
    let asked = run(&[&["sync", "publish", "--hub", &place.hub], &more[..]].concat());
    assert!(asked.status.success(), "{}", stderr(&asked));
}

/// Publishes by HTTP: the status, and the answer.
fn post(hub: &str, payload: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(hub).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = payload.len();
    let head = format!(
        "POST /v1/publish HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream
        .write_all(format!("{head}{payload}").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer)
}

#[test]
fn what_does_not_go_with_a_handler_is_told() {
    for (more, code) in [
        (["--handler", "https://room"].as_slice(), "https"),
        (&["--handler", "room"], "no URL"),
        (&["--handler", "http://room", "--capture"], "--capture"),
        (&[], "--database"),
    ] {
        let refused = run(&[["sync", "site", "--name", "a"].as_slice(), more].concat());
        assert_eq!(refused.status.code(), Some(2), "{more:?}");
        assert!(stderr(&refused).contains(code), "{}", stderr(&refused));
    }
}
