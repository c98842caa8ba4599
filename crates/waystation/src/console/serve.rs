//! The console's listener: HTTP/1 with a limit on everything.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use waystation_base::limits::LOG_PERIOD;
use waystation_base::{Clock, Trouble, TroubleNews};
use waystation_net::MonotonicClock;

use super::routes::router;
use super::{Console, Counters};
use crate::config::Console as Limits;
use crate::descriptors;
use crate::limits::{ACCEPT_PAUSE, CONSOLE_CLOSE_TIMEOUT};

/// Serves until `closing` turns true, then gives answers under way a moment to
/// leave.
pub(crate) async fn serve(
    listener: TcpListener,
    console: Arc<Console>,
    limits: Limits,
    mut closing: watch::Receiver<bool>,
) {
    let connections_max = descriptors::for_console(limits.max_connections as usize);
    let router = router(Arc::clone(&console));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout())
        .max_buf_size(limits.max_header_bytes)
        .half_close(false);
    let mut connections = JoinSet::new();
    let mut trouble = Trouble::new(LOG_PERIOD);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => {
                count_connections(&console, connections.len());
                continue;
            }
            () = turned_true(&mut closing) => break,
        };
        if accepted.is_ok()
            && let Some(failures) = trouble.succeeded()
        {
            tracing::info!(failures, "the console accepts again");
        }
        match accepted {
            Ok((stream, peer)) if connections.len() < connections_max => {
                Counters::add(&console.counters.accepted, 1);
                let service = TowerToHyperService::new(router.clone());
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                connections.spawn(until_closed(
                    connection,
                    peer,
                    limits.clone(),
                    closing.clone(),
                ));
                count_connections(&console, connections.len());
            }
            Ok((_, peer)) => {
                tracing::debug!(%peer, "refused: too many connections to the console");
                Counters::add(&console.counters.refused, 1);
            }
            Err(error) => {
                tell(&error, trouble.failed(MonotonicClock.now()));
                Counters::add(&console.counters.accept_failures, 1);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all_closed = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(CONSOLE_CLOSE_TIMEOUT, all_closed).await;
}

fn tell(error: &io::Error, news: Option<TroubleNews>) {
    match news {
        Some(TroubleNews::Begins { unsaid }) => {
            tracing::warn!(%error, unsaid, "the console cannot accept; pausing");
        }
        Some(TroubleNews::GoesOn { failures }) => {
            tracing::warn!(%error, failures, "the console still cannot accept");
        }
        None => {}
    }
}

fn count_connections(console: &Console, count: usize) {
    console
        .counters
        .connections
        .store(count as u64, Ordering::Relaxed);
}

type Connection = http1::Connection<TokioIo<TcpStream>, TowerToHyperService<axum::Router>>;

async fn until_closed(
    connection: Connection,
    peer: SocketAddr,
    limits: Limits,
    mut closing: watch::Receiver<bool>,
) {
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = tokio::time::sleep(limits.connection_timeout()) => None,
        () = turned_true(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            Some(connection.await)
        }
    };
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%peer, "console connection: {error}"),
        None => tracing::debug!(%peer, "console connection closed for its age"),
    }
}

async fn turned_true(closing: &mut watch::Receiver<bool>) {
    // A sender that has gone has ended everything as well.
    let _ = closing.wait_for(|closing| *closing).await;
}
