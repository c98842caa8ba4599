//! `bench udp`: questions of callers of Lars to an agent, beside bare sockets.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use waystation_agent::{Agent, AgentConfig};
use waystation_base::ServiceName;
use waystation_membership::{Instance, InstanceId, LarsPair, Owner};
use waystation_registry::instance_to_json;
use waystation_wire::lars::{
    DATAGRAM_LEN_MAX, GetHostRequest, Message, RetCode, datagram, worker_of,
};

use crate::bars::Bars;
use crate::figures::{count, figure, spread};
use crate::machine::Watch;
use crate::results::{Benchmark, Block, Run};
use crate::stats::{Summary, number, order, ratios};
use crate::table::{Align, Table};
use crate::timing::now;

const BENCHMARK: Benchmark = Benchmark {
    name: "udp",
    about: include_str!("about.md"),
};

/// Callers at a time.
const CALLERS: [usize; 3] = [1, 5, 10];

/// The least share of the bare pair.
const BAR: f64 = 0.8;

/// How long an answer is waited for.
const WAIT: Duration = Duration::from_secs(5);

/// Which pair is asked for.
const PAIR: LarsPair = LarsPair { modid: 1, cmdid: 1 };

/// `bench udp`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Turns of each side with each number of callers
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Milliseconds of each turn
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(100..=60_000))]
    ms: u32,
    /// The results file [default: bench/results/udp.md]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the benchmark, prints its results and adds them to its file.
///
/// # Errors
/// A socket cannot be used, an answer is wrong, or the results cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let watch = Watch::start();
    let folder = tempfile::tempdir()?;
    let agent = start_agent(folder.path())?;
    let worker = worker_of(PAIR.modid, PAIR.cmdid, 3) as usize;
    let at = agent.udp_addresses().get(worker).copied();
    let at = at.context("the agent has no such port")?;
    let answer = first_answer(at)?;
    let echo = Echo::start(answer)?;
    let time = Duration::from_millis(args.ms.into());
    // Of each number of callers, what the agent and the bare pair made of it.
    let mut series = CALLERS.map(|_| [Vec::new(), Vec::new()]);
    for round in 0..args.rounds as usize {
        for (callers, rates) in CALLERS.iter().zip(&mut series) {
            for side in order(2, round) {
                let at = [at, echo.at][side];
                rates[side].push(rate(at, *callers, time)?);
            }
        }
        eprintln!("round {} of {}", round + 1, args.rounds);
    }
    drop(echo);
    agent.drain();
    let mut bars = Bars::default();
    let table = table(&series, &mut bars);
    let run = Run {
        facts: watch.finish(),
        settings: format!("--rounds {} --ms {}", args.rounds, args.ms),
        blocks: vec![Block::Table("Answers a second".to_owned(), table)],
    };
    run.print()?;
    let path = run.append(BENCHMARK, args.out.as_deref())?;
    eprintln!("added to {}", path.display());
    bars.finish()
}

fn table(series: &[[Vec<f64>; 2]; CALLERS.len()], bars: &mut Bars) -> Table {
    let mut table = Table::new(&[
        ("callers", Align::Right),
        ("agent", Align::Right),
        ("bare pair", Align::Right),
        ("ratio", Align::Right),
        ("extremes", Align::Right),
        ("at least", Align::Right),
        ("", Align::Left),
    ]);
    for (callers, [agent, bare]) in CALLERS.iter().zip(series) {
        let median = |values: &[f64]| Summary::of(values).map_or(0.0, |one| one.median);
        let ratios = ratios(agent, bare);
        let ratio = median(&ratios);
        let word = bars.word(format!("{callers} callers"), ratio >= BAR);
        table.row([
            callers.to_string(),
            figure(median(agent)),
            figure(median(bare)),
            figure(ratio),
            Summary::of(&ratios).map_or_else(String::new, |one| spread(&one)),
            figure(BAR),
            word.to_owned(),
        ]);
    }
    table
}

/// An agent that knows ten hosts of the pair.
fn start_agent(folder: &Path) -> Result<Agent> {
    let mut text = String::new();
    for n in 1..=10 {
        let id = InstanceId::new(&format!("bench-{n}"))?;
        let at = format!("10.0.0.{n}:7000").parse()?;
        let mut one = Instance::new(id, ServiceName::new("bench")?, at, Owner::default());
        one.lars = Some(PAIR);
        writeln!(text, "{}", instance_to_json(&one))?;
    }
    let nodes = folder.join("nodes");
    std::fs::write(&nodes, text)?;
    let url = format!("file://{}", nodes.display()).parse()?;
    let mut config = AgentConfig::new(folder.join("agent.sock"), url, 1);
    for at in &mut config.udp {
        at.set_port(0);
    }
    Ok(Agent::start(config)?)
}

fn question() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let message = Message::GetHostRequest(GetHostRequest {
        seq: 1,
        modid: PAIR.modid,
        cmdid: PAIR.cmdid,
    });
    message.encode_into(&mut bytes)?;
    Ok(bytes)
}

fn socket(to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(WAIT))?;
    Ok(socket)
}

/// An answer with a host in it, once the agent knows its hosts.
fn first_answer(at: SocketAddr) -> Result<Vec<u8>> {
    let (socket, question) = (socket(at)?, question()?);
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    let end = now() + WAIT;
    loop {
        socket.send(&question)?;
        let length = socket.recv(&mut buffer)?;
        let frame = datagram(&buffer[..length]).map_err(|error| anyhow!("{error}"))?;
        let message = Message::parse(frame.id, frame.body);
        if let Ok(Message::GetHostResponse(one)) = message
            && one.retcode == RetCode::Success.code()
        {
            return Ok(buffer[..length].to_vec());
        }
        ensure!(now() < end, "the agent knows no hosts");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Answers a second to so many callers.
fn rate(at: SocketAddr, callers: usize, time: Duration) -> Result<f64> {
    let began = now();
    let end = began + time;
    let call = || -> Result<u64> {
        let (socket, question) = (socket(at)?, question()?);
        let mut buffer = [0; 512];
        let mut answers = 0;
        while now() < end {
            socket.send(&question)?;
            let length = socket.recv(&mut buffer).context("no answer")?;
            // The number of an answer with a host.
            ensure!(length > 8 && buffer[0] == 5, "another answer");
            answers += 1;
        }
        Ok(answers)
    };
    let answers = std::thread::scope(|scope| -> Result<u64> {
        let threads: Vec<_> = (0..callers).map(|_| scope.spawn(call)).collect();
        let mut sum = 0;
        for thread in threads {
            sum += thread.join().map_err(|_| anyhow!("a caller died"))??;
        }
        Ok(sum)
    })?;
    ensure!(answers > 0, "{} answers", count(answers));
    Ok(number(answers) / now().saturating_since(began).as_secs_f64())
}

/// A thread that sends the same answer to whatever comes.
struct Echo {
    at: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(answer: Vec<u8>) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let at = socket.local_addr()?;
        let ends = Arc::new(AtomicBool::new(false));
        let its = Arc::clone(&ends);
        let serve = move || {
            let mut buffer = [0; 512];
            while let Ok((_, from)) = socket.recv_from(&mut buffer)
                && !its.load(Ordering::Acquire)
            {
                // Who asked may be gone.
                let _unheard = socket.send_to(&answer, from);
            }
        };
        let thread = std::thread::Builder::new().name("echo".to_owned());
        Ok(Self {
            at,
            ends,
            thread: Some(thread.spawn(serve)?),
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        // Wakes it.
        let told = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let told = told.and_then(|socket| socket.send_to(&[0], self.at));
        if let (Ok(_), Some(thread)) = (told, self.thread.take()) {
            let _ended = thread.join();
        }
    }
}
