//! Methods and pages over HTTP, at their edges.

use waystation_service_check::{HttpPeer, Stage, block_on, memory, shop, shop_with};

const ERROR: &str = r#"{"code":""#;

/// Runs `test` against a shop with a page.
fn with_shop(test: impl AsyncFnOnce(HttpPeer)) {
    let io = memory();
    let app = shop_with(&io, &Stage::default(), |router| {
        router.page("/", "text/html; charset=utf-8", "<p>tea</p>");
    });
    let app = app.start().unwrap();
    block_on(test(HttpPeer::dial(&io, "shop")));
    app.drain();
}

#[test]
fn pages_are_read_and_not_written() {
    with_shop(async |mut peer| {
        let page = peer.ask("GET /").await;
        assert_eq!((page.status, page.body.as_str()), (200, "<p>tea</p>"));
        assert_eq!(
            page.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        let head = peer.ask("HEAD /").await;
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("10"))
        );
        let query = peer.ask("GET /?v=1").await;
        assert_eq!(query.body, page.body);
        for verb in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let refused = peer.ask(&format!("{verb} /")).await;
            assert_eq!(
                (refused.status, refused.header("allow")),
                (405, Some("GET, HEAD"))
            );
            assert!(refused.body.starts_with(ERROR), "{refused:?}");
        }
    });
}

#[test]
fn methods_are_posted_and_nothing_else() {
    with_shop(async |mut peer| {
        for verb in ["GET", "PUT", "DELETE", "PATCH"] {
            let refused = peer.ask(&format!("{verb} /demo.Shop/Echo")).await;
            assert_eq!(
                (refused.status, refused.header("allow")),
                (405, Some("POST"))
            );
            assert!(refused.body.starts_with(ERROR), "{refused:?}");
        }
        let refused = peer.ask("HEAD /demo.Shop/Echo").await;
        assert_eq!(refused.status, 405);
        // What curl sends with -d, and what it should send.
        for content in [
            "application/x-www-form-urlencoded",
            "application/json",
            "text/plain",
        ] {
            let head = format!("POST /demo.Shop/Echo?x=y\ncontent-type: {content}");
            peer.request(&head, r#"{"to":"x"}"#).await;
            assert_eq!(peer.answer().await.body, r#"{"to":"x"}"#);
        }
    });
}

#[test]
fn what_is_nowhere_is_not_found_whatever_is_asked() {
    with_shop(async |mut peer| {
        for line in [
            "GET /favicon.ico",
            "POST /demo.Shop",
            "GET /demo.Shop/echo",
            "PUT /x",
            "GET /%00",
        ] {
            let answer = peer.ask(line).await;
            assert_eq!(answer.status, 404, "{line}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let body = serde_json::from_str::<serde_json::Value>(&answer.body).unwrap();
            assert_eq!(body["code"], "not_found");
        }
        assert_eq!(peer.ask("HEAD /favicon.ico").await.status, 404);
    });
}

#[test]
fn a_body_that_is_too_large_is_refused_and_others_are_served() {
    with_shop(async |mut peer| {
        let whole = format!(r#"{{"to":"{}"}}"#, "x".repeat(900_000));
        assert_eq!(peer.post("/demo.Shop/Echo", &whole).await.body, whole);
        let line = "POST /demo.Shop/Echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1048577\r\n\r\n";
        peer.write(line.as_bytes()).await;
        peer.write(&vec![b' '; 1_048_577]).await;
        assert_eq!(peer.answer().await.status, 413);
    });
}

#[test]
fn requests_in_a_row_are_answered_in_their_order() {
    with_shop(async |mut peer| {
        peer.request("POST /demo.Shop/Act", r#"{"acts":["ACT_SLEEP_5_MS"]}"#)
            .await;
        peer.request("POST /demo.Shop/Echo", r#"{"to":"b"}"#).await;
        peer.request("POST /demo.Shop/Nope", "").await;
        assert!(peer.answer().await.body.contains("sid"));
        assert_eq!(peer.answer().await.body, r#"{"to":"b"}"#);
        assert_eq!(peer.answer().await.status, 404);
    });
}

/// JSON that nests without end is a cheap way to a deep stack.
#[test]
fn json_that_nests_too_deep_is_refused() {
    with_shop(async |mut peer| {
        let deep = format!(
            r#"{{"items":{}{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert_eq!(peer.post("/demo.Shop/Echo", &deep).await.status, 400);
    });
}

/// A caller went away, and its handler worked on for nobody.
#[test]
fn a_caller_that_leaves_ends_its_request() {
    let (io, stage) = (memory(), Stage::default());
    let app = shop(&io, &stage).start().unwrap();
    block_on(async {
        let mut peer = HttpPeer::dial(&io, "shop");
        peer.request("POST /demo.Shop/Act", r#"{"acts":["ACT_FOREVER"]}"#)
            .await;
        stage.begun.happened(1).await;
        drop(peer);
        stage.gone.happened(1).await;
    });
    app.drain();
}
