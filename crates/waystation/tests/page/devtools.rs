//! A small synchronous client of the Chrome `DevTools` protocol
//! (<https://chromedevtools.github.io/devtools-protocol/>): JSON over one
//! WebSocket, each tab a session in it.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// Time for one answer. Longer than any wait inside a page, so that those end
/// with a message of their own.
const ANSWER: Duration = Duration::from_mins(2);

/// The connection to one browser.
pub(crate) struct Devtools {
    socket: WebSocket<TcpStream>,
    last: u64,
    faults: Vec<String>,
}

impl Devtools {
    /// Connects to the address that the browser printed: `ws://IP:PORT/PATH`.
    pub(crate) fn connect(url: &str) -> Self {
        let authority = url.split('/').nth(2).unwrap();
        let stream = TcpStream::connect(authority).unwrap();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        stream.set_write_timeout(Some(ANSWER)).unwrap();
        let (socket, _) = tungstenite::client(url, stream).unwrap();
        Self {
            socket,
            last: 0,
            faults: Vec::new(),
        }
    }

    /// Asks for something and waits for the answer.
    pub(crate) fn call(&mut self, session: Option<&str>, method: &str, params: &Value) -> Value {
        self.last += 1;
        let id = self.last;
        let mut request = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            request["sessionId"] = session.into();
        }
        self.socket
            .send(Message::text(request.to_string()))
            .unwrap();
        loop {
            let message = self.socket.read();
            let message = message.unwrap_or_else(|error| panic!("{method}: {error}"));
            let Message::Text(text) = message else {
                continue;
            };
            let mut answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == id {
                assert_eq!(answer["error"], Value::Null, "{request}");
                return answer["result"].take();
            }
            self.note(&answer);
        }
    }

    /// Asks the browser to end. No answer is awaited: it may be gone already.
    pub(crate) fn close(&mut self) {
        let request = json!({ "id": 0, "method": "Browser.close" });
        let _ = self.socket.send(Message::text(request.to_string()));
    }

    /// Keeps what a page must never do: throw what nobody catches, or break
    /// its own content policy.
    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        let is_fault = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => params["entry"]["source"] == "security",
            _ => false,
        };
        if is_fault {
            self.faults.push(params.to_string());
        }
    }

    /// What pages did wrong up to the last answer.
    pub(crate) fn faults(&self) -> &[String] {
        &self.faults
    }
}
