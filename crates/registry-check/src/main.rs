//! Processes for the suite: a registry or a node, to be killed.

use std::process::ExitCode;
use std::time::Duration;

use waystation_membership::{DirectoryConfig, Instance, Owner, OwnerId, RegistrationConfig};
use waystation_net::Termination;
use waystation_registry::{Client, EmbeddedConfig, EmbeddedServer, RegistrationOptions, Registry};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["serve", dir, address] => serve(dir, address),
        ["node", url, service, id, address, ttl_ms] => node(url, service, id, address, ttl_ms),
        _ => Err("usage: serve DIR ADDRESS | node URL SERVICE ID ADDRESS TTL_MS".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An embedded registry that has little patience, so that tests need less.
fn serve(dir: &str, address: &str) -> Outcome {
    let mut config = EmbeddedConfig::new(dir.into(), address.parse()?);
    config.directory = DirectoryConfig {
        // Nodes come back within it, on a slow machine too.
        grace: Duration::from_secs(5),
        linger: Duration::from_secs(2),
        // Drains wait for acknowledgements, and in one case for this.
        drain_ack_max: Duration::from_secs(15),
        ..DirectoryConfig::default()
    };
    let mut signals = Termination::catch()?;
    let server = EmbeddedServer::start(config)?;
    println!("ready {} {}", server.address(), server.skipped());
    signals.wait();
    server.drain();
    Ok(())
}

/// A node that is registered until it is killed.
fn node(url: &str, service: &str, id: &str, address: &str, ttl_ms: &str) -> Outcome {
    let mut signals = Termination::catch()?;
    let client = Client::open(&url.parse()?)?;
    let owner = Owner {
        id: OwnerId(u128::from(std::process::id())),
        incarnation: 1,
    };
    let instance = Instance::new(id.parse()?, service.parse()?, address.parse()?, owner);
    let config = RegistrationConfig {
        ttl: Duration::from_millis(ttl_ms.parse()?),
        ..RegistrationConfig::default()
    };
    let registered = client.register(
        instance,
        RegistrationOptions {
            config,
            ..RegistrationOptions::default()
        },
    )?;
    let status = registered.wait_until(Duration::from_secs(30), |status| status.is_registered);
    let status = status.ok_or("not registered in time")?;
    println!("ready {}", status.instance.token);
    signals.wait();
    Ok(())
}
