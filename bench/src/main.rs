//! Benchmarks: what is measured runs beside its peers, in turn and in one run.
//!
//! `cargo xtask bench NAME` runs one of them. Each prints its results and writes
//! `bench/results/NAME.md`. Exit codes: 0 done, 1 the benchmark failed, found a fault or
//! missed a bar, which it names, 2 usage.

mod bars;
mod calls;
mod chat;
mod discovery;
mod figures;
mod gateway;
mod hosts;
mod idle;
mod machine;
mod net;
mod pick;
mod procfs;
mod push;
mod results;
mod stats;
mod sync;
mod table;
mod timing;
mod udp;
mod wheel;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

/// Benchmarks, both sides in turn in one run
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// The chat under load: messages a second, latency, and each layer's share
    Chat(chat::Args),
    /// Node discovery on every backend, beside bare watches of them
    Discovery(discovery::Args),
    /// `resp_gateway` beside nutcracker and a bare epoll proxy
    Gateway(gateway::Args),
    /// Policies on real processes, two of which are slow
    Hosts(hosts::Args),
    /// One of the processes of `hosts`
    #[command(hide = true)]
    BenchHost(hosts::HostArgs),
    /// Memory of connections that do nothing
    Idle(idle::Args),
    /// `resp_server` beside redis-server and bare loops
    Net(net::Args),
    /// Results of calls into a report server and on into `MariaDB`
    Report(calls::Args),
    /// A pick from shared memory, from another process
    Pick(pick::Args),
    /// From the commit of a changed route to the callers that pick by it
    Push(push::Args),
    /// The other process of `pick`
    #[command(hide = true)]
    PickCaller(pick::CallerArgs),
    /// Serves as a peer of one of the others
    #[command(hide = true)]
    Serve(net::serve::Args),
    /// The sync hub, apply and join, beside databases and copies of files
    Sync(sync::Args),
    /// Questions of callers of Lars to an agent, beside bare sockets
    Udp(udp::Args),
    /// The deadline wheel beside a binary heap and tokio's timers
    #[command(alias = "wheel")]
    Timers(wheel::Args),
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without standard error there is nobody left to tell.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "a benchmark measures only the release profile: run it by `cargo xtask bench`"
    );
    match &cli.benchmark {
        Benchmark::Chat(args) => chat::run(args),
        Benchmark::Discovery(args) => discovery::run(args),
        Benchmark::Gateway(args) => gateway::run(args),
        Benchmark::Hosts(args) => hosts::run(args),
        Benchmark::BenchHost(args) => hosts::run_host(args),
        Benchmark::Idle(args) => idle::run(args),
        Benchmark::Net(args) => net::run(args),
        Benchmark::Report(args) => calls::run(args),
        Benchmark::Pick(args) => pick::run(args),
        Benchmark::Push(args) => push::run(args),
        Benchmark::PickCaller(args) => pick::run_caller(args),
        Benchmark::Serve(args) => net::serve::run(args),
        Benchmark::Sync(args) => sync::run(args),
        Benchmark::Udp(args) => udp::run(args),
        Benchmark::Timers(args) => wheel::run(args),
    }
}
