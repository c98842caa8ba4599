//! Methods over HTTP: `POST /package.Service/Method` with protobuf JSON.
//!
//! The deadline may be given in the header `waystation-deadline-ms`; the
//! answer names the request's id in `waystation-sid`. Errors are
//! `{"code":"…","message":"…"}` with the nearest HTTP status. A caller that
//! closes its side is taken to have left: its handler is dropped and its
//! request ends as cancelled, unless
//! [`http_half_close`](waystation_net::NetConfig::http_half_close) is set.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method as Verb, Request, Response, StatusCode};
use waystation_base::{Sid, TraceId};
use waystation_net::Conn;
use waystation_net::native::HttpHandler;

use crate::contexts::Contexts;
use crate::ctx::{Ctx, Opening};
use crate::endpoint::Endpoint;
use crate::exchange::{Answer, Incoming, Wire, begin};
use crate::method::Format;
use crate::router::{Page, Routes};
use crate::status::Status;

/// The header that carries a deadline, in ms.
const DEADLINE: &str = "waystation-deadline-ms";

/// The header that carries a request's id.
const SID: &str = "waystation-sid";

pub(crate) struct HttpGate {
    routes: Rc<Routes>,
}

impl HttpGate {
    pub(crate) fn new(routes: Rc<Routes>) -> Self {
        Self { routes }
    }

    fn call(
        &self,
        conn: &Conn,
        endpoint: &dyn Endpoint,
        request: &Request<Bytes>,
    ) -> LocalBoxFuture<'static, Response<Bytes>> {
        let contexts = &self.routes.contexts;
        let deadline_left = match deadline(request) {
            Ok(left) => left,
            Err(status) => {
                contexts.count(|counts| counts.unreadable += 1);
                return ready(failure(&status));
            }
        };
        let opening = Opening {
            sid: None,
            trace: TraceId::default(),
            method: endpoint.label(),
            deadline_left,
            conn: Some(conn.clone()),
        };
        let incoming = Incoming {
            endpoint,
            opening,
            format: Format::Json,
            body: request.body(),
        };
        let answered = Rc::<RefCell<Answered>>::default();
        let started = begin(conn.shard(), contexts, incoming, HttpWire(answered.clone()));
        Box::pin(async move {
            if let Some(started) = started {
                started.await;
            }
            let Answered { sid, answer } = answered.take();
            let mut response = match answer {
                Some(Ok(body)) => json(StatusCode::OK, body),
                Some(Err(status)) => failure(&status),
                None => failure(&Status::internal("the request has no answer")),
            };
            if let Some(sid) = sid
                && let Ok(sid) = HeaderValue::from_str(&sid.to_string())
            {
                response.headers_mut().insert(SID, sid);
            }
            response
        })
    }
}

/// What a request was answered, once it was.
#[derive(Default)]
struct Answered {
    /// Its id, if it was admitted.
    sid: Option<Sid>,
    answer: Option<Answer>,
}

/// Where an HTTP request came from.
struct HttpWire(Rc<RefCell<Answered>>);

impl Wire for HttpWire {
    fn handle_answer(self, _: &Contexts, ctx: Option<&Ctx>, answer: Answer) {
        *self.0.borrow_mut() = Answered {
            sid: ctx.map(Ctx::sid),
            answer: Some(answer),
        };
    }

    fn dropped(&self) -> Status {
        Status::cancelled("the connection was lost")
    }
}

fn deadline(request: &Request<Bytes>) -> Result<Option<Duration>, Status> {
    let Some(value) = request.headers().get(DEADLINE) else {
        return Ok(None);
    };
    let millis = value.to_str().ok().and_then(|text| text.parse().ok());
    let millis = millis.ok_or_else(|| {
        Status::invalid_request(format!("{DEADLINE} must be a number of milliseconds"))
    })?;
    Ok(Some(Duration::from_millis(millis)))
}

fn ready(response: Response<Bytes>) -> LocalBoxFuture<'static, Response<Bytes>> {
    Box::pin(std::future::ready(response))
}

fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn failure(status: &Status) -> Response<Bytes> {
    let code = StatusCode::from_u16(status.code().http_code())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::json!({ "code": status.code().name(), "message": status.message() });
    let mut response = json(code, body.to_string() + "\n");
    if code == StatusCode::SERVICE_UNAVAILABLE {
        let second = HeaderValue::from_static("1");
        response.headers_mut().insert(RETRY_AFTER, second);
    }
    response
}

fn page(request: &Request<Bytes>, page: &Page) -> Response<Bytes> {
    if request.method() != Verb::GET && request.method() != Verb::HEAD {
        return only("GET, HEAD");
    }
    let mut response = Response::new(page.body.clone());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, page.content_type.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn only(verbs: &'static str) -> Response<Bytes> {
    let status = Status::invalid_request(format!("only {verbs} is served here"));
    let mut response = failure(&status);
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(verbs));
    response
}

impl HttpHandler for HttpGate {
    fn handle(
        &self,
        conn: &Conn,
        request: Request<Bytes>,
    ) -> LocalBoxFuture<'static, Response<Bytes>> {
        let path = request.uri().path();
        if let Some(found) = self.routes.pages.get(path) {
            return ready(page(&request, found));
        }
        let name = path.strip_prefix('/').unwrap_or(path);
        let Some(endpoint) = self.routes.by_name.get(name) else {
            conn.shard().counters().unrouted.add(1);
            let status = Status::not_found(format!("nothing is served at {path}"));
            return ready(failure(&status));
        };
        if request.method() != Verb::POST {
            return ready(only("POST"));
        }
        self.call(conn, &**endpoint, &request)
    }
}
