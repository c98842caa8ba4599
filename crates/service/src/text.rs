//! Requests and answers as JSON text over WebSocket, for browsers.
//!
//! Request `{"call":1,"method":"im.Entry/Send","body":{…}}`, with its time as
//! `"deadline_ms":500` if it wants less than the default; answer
//! `{"call":1,"body":{…}}` or `{"call":1,"error":{"code":"…","message":"…"}}`,
//! under call 0 when the request does not say its own; push
//! `{"push":"im.Client/Deliver","body":{…}}`; sign of life `{"ping":1}` and its
//! answer `{"pong":1}`; before a server ends `{"go_away":true}`.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use waystation_base::TraceId;
use waystation_net::native::{Started, TextHandler};
use waystation_net::{Conn, Label};

use crate::contexts::Contexts;
use crate::ctx::{Ctx, Opening};
use crate::exchange::{Answer, Incoming, Wire, begin, is_short};
use crate::method::Format;
use crate::native::delivered;
use crate::peer::SpeaksText;
use crate::router::Routes;
use crate::status::Status;

#[derive(Deserialize)]
struct Envelope<'a> {
    ping: Option<u64>,
    call: Option<u64>,
    // Borrowed only when nothing in it is escaped: "im.Entry\/Send" is the
    // same name.
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    deadline_ms: Option<u64>,
}

/// The part of an envelope that says under which call its refusal belongs.
#[derive(Deserialize)]
struct OnlyCall {
    call: u64,
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
        let unreadable = |call: u64, reason: String| {
            self.routes.contexts.count(|counts| counts.unreadable += 1);
            (call, Status::invalid_request(reason))
        };
        let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|error| {
            let call = serde_json::from_str(text).map_or(0, |OnlyCall { call }| call);
            unreadable(call, format!("not an envelope: {error}"))
        })?;
        if let Some(ping) = envelope.ping {
            delivered(conn, conn.send_short_text(&format!("{{\"pong\":{ping}}}")));
            return Ok(None);
        }
        let call = envelope.call;
        let call = call.ok_or_else(|| unreadable(0, "a request needs a `call`".to_owned()))?;
        let name = envelope.method;
        let name = name.ok_or_else(|| unreadable(call, "a request needs a `method`".to_owned()))?;
        let endpoint = self.routes.by_name.get(&*name).ok_or_else(|| {
            conn.shard().counters().unrouted.add(1);
            let reason = format!("no handler has the method `{name}`");
            (call, Status::unimplemented(reason))
        })?;
        let opening = Opening {
            sid: None,
            trace: TraceId::default(),
            method: endpoint.label(),
            deadline_left: envelope.deadline_ms.map(Duration::from_millis),
            conn: Some(conn.clone()),
        };
        let incoming = Incoming {
            endpoint: &**endpoint,
            opening,
            format: Format::Json,
            body: envelope.body.map_or("{}", RawValue::get).as_bytes(),
        };
        let wire = TextWire {
            conn: conn.clone(),
            call,
        };
        Ok(begin(conn.shard(), &self.routes.contexts, incoming, wire))
    }
}

impl TextHandler for TextGate {
    fn handle(&self, conn: &Conn, text: &str) -> Started {
        if conn.property::<SpeaksText>().is_none() {
            conn.set_property(Rc::new(SpeaksText));
        }
        self.start(conn, text).unwrap_or_else(|(call, status)| {
            send(conn, call, Err(status));
            None
        })
    }

    fn go_away(&self) -> Option<&str> {
        Some(r#"{"go_away":true}"#)
    }

    fn label(&self) -> Label {
        self.label
    }
}

/// Where a text message came from.
struct TextWire {
    conn: Conn,
    call: u64,
}

impl Wire for TextWire {
    fn conn(&self) -> Option<&Conn> {
        Some(&self.conn)
    }

    fn handle_answer(self, _: &Contexts, _: Option<&Ctx>, answer: Answer) {
        send(&self.conn, self.call, answer);
    }
}

fn send(conn: &Conn, call: u64, answer: Answer) {
    let text = answer.and_then(|body| {
        String::from_utf8(body).map_err(|_| Status::internal("the answer is not text"))
    });
    let sent = match text {
        Ok(body) => {
            let text = format!("{{\"call\":{call},\"body\":{body}}}");
            if is_short(conn, body.as_bytes()) {
                conn.send_short_text(&text)
            } else {
                conn.send_text(&text)
            }
        }
        Err(status) => {
            let status = status.shortened();
            let error = serde_json::json!({
                "call": call,
                "error": { "code": status.code().name(), "message": status.message() },
            });
            conn.send_short_text(&error.to_string())
        }
    };
    delivered(conn, sent);
}
