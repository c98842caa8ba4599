//! A proxy for Redis: many clients, a few pipelined connections to the server.
//!
//! This is a tutorial on upstreams that answer in the order of requests, crate
//! `net`, module `fifo`. Read `resp_server` first, then this in order:
//!
//! 1. `main`, below: each shard has its own few connections to the server.
//! 2. [`commands`]: which commands may share a connection at all.
//! 3. [`session`]: whole requests of a client, relayed in batches.
//! 4. [`client`]: answers, which leave in the order of the client's requests.
//!
//! ```text
//! cargo run --release -p resp_gateway -- --listen 127.0.0.1:6381 --upstream 127.0.0.1:6379
//! redis-cli -p 6381 incr visitors
//! ```

mod client;
mod commands;
mod session;

use std::error::Error;
use std::iter::successors;
use std::process::ExitCode;

use clap::Parser;
use waystation_net::fifo::{Fifo, FifoConfig, RespCodec};
use waystation_net::{Address, NetConfig, Server, Termination};

use crate::session::Gateway;

/// Bytes of answers that may wait for one client. It is owed those of all
/// requests that were relayed for it, and they come as fast as the server gives
/// them, for it shares the connection: reading more slowly is no fault. One
/// that reads nothing is closed all the same, after 30 s, and the shard's bound
/// on all clients together holds in any case.
const OWED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A proxy for Redis: many clients, a few pipelined connections to the server
#[derive(Debug, Parser)]
#[command(
    after_help = "Example:\n  resp_gateway --listen 127.0.0.1:6381 --upstream 127.0.0.1:6379"
)]
struct Args {
    /// Where to listen: IP:PORT, or unix:PATH; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6381")]
    listen: Address,
    /// Where the Redis server is: IP:PORT, or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6379")]
    upstream: Address,
    /// Connections to the server; each client uses one of them
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("error: {error}");
            for cause in successors(error.source(), |&cause| cause.source()) {
                eprint!(": {cause}");
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    // From here on SIGTERM does not kill, it drains.
    let mut termination = Termination::catch()?;
    let upstream = FifoConfig {
        connections: args.connections.into(),
        ..FifoConfig::new(args.upstream.clone())
    };
    let mut config = NetConfig::default();
    config.connection.output_bytes_max = OWED_BYTES_MAX;
    let server = Server::builder(config)
        // The closure runs on the shard's own thread, where the client of the
        // server lives as well: a request passes from one to the other by a
        // function call, not by a queue between threads.
        .listen(args.listen.clone(), move |shard| {
            Gateway::new(Fifo::new(shard, upstream.clone(), RespCodec::default))
        })
        .start()?;
    println!("listening on {}", server.addresses()[0]);
    termination.wait();
    // Requests in flight are answered first.
    server.drain();
    Ok(())
}
