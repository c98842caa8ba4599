//! A service of which each request goes to a picked host.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tower::{BoxError, Layer, Service, ServiceExt as _};
use waystation_balance::{CallEnd, Load};
use waystation_client::{CallGuard, SharedCaller};
use waystation_membership::Address;

use crate::error::Error;
use crate::judge::Judge;
use crate::limits::CLIENTS_MAX;

/// Makes the client of one host. It must not wait: connections are made by the
/// first request. Any function from an [`Address`] to a client is one.
pub trait MakeHost: Send + Sync + 'static {
    /// The client of a host. Clones use the same connection.
    type Client: Clone + Send + 'static;

    /// The client of the host at `address`.
    fn make(&self, address: &Address) -> Self::Client;
}

impl<F, Client> MakeHost for F
where
    F: Fn(&Address) -> Client + Send + Sync + 'static,
    Client: Clone + Send + 'static,
{
    type Client = Client;

    fn make(&self, address: &Address) -> Client {
        self(address)
    }
}

/// Makes a [`Balance`] of what makes a client for one host.
#[derive(Clone, Debug)]
pub struct BalanceLayer<J> {
    caller: SharedCaller,
    judge: J,
    timeout: Option<Duration>,
}

impl<J> BalanceLayer<J> {
    /// Picks by `caller`; `judge` says what answers mean for their host.
    pub const fn new(caller: SharedCaller, judge: J) -> Self {
        Self {
            caller,
            judge,
            timeout: None,
        }
    }

    /// How long an answer may take, its connection included. By default for
    /// ever; but a request that is given up from above says nothing of its host,
    /// and one that hangs is found out only by what times out here.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<J: Clone, M: MakeHost> Layer<M> for BalanceLayer<J> {
    type Service = Balance<M, J>;

    fn layer(&self, make: M) -> Self::Service {
        Balance {
            shared: Arc::new(Shared {
                caller: self.caller.clone(),
                timeout: self.timeout,
                clients: Mutex::default(),
                make,
            }),
            judge: self.judge.clone(),
        }
    }
}

struct Shared<M: MakeHost> {
    caller: SharedCaller,
    timeout: Option<Duration>,
    /// By host. A client that is there is used; what becomes of its connection is
    /// its own business.
    clients: Mutex<HashMap<Address, M::Client>>,
    make: M,
}

/// Sends each request to a picked host, and reports how it ended.
///
/// It is always ready: where a host's client is not, the request waits for it.
/// Clones share the clients. Cost beside the client's: a pick, a lock, and an
/// allocation.
pub struct Balance<M: MakeHost, J> {
    shared: Arc<Shared<M>>,
    judge: J,
}

impl<M: MakeHost, J: Clone> Clone for Balance<M, J> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            judge: self.judge.clone(),
        }
    }
}

impl<M: MakeHost, J> fmt::Debug for Balance<M, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance")
            .field("caller", &self.shared.caller)
            .finish_non_exhaustive()
    }
}

/// What comes of a request.
pub type Answer<Response> = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

impl<M, J, Request> Service<Request> for Balance<M, J>
where
    M: MakeHost,
    M::Client: Service<Request>,
    <M::Client as Service<Request>>::Error: Into<BoxError>,
    <M::Client as Service<Request>>::Future: Send,
    J: Judge<<M::Client as Service<Request>>::Response>,
    Request: Send + 'static,
{
    type Response = <M::Client as Service<Request>>::Response;
    type Error = Error;
    type Future = Answer<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (shared, judge) = (Arc::clone(&self.shared), self.judge.clone());
        Box::pin(async move {
            let call = shared.begin().await?;
            let answering = shared.client(call.address()).oneshot(request);
            let answered = match shared.timeout {
                None => Ok(answering.await),
                Some(time) => tokio::time::timeout(time, answering)
                    .await
                    .map_err(|_| time),
            };
            let answer = match answered {
                Ok(answer) => answer,
                Err(time) => {
                    let host = call.address().to_string();
                    call.end(CallEnd::TimedOut, Load::default());
                    return Err(Error::TimedOut { host, time });
                }
            };
            match answer {
                Ok(answer) => {
                    let (end, load) = judge.judge(&answer);
                    call.end(end, load);
                    Ok(answer)
                }
                Err(error) => {
                    let host = call.address().to_string();
                    call.end(CallEnd::Refused, Load::default());
                    let source = error.into();
                    Err(Error::Host { host, source })
                }
            }
        })
    }
}

impl<M: MakeHost> Shared<M> {
    /// A pick; where that may wait for the agent, on a thread that may.
    async fn begin(&self) -> Result<CallGuard, Error> {
        if let Some(call) = self.caller.try_begin() {
            return Ok(call);
        }
        let caller = self.caller.clone();
        let asking = tokio::task::spawn_blocking(move || {
            caller.begin().map_err(|source| Error::NoHost {
                service: caller.service(),
                source,
            })
        });
        asking.await.map_err(|_| Error::Ended)?
    }

    fn client(&self, address: &Address) -> M::Client {
        let mut clients = self.clients();
        if let Some(client) = clients.get(address) {
            return client.clone();
        }
        self.make_room(&mut clients);
        let client = self.make.make(address);
        clients.insert(address.clone(), client.clone());
        client
    }

    /// Drops clients of hosts that are gone: at each new host, which comes as
    /// often as one goes. Cost: O(hosts).
    fn make_room(&self, clients: &mut HashMap<Address, M::Client>) {
        if let Some(hosts) = self.caller.hosts() {
            let known: std::collections::HashSet<&Address> =
                hosts.iter().map(|host| &host.address).collect();
            clients.retain(|address, _| known.contains(address));
        }
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Address, M::Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
