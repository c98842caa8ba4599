//! Requests and answers as JSON text over WebSocket, for browsers.
//!
//! Request `{"call":1,"method":"im.Entry/Send","body":{…}}`, answer
//! `{"call":1,"body":{…}}` or `{"call":1,"error":{"code":"…","message":"…"}}`,
//! push `{"push":"im.Client/Deliver","body":{…}}`, sign of life `{"ping":1}`
//! and its answer `{"pong":1}`.

use std::rc::Rc;

use serde::Deserialize;
use serde_json::value::RawValue;
use waystation_base::TraceId;
use waystation_net::native::{Started, TextHandler};
use waystation_net::{Conn, Label};

use crate::ctx::{Ctx, Opening};
use crate::method::Format;
use crate::peer::SpeaksText;
use crate::router::Routes;
use crate::status::Status;

#[derive(Deserialize)]
struct Envelope<'a> {
    ping: Option<u64>,
    call: Option<u64>,
    method: Option<&'a str>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    deadline_ms: Option<u64>,
}

pub(crate) struct TextGate {
    routes: Rc<Routes>,
    label: Label,
}

impl TextGate {
    pub(crate) fn new(routes: Rc<Routes>) -> Self {
        Self {
            routes,
            label: Label::of("websocket text"),
        }
    }

    fn start(&self, conn: &Conn, text: &str) -> Result<Started, (u64, Status)> {
        let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|error| {
            (
                0,
                Status::invalid_request(format!("not an envelope: {error}")),
            )
        })?;
        if let Some(ping) = envelope.ping {
            // A connection that is gone counts it itself.
            let _ = conn.send_text(&format!("{{\"pong\":{ping}}}"));
            return Ok(None);
        }
        let call = envelope.call.unwrap_or(0);
        let name = envelope.method.unwrap_or_default();
        let endpoint = self.routes.by_name.get(name).ok_or_else(|| {
            conn.shard().counters().unrouted.add(1);
            (
                call,
                Status::unimplemented(format!("no handler has the method `{name}`")),
            )
        })?;
        let contexts = self.routes.contexts.clone();
        let admitted = contexts.admit().map_err(|in_flight| {
            (
                call,
                Status::overloaded(format!("{in_flight} requests are in progress")),
            )
        })?;
        let opening = Opening {
            sid: None,
            trace: TraceId::default(),
            method: endpoint.label(),
            deadline_left: envelope.deadline_ms.map(std::time::Duration::from_millis),
            conn: Some(conn.clone()),
        };
        let ctx = Ctx::open(conn.shard(), &contexts, opening);
        let body = envelope.body.map_or("{}", RawValue::get);
        let answering = endpoint
            .start(&ctx, Format::Json, body.as_bytes())
            .map_err(|status| (call, status))?;
        let conn = conn.clone();
        Ok(Some(Box::pin(async move {
            let _admitted = admitted;
            let result = answering.await;
            let took = ctx.shard().now().saturating_since(ctx.shared.started);
            contexts.ended(took, result.is_ok());
            send(&conn, call, result);
        })))
    }
}

fn send(conn: &Conn, call: u64, result: Result<Vec<u8>, Status>) {
    let text = result.and_then(|body| {
        String::from_utf8(body).map_err(|_| Status::internal("the answer is not text"))
    });
    let text = match text {
        Ok(body) => format!("{{\"call\":{call},\"body\":{body}}}"),
        Err(status) => {
            let error = serde_json::json!({
                "call": call,
                "error": { "code": status.code().name(), "message": status.message() },
            });
            error.to_string()
        }
    };
    // A connection that is gone, or too slow, counts it itself.
    let _ = conn.send_text(&text);
}

impl TextHandler for TextGate {
    fn handle(&self, conn: &Conn, text: &str) -> Started {
        if conn.property::<SpeaksText>().is_none() {
            conn.set_property(Rc::new(SpeaksText));
        }
        match self.start(conn, text) {
            Ok(started) => started,
            Err((call, status)) => {
                self.routes.contexts.count(|counts| counts.failed += 1);
                send(conn, call, Err(status));
                None
            }
        }
    }

    fn label(&self) -> Label {
        self.label
    }
}
