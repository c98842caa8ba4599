//! `waystation sync site`.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::{Context, anyhow};
use waystation_replica::limits::SITE_NAME_BYTES_MAX;
use waystation_replica::{Donor, HubConfig, Policy, SiteConfig, SiteName};
use waystation_sync::adapter::{Adapter, HandlerTarget, HttpHandler, SqliteDatabase};
use waystation_sync::site::{SiteOptions, SiteServer};

use super::{control, progress};
use crate::cli::{PolicyArg, SiteRunArgs};
use crate::config::{Config, Fault, Faults, Origin};
use crate::failure::Failure;
use crate::{dir, serving};

/// Runs a site until a signal ends it.
///
/// # Errors
/// All faults of the call at once; or the database cannot be opened or synced.
pub(super) fn run(args: &SiteRunArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let (options, target) = check(args, config)?;
    check_rows(args, &target)?;
    let signals = serving::catch_signals()?;
    let operators = control::listen(config, &args.name)?;
    let adapter: Arc<dyn Adapter> = match target {
        Target::Database(database) => Arc::new(database),
        Target::Handler(handler) => Arc::new(handler),
    };
    let started = SiteServer::start(options, adapter);
    let url = args.database.as_ref().or(args.handler.as_ref());
    let url = url.map_or("", String::as_str);
    let server = started.with_context(|| format!("cannot sync {url}"))?;
    let server = Arc::new(server);
    let serving = operators.serve(&server);
    serving.map_err(|error| Failure::Operation(error.into()))?;
    let (stop, stopped) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let reporter = thread::Builder::new().name("sync progress".to_owned());
        let server: &SiteServer = &server;
        let report = move || progress::report(server, args, as_json, &stopped);
        let spawned = reporter.spawn_scoped(scope, report);
        spawned.context("cannot start a thread")?;
        serving::wait(signals);
        drop(stop);
        Ok::<(), Failure>(())
    })?;
    // An operator's question that is under way ends with this process.
    if let Some(server) = Arc::into_inner(server) {
        server.stop();
    }
    Ok(())
}

/// Refuses to begin a copy in the place of rows that nobody said may go.
fn check_rows(args: &SiteRunArgs, target: &Target) -> Result<(), Failure> {
    let Target::Database(database) = target else {
        return Ok(());
    };
    if args.replace || args.name == HubConfig::default().first.as_str() {
        return Ok(());
    }
    let url = args.database.as_deref().unwrap_or_default();
    let tables = database.own_rows();
    let tables = tables.with_context(|| format!("cannot sync {url}"))?;
    if tables.is_empty() {
        return Ok(());
    }
    Err(Failure::Operation(anyhow!(
        "{url} has rows of its own, in {}: the first copy takes the place of all its tables, \
         also of those that no other site has; say --replace if they may go",
        tables.join(", ")
    )))
}

/// What is synced.
enum Target {
    Database(SqliteDatabase),
    Handler(HandlerTarget),
}

/// What the call asks for, or all that is wrong with it.
fn check(args: &SiteRunArgs, config: &Config) -> Result<(SiteOptions, Target), Faults> {
    let mut faults = Vec::new();
    let mut fault = |flag, message: String| {
        let origin = Origin::Flag(flag);
        faults.push(Fault { origin, message });
    };
    let name = SiteName::new(&args.name);
    let name = name.map_err(|error| fault("--name", error.to_string()));
    let donor = match args.join.as_str() {
        "auto" => Ok(Donor::Best),
        site if site == args.name => {
            fault("--join", "a site cannot join itself".to_owned());
            Err(())
        }
        site => SiteName::new(site)
            .map(Donor::Named)
            .map_err(|error| fault("--join", error.to_string())),
    };
    let target = target_of(args, config).map_err(|(flag, message)| fault(flag, message));
    if args.skip.iter().any(String::is_empty) {
        fault("--skip", "a table has a name".to_owned());
    }
    if args.zone.len() > SITE_NAME_BYTES_MAX {
        let message = format!("a zone has at most {SITE_NAME_BYTES_MAX} bytes");
        fault("--zone", message);
    }
    let (Ok(name), Ok(donor), Ok(target)) = (name, donor, target) else {
        return Err(Faults(faults));
    };
    if !faults.is_empty() {
        return Err(Faults(faults));
    }
    let mut core = SiteConfig::new(name);
    core.zone = args.zone.as_str().into();
    core.donor_bytes_per_second = args.donor_mib_per_second.map(|mib| mib << 20);
    core.joiner.donor = donor;
    core.applier.policy = policy(args.policy);
    Ok((
        SiteOptions::new(args.hub.address(config).into(), core),
        target,
    ))
}

/// What the URLs name, or which one is at fault and why.
fn target_of(args: &SiteRunArgs, config: &Config) -> Result<Target, (&'static str, String)> {
    if let Some(url) = &args.handler {
        let handler = HttpHandler::new(url);
        let handler = handler.map_err(|error| ("--handler", error.to_string()))?;
        let state = config.dir().join(format!("sync-handler-{}.db", args.name));
        let mut target = HandlerTarget::new(&state, handler);
        if args.allow_nondeterministic {
            target = target.allow_nondeterministic();
        }
        return Ok(Target::Handler(target));
    }
    let url = args.database.as_deref().unwrap_or_default();
    let path = path_of(url).map_err(|message| ("--database", message))?;
    let mut database = SqliteDatabase::new(path);
    for table in &args.skip {
        database = database.skip(table);
    }
    if args.capture {
        database = database.captured();
    }
    Ok(Target::Database(database))
}

fn policy(policy: PolicyArg) -> Policy {
    match policy {
        PolicyArg::Retry => Policy::Retry,
        PolicyArg::Skip => Policy::Skip,
        PolicyArg::Park => Policy::Park,
        PolicyArg::Stop => Policy::Stop,
    }
}

/// The file that a URL names.
fn path_of(url: &str) -> Result<&Path, String> {
    let Some((scheme, path)) = url.split_once("://") else {
        return Err(format!("`{url}` is no URL: write sqlite://PATH"));
    };
    match scheme {
        "sqlite" if path.is_empty() => Err("no path after sqlite://".to_owned()),
        "sqlite" => {
            let path = Path::new(path);
            dir::check_folder(path).map(|()| path)
        }
        "mysql" | "postgres" => Err(format!("{scheme}:// is not built yet; sqlite://PATH is")),
        _ => Err(format!(
            "nothing is known of {scheme}://: write sqlite://PATH"
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{check, path_of};
    use crate::cli::SiteRunArgs;
    use crate::config::{Config, Sources};

    #[derive(clap::Parser)]
    struct Call {
        #[command(flatten)]
        site: SiteRunArgs,
    }

    /// The story: zone and rate of a donor could be set in a program only.
    #[test]
    fn a_site_is_told_where_it_is_and_what_it_may_send() {
        let parse = |more: &[&str]| {
            let args = ["site", "--name", "a", "--database", "sqlite://a.db"];
            Call::try_parse_from(args.iter().chain(more))
        };
        let config = Config::load(Sources::default()).unwrap();
        let core = |more: &[&str]| {
            let args = parse(more).unwrap_or_else(|error| panic!("{error}")).site;
            check(&args, &config).map(|(options, _)| options.core)
        };
        let told = core(&["--zone", "east", "--donor-mib-per-second", "3"]);
        let told = told.unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(&*told.zone, "east");
        assert_eq!(told.donor_bytes_per_second, Some(3 << 20));
        let told = core(&[]).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!((&*told.zone, told.donor_bytes_per_second), ("", None));
        assert!(parse(&["--donor-mib-per-second", "0"]).is_err());
        assert!(core(&["--zone", &"z".repeat(65)]).is_err());
    }

    #[test]
    fn a_url_names_a_file_or_its_fault() {
        assert_eq!(path_of("sqlite://a.db").unwrap().to_str(), Some("a.db"));
        assert_eq!(path_of("sqlite:///a.db").unwrap().to_str(), Some("/a.db"));
        for (url, said) in [
            ("a.db", "no URL"),
            ("sqlite://", "no path"),
            ("sqlite:///nonexistent/a.db", "/nonexistent"),
            ("mysql://host/db", "not built yet"),
            ("oracle://host", "oracle://"),
        ] {
            assert!(path_of(url).unwrap_err().contains(said), "{url}");
        }
    }
}
