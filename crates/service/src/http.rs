//! Methods over HTTP: `POST /package.Service/Method` with protobuf JSON.
//!
//! The deadline may be given in the header `waystation-deadline-ms`. Errors
//! are `{"code":"…","message":"…"}` with the nearest HTTP status.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method as Verb, Request, Response, StatusCode};
use waystation_base::TraceId;
use waystation_net::Conn;
use waystation_net::native::HttpHandler;

use crate::ctx::{Ctx, Opening};
use crate::method::Format;
use crate::router::{Page, Routes};
use crate::status::Status;

/// The header that carries a deadline, in ms.
const DEADLINE: &str = "waystation-deadline-ms";

pub(crate) struct HttpGate {
    routes: Rc<Routes>,
}

impl HttpGate {
    pub(crate) fn new(routes: Rc<Routes>) -> Self {
        Self { routes }
    }

    fn call(&self, conn: &Conn, request: &Request<Bytes>) -> Result<Answered, Status> {
        let path = request.uri().path();
        let endpoint = self
            .routes
            .by_name
            .get(path.trim_start_matches('/'))
            .ok_or_else(|| {
                conn.shard().counters().unrouted.add(1);
                Status::not_found(format!("nothing is served at {path}"))
            })?;
        let contexts = self.routes.contexts.clone();
        let admitted = contexts
            .admit()
            .map_err(|n| Status::overloaded(format!("{n} requests are in progress")))?;
        let opening = Opening {
            sid: None,
            trace: TraceId::default(),
            method: endpoint.label(),
            deadline_left: deadline(request)?,
            conn: Some(conn.clone()),
        };
        let ctx = Ctx::open(conn.shard(), &contexts, opening);
        let answering = endpoint.start(&ctx, Format::Json, request.body())?;
        Ok(Box::pin(async move {
            let _admitted = admitted;
            let result = answering.await;
            let took = ctx.shard().now().saturating_since(ctx.shared.started);
            contexts.ended(took, result.is_ok());
            result
        }))
    }
}

type Answered = LocalBoxFuture<'static, Result<Vec<u8>, Status>>;

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
    json(code, body.to_string() + "\n")
}

fn page(request: &Request<Bytes>, page: &Page) -> Response<Bytes> {
    if request.method() != Verb::GET && request.method() != Verb::HEAD {
        return only("GET, HEAD");
    }
    let mut response = Response::new(page.body.clone());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
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
        let now = |response| Box::pin(std::future::ready(response)) as LocalBoxFuture<'static, _>;
        if let Some(found) = self.routes.pages.get(request.uri().path()) {
            return now(page(&request, found));
        }
        let known = self
            .routes
            .by_name
            .contains_key(request.uri().path().trim_start_matches('/'));
        if known && request.method() != Verb::POST {
            return now(only("POST"));
        }
        match self.call(conn, &request) {
            Ok(answered) => Box::pin(async move {
                match answered.await {
                    Ok(body) => json(StatusCode::OK, body),
                    Err(status) => failure(&status),
                }
            }),
            Err(status) => {
                self.routes.contexts.count(|counts| counts.failed += 1);
                now(failure(&status))
            }
        }
    }
}
