//! The handshake from HTTP to WebSocket (RFC 6455, 4.2), and who may ask for it.

use bytes::Bytes;
use http::header::{
    ALLOW, CONNECTION, HOST, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use tungstenite::handshake::derive_accept_key;
use waystation_wire::Status;

use super::http::fault;

/// Which pages may open a WebSocket here (RFC 6455, 10.2).
///
/// A browser says in `Origin` which page asks, and lets any page ask: without
/// a check every page that a user visits could speak here with the user's
/// cookies. Programs send no `Origin` and are always let in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origins {
    /// Pages of this very host and port, as the request's `Host` names it.
    #[default]
    Same,
    /// These, such as `https://chat.example.org`, and pages of this host.
    Listed(Vec<String>),
    /// All.
    Any,
}

impl Origins {
    /// Reads `same`, `any`, or origins with commas between them.
    ///
    /// # Errors
    /// The part that is no origin.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "same" | "" => return Ok(Self::Same),
            "any" => return Ok(Self::Any),
            _ => {}
        }
        let origins: Vec<&str> = text.split(',').map(str::trim).collect();
        match origins.iter().find(|origin| parts(origin).is_none()) {
            Some(wrong) => Err((*wrong).to_owned()),
            None => Ok(Self::Listed(
                origins.into_iter().map(str::to_owned).collect(),
            )),
        }
    }

    /// Whether a request with these headers may become WebSocket.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else {
            // Two are a trick; none is no browser.
            return !headers.contains_key(ORIGIN);
        };
        let Some(asking) = origin.to_str().ok().and_then(parts) else {
            return *self == Self::Any;
        };
        let same = || {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            host.is_some_and(|host| {
                let named = format!("{}://{host}", asking.scheme);
                parts(&named).is_some_and(|named| named == asking)
            })
        };
        match self {
            Self::Any => true,
            Self::Same => same(),
            Self::Listed(list) => {
                list.iter()
                    .any(|one| parts(one).is_some_and(|one| one == asking))
                    || same()
            }
        }
    }
}

/// Scheme, host and port, in lower case and with the default port put in.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    scheme: String,
    host: String,
    port: u16,
}

fn parts(origin: &str) -> Option<Parts> {
    let uri: Uri = origin.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = match (uri.port_u16(), scheme.as_str()) {
        (Some(port), _) => port,
        (None, "http") => 80,
        (None, "https") => 443,
        _ => return None,
    };
    let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let authority = uri.authority()?.as_str();
    (bare && !authority.contains('@')).then_some(Parts {
        scheme,
        host: uri.host()?.to_ascii_lowercase(),
        port,
    })
}

fn has_token(headers: &HeaderMap, name: http::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .any(|part| part.trim().eq_ignore_ascii_case(token))
        })
}

/// The answer to a WebSocket handshake: 101 when it is one that may be.
pub(super) fn upgrade<B>(request: &Request<B>, origins: &Origins) -> Response<Bytes> {
    let headers = request.headers();
    if request.method() != Method::GET {
        let mut refusal = fault(
            StatusCode::METHOD_NOT_ALLOWED,
            Status::InvalidRequest,
            "a WebSocket begins with GET",
        );
        let get = HeaderValue::from_static("GET");
        refusal.headers_mut().insert(ALLOW, get);
        return refusal;
    }
    let version = headers.get(SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        let mut refusal = fault(
            StatusCode::UPGRADE_REQUIRED,
            Status::InvalidRequest,
            "this port speaks WebSocket 13",
        );
        let headers = refusal.headers_mut();
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        return refusal;
    }
    let key = headers.get(SEC_WEBSOCKET_KEY);
    let asked =
        has_token(headers, CONNECTION, "upgrade") && has_token(headers, UPGRADE, "websocket");
    let accept = key
        .filter(|_| asked)
        .and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok());
    let Some(accept) = accept else {
        return fault(
            StatusCode::BAD_REQUEST,
            Status::InvalidRequest,
            "this is no WebSocket handshake",
        );
    };
    if !origins.admits(headers) {
        return fault(
            StatusCode::FORBIDDEN,
            Status::PermissionDenied,
            "pages of this origin may not open a WebSocket here",
        );
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(origins: &Origins, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        origins.admits(&headers)
    }

    #[test]
    fn pages_of_the_same_host_and_programs_are_let_in() {
        let same = Origins::Same;
        for (host, origin) in [
            ("chat.example:7080", "http://chat.example:7080"),
            ("chat.example", "http://CHAT.example:80"),
            ("chat.example:80", "http://chat.example"),
            ("chat.example", "https://chat.example"),
            ("[::1]:7080", "http://[::1]:7080"),
        ] {
            assert!(admits(&same, host, Some(origin)), "{origin}");
        }
        assert!(admits(&same, "chat.example", None));
    }

    /// Any page that a user visited could open a WebSocket and speak for the
    /// user.
    #[test]
    fn pages_of_other_hosts_are_refused() {
        let same = Origins::Same;
        for origin in [
            "http://evil.example",
            "http://chat.example:8080",
            "http://chat.example.evil",
            "http://chat.example:7080@evil.example",
            "http://chat.example:7080/path",
            "null",
            "",
            "file://",
        ] {
            assert!(
                !admits(&same, "chat.example:7080", Some(origin)),
                "{origin}"
            );
        }
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "a".parse().unwrap());
        headers.append(ORIGIN, "http://a".parse().unwrap());
        headers.append(ORIGIN, "http://b".parse().unwrap());
        assert!(!same.admits(&headers));
    }

    #[test]
    fn a_list_names_who_else_may() {
        let list = Origins::parse("https://a.example, http://b.example:81").unwrap();
        assert!(admits(&list, "x", Some("https://A.example:443")));
        assert!(admits(&list, "x", Some("http://b.example:81")));
        assert!(admits(&list, "x", Some("http://x")));
        assert!(!admits(&list, "x", Some("http://b.example")));
        assert!(admits(&Origins::Any, "x", Some("null")));
        assert_eq!(Origins::parse("same"), Ok(Origins::Same));
        assert_eq!(Origins::parse("any"), Ok(Origins::Any));
        assert_eq!(
            Origins::parse("https://a.example, nonsense"),
            Err("nonsense".into())
        );
    }
}
