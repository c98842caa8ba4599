//! The roles that this program takes as its own peer, each as a process.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Result;
use waystation_net::native::{NativeProtocol, Router};
use waystation_net::{Address, NetConfig, Server, Termination};

use super::bare;
use crate::gateway;

/// `serve`: not for users.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Role {
    /// A bare epoll loop
    Epoll(Listen),
    /// A bare tokio loop
    Tokio(Listen),
    /// Native frames and WebSocket, without a handler
    Native(Listen),
    /// A bare epoll proxy
    Proxy {
        /// The server behind it
        #[arg(long)]
        upstream: SocketAddr,
        #[command(flatten)]
        listen: Listen,
    },
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Listen {
    #[arg(long)]
    listen: SocketAddr,
}

/// Serves until the process is killed.
///
/// # Errors
/// It cannot.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.role {
        Role::Epoll(Listen { listen }) => bare::epoll_loop(*listen).map(drop),
        Role::Tokio(Listen { listen }) => bare::tokio_loop(*listen),
        Role::Native(Listen { listen }) => native(*listen),
        Role::Proxy { upstream, listen } => gateway::proxy::run(listen.listen, *upstream).map(drop),
    }
}

fn native(listen: SocketAddr) -> Result<()> {
    let server = Server::builder(NetConfig::default())
        .listen(Address::Tcp(listen), |_shard| {
            let mut router = Router::new();
            router.set_websocket_path("/ws");
            NativeProtocol::new(Rc::new(router))
        })
        .start()?;
    let mut signals = Termination::catch()?;
    println!("listening on {}", server.addresses()[0]);
    signals.wait();
    server.drain();
    Ok(())
}
