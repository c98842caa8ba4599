//! FIFO clients and a real Redis server: at work, paused, killed, restarted.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::redis::{Redis, program};
use common::{builder, on_shard};
use futures_util::future::LocalBoxFuture;
use waystation_base::BackoffConfig;
use waystation_net::fifo::{Fifo, FifoCall, FifoConfig, FifoError, RespCodec};
use waystation_net::{Address, Label, NetConfig, Server, Shard};
use waystation_wire::resp::{Value, parse, put_command};

const MINUTE: Duration = Duration::from_mins(1);

/// The server under test's client, with the test's way to the real server.
type Held = Arc<Mutex<Redis>>;

/// Runs a test on a shard beside a real server.
fn check(
    settings: impl FnOnce(FifoConfig) -> FifoConfig + Send + 'static,
    test: impl FnOnce(Shard, Fifo<RespCodec>, Held) -> LocalBoxFuture<'static, ()> + Send + 'static,
) {
    let Some(program) = program() else { return };
    let redis = Redis::start(&program);
    let address = Address::Unix(redis.socket());
    let redis = Arc::new(Mutex::new(redis));
    let server: Server = builder(NetConfig::default(), false).start().unwrap();
    // It lives as long as the test, whatever the test does with its share.
    let held = redis.clone();
    on_shard(&server, 0, move |shard| {
        let config = settings(FifoConfig::new(address));
        let fifo = Fifo::new(&shard, config, RespCodec::default);
        test(shard, fifo, redis)
    });
    assert_eq!(server.counters()[0].calls_in_flight.get(), 0);
    assert_eq!(server.counters()[0].panics.get(), 0);
    server.drain();
    drop(held);
}

async fn ask(
    shard: &Shard,
    fifo: &Fifo<RespCodec>,
    arguments: &[&str],
    within: Duration,
    idempotent: bool,
) -> Result<Value, FifoError> {
    let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.as_bytes()).collect();
    let mut request = Vec::new();
    put_command(&mut request, &arguments);
    let call = FifoCall {
        deadline: shard.now() + within,
        idempotent,
        label: Label::of("test"),
    };
    let answer = fifo.call(&request, &call).await?;
    Ok(parse(&answer).unwrap())
}

fn bulk(text: &str) -> Value {
    Value::Bulk(Bytes::copy_from_slice(text.as_bytes()))
}

type Asked = tokio::task::JoinHandle<Result<Value, FifoError>>;

/// A question that runs by itself.
fn start(
    shard: &Shard,
    fifo: &Fifo<RespCodec>,
    arguments: &[&str],
    within: Duration,
    idempotent: bool,
) -> Asked {
    let (shard, fifo) = (shard.clone(), fifo.clone());
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    tokio::task::spawn_local(async move {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        ask(&shard, &fifo, &arguments, within, idempotent).await
    })
}

#[test]
fn needs_redis_everyone_gets_his_own_answer() {
    let settings = |config| FifoConfig {
        connections: 3,
        ..config
    };
    check(settings, |shard, fifo, _redis| {
        Box::pin(async move {
            let asked: Vec<Asked> = (0..2000)
                .map(|n| start(&shard, &fifo, &["ECHO", &n.to_string()], MINUTE, false))
                .collect();
            for (n, asked) in asked.into_iter().enumerate() {
                assert_eq!(asked.await.unwrap(), Ok(bulk(&n.to_string())));
            }
            // What the server refuses is an answer, and large ones come whole.
            let wrong = ask(&shard, &fifo, &["GET"], MINUTE, false).await.unwrap();
            assert!(matches!(wrong, Value::Error(_)), "{wrong:?}");
            let large = "x".repeat(5_000_000);
            let set = ask(&shard, &fifo, &["SET", "k", &large], MINUTE, false).await;
            assert_eq!(set, Ok(Value::Simple("OK".into())));
            let got = ask(&shard, &fifo, &["GET", "k"], MINUTE, true).await;
            assert!(got == Ok(bulk(&large)));
        })
    });
}

/// The server neither answers nor goes away: SIGSTOP.
#[test]
fn needs_redis_a_paused_server_is_given_up_and_used_again() {
    let settings = |config| FifoConfig {
        stall_timeout: Duration::from_millis(200),
        ..config
    };
    check(settings, |shard, fifo, redis| {
        Box::pin(async move {
            let first = ask(&shard, &fifo, &["SET", "k", "v"], MINUTE, false).await;
            assert_eq!(first, Ok(Value::Simple("OK".into())));
            redis.lock().unwrap().pause();
            let once = start(&shard, &fifo, &["INCR", "n"], MINUTE, false);
            let again = start(&shard, &fifo, &["GET", "k"], MINUTE, true);
            let hurried = Duration::from_millis(20);
            let hurried = ask(&shard, &fifo, &["GET", "k"], hurried, true).await;
            assert_eq!(hurried, Err(FifoError::Timeout));
            assert_eq!(once.await.unwrap(), Err(FifoError::OutcomeUnknown));
            redis.lock().unwrap().go_on();
            assert_eq!(again.await.unwrap(), Ok(bulk("v")));
            // Unknown means either.
            let counted = ask(&shard, &fifo, &["GET", "n"], MINUTE, true).await;
            let either = [Ok(Value::Null), Ok(bulk("1"))];
            assert!(either.contains(&counted), "{counted:?}");
        })
    });
}

#[test]
fn needs_redis_a_killed_server_fails_its_requests_and_comes_back() {
    let settings = |config| config;
    check(settings, |shard, fifo, redis| {
        Box::pin(async move {
            let up = ask(&shard, &fifo, &["PING"], MINUTE, true).await;
            assert_eq!(up, Ok(Value::Simple("PONG".into())));
            // It is paused first, so that the requests are in flight for certain.
            redis.lock().unwrap().pause();
            let asked: Vec<Asked> = (0..50)
                .map(|n| start(&shard, &fifo, &["INCR", &n.to_string()], MINUTE, false))
                .collect();
            let again = start(&shard, &fifo, &["ECHO", "still"], MINUTE, true);
            while fifo.in_flight() < 51 {
                tokio::task::yield_now().await;
            }
            redis.lock().unwrap().kill();
            for asked in asked {
                assert_eq!(asked.await.unwrap(), Err(FifoError::OutcomeUnknown));
            }
            let hurried = Duration::from_millis(20);
            let down = ask(&shard, &fifo, &["PING"], hurried, false).await;
            assert_eq!(down, Err(FifoError::NotConnected));
            assert_eq!(fifo.up(), 0);
            redis.lock().unwrap().restart();
            assert_eq!(again.await.unwrap(), Ok(bulk("still")));
        })
    });
}

/// The server cuts connections under load: whoever was told of a success had
/// it, and whoever was told nothing may have had it.
#[test]
fn needs_redis_cut_connections_lose_no_acknowledged_request() {
    let settings = |config| FifoConfig {
        connections: 2,
        backoff: BackoffConfig {
            base: Duration::from_millis(1),
            max: Duration::from_millis(10),
            ..BackoffConfig::default()
        },
        ..config
    };
    check(settings, |shard, fifo, redis| {
        Box::pin(async move {
            let (mut done, mut unknown) = (0, 0);
            for round in 0..20 {
                let asked: Vec<Asked> = (0..200)
                    .map(|_| start(&shard, &fifo, &["INCR", "n"], MINUTE, false))
                    .collect();
                for _ in 0..round {
                    tokio::task::yield_now().await;
                }
                let cut = redis.lock().unwrap().ask("CLIENT KILL TYPE normal");
                assert!(cut.is_some_and(|line| line.starts_with(':')));
                for asked in asked {
                    match asked.await.unwrap() {
                        Ok(Value::Integer(_)) => done += 1,
                        Err(FifoError::OutcomeUnknown) => unknown += 1,
                        other => panic!("{other:?}"),
                    }
                }
            }
            assert_eq!(done + unknown, 4000);
            let Ok(Value::Bulk(count)) = ask(&shard, &fifo, &["GET", "n"], MINUTE, true).await
            else {
                panic!("the server answers with the count");
            };
            let count: u32 = std::str::from_utf8(&count).unwrap().parse().unwrap();
            assert!(
                (done..=done + unknown).contains(&count),
                "{done} {unknown} {count}"
            );
        })
    });
}

/// Commands that change the connection's meaning do not meet those of others.
#[test]
fn needs_redis_leases_carry_transactions_waits_and_subscriptions() {
    let settings = |config| config;
    check(settings, |shard, fifo, _redis| {
        Box::pin(async move {
            let call = FifoCall {
                deadline: shard.now() + MINUTE,
                idempotent: false,
                label: Label::of("lease"),
            };
            let on = async |lease: &waystation_net::fifo::Lease<Bytes>, text: &str| {
                let answer = lease.call(format!("{text}\r\n").as_bytes(), &call).await;
                parse(&answer.unwrap()).unwrap()
            };
            let transaction = fifo.lease(call.deadline).await.unwrap();
            assert_eq!(on(&transaction, "MULTI").await, Value::Simple("OK".into()));
            let queued = Value::Simple("QUEUED".into());
            assert_eq!(on(&transaction, "INCR n").await, queued);
            let beside = ask(&shard, &fifo, &["GET", "n"], MINUTE, true).await;
            assert_eq!(beside, Ok(Value::Null));
            let executed = Value::Array(vec![Value::Integer(1)]);
            assert_eq!(on(&transaction, "EXEC").await, executed);

            let subscription = fifo.lease(call.deadline).await.unwrap();
            let subscribed = on(&subscription, "SUBSCRIBE news").await;
            assert!(matches!(subscribed, Value::Array(_)), "{subscribed:?}");
            let published = ask(&shard, &fifo, &["PUBLISH", "news", "hello"], MINUTE, false).await;
            assert_eq!(published, Ok(Value::Integer(1)));
            let message = parse(&subscription.next(&call).await.unwrap()).unwrap();
            let expected = ["message", "news", "hello"].map(bulk);
            assert_eq!(message, Value::Array(expected.to_vec()));

            let waiting = fifo.lease(call.deadline).await.unwrap();
            let popped = on(&waiting, "BLPOP list 0");
            let pushed = ask(&shard, &fifo, &["RPUSH", "list", "x"], MINUTE, false);
            let (popped, pushed) = tokio::join!(popped, pushed);
            assert_eq!(pushed, Ok(Value::Integer(1)));
            assert_eq!(popped, Value::Array(vec![bulk("list"), bulk("x")]));
        })
    });
}
