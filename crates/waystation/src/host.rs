//! `waystation agent` and `waystation host`.

mod figures;
mod load;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::json;
use waystation_agent::{Agent, AgentConfig, ReportTo, SocketAccess};
use waystation_balance::{CallEnd, Load, Reason};
use waystation_base::hash64;
use waystation_client::protocol::{self, Answer, Candidate, Code, End, ListedHost, Request};
use waystation_client::{Caller, CallerConfig, Error, LarsCaller, Socket};
use waystation_membership::LarsPair;
use waystation_net::unix_time;
use waystation_registry::RegistryUrl;

use crate::cli::{AgentArgs, HostCommand, HostEnd};
use crate::config::Config;
use crate::failure::Failure;
use crate::{registry, serving, table};

/// How long the agent's answer is waited for.
const WAIT: Duration = Duration::from_secs(5);

/// Runs an agent until a signal ends it.
///
/// # Errors
/// The socket, a port or the registry cannot be used.
pub(crate) fn agent(args: &AgentArgs, config: &Config, as_json: bool) -> Result<(), Failure> {
    let sources = sources(config)?;
    let is_of_lars = config.agent.route_protocol == "lars";
    let socket = socket_path(args.socket.as_deref(), config);
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let now = unix_time().as_nanos().to_le_bytes();
    let seed = hash64(&now) ^ u64::from(std::process::id());
    tracing::info!(seed, "randomness starts here");
    let [first, ..] = &sources[..] else {
        return Err(Failure::Usage(anyhow!("registry.url: names no registry")));
    };
    let mut settings = AgentConfig::new(&socket, first.clone(), seed);
    settings.registries = sources;
    settings.lars = config.lars.rules();
    settings.lars_refresh = Duration::from_secs(config.lars.update_timeout_s.into());
    settings.policy = config.agent.policy();
    settings.balancer.locality = config.agent.locality();
    settings.report = Some(ReportTo::new(config.agent.report));
    settings.lars_route = is_of_lars.then_some(config.agent.route);
    settings.access = access(&config.agent.socket_access);
    settings.copy = Some(config.dir().join("agent/routes.jsonl"));
    settings.udp = config.agent.udp().to_vec();
    let signals = serving::catch_signals()?;
    let agent = Agent::start(settings).map_err(|error| Failure::Operation(error.into()))?;
    let net = agent.server().context("the agent has ended")?;
    let mut counted = vec![figures::source(agent.figures())];
    counted.extend(agent.registries().map(serving::of_registries));
    let attendant = serving::attend_with(config, "agent-1", net, counted)?;
    let udp = agent.udp_addresses().iter().map(ToString::to_string);
    let url = format!("unix:{}", agent.socket().display());
    serving::say_ready(&url, &[("udp", udp.collect())], as_json);
    serving::wait(signals);
    drop(attendant);
    agent.drain();
    Ok(())
}

/// Who may connect to the agent's socket, by a word of the configuration.
fn access(word: &str) -> SocketAccess {
    match word {
        "group" => SocketAccess::Group,
        "all" => SocketAccess::All,
        _ => SocketAccess::Owner,
    }
}

/// The route server where one is configured, else the registries.
fn sources(config: &Config) -> Result<Vec<RegistryUrl>, Failure> {
    if config.is_set("agent", "route") {
        let host = config.agent.route.to_string();
        return Ok(vec![RegistryUrl::Route { host }]);
    }
    registry::urls(config)
}

fn socket_path(given: Option<&Path>, config: &Config) -> PathBuf {
    given.map_or_else(|| agent_socket(config), Path::to_owned)
}

/// Where the agent of this machine is, unless somebody says otherwise.
pub(crate) fn agent_socket(config: &Config) -> PathBuf {
    config.dir().join("run/agent.sock")
}

/// Runs one of `waystation host`'s commands.
///
/// # Errors
/// What the agent answers, or that it does not.
pub(crate) fn run(command: &HostCommand, config: &Config, as_json: bool) -> Result<(), Failure> {
    let socket = socket_path(command.agent().socket.as_deref(), config);
    let ports = config.agent.udp().map(|at| at.port());
    let mut out = io::stdout().lock();
    match command {
        HostCommand::Get(args) => {
            let pair = pair_of(&args.service);
            if args.explain {
                let service = args.service.clone();
                let request = pair.map_or(Request::Explain { service }, |pair| {
                    let LarsPair { modid, cmdid } = pair;
                    Request::ExplainPair { modid, cmdid }
                });
                return explain(ask(&socket, &request)?, as_json, &mut out);
            }
            if let Some(pair) = pair {
                return get_by_pair(pair, ports, as_json, &mut out);
            }
            get(&args.service, &socket, as_json, &mut out)
        }
        HostCommand::List(args) => {
            let listed = Socket::connect(&socket, WAIT).and_then(|mut agent| {
                let ask = |request: &Request| agent.ask(request).map(|(answer, _)| answer);
                match pair_of(&args.service) {
                    Some(pair) => protocol::pair_hosts((pair.modid, pair.cmdid), ask),
                    None => protocol::hosts(&args.service, ask),
                }
            });
            let (hosts, origin) = listed.map_err(|error| failed(&socket, error))?;
            warn_of(&origin);
            Ok(list(&hosts, as_json, &mut out).context("cannot print")?)
        }
        HostCommand::Simulate(args) => {
            drop(out);
            load::simulate(args, &socket, ports, as_json)
        }
        HostCommand::Rate(args) => {
            drop(out);
            load::rate(args, &socket, ports, as_json)
        }
        HostCommand::Report(args) => {
            let request = Request::ReportAddress {
                service: args.service.to_string(),
                address: args.address.clone(),
                end: match args.end {
                    HostEnd::Ok => End::Ok,
                    HostEnd::Error => End::Failed,
                },
            };
            match ask(&socket, &request)? {
                Answer::Reported => Ok(()),
                other => Err(strange(&other)),
            }
        }
    }
}

fn ask(socket: &Path, request: &Request) -> Result<Answer, Failure> {
    let asked = Socket::connect(socket, WAIT).and_then(|mut agent| agent.ask(request));
    let (answer, _files) = asked.map_err(|error| failed(socket, error))?;
    Ok(answer)
}

fn failed(socket: &Path, error: Error) -> Failure {
    let context = format!("no answer from the agent at {}", socket.display());
    match error {
        refused @ Error::Refused {
            code: Code::NoSuchService,
            ..
        } => Failure::Operation(anyhow!(
            "{refused}; `route list` and `node list` tell what there is"
        )),
        answered @ (Error::Refused { .. } | Error::Miss(_)) => Failure::Operation(answered.into()),
        other => Failure::Operation(anyhow::Error::from(other).context(context)),
    }
}

fn strange(answer: &Answer) -> Failure {
    Failure::Operation(anyhow!("the agent answered something else: {answer:?}"))
}

/// `MODID/CMDID`.
fn pair_of(text: &str) -> Option<LarsPair> {
    text.parse().ok()
}

/// A caller of an agent that is there: later it would only say that it is not.
fn caller_named(service: &str, socket: &Path) -> Result<Caller, Failure> {
    Socket::connect(socket, WAIT).map_err(|error| failed(socket, error))?;
    let mut config = CallerConfig::new(service, socket);
    config.timeout = WAIT;
    Ok(Caller::new(config))
}

fn get(service: &str, socket: &Path, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let mut caller = caller_named(service, socket)?;
    let picked = caller.pick().map_err(|error| failed(socket, error))?;
    let reason = picked.reason().map(Reason::name);
    // Nothing is called: the pick must not count as a call in flight.
    caller.report(&picked, CallEnd::Cancelled, None, Load::default());
    let printed = if as_json {
        let line = json!({
            "address": picked.address.to_string(), "source": picked.source.name(), "reason": reason,
        });
        writeln!(out, "{line}")
    } else {
        writeln!(out, "{}", picked.address)
    };
    Ok(printed.context("cannot print")?)
}

/// A caller of Lars whose agent was asked for the pair's route already: an agent
/// answers the first question about a pair by "no such service", and then asks.
fn caller_of(pair: LarsPair, ports: [u16; 3]) -> LarsCaller {
    let mut caller = LarsCaller::new(pair.modid, pair.cmdid);
    caller.timeout = WAIT;
    caller.ports = ports;
    // What it comes to is told by the question that follows.
    let _told = caller.reg_init();
    caller
}

fn no_host_by_udp(error: Error) -> Failure {
    Failure::Operation(anyhow::Error::from(error).context("no host by UDP"))
}

fn get_by_pair(
    pair: LarsPair,
    ports: [u16; 3],
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let told = caller_of(pair, ports).get_host();
    let address = told.map_err(no_host_by_udp)?;
    let printed = if as_json {
        let line = json!({ "address": address.to_string(), "source": "udp", "reason": null });
        writeln!(out, "{line}")
    } else {
        writeln!(out, "{address}")
    };
    Ok(printed.context("cannot print")?)
}

fn explain(answer: Answer, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let printed = if as_json {
        let line = serde_json::to_string(&answer).context("cannot print")?;
        writeln!(out, "{line}")
    } else if let Answer::Explained {
        policy,
        result,
        serving,
        unavailable,
        is_panic,
        candidates,
        origin,
    } = answer
    {
        warn_of(&origin);
        let panic = if is_panic {
            ", all are used: panic"
        } else {
            ""
        };
        writeln!(out, "{result}")
            .and_then(|()| {
                let hosts = format!("{serving} hosts serve, {unavailable} are out{panic}");
                writeln!(out, "policy {policy}; {hosts}")
            })
            .and_then(|()| table::write(out, ["id", "address", "cost", "why"], &rows(&candidates)))
    } else {
        return Err(strange(&answer));
    };
    Ok(printed.context("cannot print")?)
}

/// Says where hosts come from, unless it is where they should.
fn warn_of(origin: &str) {
    let why = match origin {
        "kept" => "the source of routes is lost; hosts are those it had last",
        "disk" => "the source of routes has not answered; hosts are those of the copy on disk",
        _ => return,
    };
    // Without standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "{why}");
}

fn rows(candidates: &[Candidate]) -> Vec<[String; 4]> {
    let row = |one: &Candidate| {
        let cost = one
            .cost
            .map_or_else(|| "-".to_owned(), |cost| format!("{cost:.3e}"));
        [one.id.clone(), one.address.clone(), cost, one.note.clone()]
    };
    candidates.iter().map(row).collect()
}

const HOSTS: [&str; 9] = [
    "id",
    "address",
    "state",
    "verdict",
    "weight",
    "picked",
    "in flight",
    "latency",
    "errors",
];

fn list(hosts: &[ListedHost], as_json: bool, out: &mut dyn Write) -> io::Result<()> {
    if as_json {
        for host in hosts {
            writeln!(out, "{}", serde_json::to_string(host)?)?;
        }
        return Ok(());
    }
    let row = |host: &ListedHost| {
        let picked = match (host.eligible, host.ejected) {
            (true, _) => "yes",
            (false, true) => "ejected",
            (false, false) => "no",
        };
        [
            host.id.clone(),
            host.address.clone(),
            host.state.clone(),
            host.verdict.clone(),
            host.weight.to_string(),
            picked.to_owned(),
            host.in_flight.to_string(),
            format!("{} us", host.latency_us),
            format!("{:.1} %", host.error_share * 100.0),
        ]
    };
    let rows: Vec<_> = hosts.iter().map(row).collect();
    table::write(out, HOSTS, &rows)
}
