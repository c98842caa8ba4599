//! A site's connection to the hub.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::Notify;
use waystation_net::native::{
    Handler, Inbound, Router, Started, Upstream, UpstreamConfig, UpstreamEvents,
};
use waystation_net::{Address, CloseReason, Conn, Label, Shard};

use super::events::{Event, Inbox};
use crate::codec::{FromHub, FromSite, Pieces, id};
use crate::hub::write_message;

/// One connection, from the wish for it to its end.
pub(super) struct Link {
    pub(super) number: u64,
    upstream: Upstream,
    out: Rc<Out>,
}

/// What is to be written.
struct Out {
    queue: RefCell<VecDeque<FromSite>>,
    woken: Notify,
    is_over: Cell<bool>,
}

struct Events {
    number: u64,
    inbox: Rc<Inbox>,
    out: Rc<Out>,
    is_told: Cell<bool>,
}

impl UpstreamEvents for Events {
    fn on_up(&self, _upstream: &Upstream, conn: &Conn) {
        if self.is_told.replace(true) {
            // It connected again by itself: the core wants to decide that.
            return conn.close(CloseReason::Local);
        }
        let writing = write(conn.clone(), Rc::clone(&self.out));
        conn.shard().spawn(Label::of("sync writer"), writing);
        self.inbox.push(Event::Up(self.number));
    }

    fn on_down(&self, _upstream: &Upstream, _reason: CloseReason) {
        self.out.is_over.set(true);
        self.out.woken.notify_one();
        self.inbox.push(Event::Down(self.number));
    }
}

struct FromHubHandler {
    number: u64,
    inbox: Rc<Inbox>,
    pieces: RefCell<Pieces>,
}

impl Handler for FromHubHandler {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        let taken = self.pieces.borrow_mut().push(message.body);
        let is_taken = match taken {
            Ok(None) => true,
            Ok(Some(bytes)) => match FromHub::decode(bytes) {
                Ok(message) => self.inbox.push_message(self.number, message),
                Err(error) => {
                    tracing::error!(%error, "the hub says what makes no sense");
                    false
                }
            },
            Err(error) => {
                tracing::error!(%error, "the hub says what makes no sense");
                false
            }
        };
        if !is_taken {
            conn.close(CloseReason::Protocol("sync"));
        }
        None
    }

    fn label(&self) -> Label {
        Label::of("sync from hub")
    }
}

impl Link {
    /// Begins to connect; [`Event::Up`] or [`Event::Down`] follows, unless this is
    /// dropped before.
    pub(super) fn open(shard: &Shard, hub: &Address, number: u64, inbox: &Rc<Inbox>) -> Self {
        let out = Rc::new(Out {
            queue: RefCell::default(),
            woken: Notify::new(),
            is_over: Cell::new(false),
        });
        let handler = FromHubHandler {
            number,
            inbox: Rc::clone(inbox),
            pieces: RefCell::default(),
        };
        let mut router = Router::new();
        let routed = router.route(id::TO_SITE, Rc::new(handler));
        routed.expect("one handler has no rival");
        let events = Events {
            number,
            inbox: Rc::clone(inbox),
            out: Rc::clone(&out),
            is_told: Cell::new(false),
        };
        let config = UpstreamConfig::new(hub.clone());
        let upstream = Upstream::with_events(shard, config, Rc::new(router), Rc::new(events));
        Self {
            number,
            upstream,
            out,
        }
    }

    pub(super) fn send(&self, message: FromSite) {
        if !self.out.is_over.get() {
            self.out.queue.borrow_mut().push_back(message);
            self.out.woken.notify_one();
        }
    }

    /// How to send from elsewhere, as long as the connection lives.
    pub(super) fn sender(&self) -> LinkSender {
        LinkSender(Rc::clone(&self.out))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.out.is_over.set(true);
        self.out.woken.notify_one();
        self.upstream.close();
    }
}

/// Sends over one connection.
pub(super) struct LinkSender(Rc<Out>);

impl LinkSender {
    /// False when the connection is over.
    pub(super) fn send(&self, message: FromSite) -> bool {
        if self.0.is_over.get() {
            return false;
        }
        self.0.queue.borrow_mut().push_back(message);
        self.0.woken.notify_one();
        true
    }

    /// Messages that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.0.queue.borrow().len()
    }
}

async fn write(conn: Conn, out: Rc<Out>) {
    while !out.is_over.get() {
        let next = out.queue.borrow_mut().pop_front();
        match next {
            Some(message) => {
                let written = write_message(&conn, id::TO_HUB, &message.encode()).await;
                if written.is_err() {
                    return conn.close(CloseReason::SlowReader);
                }
            }
            None => out.woken.notified().await,
        }
    }
}
