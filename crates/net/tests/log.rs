//! What peers cause is logged in a measure, and what is left out is counted.
//! In a process of its own, because it collects what the process logs.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::rc::Rc;
use std::time::Duration;

use common::log::Lines;
use common::{Memory, NAME, Peer, Setup, on_shard};
use waystation_net::limits::{LOG_LINES, LOG_PERIOD};
use waystation_net::native::Control;
use waystation_net::{CloseReason, Conn};

struct Faulty;

impl Control for Faulty {
    fn on_close(&self, _: &Conn, _: CloseReason) {
        panic!("a close hook with a fault");
    }
}

/// A peer that opened and closed connections to a service with a fault in its
/// close hook wrote a line for each, as fast as it could.
#[test]
fn what_each_connection_causes_is_logged_in_a_measure() {
    const FLOOD: u64 = 20;
    let lines = Lines::of_this_process();
    let Memory { io, server } = Setup::paused().start(|_| {
        let mut router = common::echo_router();
        router.set_control(Rc::new(Faulty));
        router
    });
    let counters = server.counters()[0].clone();
    let said = move || lines.with("a close hook panicked");
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let churn = async |count: u64| {
                let mut peer = Peer::new(io.dial(NAME).unwrap());
                peer.check_echo().await;
                drop(peer);
                while counters.panics.get() < count {
                    shard.sleep(Duration::from_millis(1)).await;
                }
            };
            for count in 1..=FLOOD {
                churn(count).await;
            }
            assert_eq!(said().len(), LOG_LINES as usize);
            shard.sleep(LOG_PERIOD).await;
            churn(FLOOD + 1).await;
            let said = said();
            assert_eq!(said.len(), LOG_LINES as usize + 1);
            let unsaid = format!("unsaid={} ", FLOOD - u64::from(LOG_LINES));
            assert!(said[LOG_LINES as usize].contains(&unsaid), "{said:?}");
        })
    });
}
