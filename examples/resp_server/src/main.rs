//! A small Redis: PING, SET, GET, DEL and INCR over TCP or a Unix socket.
//!
//! This is a tutorial on crate `net` for protocols of one's own. Read it in
//! this order:
//!
//! 1. `main`, below: a server is a builder, a listener and a protocol.
//! 2. [`protocol`]: how received bytes become answers, in few system calls.
//! 3. [`store`]: the state of a shard. It is shared by `Rc`, without a lock,
//!    since everything on a shard runs on one thread.
//!
//! The limits of a connection, its timeouts, its counters and the drain are
//! the network core's: there is no code for them here.
//!
//! ```text
//! cargo run --release -p resp_server -- --listen 127.0.0.1:6380
//! redis-cli -p 6380 incr visitors
//! ```

mod protocol;
mod store;

use std::error::Error;
use std::iter::successors;
use std::process::ExitCode;
use std::rc::Rc;

use clap::Parser;
use waystation_net::{Address, NetConfig, Server, Termination};

use crate::protocol::RespProtocol;
use crate::store::Store;

/// A small Redis: PING, SET, GET, DEL and INCR
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  resp_server --listen 127.0.0.1:6380")]
struct Args {
    /// Where to listen: IP:PORT, or unix:PATH; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6380")]
    listen: Address,
    /// Bytes of all keys and values together, in MiB; what would pass it is refused
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    memory: u32,
    /// Threads that do nothing but I/O, beside the one that runs commands; with 0 it does its own
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    io_shards: u16,
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
    let memory = args.memory as usize * 1024 * 1024;
    // One shard, so that all clients see the same keys: a shard shares nothing
    // with another. The closure runs on the shard's own thread.
    let config = NetConfig {
        io_shards: args.io_shards,
        ..NetConfig::default()
    };
    let server = Server::builder(config)
        .listen(args.listen.clone(), move |_shard| {
            RespProtocol::new(Rc::new(Store::new(memory)))
        })
        .start()?;
    println!("listening on {}", server.addresses()[0]);
    termination.wait();
    // Answers what has been received, tells no more, and ends the threads.
    server.drain();
    Ok(())
}
