//! `waystation sync`: the hub, its sites, and what is asked of them.

mod ask;
mod control;
mod hub;
mod local;
mod progress;
mod publish;
mod site;

use crate::cli::SyncCommand;
use crate::config::Config;
use crate::failure::Failure;

/// Runs one of `waystation sync`'s commands.
///
/// # Errors
/// What the hub answers, or that it does not.
pub(crate) fn run(command: &SyncCommand, config: &Config, as_json: bool) -> Result<(), Failure> {
    match command {
        SyncCommand::Hub(args) => hub::run(args, config, as_json),
        SyncCommand::Site(args) => site::run(args, config, as_json),
        SyncCommand::Publish(args) => publish::run(args, config, as_json),
        SyncCommand::Status(args) => ask::status(args, config, as_json),
        SyncCommand::Verify(args) => ask::verify(args, config, as_json),
        SyncCommand::Trim(args) => ask::trim(args, config, as_json),
        SyncCommand::Audit(args) => local::audit(args, config, as_json),
        SyncCommand::Replay(args) => local::replay(args, config),
        SyncCommand::Skip(args) => local::skip(args, config),
        SyncCommand::Park(args) => local::park(args, config),
        SyncCommand::Resume(args) => local::resume(args, config),
        SyncCommand::Rejoin(args) => local::rejoin(args, config),
        SyncCommand::Repaired(args) => local::repaired(args, config),
        SyncCommand::Grant(args) => ask::change(args, config, ask::Change::Grant),
        SyncCommand::Fence(args) => ask::change(args, config, ask::Change::Fence),
        SyncCommand::Forget(args) => ask::change(args, config, ask::Change::Forget),
    }
}
