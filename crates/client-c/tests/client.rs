//! Programs in C and Python that link the library, against a real agent; and the
//! header, which is what the code says.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use waystation_agent::{Agent, AgentConfig};
use waystation_base::ServiceName;
use waystation_client::Socket;
use waystation_client::protocol::hosts;
use waystation_membership::{Instance, InstanceId, LarsPair, Owner};
use waystation_registry::instance_to_json;
use waystation_test_process::component;

/// For conditions; never reached when all is well.
const WAIT: Duration = Duration::from_secs(30);

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const HOSTS: [&str; 2] = ["127.0.0.1:9001", "127.0.0.1:9002"];

/// An agent that knows two hosts of `pay`, which is (1, 1) for Lars.
struct World {
    folder: tempfile::TempDir,
    agent: Agent,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let service = ServiceName::new("pay").unwrap();
        let mut nodes = String::new();
        for (number, host) in HOSTS.iter().enumerate() {
            let id = InstanceId::new(&format!("pay-{number}")).unwrap();
            let address = host.parse().unwrap();
            let mut one = Instance::new(id, service.clone(), address, Owner::default());
            one.lars = Some(LarsPair { modid: 1, cmdid: 1 });
            nodes.push_str(&instance_to_json(&one));
            nodes.push('\n');
        }
        let file = folder.path().join("nodes");
        std::fs::write(&file, nodes).unwrap();
        let registry = format!("file://{}", file.display()).parse().unwrap();
        let mut config = AgentConfig::new(folder.path().join("agent.sock"), registry, 7);
        // Another program may take one of the ports in between.
        let mut start = || {
            let ports = free_ports();
            let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
            config.udp = ports.map(at).to_vec();
            Agent::start(config.clone()).ok()
        };
        let agent = (0..20).find_map(|_| start()).unwrap();
        let world = Self { folder, agent };
        world.until_known();
        world
    }

    fn until_known(&self) {
        let mut caller = waystation_client::Caller::new(waystation_client::CallerConfig::new(
            "pay",
            self.agent.socket(),
        ));
        let end = waystation_client::machine_now() + WAIT;
        while caller.pick().is_err() {
            assert!(
                waystation_client::machine_now() < end,
                "the agent knows no hosts"
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Waits until the agent has heard of such a load.
    fn until_load(&self, in_flight: u32, latency_us: u32) {
        let told = (in_flight, latency_us);
        let end = waystation_client::machine_now() + WAIT;
        loop {
            let mut socket = Socket::connect(self.agent.socket(), WAIT).unwrap();
            let (known, _) = hosts("pay", |request| Ok(socket.ask(request)?.0)).unwrap();
            let mut loads = known
                .iter()
                .map(|host| (host.reported_in_flight, host.reported_latency_us));
            if loads.any(|load| load == told) {
                return;
            }
            assert!(waystation_client::machine_now() < end, "{known:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn first_port(&self) -> String {
        self.agent.udp_addresses()[0].port().to_string()
    }
}

/// Three free ports, one after the other.
fn free_ports() -> [u16; 3] {
    use std::net::UdpSocket;
    for _ in 0..100 {
        let first = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let more = [1, 2].map(|step| {
            port.checked_add(step)
                .map(|at| UdpSocket::bind(("127.0.0.1", at)))
        });
        if more.iter().all(|one| matches!(one, Some(Ok(_)))) {
            return [port, port + 1, port + 2];
        }
    }
    panic!("no three ports are free")
}

/// Where Cargo put the library for these tests.
fn libraries() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().to_owned()
}

fn is_done(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.starts_with("done "),
        "{said}{error}"
    );
}

#[test]
fn needs_cc_a_program_in_c_picks_and_reports() {
    let Some(compiler) = component::find("cc", "/usr/bin/cc") else {
        return;
    };
    let world = World::new();
    let program = world.folder.path().join("client");
    let built = Command::new(compiler)
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-o"])
        .arg(&program)
        .arg(format!("{HERE}/tests/client.c"))
        .arg(format!("-I{HERE}/include"))
        .arg(format!("-L{}", libraries().display()))
        .arg("-lwaystation_client_c")
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let run = Command::new(&program)
        .arg(world.agent.socket())
        .arg(world.first_port())
        .env("LD_LIBRARY_PATH", libraries())
        .output();
    is_done(&run.unwrap());
    // What servers told of themselves.
    world.until_load(7, 900);
}

#[test]
fn needs_python_a_program_in_python_picks_and_reports() {
    let Some(python) = component::find("python", "/usr/bin/python3") else {
        return;
    };
    let world = World::new();
    let run = Command::new(python)
        .arg("-B")
        .arg(format!("{HERE}/tests/client.py"))
        .arg(world.agent.socket())
        .arg(world.first_port())
        .args(HOSTS)
        .env("PYTHONPATH", format!("{HERE}/python"))
        .env(
            "WAYSTATION_CLIENT_LIBRARY",
            libraries().join("libwaystation_client_c.so"),
        )
        .output();
    is_done(&run.unwrap());
    world.until_load(7, 900);
}

/// A function was changed, and C programs went on calling the old one.
#[test]
fn the_header_is_what_the_code_says() {
    let config = cbindgen::Config::from_file(format!("{HERE}/cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(format!("{HERE}/src/ffi.rs"))
        .generate()
        .unwrap();
    let mut written = Vec::new();
    bindings.write(&mut written);
    let written = String::from_utf8(written).unwrap();
    let path = format!("{HERE}/include/waystation_client.h");
    if std::env::vars_os().any(|(name, _)| name == "UPDATE_HEADER") {
        std::fs::write(&path, &written).unwrap();
    }
    let header = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        header == written,
        "the header is stale; write it with `UPDATE_HEADER=1 cargo test -p waystation-client-c header`"
    );
}
