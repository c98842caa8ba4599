//! Which handler serves which method, over every wire of a port.

use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use waystation_base::MessageId;
use waystation_net::native::{Control, NativeProtocol, Origins, Router as NativeRouter};
use waystation_net::{CloseReason, Conn, Home, Shard};

use crate::contexts::Contexts;
use crate::ctx::Ctx;
use crate::endpoint::{Endpoint, TypedEndpoint};
use crate::http::HttpGate;
use crate::limits;
use crate::machine::{StateMachine, drive};
use crate::method::Method;
use crate::native::{CancelControl, FallbackGate, NativeGate};
use crate::peer::Peer;
use crate::status::Status;
use crate::text::TextGate;

/// Two methods cannot stand in one router.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The method is registered already.
    #[error("the method `{0}` is registered already")]
    Twice(&'static str),
    /// Two names have one message id.
    #[error("`{new}` and `{old}` have the same message id {id}; rename one of them")]
    SameId {
        /// The id.
        id: MessageId,
        /// The method that has it.
        old: &'static str,
        /// The method that wanted it too.
        new: &'static str,
    },
}

/// A page or file served over HTTP beside the methods.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) content_type: HeaderValue,
    pub(crate) body: Bytes,
}

type OpenHook = Box<dyn Fn(&Peer)>;
type CloseHook = Box<dyn Fn(&Peer, CloseReason)>;
type HomeRule = Box<dyn Fn(&[u8]) -> Home>;

/// The methods of one listener on one shard.
///
/// A method is served over native frames, over HTTP as
/// `POST /package.Service/Method` with protobuf JSON, and, where
/// [`Router::websocket`] is set, over WebSocket as native frames or JSON text.
pub struct Router {
    shard: Shard,
    pub(crate) contexts: Rc<Contexts>,
    methods: HashMap<MessageId, Rc<dyn Endpoint>>,
    pages: HashMap<&'static str, Page>,
    websocket: Option<String>,
    origins: Origins,
    concurrency: u32,
    on_open: Option<OpenHook>,
    on_close: Option<CloseHook>,
    home: Option<HomeRule>,
}

/// What the gates of all wires share.
pub(crate) struct Routes {
    pub(crate) by_name: HashMap<&'static str, Rc<dyn Endpoint>>,
    pub(crate) pages: HashMap<&'static str, Page>,
    pub(crate) contexts: Rc<Contexts>,
}

impl Router {
    /// A router without methods on this shard.
    pub fn new(shard: &Shard) -> Self {
        Self {
            shard: shard.clone(),
            contexts: Contexts::of(shard),
            methods: HashMap::new(),
            pages: HashMap::new(),
            websocket: None,
            origins: Origins::Same,
            concurrency: limits::CONCURRENCY,
            on_open: None,
            on_close: None,
            home: None,
        }
    }

    /// The shard it serves on.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Serves a method with an async function.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn method<M, F>(
        &mut self,
        handler: impl Fn(Ctx, M::Request) -> F + 'static,
    ) -> Result<(), RegisterError>
    where
        M: Method,
        F: Future<Output = Result<M::Reply, Status>> + 'static,
    {
        if let Some(old) = self.methods.get(&M::ID) {
            if old.name() == M::NAME {
                return Err(RegisterError::Twice(M::NAME));
            }
            return Err(RegisterError::SameId {
                id: M::ID,
                old: old.name(),
                new: M::NAME,
            });
        }
        self.methods
            .insert(M::ID, Rc::new(TypedEndpoint::<M, _>::new(handler)));
        Ok(())
    }

    /// Serves a method with a state machine: `make` gives each request one.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn machine<M, S>(&mut self, make: impl Fn() -> S + 'static) -> Result<(), RegisterError>
    where
        M: Method,
        S: StateMachine<Request = M::Request, Reply = M::Reply>,
    {
        self.method::<M, _>(move |ctx, request| drive(make(), ctx, request))
    }

    /// Serves a page over HTTP GET.
    ///
    /// # Panics
    /// When the content type is no header value.
    pub fn page(&mut self, path: &'static str, content_type: &'static str, body: impl Into<Bytes>) {
        self.pages.insert(
            path,
            Page {
                content_type: HeaderValue::from_static(content_type),
                body: body.into(),
            },
        );
    }

    /// Accepts WebSocket peers on this path.
    pub fn websocket(&mut self, path: impl Into<String>) {
        self.websocket = Some(path.into());
    }

    /// Says which pages may open a WebSocket; by default those of the same
    /// host and port.
    pub fn websocket_origins(&mut self, origins: Origins) {
        self.origins = origins;
    }

    /// How many requests of one connection are handled at once; 1 keeps
    /// their answers in order. The default is
    /// [`CONCURRENCY`](crate::limits::CONCURRENCY).
    pub fn concurrency(&mut self, requests: u32) {
        self.concurrency = requests;
    }

    /// Bounds of this shard: requests in progress, above which a request is
    /// refused at once, and the deadline of requests that bring none.
    pub fn limits(&mut self, in_flight: usize, deadline_default: Duration) {
        self.contexts.configure(in_flight, deadline_default);
    }

    /// Requests of one caller that may be in progress on this shard; one more
    /// is refused at once. Whose requests are counted together says
    /// [`Peer::set_caller`]. The default is
    /// [`REQUESTS_PER_CALLER`](crate::limits::REQUESTS_PER_CALLER).
    pub fn share(&mut self, requests: usize) {
        self.contexts.set_share(requests);
    }

    /// Bytes of answers that may wait on one connection of this shard until
    /// its peer has read what is before them; an answer above it becomes a
    /// refusal. The default is
    /// [`ANSWERS_WAITING_BYTES`](crate::limits::ANSWERS_WAITING_BYTES). For a
    /// connection that carries the requests of many users it should hold the
    /// largest answers to all that are handled at once.
    pub fn answers_waiting(&mut self, bytes: usize) {
        self.contexts.set_answers_waiting(bytes);
    }

    /// Called for each connection, before its first request.
    pub fn on_open(&mut self, hook: impl Fn(&Peer) + 'static) {
        self.on_open = Some(Box::new(hook));
    }

    /// Called once for each connection that opened, after its end.
    pub fn on_close(&mut self, hook: impl Fn(&Peer, CloseReason) + 'static) {
        self.on_close = Some(Box::new(hook));
    }

    /// Decides each connection's shard by its first bytes.
    pub fn home(&mut self, rule: impl Fn(&[u8]) -> Home + 'static) {
        self.home = Some(Box::new(rule));
    }

    /// The protocol of a listener that serves all this.
    pub fn into_protocol(self) -> NativeProtocol {
        NativeProtocol::new(Rc::new(self.into_native()))
    }

    /// The routes alone, for what an upstream pushes to us.
    pub fn into_native(self) -> NativeRouter {
        let by_name = self
            .methods
            .values()
            .map(|e| (e.name(), e.clone()))
            .collect();
        let routes = Rc::new(Routes {
            by_name,
            pages: self.pages,
            contexts: self.contexts.clone(),
        });
        let mut native = NativeRouter::new();
        for (id, endpoint) in self.methods {
            let gate = Rc::new(NativeGate::new(endpoint, self.contexts.clone()));
            native
                .route(id, gate)
                .expect("ids are distinct keys of the table");
        }
        native.set_fallback(Rc::new(FallbackGate::new()));
        native.set_concurrency(self.concurrency);
        native.set_http(Rc::new(HttpGate::new(routes.clone())));
        native.set_text(Rc::new(TextGate::new(routes)));
        if let Some(path) = self.websocket {
            native.set_websocket_path(path);
        }
        native.set_origins(self.origins);
        if let Some(home) = self.home {
            native.set_home(home);
        }
        let hooks = Hooks {
            on_open: self.on_open,
            on_close: self.on_close,
        };
        native.set_control(Rc::new(CancelControl::new(hooks)));
        native
    }
}

pub(crate) struct Hooks {
    on_open: Option<OpenHook>,
    on_close: Option<CloseHook>,
}

impl Control for Hooks {
    fn on_open(&self, conn: &Conn) {
        if let Some(hook) = &self.on_open {
            hook(&Peer::new(conn.clone()));
        }
    }

    fn on_close(&self, conn: &Conn, reason: CloseReason) {
        if let Some(hook) = &self.on_close {
            hook(&Peer::new(conn.clone()), reason);
        }
    }
}
