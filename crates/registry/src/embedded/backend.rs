//! The client's side of the embedded registry, and of a route server, which
//! shows views as that does.

mod acks;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use prost::Message;
use waystation_base::{BackoffConfig, FencingToken, MessageId, Moment};
use waystation_membership::{
    Attempt, HolderError, Instance, InstanceId, Refusal, Register, SubscriberId, Watch,
};
use waystation_net::native::{Router, Upstream, UpstreamConfig, UpstreamEvents};
use waystation_net::{Address, CloseReason, Conn, Label, Shard, WaitsFor, waiting};

use super::calls::{CallFault, FnHandler, call};
use super::convert::{self, Malformed};
use super::orders::{Order, Orders, Round, Wanted};
use super::proto::{self, id};
use crate::backend::{Ask, Backend, Event, Events, Key, Registering, Reply};
use crate::error::AskError;
use crate::limits::{CALL_WAIT, CALLS_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_WAIT, RETRY_PAUSE};
use crate::registry::{Holder, ListedService};
use acks::Acks;

/// The backend of `embedded://HOST:PORT` and `route://HOST:PORT`.
pub(crate) struct EmbeddedBackend {
    link: Link,
}

/// What tasks of the backend share.
#[derive(Clone)]
struct Link {
    shard: Shard,
    upstream: Upstream,
    events: Events,
    url: Rc<str>,
    orders: Rc<Orders>,
    acks: Rc<RefCell<Acks>>,
}

struct Hooks {
    events: Events,
    /// Why there is no connection, for people.
    address: Address,
}

impl UpstreamEvents for Hooks {
    fn on_up(&self, _upstream: &Upstream, _conn: &Conn) {
        self.events.push(Event::Connected);
    }

    fn on_down(&self, _upstream: &Upstream, reason: CloseReason) {
        let fault = format!("the connection to {} ended: {reason}", self.address);
        self.events.push(Event::Disconnected(fault));
    }

    fn on_unreachable(&self, reason: &str) {
        let fault = format!("{} cannot be reached: {reason}", self.address);
        self.events.push(Event::Disconnected(fault));
    }
}

impl EmbeddedBackend {
    pub(crate) fn new(
        shard: &Shard,
        url: &str,
        address: &Address,
        backoff: BackoffConfig,
        events: Events,
    ) -> Self {
        let config = UpstreamConfig {
            in_flight_max: CALLS_MAX,
            connect_wait: Duration::from_secs(1),
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_wait: KEEPALIVE_WAIT,
            backoff,
            ..UpstreamConfig::new(address.clone())
        };
        let hooks = Rc::new(Hooks {
            events: events.clone(),
            address: address.clone(),
        });
        let acks: Rc<RefCell<Acks>> = Rc::default();
        let router = Rc::new(router(&events, &acks));
        let link = Link {
            shard: shard.clone(),
            upstream: Upstream::with_events(shard, config, router, hooks),
            events,
            url: url.into(),
            orders: Rc::default(),
            acks,
        };
        Self { link }
    }
}

/// Takes a push; false when there is no room for it.
type Take = fn(&Events, &RefCell<Acks>, &[u8]) -> Result<bool, Malformed>;

/// What the registry pushes.
fn router(events: &Events, acks: &Rc<RefCell<Acks>>) -> Router {
    let mut router = Router::new();
    let mut on = |name: &str, message: MessageId, run: Take| {
        let (events, acks) = (events.clone(), Rc::clone(acks));
        let handler = FnHandler::new(name, move |conn, inbound| {
            let fits = run(&events, &acks, inbound.body).unwrap_or_else(|error| {
                tracing::warn!(peer = %conn.peer(), %error, "a push makes no sense");
                false
            });
            if !fits {
                // A subscriber must miss nothing: it starts over.
                conn.close(CloseReason::Local);
            }
        });
        let routed = router.route(message, handler);
        routed.expect("message ids of one service differ");
    };
    on("registry changed", id::CHANGED, |events, acks, body| {
        let (subscriber, content) = convert::changed(decode(body)?)?;
        acks.borrow_mut().note(&content);
        Ok(events.push(Event::Push(subscriber, content)))
    });
    on("registry subscribed", id::SUBSCRIBED, |events, _, body| {
        let message: proto::Subscribed = decode(body)?;
        let subscriber = convert::subscriber(&message.subscriber)?;
        let told = |text: String| (!text.is_empty()).then_some(text);
        let outcome = told(message.refusal).map_or(Ok(()), Err);
        if let Some(before) = told(message.went_back) {
            events.push(Event::WentBack(before));
        }
        Ok(events.push(Event::Subscribed(subscriber, outcome)))
    });
    on("registry went back", id::WENT_BACK, |events, _, body| {
        let message: proto::WentBack = decode(body)?;
        Ok(events.push(Event::WentBack(message.before)))
    });
    on("registry drained", id::DRAINED, |events, _, body| {
        let message: proto::Drained = decode(body)?;
        let id = convert::instance_id(&message.id)?;
        let step = convert::drain_step(message.step)?;
        let step = step.ok_or_else(|| Malformed("a drain has a step".to_owned()))?;
        Ok(events.push(Event::Drained(id, FencingToken(message.token), step)))
    });
    router
}

fn decode<M: Message + Default>(body: &[u8]) -> Result<M, Malformed> {
    M::decode(body).map_err(|error| Malformed(error.to_string()))
}

impl Backend for EmbeddedBackend {
    fn handle(&self, ask: Ask) {
        let link = &self.link;
        match ask {
            // The server has its own word on drains.
            Ask::Registration {
                key,
                instance,
                what,
                ..
            } => link.registration(key, &instance, what),
            Ask::Subscribe {
                subscriber,
                watch,
                have,
            } => {
                link.acks.borrow_mut().forget(subscriber);
                let message = proto::Subscribe {
                    subscriber: convert::subscriber_bytes(subscriber),
                    watch: Some(convert::watch_message(&watch)),
                    have: have.map(convert::version_message),
                };
                link.push(id::SUBSCRIBE, &message);
            }
            Ask::Resync {
                subscriber,
                service,
            } => link.push_about(id::RESYNC, subscriber, service.to_string(), None),
            Ask::Ack(ack) => link.acknowledge(ack),
            Ask::Unsubscribe(subscriber) => {
                link.acks.borrow_mut().forget(subscriber);
                link.push_about(id::UNSUBSCRIBE, subscriber, String::new(), None);
            }
            // The server takes it for lost with the connection.
            Ask::Linger(_) => {}
            Ask::List {
                question,
                watch,
                with_holders,
                deadline,
            } => {
                let link = link.clone();
                link.clone().spawn(async move {
                    let listed = link.list(watch, with_holders, deadline).await;
                    let answer = listed.map(Reply::Listed);
                    link.events.push(Event::Answered(question, answer));
                });
            }
            Ask::Drain {
                question,
                id,
                deadline,
            } => {
                let link = link.clone();
                link.clone().spawn(async move {
                    let answer = link.drain(id, deadline).await;
                    link.events.push(Event::Answered(question, answer));
                });
            }
        }
    }

    fn close(&self) -> LocalBoxFuture<'static, ()> {
        let link = self.link.clone();
        Box::pin(async move {
            // Orders leave in order: once this is answered all before it are
            // done. Without a connection nothing is to be waited for.
            if link.upstream.conn().is_some() {
                let nothing = proto::List {
                    watch: Some(convert::watch_message(&Watch::Prefix("-".into()))),
                    ..proto::List::default()
                };
                let deadline = link.shard.now() + CALL_WAIT;
                let _ = call::<proto::Listed>(
                    &link.upstream,
                    &link.shard,
                    id::LIST,
                    &nothing,
                    deadline,
                )
                .await;
            }
            link.upstream.close();
        })
    }
}

impl Link {
    fn spawn(self, task: impl Future<Output = ()> + 'static) {
        self.shard.spawn(Label::of("registry call"), task);
    }

    /// Sends a push. One that does not leave costs the connection, since what
    /// concerns subscribers must be complete and in order.
    fn push(&self, message: MessageId, body: &impl Message) {
        if self.upstream.push(message, &body.encode_to_vec()).is_err()
            && let Some(conn) = self.upstream.conn()
        {
            conn.close(CloseReason::Local);
        }
    }

    fn push_about(
        &self,
        message: MessageId,
        subscriber: SubscriberId,
        service: String,
        at: Option<proto::Version>,
    ) {
        let body = proto::ServiceAt {
            subscriber: convert::subscriber_bytes(subscriber),
            service,
            at,
        };
        self.push(message, &body);
    }

    fn registration(&self, key: Key, instance: &Instance, what: Registering) {
        let (id, token) = (instance.id.clone(), instance.token);
        let link = self.clone();
        if matches!(what, Registering::Register(..) | Registering::Deregister) {
            // A registration says all that is wanted, and its core what is not
            // part of it.
            self.orders.forget(key);
        }
        match what {
            Registering::Register(attempt, register) => {
                self.clone()
                    .spawn(async move { link.register(key, attempt, &register).await });
            }
            Registering::Renew(attempt) => {
                self.clone()
                    .spawn(async move { link.renew(key, attempt, &id, token).await });
            }
            Registering::Update(update) => {
                self.want(key, id, token, |wanted| wanted.update(update));
            }
            Registering::Drain => self.want(key, id, token, Wanted::drain),
            Registering::Idle => self.want(key, id, token, Wanted::idle),
            Registering::Deregister => {
                // Without a connection the lease ends by itself.
                if self.upstream.conn().is_some() {
                    let body = convert::leave_message(&id, instance.owner);
                    self.clone().spawn(async move {
                        let _: Result<proto::Done, _> = link.ask(id::DEREGISTER, &body).await;
                    });
                }
            }
        }
    }

    async fn ask<A: Message + Default>(
        &self,
        message: MessageId,
        body: &impl Message,
    ) -> Result<A, CallFault> {
        let deadline = self.shard.now() + CALL_WAIT;
        call(&self.upstream, &self.shard, message, body, deadline).await
    }

    async fn register(&self, key: Key, attempt: Attempt, register: &Register) {
        use proto::registered::Outcome;
        let body = convert::register_message(register);
        let answer: Result<proto::Registered, _> = self.ask(id::REGISTER, &body).await;
        let event = match answer {
            Ok(answer) => match answer.outcome {
                Some(Outcome::Granted(granted)) => {
                    convert::granted(granted).map(|granted| Event::Granted(key, attempt, granted))
                }
                Some(Outcome::Refused(refused)) => {
                    convert::refusal(refused).map(|refusal| Event::Refused(key, refusal))
                }
                None => Err(Malformed("the outcome is absent".to_owned())),
            },
            Err(fault) => return self.tell_fault(key, fault),
        };
        self.tell(key, event);
    }

    async fn renew(&self, key: Key, attempt: Attempt, id: &InstanceId, token: FencingToken) {
        use proto::renewed::Outcome;
        let body = convert::held_message(id, token);
        let answer: Result<proto::Renewed, _> = self.ask(id::RENEW, &body).await;
        let event = match answer {
            Ok(answer) => match answer.outcome {
                Some(Outcome::Renewal(renewal)) => {
                    convert::renewed(renewal).map(|renewed| Event::Renewed(key, attempt, renewed))
                }
                Some(Outcome::Refused(refused)) => refused_event(key, refused),
                None => Err(Malformed("the outcome is absent".to_owned())),
            },
            // The lease is asked for again when it has no answer.
            Err(_) => return,
        };
        self.tell(key, event);
    }

    fn tell(&self, key: Key, event: Result<Event, Malformed>) {
        match event {
            Ok(event) => {
                self.events.push(event);
            }
            Err(error) => self.tell_fault(key, CallFault::Decode(error.to_string())),
        }
    }

    /// Has an order worked off, behind those of its registration before it.
    fn want(
        &self,
        key: Key,
        id: InstanceId,
        token: FencingToken,
        change: impl FnOnce(&mut Wanted),
    ) {
        if let Some(round) = self.orders.want(key, change) {
            let link = self.clone();
            self.clone()
                .spawn(async move { link.work_off(key, round, &id, token).await });
        }
    }

    /// Carries out what is ordered about a registration, one thing after
    /// another, until nothing is left or the registration is made anew.
    async fn work_off(&self, key: Key, round: Round, id: &InstanceId, token: FencingToken) {
        while let Some(order) = self.orders.next(key, round) {
            let answer: Result<proto::Done, _> = match &order {
                Order::Update(update) => {
                    let body = convert::update_message(id, token, update);
                    self.ask(id::UPDATE, &body).await
                }
                Order::Drain => self.ask(id::DRAIN, &convert::held_message(id, token)).await,
                Order::Idle => self.ask(id::IDLE, &convert::held_message(id, token)).await,
            };
            match answer {
                Ok(done) => {
                    if let Some(refused) = done.refused {
                        self.tell(key, refused_event(key, refused));
                    }
                }
                Err(fault) if fault.is_lasting() => self.tell_fault(key, fault),
                Err(fault) => {
                    tracing::debug!(%id, %fault, "an order has no answer");
                    self.orders.again(key, round, order);
                    let pause = self.shard.sleep(RETRY_PAUSE);
                    waiting(WaitsFor::plain("registry pause"), pause).await;
                    if self.upstream.conn().is_none() {
                        // The next connection begins with a registration.
                        self.orders.forget_round(key, round);
                    }
                }
            }
        }
    }

    /// A registration that got no usable answer is made again once its wait is
    /// over; a refusal that the registry told in words is told.
    fn tell_fault(&self, key: Key, fault: CallFault) {
        match fault {
            CallFault::Call(error) => tracing::debug!(%error, "a registration has no answer"),
            CallFault::Status { .. } | CallFault::Decode(_) => {
                let refusal = Refusal::Other(fault.to_string().into());
                self.events.push(Event::Refused(key, refusal));
            }
        }
    }

    async fn list(
        &self,
        watch: Watch,
        with_holders: bool,
        deadline: Moment,
    ) -> Result<Vec<ListedService>, AskError> {
        let mut services = Vec::new();
        let mut after = String::new();
        loop {
            let body = proto::List {
                watch: Some(convert::watch_message(&watch)),
                after,
                holders: with_holders,
            };
            let answer = call(&self.upstream, &self.shard, id::LIST, &body, deadline).await;
            let listed: proto::Listed = answer.map_err(|fault| self.no_answer(fault))?;
            for service in listed.services {
                services.push(listed_service(service).map_err(nonsense)?);
            }
            match services.last() {
                Some(last) if listed.more => after = last.view.service.to_string(),
                _ => return Ok(services),
            }
        }
    }

    async fn drain(&self, id: InstanceId, deadline: Moment) -> Result<Reply, AskError> {
        let body = convert::held_message(&id, FencingToken(0));
        let answer = call(&self.upstream, &self.shard, id::DRAIN, &body, deadline).await;
        let done: proto::Done = answer.map_err(|fault| self.no_answer(fault))?;
        match done.refused.map(convert::refusal).transpose() {
            Ok(None) => convert::service(&done.service)
                .map(Reply::Draining)
                .map_err(nonsense),
            Ok(Some(Refusal::Holder(HolderError::Unknown))) => Err(AskError::NoInstance { id }),
            Ok(Some(refusal)) => Err(AskError::Refused {
                text: refusal.to_string(),
            }),
            Err(error) => Err(nonsense(error)),
        }
    }

    fn no_answer(&self, fault: CallFault) -> AskError {
        match fault {
            CallFault::Call(error) => AskError::NoAnswer {
                url: self.url.to_string(),
                fault: Some(self.upstream.fault().unwrap_or_else(|| error.to_string())),
            },
            CallFault::Status { text, .. } => AskError::Refused { text },
            CallFault::Decode(text) => AskError::Nonsense { text },
        }
    }
}

fn refused_event(key: Key, refused: proto::Refused) -> Result<Event, Malformed> {
    Ok(match convert::refusal(refused)? {
        Refusal::Holder(error) => Event::Unheld(key, error),
        refusal => Event::Refused(key, refusal),
    })
}

fn nonsense(error: Malformed) -> AskError {
    AskError::Nonsense { text: error.0 }
}

fn listed_service(message: proto::ListedService) -> Result<ListedService, Malformed> {
    let view = message.view.unwrap_or_default();
    let mut holders = Vec::with_capacity(message.holders.len());
    for holder in message.holders {
        holders.push(Holder {
            subscriber: convert::subscriber(&holder.subscriber)?,
            sent: holder.sent.map(convert::version),
            acknowledged: holder.acked.map(convert::version),
            peer: (!holder.peer.is_empty()).then_some(holder.peer),
            node: InstanceId::new(&holder.node).ok(),
        });
    }
    Ok(ListedService {
        view: convert::view(view)?.into(),
        holders,
    })
}
