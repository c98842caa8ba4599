//! The chat's clients: `im load` and `im chat`.

use std::io::{self, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::process::{Resource, getrlimit, setrlimit};
use waystation_im::{chat, load};

use crate::cli::{ChatArgs, LoadArgs};
use crate::config::Config;
use crate::failure::Failure;
use crate::serving;

/// Descriptors that a process needs beside its connections.
const DESCRIPTORS_SPARE: u64 = 64;

/// Runs `im load` and prints its report.
///
/// # Errors
/// Why there is no report, or that it tells of faults.
pub(crate) fn load(args: &LoadArgs, settings: &Config, as_json: bool) -> Result<(), Failure> {
    allow_descriptors(u64::from(args.clients) + DESCRIPTORS_SPARE)?;
    let entries = entries(&args.entry, settings);
    let mut config = load::Config::new(entries[0].into());
    config.entries = entries.into_iter().map(Into::into).collect();
    config.clients = args.clients;
    config.seconds = args.seconds;
    config.rate = args.rate;
    config.body_bytes = args.body_bytes;
    config.shards = args.shards;
    config.settle = Duration::from_secs(u64::from(args.settle));
    config.seed = args.seed.unwrap_or(config.seed);
    let stop = load::Stop::default();
    stop_on_signal(&stop)?;
    let report = load::run(&config, &stop).map_err(|error| match error {
        load::Error::Config { .. } | load::Error::TooMuch { .. } => Failure::Usage(error.into()),
        error => Failure::Operation(error.into()),
    })?;
    let mut out = io::stdout().lock();
    let printed = if as_json {
        let json = serde_json::to_string(&report).context("cannot print")?;
        writeln!(out, "{json}")
    } else {
        writeln!(out, "{report}")
    };
    printed.context("cannot print")?;
    if report.is_clean() {
        return Ok(());
    }
    if report.acknowledged == 0 {
        let reason = report.faults.last().map_or("", String::as_str);
        return Err(anyhow!("nothing was acknowledged: {reason}").into());
    }
    Err(anyhow!("messages were lost, duplicated, reordered or changed").into())
}

/// Runs `im chat` on standard input and output.
///
/// # Errors
/// Wrong names, no login, or messages that were not sent.
pub(crate) fn chat(args: &ChatArgs, settings: &Config) -> Result<(), Failure> {
    let mut config = chat::Config::new(entry(args.entry, settings).into(), args.user.as_str());
    let user = args.to.clone().map(chat::Place::User);
    config.place = user.or_else(|| args.group.clone().map(chat::Place::Group));
    let input = BufReader::new(io::stdin());
    chat::run(config, input, &mut io::stdout().lock()).map_err(|error| match error {
        chat::Error::Name(_) => Failure::Usage(error.into()),
        error => Failure::Operation(error.into()),
    })
}

/// The Entries to connect to: the flag's, or those that `up` starts.
fn entries(flag: &[SocketAddr], settings: &Config) -> Vec<SocketAddr> {
    if flag.is_empty() {
        let all = settings.up.entries();
        return all.into_iter().map(reachable).collect();
    }
    flag.iter().copied().map(reachable).collect()
}

/// The Entry to connect to: the flag's, or the one that `up` starts. One that
/// listens on every address of this machine is on loopback, too.
fn entry(flag: Option<SocketAddr>, settings: &Config) -> SocketAddr {
    reachable(flag.unwrap_or(settings.up.entry))
}

fn reachable(mut at: SocketAddr) -> SocketAddr {
    if at.ip().is_unspecified() {
        at.set_ip(match at.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    at
}

/// Lets this process have as many descriptors as it needs, if it may.
fn allow_descriptors(needed: u64) -> Result<(), Failure> {
    let mut limit = getrlimit(Resource::Nofile);
    // No limit counts as the highest there is.
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        let maximum = limit.maximum.unwrap_or_default();
        return Err(Failure::Usage(anyhow!(
            "{needed} open files are needed and {maximum} are allowed; raise the limit \
             (`ulimit -Hn`) or lower --clients"
        )));
    }
    limit.current = Some(needed);
    Ok(setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")?)
}

/// The first signal lets the run settle and report; the second ends it.
fn stop_on_signal(stop: &load::Stop) -> Result<(), Failure> {
    let stop = stop.clone();
    let mut signals = serving::catch_signals()?;
    let wait = move || {
        signals.wait();
        // Without standard error there is nobody to tell.
        let _ = writeln!(io::stderr(), "stopping; once more ends at once");
        stop.request();
        signals.wait();
        std::process::exit(130);
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread
        .spawn(wait)
        .context("cannot start a thread for signals")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flag, Sources};

    /// `im load` and `im chat` went to port 7080 whatever the configuration
    /// said of Entry, so that they missed the system that `up` had started by
    /// the same file.
    #[test]
    fn clients_go_to_the_configured_entry() {
        let settings = |at: &str| {
            let flag = Flag {
                name: "--entry",
                section: "up",
                key: "entry",
                value: toml::Value::String(at.to_owned()),
            };
            let flags = vec![flag];
            Config::load(Sources {
                flags,
                ..Sources::default()
            })
            .unwrap()
        };
        let went = |flag: Option<&str>, at| {
            entry(flag.map(|flag| flag.parse().unwrap()), &settings(at)).to_string()
        };
        assert_eq!(went(None, "10.0.0.7:9080"), "10.0.0.7:9080");
        assert_eq!(went(None, "0.0.0.0:9080"), "127.0.0.1:9080");
        assert_eq!(went(None, "[::]:9080"), "[::1]:9080");
        assert_eq!(went(Some("10.0.0.8:80"), "10.0.0.7:9080"), "10.0.0.8:80");
    }
}
