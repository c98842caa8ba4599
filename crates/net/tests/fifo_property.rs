//! FIFO clients under arbitrary timeouts, cancellations, lies and disconnects.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::rc::Rc;
use std::time::Duration;

use common::Setup;
use common::played::{
    Notes, Peer, Played, Running, SECOND, check_with, client, command, end, hasty, polled, start,
    within,
};
use proptest::prelude::*;
use waystation_base::Rng;
use waystation_net::fifo::{Fifo, FifoCall, FifoConfig, FifoError, FifoLane, FifoSink, RespCodec};
use waystation_net::{Faults, MemoryIo, Shard};

/// What one caller of the property does.
#[derive(Debug, Clone)]
enum Caller {
    /// Waits until its deadline, in ms; gives up before after so many polls.
    Call {
        within_ms: u64,
        idempotent: bool,
        polls: Option<usize>,
    },
    /// Relays so many requests at once.
    Relay { count: u32 },
    /// Lets time pass.
    Pause { ms: u64 },
}

fn callers() -> impl Strategy<Value = Vec<Caller>> {
    let call = (1..3000_u64, any::<bool>(), prop::option::of(0..6_usize)).prop_map(
        |(within_ms, idempotent, polls)| Caller::Call {
            within_ms,
            idempotent,
            polls,
        },
    );
    let relay = (1..5_u32).prop_map(|count| Caller::Relay { count });
    let pause = (0..40_u64).prop_map(|ms| Caller::Pause { ms });
    prop::collection::vec(prop_oneof![5 => call, 2 => relay, 2 => pause], 1..40)
}

/// How the played server behaves: chances in a hundred for each answer.
#[derive(Debug, Clone, Copy)]
struct Mood {
    closes: u64,
    lies: u64,
    sleeps: u64,
    torn: u64,
}

fn moods() -> impl Strategy<Value = Mood> {
    (0..15_u64, 0..8_u64, 0..30_u64, 0..30_u64).prop_map(|(closes, lies, sleeps, torn)| Mood {
        closes,
        lies,
        sleeps,
        torn,
    })
}

/// Serves one connection until it ends one way or another.
async fn moody(mut peer: Peer, mood: Mood, seed: u64, shard: Shard) {
    let mut rng = Rng::from_seed(seed);
    while let Some(asked) = peer.asked_or_end().await {
        let answer = format!("${}\r\n{asked}\r\n", asked.len());
        let draw = |rng: &mut Rng, chance: u64| rng.below(100) < chance;
        if draw(&mut rng, mood.sleeps) {
            shard.sleep(Duration::from_millis(rng.below(2500))).await;
        }
        if draw(&mut rng, mood.closes) {
            let part = usize::try_from(rng.below(answer.len() as u64)).unwrap();
            let _ = peer.try_write(&answer[..part]).await;
            return;
        }
        if draw(&mut rng, mood.lies) {
            let lies = ["?\r\n", "$-3\r\n", "$2\r\nabc\r\n", "+a\n"];
            let lie = lies[usize::try_from(rng.below(lies.len() as u64)).unwrap()];
            let _ = peer.try_write(lie).await;
            peer.closed().await;
            return;
        }
        let torn = draw(&mut rng, mood.torn);
        for piece in answer
            .as_bytes()
            .chunks(if torn { 1 } else { answer.len() })
        {
            if !peer.try_write(std::str::from_utf8(piece).unwrap()).await {
                return;
            }
            if torn {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// A caller under way.
enum Under {
    Call(String, Running),
    /// It gives up by itself.
    Leaver(tokio::task::JoinHandle<()>),
}

/// The client under test, and what its callers were answered.
struct Scene {
    shard: Shard,
    fifo: Fifo<RespCodec>,
    lane: FifoLane<RespCodec>,
    notes: Rc<Notes>,
    /// Requests that were relayed so far.
    relayed: u64,
}

impl Scene {
    fn new(shard: &Shard) -> Self {
        let settings = FifoConfig {
            connections: 2,
            ..hasty()
        };
        let fifo = client(shard, settings);
        Self {
            shard: shard.clone(),
            lane: fifo.lane(),
            fifo,
            notes: Rc::default(),
            relayed: 0,
        }
    }

    fn relay(&mut self, count: u32) {
        let first = self.relayed;
        let texts = (first..first + u64::from(count)).map(|n| command(&format!("relay {n}")));
        let requests = texts.collect::<Vec<_>>().concat();
        let sink: Rc<dyn FifoSink> = self.notes.clone();
        if self.lane.relay(&requests, count, &sink, first).is_ok() {
            self.relayed += u64::from(count);
        }
    }

    fn call(&self, name: String, call: FifoCall, polls: Option<usize>) -> Under {
        let Some(polls) = polls else {
            let running = start(&self.shard, &self.fifo, &name, call);
            return Under::Call(name, running);
        };
        let (fifo, request) = (self.fifo.clone(), command(&name));
        Under::Leaver(tokio::task::spawn_local(async move {
            if let Some(Ok(answer)) = polled(fifo.call(&request, &call), polls).await {
                assert_eq!(answer, format!("${}\r\n{name}\r\n", name.len()));
            }
        }))
    }

    /// Each relayed request was answered once and in order, within the stall
    /// timeout at the latest.
    async fn check_relayed(&self) {
        let limit = self.shard.now() + 60 * SECOND;
        while (self.notes.answers.borrow().len() as u64) < self.relayed {
            assert!(
                self.shard.now() < limit,
                "relayed requests are answered or fail"
            );
            self.shard.sleep(Duration::from_millis(10)).await;
        }
        for (number, (noted, answer)) in (0..).zip(&*self.notes.answers.borrow()) {
            assert_eq!(number, *noted, "each once and in order");
            match answer {
                Ok(text) => assert_eq!(*text, format!("relay {number}")),
                Err(error) => assert_eq!(*error, FifoError::OutcomeUnknown),
            }
        }
    }
}

/// Plays the whole list; panics when somebody gets what is not his.
async fn play(shard: Shard, io: MemoryIo, list: Vec<Caller>, mood: Mood, seed: u64) {
    let mut played = Played::listen(&io);
    let accepting = shard.clone();
    let server = tokio::task::spawn_local(async move {
        for seed in seed.. {
            let peer = played.accept().await;
            tokio::task::spawn_local(moody(peer, mood, seed, accepting.clone()));
        }
    });
    let mut scene = Scene::new(&shard);
    let mut under = Vec::new();
    for (index, caller) in list.into_iter().enumerate() {
        match caller {
            Caller::Pause { ms } => shard.sleep(Duration::from_millis(ms)).await,
            Caller::Relay { count } => scene.relay(count),
            Caller::Call {
                within_ms,
                idempotent,
                polls,
            } => {
                let call = within(&shard, Duration::from_millis(within_ms), idempotent);
                under.push(scene.call(format!("call {index}"), call, polls));
            }
        }
    }
    for one in under {
        match one {
            Under::Leaver(task) => task.await.unwrap(),
            Under::Call(name, call) => match end(call).await {
                Ok(answer) => assert_eq!(answer, format!("${}\r\n{name}", name.len())),
                Err(FifoError::Timeout | FifoError::NotConnected | FifoError::OutcomeUnknown) => {}
                Err(other) => panic!("{name}: {other}"),
            },
        }
    }
    scene.check_relayed().await;
    server.abort();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whoever times out, gives up or is cut off, whenever: nobody gets the
    /// answer of another, everyone gets one answer or one failure, and
    /// nothing is left behind.
    #[test]
    fn nobody_gets_the_answer_of_another(
        list in callers(),
        mood in moods(),
        seed in any::<u32>(),
        bad_pipes in any::<bool>(),
    ) {
        let faults = Faults {
            short: 0.3,
            spurious: 0.2,
            delay: 0.2,
            cut: 0.002,
            ..Faults::default()
        };
        let setup = Setup {
            faults: if bad_pipes { faults } else { Faults::default() },
            seed: seed.into(),
            ..Setup::paused()
        };
        let memory = check_with(setup, move |shard, io| {
            Box::pin(play(shard, io, list, mood, seed.into()))
        });
        prop_assert_eq!(memory.server.counters()[0].panics.get(), 0);
        memory.server.drain();
    }
}
