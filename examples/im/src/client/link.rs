//! What a client's connection does: it comes, goes, and brings pushes.

use std::rc::{Rc, Weak};

use waystation_net::native::{Handler, Inbound, Router, Started, Upstream, UpstreamEvents};
use waystation_net::{CloseReason, Conn, Label};
use waystation_service::Method;
use waystation_service::codegen::prost::Message as _;

use super::Shared;
use crate::im::client::method::{Conversations, Deliver, PresenceChanged};
use crate::im::{ConversationsReply, Message, UserPresence};

/// The connection's side of a client. It keeps none alive.
pub(super) struct Link {
    client: Weak<Shared>,
}

impl Link {
    pub(super) fn new(client: Weak<Shared>) -> Self {
        Self { client }
    }
}

impl UpstreamEvents for Link {
    fn on_up(&self, _: &Upstream, _: &Conn) {
        if let Some(client) = self.client.upgrade() {
            client.on_up();
        }
    }

    fn on_down(&self, _: &Upstream, reason: CloseReason) {
        if let Some(client) = self.client.upgrade() {
            client.on_down(reason);
        }
    }
}

/// Routes what Entry pushes. The handlers end before the next push is read,
/// so the order of arrival is the order of the calls.
pub(super) fn pushes(link: &Rc<Link>) -> Router {
    let mut router = Router::new();
    let routes: [(_, Rc<dyn Handler>); 3] = [
        (
            Deliver::ID,
            Rc::new(OnPush {
                link: link.clone(),
                label: Label::of(Deliver::NAME),
                take: |client, body| {
                    Message::decode(body).map(|message| client.on_message(message))
                },
            }),
        ),
        (
            PresenceChanged::ID,
            Rc::new(OnPush {
                link: link.clone(),
                label: Label::of(PresenceChanged::NAME),
                take: |client, body| {
                    UserPresence::decode(body).map(|presence| client.events.on_presence(presence))
                },
            }),
        ),
        (
            Conversations::ID,
            Rc::new(OnPush {
                link: link.clone(),
                label: Label::of(Conversations::NAME),
                take: |client, body| {
                    ConversationsReply::decode(body).map(|page| client.on_conversations(page))
                },
            }),
        ),
    ];
    for (id, handler) in routes {
        router.route(id, handler).expect("two rpcs have two ids");
    }
    router
}

type Decoded = Result<(), waystation_service::codegen::prost::DecodeError>;

struct OnPush {
    link: Rc<Link>,
    label: Label,
    take: fn(&Shared, &[u8]) -> Decoded,
}

impl Handler for OnPush {
    fn handle(&self, conn: &Conn, push: Inbound<'_>) -> Started {
        let client = self.link.client.upgrade()?;
        if let Err(error) = (self.take)(&client, push.body) {
            tracing::warn!(uid = client.config.uid, %error, "a push makes no sense; will connect anew");
            client.count(|stats| stats.bad_pushes += 1);
            // The message is not lost: a resume brings it again.
            conn.close(CloseReason::Protocol("bad_push"));
        }
        None
    }

    fn label(&self) -> Label {
        self.label
    }
}
