//! One request and its answer.

use std::error::Error;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use waystation_wire::Status;

use super::super::router::Router;
use super::super::upgrade::upgrade;
use super::HTTP_BUFFERS;
use super::body::AnswerBody;
use super::limit::State;
use crate::conn::Conn;
use crate::shard::until;

/// An error in the shape that all have: `{"code":"…","message":"…"}`.
/// `message` needs no escapes.
pub(in crate::native) fn fault(code: StatusCode, status: Status, message: &str) -> Response<Bytes> {
    let mut response = Response::new(fault_body(status, message).into());
    *response.status_mut() = code;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

pub(super) fn fault_body(status: Status, message: &str) -> String {
    format!(r#"{{"code":"{}","message":"{message}"}}"#, status.name()) + "\n"
}

pub(super) async fn answer(
    router: &Rc<Router>,
    conn: &Conn,
    request: Request<Incoming>,
    state: &Rc<State>,
) -> Response<AnswerBody> {
    let counters = conn.shard().counters();
    counters.messages_in.add(1);
    let websocket = router.websocket_path.as_deref() == Some(request.uri().path());
    let response = if websocket {
        // Its body is not read.
        state.astray.set(true);
        let response = upgrade(&request, &router.origins);
        if response.status() == StatusCode::FORBIDDEN {
            counters.origins_refused.add(1);
        }
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        state.upgraded.set(upgraded);
        response
    } else {
        match whole_body(conn, request, router.http_body_bytes).await {
            Err(refusal) => {
                state.astray.set(true);
                refusal
            }
            Ok(request) => match &router.http {
                Some(handler) => {
                    // An answer without a body has no pieces.
                    if request.method() != Method::HEAD
                        && let Some(response) = handler.stream(conn, &request)
                    {
                        conn.hold_received(HTTP_BUFFERS);
                        return response.map(|pieces| AnswerBody::pieces(conn, state, pieces));
                    }
                    let guard = conn.handler_guard();
                    let response = handler.handle(conn, request).await;
                    drop(guard);
                    response
                }
                None => fault(
                    StatusCode::NOT_FOUND,
                    Status::NotFound,
                    "nothing is served over HTTP here",
                ),
            },
        }
    };
    conn.hold_received(HTTP_BUFFERS);
    conn.shard().counters().messages_out.add(1);
    response.map(AnswerBody::whole)
}

/// A number of bytes as people write it.
fn size(bytes: usize) -> String {
    let mib = bytes >> 20;
    if mib << 20 == bytes {
        format!("{mib} MiB")
    } else {
        format!("{bytes} bytes")
    }
}

/// Reads the body, within its bounds of size and time. The connection holds
/// its bytes until the answer.
async fn whole_body(
    conn: &Conn,
    request: Request<Incoming>,
    bytes_max: usize,
) -> Result<Request<Bytes>, Response<Bytes>> {
    let (head, body) = request.into_parts();
    let mut body = Limited::new(body, bytes_max);
    let collected = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                bytes.extend_from_slice(&data);
                conn.hold_received(HTTP_BUFFERS + bytes.capacity());
            }
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(bytes.freeze())
    };
    let shard = conn.shard();
    let deadline = shard.now() + shard.config().connection.frame_wait;
    match until(shard, deadline, collected).await {
        Ok(Ok(body)) => Ok(Request::from_parts(head, body)),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(fault(
            StatusCode::PAYLOAD_TOO_LARGE,
            Status::TooLarge,
            &format!("the body is larger than {}", size(bytes_max)),
        )),
        Ok(Err(_)) => Err(fault(
            StatusCode::BAD_REQUEST,
            Status::InvalidRequest,
            "the body is broken",
        )),
        Err(_) => Err(fault(
            StatusCode::REQUEST_TIMEOUT,
            Status::DeadlineExceeded,
            "the body did not come in time",
        )),
    }
}
