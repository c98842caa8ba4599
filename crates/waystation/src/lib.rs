//! The one binary: command line, configuration, supervisor, console.
//!
//! What it leaves out: the roles themselves, which are libraries that
//! `roles` calls. It is a library so that it compiles beside the roles'
//! code generation, which a binary would wait for; `main.rs` only calls
//! [`main`].

mod admin;
mod cli;
mod clients;
mod clock;
mod config;
mod console;
mod ctx;
mod descriptors;
mod dir;
mod failure;
mod host;
mod limits;
mod logging;
mod node;
mod registry;
mod report;
mod roles;
mod route;
mod serving;
mod supervise;
mod sync;
mod table;
mod up;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command, ConfigCommand};
use crate::config::{Config, Faults, Sources};
use crate::failure::Failure;

/// Runs the command line of this process and returns its exit code: 0 done,
/// 1 the operation failed, 2 usage or configuration.
///
/// Errors are printed on standard error; `--help`, `--version` and usage
/// errors end the process here.
pub fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // Without standard error there is nobody left to tell.
            let _ = writeln!(io::stderr(), "{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if let Command::Completion { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "waystation", &mut script);
        return Ok(out.write_all(&script).context("cannot print")?);
    }
    if let Command::Config(ConfigCommand::ImportLars { file }) = &cli.command {
        let bytes = config::bytes_of(file).map_err(Faults::from)?;
        let imported = config::import_lars(file, &bytes)?;
        return Ok(imported.print(cli.json, &mut out).context("cannot print")?);
    }
    let config = load(cli);
    if let Command::Config(ConfigCommand::Check) = cli.command {
        return check(config, cli.json, &mut out);
    }
    let config = config?;
    logging::start(cli.log_level(&config.log.level), cli.process_name());
    match &cli.command {
        Command::Up(args) => {
            drop(out);
            block_on(up::run(&config, args.for_seconds.map(Duration::from_secs)))
        }
        Command::Im(command) => {
            drop(out);
            roles::run(command, &config, cli.json)
        }
        Command::Registry(command) => {
            drop(out);
            registry::run(command, &config, cli.json)
        }
        Command::Node(command) => {
            drop(out);
            node::run(command, &config, cli.json)
        }
        Command::Route(command) => {
            drop(out);
            route::run(command, &config, cli.json)
        }
        Command::Sync(command) => {
            drop(out);
            sync::run(command, &config, cli.json)
        }
        Command::Agent(args) => {
            drop(out);
            host::agent(args, &config, cli.json)
        }
        Command::Host(command) => {
            drop(out);
            host::run(command, &config, cli.json)
        }
        Command::Report(command) => {
            drop(out);
            report::run(command, &config, cli.json)
        }
        Command::Ctx(args) => block_on(ctx::run(&config, args.role.as_deref(), cli.json, &mut out)),
        Command::Config(_) => {
            Ok(config::show(&config.values, cli.json, &mut out).context("cannot print")?)
        }
        Command::Completion { .. } => unreachable!("handled before the configuration is read"),
    }
}

fn load(cli: &Cli) -> Result<Config, Faults> {
    Config::load(Sources {
        file: cli.config.clone(),
        variables: config::variables(),
        flags: cli.flags(),
    })
}

fn check(
    config: Result<Config, Faults>,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if as_json {
        let faults = config
            .as_ref()
            .err()
            .map(|faults| faults.0.as_slice())
            .unwrap_or_default();
        for fault in faults {
            let origin = fault.origin.to_string();
            let line = serde_json::json!({ "origin": origin, "message": fault.message });
            writeln!(out, "{line}").context("cannot print")?;
        }
    }
    config?;
    if !as_json {
        writeln!(out, "the configuration is valid").context("cannot print")?;
    }
    Ok(())
}

/// One thread is enough for a supervisor; the roles bring their own.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(work)
}
