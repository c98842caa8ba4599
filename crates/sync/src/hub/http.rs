//! Publishes and operations by HTTP: `POST /v1/publish`, `POST /v1/operate`,
//! `GET /v1/status`.

use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use waystation_net::Conn;
use waystation_net::native::HttpHandler;
use waystation_replica::{ClientKey, Publish};
use waystation_wire::Status;

use super::operate::Operation;
use super::sessions::Sessions;
use crate::limits::OPERATION_BYTES_MAX;

/// The header with the client's key of a publish.
const KEY: &str = "idempotency-key";

/// `true` publishes statements that would do something else at each site, too.
const ALLOW: &str = "allow-nondeterministic";

pub(super) struct Http(pub(super) Rc<Sessions>);

impl HttpHandler for Http {
    fn handle(
        &self,
        _conn: &Conn,
        request: Request<Bytes>,
    ) -> LocalBoxFuture<'static, Response<Bytes>> {
        let sessions = Rc::clone(&self.0);
        Box::pin(async move {
            let route = (request.method().clone(), request.uri().path().to_owned());
            match (&route.0, route.1.as_str()) {
                (&Method::POST, "/v1/publish") => publish(sessions, request).await,
                (&Method::POST, "/v1/operate") if request.body().len() > OPERATION_BYTES_MAX => {
                    fault(StatusCode::PAYLOAD_TOO_LARGE, "an operation is short")
                }
                (&Method::POST, "/v1/operate") => match serde_json::from_slice(request.body()) {
                    Ok(operation) => operate(sessions, operation).await,
                    Err(error) => fault(StatusCode::BAD_REQUEST, &error.to_string()),
                },
                (&Method::GET, "/v1/status") => operate(sessions, Operation::Status).await,
                _ => fault(StatusCode::NOT_FOUND, "no such path"),
            }
        })
    }
}

/// The body is the payload, of 64 MiB at most; the answer comes once it is durable.
async fn publish(sessions: Rc<Sessions>, request: Request<Bytes>) -> Response<Bytes> {
    let key = request.headers().get(KEY).map(HeaderValue::as_bytes);
    let allowed = request.headers().get(ALLOW).map(HeaderValue::as_bytes);
    let may_differ = allowed == Some(b"true");
    let publish = Publish {
        key: key.filter(|key| !key.is_empty()).map(ClientKey::new),
        payload: request.into_body(),
    };
    match sessions.publish(publish, may_differ).await {
        Ok((epoch, seq)) => {
            let body = serde_json::json!({ "epoch": epoch.0, "seq": seq.0 });
            json(StatusCode::OK, body.to_string().into())
        }
        Err(unable) => fault(code_of(unable.status), &unable.error),
    }
}

async fn operate(sessions: Rc<Sessions>, operation: Operation) -> Response<Bytes> {
    match sessions.operate(operation).await {
        Ok(body) => json(StatusCode::OK, body),
        Err(unable) => fault(code_of(unable.status), &unable.error),
    }
}

fn code_of(status: Status) -> StatusCode {
    let code = StatusCode::from_u16(status.http_code());
    code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn fault(status: StatusCode, error: &str) -> Response<Bytes> {
    let body = serde_json::json!({ "error": error });
    json(status, body.to_string().into())
}

fn json(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
