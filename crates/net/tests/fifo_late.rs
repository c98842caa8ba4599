//! FIFO clients and what comes late: callers, answers, and messages that nobody
//! has asked for.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use common::played::{Played, SECOND, check, client, command, end, hasty, start, within};
use futures_util::FutureExt;
use waystation_net::fifo::{FifoConfig, FifoError};

/// A shard that had been busy sent the requests of callers whose deadlines had
/// passed, and made the server busy for nobody.
#[test]
fn behind_its_deadline_a_request_is_not_sent() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, hasty());
            fifo.connected().await.unwrap();
            let mut peer = played.accept().await;
            let late = within(&shard, Duration::ZERO, true);
            let answer = fifo.call(&command("late"), &late).await;
            assert_eq!(answer, Err(FifoError::Expired));
            let lease = fifo.lease(shard.now() + SECOND).await.unwrap();
            let mut own = played.accept().await;
            let answer = lease.call(&command("late"), &late).await;
            assert_eq!(answer, Err(FifoError::Expired));
            let call = within(&shard, 60 * SECOND, false);
            let next = start(&shard, &fifo, "next", call);
            assert_eq!(peer.asked().await, "next");
            peer.write("+N\r\n").await;
            assert_eq!(end(next).await.unwrap(), "+N");
            let request = command("own");
            let mut on_lease = pin!(lease.call(&request, &call));
            assert!((&mut on_lease).now_or_never().is_none());
            assert_eq!(own.asked().await, "own");
            own.write("+O\r\n").await;
            assert_eq!(on_lease.await.unwrap(), Bytes::from("+O\r\n"));
        })
    });
}

/// A request that had been sent once was said not to have been, when it could
/// not be sent again.
#[test]
fn what_was_sent_once_is_not_called_unsent() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let settings = FifoConfig {
                in_flight_max: 1,
                ..hasty()
            };
            let fifo = client(&shard, settings);
            let call = within(&shard, 60 * SECOND, true);
            let request = command("again");
            let mut again = pin!(fifo.call(&request, &call));
            poll_fn(|cx| {
                let _ = again.as_mut().poll(cx).is_pending();
                Poll::Ready(())
            })
            .await;
            let mut peer = played.accept().await;
            let sent = poll_fn(|cx| Poll::Ready(again.as_mut().poll(cx).is_pending()));
            assert!(sent.await);
            assert_eq!(peer.asked().await, "again");
            drop((peer, played));
            while fifo.up() > 0 {
                tokio::task::yield_now().await;
            }
            // The only place among those who wait is taken.
            let waits = start(&shard, &fifo, "waits", call);
            tokio::task::yield_now().await;
            assert_eq!(again.await, Err(FifoError::OutcomeUnknown));
            waits.abort();
        })
    });
}

/// An answer that took longer than a frame of the native protocol may was cut
/// off, whatever the stall timeout said.
#[test]
fn an_answer_may_take_as_long_as_the_stall_timeout_says() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let settings = FifoConfig {
                stall_timeout: 1000 * SECOND,
                ..hasty()
            };
            let fifo = client(&shard, settings);
            let call = within(&shard, 600 * SECOND, false);
            let slow = start(&shard, &fifo, "slow", call);
            let mut peer = played.accept().await;
            assert_eq!(peer.asked().await, "slow");
            peer.write("$10\r\nhello").await;
            shard.sleep(200 * SECOND).await;
            peer.write("world\r\n").await;
            assert_eq!(end(slow).await.unwrap(), "$10\r\nhelloworld");
        })
    });
}

/// Messages that had come were lost with the connection when nobody happened
/// to wait at that moment.
#[test]
fn messages_that_came_outlive_their_connection() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, hasty());
            let _shared = played.accept().await;
            let lease = fifo.lease(shard.now() + SECOND).await.unwrap();
            let mut own = played.accept().await;
            // A wait that passes takes nothing along.
            let call = within(&shard, SECOND, false);
            assert_eq!(lease.next(&call).await, Err(FifoError::Timeout));
            own.write("+one\r\n+two\r\n").await;
            drop(own);
            shard.sleep(SECOND).await;
            let call = within(&shard, SECOND, false);
            let asked = lease.call(&command("x"), &call).await;
            assert_eq!(asked, Err(FifoError::NotConnected));
            for expected in ["+one\r\n", "+two\r\n"] {
                let next = lease.next(&call).await;
                assert_eq!(next.unwrap(), Bytes::from(expected));
            }
            assert_eq!(lease.next(&call).await, Err(FifoError::NotConnected));
        })
    });
}

/// A request without a byte took a place, and with it the next one's answer.
#[test]
fn an_empty_request_takes_no_place() {
    check(|shard, io| {
        Box::pin(async move {
            let mut played = Played::listen(&io);
            let fifo = client(&shard, hasty());
            fifo.connected().await.unwrap();
            let mut peer = played.accept().await;
            let call = within(&shard, 60 * SECOND, false);
            let empty = AssertUnwindSafe(fifo.call(b"", &call)).catch_unwind();
            assert!(empty.await.is_err());
            let next = start(&shard, &fifo, "next", call);
            assert_eq!(peer.asked().await, "next");
            peer.write("+N\r\n").await;
            assert_eq!(end(next).await.unwrap(), "+N");
        })
    });
}
