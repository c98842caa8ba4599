//! Real tonic clients and servers, an agent between them.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::mpsc::channel;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tempfile::TempDir;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_prost::ProstCodec;
use tower::discover::Change;
use tower::{Layer as _, Service};
use waystation_agent::{Agent, AgentConfig};
use waystation_balance::PolicyKind;
use waystation_base::{Moment, ServiceName};
use waystation_client::{CallerConfig, SharedCaller, Source, machine_now};
use waystation_client_tower::{Balance, BalanceLayer, Hosts, HttpJudge};
use waystation_membership::{Address, Instance, InstanceId, Owner};
use waystation_registry::instance_to_json;
use waystation_test_process::Part;

/// For conditions; never reached when all is well.
const WAIT: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

/// Answers with its number. A request for `fail` it does not serve.
#[derive(Clone)]
struct Echo(u16);

impl Service<tonic::Request<Text>> for Echo {
    type Response = tonic::Response<Text>;
    type Error = tonic::Status;
    type Future = Ready<Result<tonic::Response<Text>, tonic::Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Text>) -> Self::Future {
        if request.get_ref().text == format!("fail {}", self.0) {
            return ready(Err(tonic::Status::internal("as asked")));
        }
        let text = self.0.to_string();
        ready(Ok(tonic::Response::new(Text { text })))
    }
}

/// What generated code would be.
#[derive(Clone)]
struct EchoServer(Echo);

impl Service<http::Request<Body>> for EchoServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.0.clone();
        Box::pin(async move {
            let codec = ProstCodec::<Text, Text>::default();
            let mut grpc = tonic::server::Grpc::new(codec);
            Ok(grpc.unary(echo, request).await)
        })
    }
}

/// A server with a thread of its own, which ends at once when it is dropped.
struct Host {
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Host {
    fn start(number: u16) -> Self {
        aside(move || Self::start_here(number))
    }

    fn start_here(number: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let address = runtime.block_on(async {
            let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
            let address = incoming.local_addr().unwrap();
            let server = EchoServer(Echo(number));
            tokio::spawn(Server::builder().serve_with_incoming(server, incoming));
            address
        });
        Self {
            address,
            runtime: Some(runtime),
        }
    }

    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            aside(move || runtime.shutdown_timeout(WAIT));
        }
    }
}

/// Does something on a thread of its own: a runtime is neither made nor ended
/// within another one.
fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(work).join().unwrap()
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An agent that knows the hosts in the folder's file.
fn agent(folder: &Path, policy: PolicyKind) -> Agent {
    let registry = format!("file://{}", folder.join("nodes").display());
    let mut config = AgentConfig::new(socket(folder), registry.parse().unwrap(), 7);
    config.udp.clear();
    config.policy = policy;
    Agent::start(config).unwrap()
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("agent.sock")
}

struct World {
    folder: TempDir,
    hosts: Vec<Host>,
    /// It may be another process.
    agent: Option<Agent>,
}

impl World {
    fn new(hosts: u16) -> Self {
        Self::under(hosts, PolicyKind::default())
    }

    fn under(hosts: u16, policy: PolicyKind) -> Self {
        let mut world = Self::without_agent(hosts);
        world.agent = Some(agent(world.folder.path(), policy));
        world
    }

    fn without_agent(hosts: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hosts: Vec<Host> = (0..hosts).map(Host::start).collect();
        write(&folder, hosts.iter().map(|host| host.address));
        Self {
            folder,
            hosts,
            agent: None,
        }
    }

    async fn caller(&self) -> SharedCaller {
        let mut config = CallerConfig::new("echo", socket(self.folder.path()));
        config.timeout = WAIT;
        config.pause = Duration::from_millis(1);
        let caller = SharedCaller::new(config);
        let asking = caller.clone();
        let asking = tokio::task::spawn_blocking(move || {
            // The agent may not have read its file yet.
            until(|| asking.reg_init().is_ok_and(|hosts| !hosts.is_empty()));
        });
        asking.await.unwrap();
        caller
    }
}

fn write(folder: &TempDir, addresses: impl Iterator<Item = SocketAddr>) {
    let service = ServiceName::new("echo").unwrap();
    let mut text = String::new();
    for (n, address) in addresses.enumerate() {
        let id = InstanceId::new(&format!("echo-{n}")).unwrap();
        let one = Instance::new(id, service.clone(), address.into(), Owner::default());
        writeln!(text, "{}", instance_to_json(&one)).unwrap();
    }
    // At once, so that no half of it is read.
    let new = folder.path().join("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.path().join("nodes")).unwrap();
}

fn until(mut is_so: impl FnMut() -> bool) {
    let end = deadline();
    // Waiting on it is the pause between two looks.
    let (_silent, pause) = channel::<()>();
    while !is_so() {
        assert!(machine_now() < end, "it did not come about");
        let _nothing = pause.recv_timeout(Duration::from_millis(5));
    }
}

fn deadline() -> Moment {
    machine_now() + WAIT
}

fn connect(host: &Address) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{host}")).unwrap();
    endpoint.connect_lazy()
}

type Balanced = Balance<fn(&Address) -> Channel, HttpJudge>;

fn balanced(caller: SharedCaller) -> Balanced {
    let layer = BalanceLayer::new(caller, HttpJudge).timeout(WAIT);
    layer.layer(connect as fn(&Address) -> Channel)
}

/// A call as a generated client makes it.
async fn ask(client: &Balanced, text: &str) -> Result<String, tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(client.clone());
    grpc.ready()
        .await
        .map_err(|error| tonic::Status::unknown(error.to_string()))?;
    let request = tonic::Request::new(Text { text: text.into() });
    let path = http::uri::PathAndQuery::from_static("/test.Echo/Say");
    let codec = ProstCodec::<Text, Text>::default();
    let answer = grpc.unary(request, path, codec).await?;
    Ok(answer.into_inner().text)
}

/// Which way a pick goes now.
async fn source(caller: &SharedCaller) -> Option<Source> {
    let caller = caller.clone();
    let asking = tokio::task::spawn_blocking(move || caller.begin());
    let call = asking.await.unwrap().ok()?;
    Some(call.source())
}

/// Who answers some calls, of which none fails.
async fn answering(client: &Balanced) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        seen.insert(ask(client, "hello").await.unwrap());
    }
    seen
}

#[tokio::test]
async fn calls_move_when_a_server_is_killed() {
    moves_from_who_is_killed(PolicyKind::default(), Source::Segment).await;
}

#[tokio::test]
async fn calls_that_ask_the_agent_move_when_a_server_is_killed() {
    moves_from_who_is_killed(PolicyKind::RoundRobin, Source::Socket).await;
}

async fn moves_from_who_is_killed(policy: PolicyKind, way: Source) {
    let mut world = World::under(2, policy);
    let caller = world.caller().await;
    let client = balanced(caller.clone());
    assert_eq!(answering(&client).await.len(), 2);
    assert_eq!(source(&caller).await, Some(way));
    world.hosts[0].kill();
    let (end, mut in_a_row, mut failed) = (deadline(), 0, 0);
    while in_a_row < 100 {
        if let Ok(number) = ask(&client, "hello").await {
            assert_eq!(number, "1");
            in_a_row += 1;
        } else {
            failed += 1;
            in_a_row = 0;
        }
        assert!(machine_now() < end, "{failed} calls failed");
    }
    // Whoever else calls on this machine knows it, too.
    let other = balanced(world.caller().await);
    assert_eq!(ask(&other, "hello").await.unwrap(), "1");
}

/// Story: under a policy that asks the agent no call was made for two seconds after it
/// was killed. Then, without it, all went to every second host.
#[tokio::test]
async fn calls_go_on_when_the_agent_is_killed() {
    const THIS: &str = "calls_go_on_when_the_agent_is_killed";
    if let Some(given) = Part::given() {
        let (policy, folder) = given.split_once(' ').unwrap();
        let _agent = agent(Path::new(folder), policy.parse().unwrap());
        return Part::wait_for_the_end();
    }
    for policy in [PolicyKind::RoundRobin, PolicyKind::default()] {
        let world = World::without_agent(2);
        let given = format!("{policy} {}", world.folder.path().display());
        let start = || Part::start(THIS, &given);
        let agent = start();
        let caller = world.caller().await;
        let client = balanced(caller.clone());
        assert_eq!(answering(&client).await.len(), 2, "{policy}");
        let way = source(&caller).await;
        agent.kill();
        let seen = answering(&client).await;
        // From shared memory one call at a time goes to who was the best.
        let fewest = if way == Some(Source::Socket) { 2 } else { 1 };
        assert!(seen.len() >= fewest, "{policy}: {seen:?}");
        let next = start();
        let end = deadline();
        // The next one has latencies of its own, and both are called again.
        while source(&caller).await != way || answering(&client).await.len() < 2 {
            assert!(machine_now() < end, "{policy}: not {way:?} again");
        }
        next.kill();
    }
}

/// A host that fails fast answers fast, and got more and more of the calls.
#[tokio::test]
async fn calls_move_from_a_server_that_fails() {
    let world = World::new(2);
    let client = balanced(world.caller().await);
    let (end, mut in_a_row) = (deadline(), 0);
    while in_a_row < 100 {
        let answer = ask(&client, "fail 0").await;
        in_a_row = if answer.is_ok() { in_a_row + 1 } else { 0 };
        assert!(machine_now() < end);
    }
}

#[tokio::test]
async fn without_an_agent_a_call_says_why_it_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let config = CallerConfig::new("echo", folder.path().join("nobody.sock"));
    let client = balanced(SharedCaller::new(config));
    let error = ask(&client, "hello").await.unwrap_err();
    let text = format!("{error:?}");
    assert!(
        text.contains("no host of echo: agent cannot be reached"),
        "{text}"
    );
}

#[tokio::test]
async fn a_call_that_hangs_ends_at_the_time_of_its_balance() {
    // It accepts, and says nothing.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let world = World::new(0);
    write(&world.folder, std::iter::once(silent.local_addr().unwrap()));
    let caller = world.caller().await;
    let time = Duration::from_millis(20);
    let layer = BalanceLayer::new(caller.clone(), HttpJudge).timeout(time);
    let client = layer.layer(connect as fn(&Address) -> Channel);
    let error = ask(&client, "hello").await.unwrap_err();
    let text = format!("{error:?}");
    assert!(text.contains("within 20ms"), "{text}");
}

#[tokio::test]
async fn hosts_come_and_go_for_those_who_balance_by_themselves() {
    let world = World::new(2);
    let caller = world.caller().await;
    let mut hosts = Hosts::new(caller, |host: &Address| host.to_string());
    let mut present = BTreeSet::new();
    follow(&mut hosts, &mut present, |present| present.len() == 2).await;
    let third: SocketAddr = ([127, 0, 0, 1], 9).into();
    write(
        &world.folder,
        world.hosts.iter().map(|host| host.address).chain([third]),
    );
    follow(&mut hosts, &mut present, |present| {
        present.contains(&third.to_string())
    })
    .await;
    assert_eq!(present.len(), 3);
}

/// Takes changes until it is so.
async fn follow(
    hosts: &mut (impl Stream<Item = Result<Change<Address, String>, Infallible>> + Unpin),
    present: &mut BTreeSet<String>,
    is_so: impl Fn(&BTreeSet<String>) -> bool,
) {
    while !is_so(present) {
        let change = tokio::time::timeout(WAIT, hosts.next()).await;
        match change.expect("it comes").expect("it goes on").unwrap() {
            Change::Insert(address, client) => {
                assert_eq!(address.to_string(), client);
                present.insert(client);
            }
            Change::Remove(address) => {
                present.remove(&address.to_string());
            }
        }
    }
}
