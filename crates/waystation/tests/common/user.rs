//! One user of the chat, by the client that `im chat` and `im load` are made of.

use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use waystation_base::ShardId;
use waystation_im::client::{Client, ClientConfig, Delivery, Events, SessionEvent};
use waystation_net::{NetConfig, Server};

/// No wait is longer; none is meant to come near it.
const WAIT: Duration = Duration::from_secs(30);

/// What a client is told.
#[derive(Debug)]
enum Told {
    Message(Delivery),
    Session(SessionEvent),
}

struct Ears(Sender<Told>);

impl Events for Ears {
    fn on_message(&self, delivery: Delivery) {
        let _ = self.0.send(Told::Message(delivery));
    }

    fn on_session(&self, event: SessionEvent) {
        let _ = self.0.send(Told::Session(event));
    }
}

/// One user's connection, and what it is told.
pub(crate) struct User {
    told: Receiver<Told>,
    server: Server,
}

impl User {
    /// Connects to the Entry at that address and logs in.
    pub(crate) fn connect(entry: &str, uid: &str) -> Self {
        let config = ClientConfig::new(entry.parse().unwrap(), uid, "test");
        let (tell, told) = channel();
        let server = Server::builder(NetConfig::default()).start().unwrap();
        let start = move |shard: &waystation_net::Shard| {
            let client = Client::new(shard, config, Rc::new(Ears(tell)));
            shard.set_extension(Rc::new(client));
        };
        server.remote().run_on(ShardId(0), start).unwrap();
        Self { told, server }
    }

    fn next(&self) -> Told {
        self.told.recv_timeout(WAIT).expect("it is told in time")
    }

    /// The conversations that the login lists.
    pub(crate) fn logged_in(&self) -> Vec<String> {
        match self.next() {
            Told::Session(SessionEvent::Up { conversations, .. }) => conversations
                .into_iter()
                .map(|conversation| conversation.conversation)
                .collect(),
            told => panic!("{told:?}"),
        }
    }

    /// The text of the message that comes next.
    pub(crate) fn message(&self) -> String {
        match self.next() {
            Told::Message(delivery) => delivery.message.body,
            told @ Told::Session(_) => panic!("{told:?}"),
        }
    }

    /// Ends the connection.
    pub(crate) fn leave(self) {
        self.server.drain();
    }
}
