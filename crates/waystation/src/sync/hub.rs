//! `waystation sync hub`.

use std::time::Duration;

use waystation_replica::SiteName;
use waystation_service::Attendant;
use waystation_sync::hub::{HubOptions, HubServer};

use crate::cli::HubArgs;
use crate::config::{Config, Fault, Faults, Origin};
use crate::dir::{Sockets, remove_socket};
use crate::failure::Failure;
use crate::serving;

/// Runs a hub until a signal ends it.
///
/// # Errors
/// The folder or the address cannot be used.
pub(super) fn run(args: &HubArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let first = SiteName::new(&args.first).map_err(|error| {
        let origin = Origin::Flag("--first");
        let message = error.to_string();
        Faults(vec![Fault { origin, message }])
    })?;
    let dir = config.dir().join("sync");
    let mut options = HubOptions::new(dir, args.listen.into());
    options.hub.first = first;
    options.shards = args.shards;
    options.hub.retain_bytes_max = args.retain_mib << 20;
    options.hub.retain_age_max = Duration::from_hours(args.retain_hours);
    let server = HubServer::start(&options).map_err(|error| Failure::Operation(error.into()))?;
    let signals = serving::catch_signals()?;
    let attendant = attend(config, &server)?;
    let address = server.address().to_string();
    serving::say_ready(&address, &[("epoch", server.epoch().0.into())], as_json);
    serving::wait(signals);
    drop(attendant);
    server.drain();
    Ok(())
}

/// Health, metrics and tasks on `DIR/run/hub-1.sock`, as of every role.
fn attend(config: &Config, server: &HubServer) -> Result<Option<Attendant>, Failure> {
    let Some(threads) = server.server() else {
        return Ok(None);
    };
    let path = Sockets::of(config.dir()).admin("hub-1");
    // Its folder is locked, so that whoever had the socket is gone.
    remove_socket(&path).map_err(|error| Failure::Operation(error.into()))?;
    serving::attend(config, "hub-1", threads).map(Some)
}
