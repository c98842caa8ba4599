//! The admin API over HTTP; see [`crate::admin`].

use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::LocalBoxStream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;
use waystation_net::Conn;
use waystation_net::native::HttpHandler;
use waystation_registry::SessionState;

use crate::admin::{Listed, ListedRoute, PatchForm, RouteForm, StatusReport, key_of, service_of};
use crate::desk::Desk;
use crate::keeper::ChangeError;
use crate::limits::LISTED_MAX;
use crate::store::{Change, Outcome, Refusal};
use crate::watch::{Asked, follow};

/// Where changes are watched.
const WATCH: &str = "/v1/watch";

pub(crate) struct Http {
    desk: Rc<Desk>,
}

impl Http {
    pub(crate) fn new(desk: Rc<Desk>) -> Self {
        Self { desk }
    }
}

impl HttpHandler for Http {
    fn handle(
        &self,
        _conn: &Conn,
        request: Request<Bytes>,
    ) -> LocalBoxFuture<'static, Response<Bytes>> {
        let desk = Rc::clone(&self.desk);
        Box::pin(async move { answer(&desk, &request).await })
    }

    fn stream(
        &self,
        _conn: &Conn,
        request: &Request<Bytes>,
    ) -> Option<Response<LocalBoxStream<'static, Bytes>>> {
        if request.method() != Method::GET || request.uri().path() != WATCH {
            return None;
        }
        // What is refused is answered as any other question.
        let asked = Asked::of(request.uri().query().unwrap_or_default()).ok()?;
        let mut response = Response::new(follow(&self.desk, asked)?);
        let lines = HeaderValue::from_static("application/x-ndjson");
        response.headers_mut().insert(CONTENT_TYPE, lines);
        let no = HeaderValue::from_static("no-store");
        response.headers_mut().insert(CACHE_CONTROL, no);
        Some(response)
    }
}

async fn answer(desk: &Desk, request: &Request<Bytes>) -> Response<Bytes> {
    let query = request.uri().query().unwrap_or_default();
    let value = |key: &str| value_of(query, key);
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/status") => json(StatusCode::OK, &status(desk)),
        (&Method::GET, "/v1/routes") => match list(desk, query) {
            Ok(listed) => json(StatusCode::OK, &listed),
            Err(why) => fault(StatusCode::BAD_REQUEST, &why),
        },
        (&Method::GET, WATCH) => match Asked::of(query) {
            Ok(_) => fault(StatusCode::SERVICE_UNAVAILABLE, "as many watch as may"),
            Err(why) => fault(StatusCode::BAD_REQUEST, &why),
        },
        (_, "/v1/routes") if is_of_another_page(request) => {
            fault(StatusCode::FORBIDDEN, "a page of another origin asks")
        }
        (&Method::POST, "/v1/routes") => {
            match parsed::<RouteForm>(request).map(|one| one.route()) {
                Ok(Ok(route)) => change(desk, Change::Add(route), StatusCode::CREATED).await,
                Ok(Err(why)) | Err(why) => fault(StatusCode::BAD_REQUEST, &why),
            }
        }
        (&Method::PATCH, "/v1/routes") => {
            match parsed::<PatchForm>(request).map(|one| one.patch()) {
                Ok(Ok((key, patch))) => {
                    change(desk, Change::Edit { key, patch }, StatusCode::OK).await
                }
                Ok(Err(why)) | Err(why) => fault(StatusCode::BAD_REQUEST, &why),
            }
        }
        (&Method::DELETE, "/v1/routes") => {
            let (service, address) = (value("service"), value("address"));
            match key_of(&service.unwrap_or_default(), &address.unwrap_or_default()) {
                Ok(key) => change(desk, Change::Remove(key), StatusCode::OK).await,
                Err(why) => fault(StatusCode::BAD_REQUEST, &why),
            }
        }
        _ => fault(StatusCode::NOT_FOUND, "no such path"),
    }
}

/// Whether a browser sends this for a page of another server, which nobody asked
/// to change routes. Programs say no origin.
fn is_of_another_page(request: &Request<Bytes>) -> bool {
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    request.headers().contains_key(ORIGIN)
        && header(ORIGIN).and_then(|origin| origin.split_once("://"))
            != header(HOST).map(|host| ("http", host))
}

fn parsed<'a, T: serde::Deserialize<'a>>(request: &'a Request<Bytes>) -> Result<T, String> {
    serde_json::from_slice(request.body()).map_err(|error| error.to_string())
}

async fn change(desk: &Desk, change: Change, done: StatusCode) -> Response<Bytes> {
    match desk.change(change).await {
        Ok(Outcome::Done { put, .. }) => {
            let route = put.first().map(ListedRoute::of_route);
            json(done, &route)
        }
        Ok(Outcome::Refused(refusal)) => {
            let status = match refusal {
                Refusal::Exists(_) => StatusCode::CONFLICT,
                Refusal::Missing(_) => StatusCode::NOT_FOUND,
                Refusal::Invalid(_) | Refusal::Unable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            };
            fault(status, &refusal.to_string())
        }
        Err(error) => {
            let status = match error {
                ChangeError::Unavailable(_) | ChangeError::Overloaded => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                ChangeError::Unknown(_) => StatusCode::GATEWAY_TIMEOUT,
            };
            fault(status, &error.to_string())
        }
    }
}

/// A service's hosts, or a page of all.
fn list(desk: &Desk, query: &str) -> Result<Listed, String> {
    let (service, after) = (given(query, "service")?, given(query, "after")?);
    let merge = desk.merge.borrow();
    let mut listed = Listed::default();
    let mut add = |service, with_nameless| {
        let registered = merge.registered_of(service);
        let registered = registered.map(|one| ListedRoute::of(one, "registry"));
        listed.routes.extend(registered);
        let stored = merge.routes_of(service).map(ListedRoute::of_route);
        listed.routes.extend(stored);
        if with_nameless {
            let nameless = merge.nameless_of(service).map(ListedRoute::of_route);
            listed.routes.extend(nameless);
        }
        listed.routes.len()
    };
    if let Some(service) = service {
        add(&service_of(&service)?, true);
        return Ok(listed);
    }
    let mut last = after.unwrap_or_default();
    while let Some(service) = merge.service_after(&last) {
        last = service.to_string();
        if add(service, false) >= LISTED_MAX {
            listed.next = Some(last);
            break;
        }
    }
    Ok(listed)
}

fn status(desk: &Desk) -> StatusReport {
    let store = desk.status();
    let lars = desk.lars.borrow();
    StatusReport {
        source: match (store.is_live, store.was_read) {
            (true, _) => "live",
            (false, true) => "kept",
            (false, false) => "disk",
        }
        .to_owned(),
        store: store.url,
        fault: store.fault,
        routes: store.routes,
        skipped: store.skipped.count,
        skipped_rows: store.skipped.named,
        doubted: store.doubted,
        registry: desk.session().map(|session| {
            match session.state {
                SessionState::Connected => "connected",
                SessionState::Connecting => "connecting",
                SessionState::Closed => "closed",
            }
            .to_owned()
        }),
        lars_subscriptions: lars.subscriptions(),
        lars_questions: lars.counters.questions,
        lars_pushes: lars.counters.pushes,
        lars_skipped: lars.counters.skipped,
        lars_left_out: lars.counters.left_out,
    }
}

fn fault(status: StatusCode, error: &str) -> Response<Bytes> {
    json(status, &serde_json::json!({ "error": error }))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Bytes> {
    let body = serde_json::to_vec(value).expect("texts and numbers are JSON");
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// The value of a key in a query, if the key is there.
///
/// # Errors
/// It is there, and no text.
pub(crate) fn given(query: &str, key: &str) -> Result<Option<String>, String> {
    let mut names = query.split('&').map(|pair| pair.split('=').next());
    let value = value_of(query, key);
    if value.is_none() && names.any(|name| name == Some(key)) {
        return Err(format!("{key}: not a text"));
    }
    Ok(value)
}

/// The value of a key in a query; one with bytes that are no text counts as
/// absent.
fn value_of(query: &str, key: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut of_key = pairs.filter(|(name, _)| *name == key);
    let (_, value) = of_key.next()?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query_are_decoded() {
        let query = "service=a%2Fb&address=%5bfd00::1%5D:80&empty=&bad=%f&worse=%FF";
        let value = |key| value_of(query, key);
        assert_eq!(value("service").as_deref(), Some("a/b"));
        assert_eq!(value("address").as_deref(), Some("[fd00::1]:80"));
        assert_eq!(value("empty").as_deref(), Some(""));
        assert_eq!(
            (value("bad"), value("worse"), value("no")),
            (None, None, None)
        );
        assert_eq!(given(query, "no"), Ok(None));
        assert_eq!(given(query, "empty"), Ok(Some(String::new())));
        for key in ["bad", "worse"] {
            assert_eq!(given(query, key), Err(format!("{key}: not a text")));
        }
        assert!(given("service", "service").is_err());
    }

    #[test]
    fn a_page_of_another_origin_is_told_from_programs_and_our_own() {
        let is_other = |headers: &[(&str, &str)]| {
            let mut request = Request::builder();
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            is_of_another_page(&request.body(Bytes::new()).unwrap())
        };
        assert!(!is_other(&[("host", "a:1")]));
        assert!(!is_other(&[("host", "a:1"), ("origin", "http://a:1")]));
        assert!(is_other(&[("host", "a:1"), ("origin", "http://evil")]));
        assert!(is_other(&[("host", "a:1"), ("origin", "null")]));
        assert!(is_other(&[("origin", "http://a:1")]));
    }
}
