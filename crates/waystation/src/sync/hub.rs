//! `waystation sync hub`.

use std::sync::Arc;
use std::time::Duration;

use waystation_base::Seq;
use waystation_net::Kind;
use waystation_replica::SiteName;
use waystation_service::Attendant;
use waystation_service::metrics::{Page, Source};
use waystation_sync::hub::{HubOptions, HubServer, SiteReport, StatusReport};

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
    let options = options(args, config)?;
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

/// What the flags say.
fn options(args: &HubArgs, config: &Config) -> Result<HubOptions, Faults> {
    let first = SiteName::new(&args.first).map_err(|error| {
        let origin = Origin::Flag("--first");
        let message = error.to_string();
        Faults(vec![Fault { origin, message }])
    })?;
    let dir = config.dir().join("sync");
    let mut options = HubOptions::new(dir, args.listen.into());
    options.hub.first = first;
    options.shards = args.shards;
    options.hub.lease = Duration::from_hours(args.lease_hours);
    options.hub.retain_bytes_max = args.retain_mib << 20;
    options.hub.retain_age_max = Duration::from_hours(args.retain_hours);
    options.log.accept_start = args.accept_start.map(Seq);
    Ok(options)
}

/// Health, metrics and tasks on `DIR/run/hub-1.sock`, as of every role.
fn attend(config: &Config, server: &HubServer) -> Result<Option<Attendant>, Failure> {
    let Some(threads) = server.server() else {
        return Ok(None);
    };
    let path = Sockets::of(config.dir()).admin("hub-1");
    // Its folder is locked, so that whoever had the socket is gone.
    remove_socket(&path).map_err(|error| Failure::Operation(error.into()))?;
    let board = server.board().clone();
    let gauges: Source = Arc::new(move |page| {
        if let Some(status) = board.status() {
            metrics(page, &status);
        }
    });
    serving::attend_with(config, "hub-1", threads, vec![gauges]).map(Some)
}

/// One figure of each site.
type Figure = (&'static str, &'static str, fn(&SiteReport) -> u64);

/// How far each copy is behind, and whether it needs somebody.
const FIGURES: [Figure; 8] = [
    (
        "waystation_sync_site_up",
        "Whether the site is connected.",
        |site| site.is_connected.into(),
    ),
    (
        "waystation_sync_site_lag_entries",
        "Entries that the site's copy lacks.",
        |site| site.lag_entries,
    ),
    (
        "waystation_sync_site_lag_bytes",
        "Bytes of them, about.",
        |site| site.lag_bytes,
    ),
    (
        "waystation_sync_site_lag_seconds",
        "Age of the first of them.",
        |site| site.lag_seconds,
    ),
    (
        "waystation_sync_site_applied_entries",
        "Entries that the site applies in a second.",
        |site| site.applied_per_second,
    ),
    (
        "waystation_sync_site_parked_entries",
        "Entries that the site has put aside.",
        |site| site.parked.into(),
    ),
    (
        "waystation_sync_site_unpublished_writes",
        "Captured writes that wait in the site's database.",
        |site| site.unpublished,
    ),
    (
        "waystation_sync_site_stands",
        "Whether the site stands at an entry, has left one out, or its capture stands.",
        |site| (site.applier == "stopped" || site.is_differing || site.is_capture_stopped).into(),
    ),
];

fn metrics(page: &mut Page, status: &StatusReport) {
    let ends = [
        (
            "waystation_sync_log_end",
            "The last durable entry.",
            status.end,
        ),
        (
            "waystation_sync_log_start",
            "The entry before the first one that is kept.",
            status.start,
        ),
    ];
    for (name, help, value) in ends {
        page.family(name, Kind::Gauge, help);
        page.sample(name, Kind::Gauge, "", value);
    }
    for (name, help, figure) in FIGURES {
        page.family(name, Kind::Gauge, help);
        for site in &status.sites {
            // A site's name has no character that would need an escape.
            let label = format!("site=\"{}\"", site.name);
            page.sample(name, Kind::Gauge, &label, figure(site));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command, SyncCommand};
    use crate::config::Sources;

    /// What a hub starts with that was called with these flags.
    fn called(flags: &[&str]) -> HubOptions {
        let call = ["waystation", "sync", "hub", "--dir", "d"];
        let cli = Cli::try_parse_from([&call, flags].concat()).unwrap();
        let Command::Sync(SyncCommand::Hub(args)) = cli.command else {
            panic!("another command");
        };
        let config = Config::load(Sources::default()).unwrap();
        options(&args, &config).unwrap()
    }

    /// For how long a site that is away keeps its place was no flag at first, while
    /// the help of another said that it was for that.
    #[test]
    fn a_hub_keeps_for_sites_what_its_flags_say() {
        let hours = Duration::from_hours;
        let usual = called(&[]);
        assert_eq!(
            (usual.hub.lease, usual.hub.retain_age_max),
            (hours(1), hours(24))
        );
        assert_eq!(usual.hub.retain_bytes_max, 8 << 30);
        assert_eq!(usual.log.accept_start, None);
        let flags = [
            "--lease-hours",
            "3",
            "--retain-hours",
            "5",
            "--retain-mib",
            "7",
        ];
        let more = ["--first", "east", "--shards", "2", "--accept-start", "9"];
        let set = called(&[flags, more].concat());
        assert_eq!(
            (set.hub.lease, set.hub.retain_age_max),
            (hours(3), hours(5))
        );
        assert_eq!((set.hub.retain_bytes_max, set.shards), (7 << 20, 2));
        assert_eq!(set.hub.first.as_str(), "east");
        assert_eq!(set.log.accept_start, Some(Seq(9)));
    }

    /// A capture that stood, with not one write leaving the site, was no figure.
    #[test]
    fn a_site_stands_when_its_capture_does() {
        let stands = |change: &dyn Fn(&mut SiteReport)| {
            let mut site: SiteReport = serde_json::from_value(serde_json::json!({
                "id": 1, "name": "a", "phase": "live", "is_connected": true, "at": 7,
                "lag_entries": 0, "lag_bytes": 0, "lag_seconds": 0, "eta_seconds": null,
                "applied_per_second": 0, "applier": "running", "parked": 0,
                "is_differing": false, "may_write": true, "grants": 1, "error": null,
            }))
            .unwrap();
            change(&mut site);
            let (epoch, start, end) = (1, 0, 7);
            let sites = vec![site];
            let mut page = Page::default();
            metrics(
                &mut page,
                &StatusReport {
                    epoch,
                    start,
                    end,
                    sites,
                },
            );
            page.finish()
                .contains("waystation_sync_site_stands{site=\"a\"} 1\n")
        };
        assert!(!stands(&|_| {}));
        assert!(stands(&|site| site.is_capture_stopped = true));
        assert!(stands(&|site| site.is_differing = true));
        assert!(stands(&|site| site.applier = "stopped".to_owned()));
    }
}
