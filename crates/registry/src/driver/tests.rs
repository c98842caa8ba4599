//! A driver with much to do, beside other tasks of its shard.

use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use waystation_base::ShardId;
use waystation_net::{Label, NetConfig, Server, Shard};

use super::Driver;
use crate::backend::{Ask, Backend, Event, Events};
use crate::hub::Hub;
use crate::limits::EVENTS_PER_TURN;

/// Answers nothing.
struct Silent;

impl Backend for Silent {
    fn handle(&self, _: Ask) {}

    fn close(&self) -> LocalBoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A client that had fallen behind handled all that had come for it in one go,
/// and whatever else its shard served waited.
#[test]
fn others_have_their_turn_while_a_client_catches_up() {
    const TURNS: usize = 20;
    const EVENTS: usize = TURNS * EVENTS_PER_TURN;
    let server = Server::builder(NetConfig::default()).start().unwrap();
    let (tell, told) = mpsc::channel();
    let job = move |shard: &Shard| {
        let hub = Arc::new(Hub::new("test://".to_owned()));
        let events = Events::default();
        for number in 0..EVENTS {
            let place = number.to_string();
            let reason = "it is not ours".to_owned();
            assert!(events.push(Event::Skipped { place, reason }));
        }
        Driver::new(shard, hub.clone(), Rc::new(Silent), events).spawn();
        shard.spawn(Label::of("other"), async move {
            let mut turns = 0;
            while hub.session.read(|session| session.skipped) < EVENTS as u64 {
                turns += 1;
                tokio::task::yield_now().await;
            }
            hub.close();
            // The test may have given up.
            let _ = tell.send(turns);
        });
    };
    server.remote().run_on(ShardId(0), job).unwrap();
    let turns: usize = told.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(
        turns >= TURNS / 2,
        "{turns} while it had {TURNS} of its own"
    );
    server.drain();
}
