//! `bench idle`: user-space memory of connections that do nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use waystation_base::CallId;
use waystation_wire::{HEADER_LEN, Header, encode_header};

use crate::figures::{count, figure, spread};
use crate::machine::Watch;
use crate::net::program::{self, ANSWER_WAIT, Program};
use crate::procfs;
use crate::results::{Benchmark, Block, Run};
use crate::stats::{Summary, number};
use crate::table::{Align, Table};

const BENCHMARK: Benchmark = Benchmark {
    name: "idle",
    about: include_str!("about.md"),
};

/// `bench idle`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; in each, every kind has its turn on a new process
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Connections open at once
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_000))]
    connections: u32,
    /// The results file [default: bench/results/idle.md]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What a client says once before it falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Native,
    WebSocket,
    Resp,
    Redis,
}

const KINDS: [Kind; 4] = [Kind::Native, Kind::WebSocket, Kind::Resp, Kind::Redis];

/// Of a native connection after its first exchange, in bytes: what must be, and what should.
const BARS_BYTES: [(&str, f64); 2] = [("bar", 1.25 * 1024.0), ("aim", 1024.0)];

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::WebSocket => "WebSocket",
            Self::Resp => "resp_server",
            Self::Redis => "redis-server",
        }
    }

    fn start(self, server: &std::path::Path) -> Result<Program> {
        match self {
            Self::Native | Self::WebSocket => Program::own(self.name(), &["native"]),
            Self::Resp => Program::listening(self.name(), server, &[]),
            Self::Redis => Program::redis(),
        }
    }

    /// One request and its whole answer.
    fn exchange(self, stream: &mut TcpStream) -> Result<()> {
        match self {
            Self::Native => {
                stream.write_all(&encode_header(&Header::ping(CallId(1))))?;
                stream.read_exact(&mut [0; HEADER_LEN])?;
            }
            Self::WebSocket => {
                stream.write_all(HANDSHAKE.as_bytes())?;
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte)?;
                    answer.extend(byte);
                }
                ensure!(answer.starts_with(b"HTTP/1.1 101 "), "no WebSocket here");
            }
            Self::Resp | Self::Redis => {
                stream.write_all(b"*1\r\n$4\r\nPING\r\n")?;
                stream.read_exact(&mut [0; 7])?;
            }
        }
        Ok(())
    }
}

/// Bytes for a connection.
#[derive(Clone, Copy, Debug)]
struct Figures {
    accepted: f64,
    after_one: f64,
}

/// Runs the benchmark, prints its results and writes its file.
///
/// # Errors
/// A program cannot be started or answers wrongly, or the results cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let server = program::build("resp_server")?;
    let watch = Watch::start();
    let mut series = KINDS.map(|_| Vec::new());
    for round in 0..args.rounds as usize {
        for kind in crate::stats::order(KINDS.len(), round) {
            let program = KINDS[kind].start(&server)?;
            let figures = measure(KINDS[kind], &program, args.connections as usize)
                .with_context(|| format!("in {}", KINDS[kind].name()))?;
            series[kind].push(figures);
        }
        eprintln!("round {} of {}", round + 1, args.rounds);
    }
    let run = Run {
        facts: watch.finish(),
        settings: format!(
            "--rounds {} --connections {}",
            args.rounds, args.connections
        ),
        blocks: blocks(args, &series),
    };
    run.print()?;
    let path = run.replace(BENCHMARK, args.out.as_deref())?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

fn measure(kind: Kind, program: &Program, connections: usize) -> Result<Figures> {
    // What a first connection costs once is no cost of a connection.
    let mut first = TcpStream::connect(program.address)?;
    first.set_read_timeout(Some(ANSWER_WAIT))?;
    kind.exchange(&mut first)?;
    let (before, files) = (memory_bytes(program)?, open_files(program)?);
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        let stream = TcpStream::connect(program.address)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        clients.push(stream);
    }
    until_open(program, files + connections)?;
    let accepted = memory_bytes(program)?;
    for client in &mut clients {
        kind.exchange(client)?;
    }
    let after_one = memory_bytes(program)?;
    let each = |bytes: u64| number(bytes.saturating_sub(before)) / number(connections as u64);
    Ok(Figures {
        accepted: each(accepted),
        after_one: each(after_one),
    })
}

/// Memory of its own that a process has: neither files nor the kernel's.
fn memory_bytes(program: &Program) -> Result<u64> {
    let path = format!("/proc/{}/smaps_rollup", program.pid());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let anonymous = procfs::field(&text, "Anonymous");
    let kib = anonymous.and_then(|text| text.strip_suffix(" kB")?.trim().parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} has no anonymous memory"))? * 1024)
}

fn open_files(program: &Program) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", program.pid()))?.count())
}

/// The kernel takes connections before the program does.
fn until_open(program: &Program, files: usize) -> Result<()> {
    for _ in 0..3_000 {
        if open_files(program)? >= files {
            return Ok(());
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    bail!("{} does not accept all connections", program.name)
}

fn blocks(args: &Args, series: &[Vec<Figures>]) -> Vec<Block> {
    let mut table = Table::new(&[
        ("connection", Align::Left),
        ("accepted only, bytes", Align::Right),
        ("min–max", Align::Right),
        ("after one exchange, bytes", Align::Right),
        ("min–max", Align::Right),
    ]);
    let mut native: Option<Summary> = None;
    for (kind, series) in KINDS.iter().zip(series) {
        let column =
            |of: fn(&Figures) -> f64| Summary::of(&series.iter().map(of).collect::<Vec<_>>());
        let (Some(accepted), Some(after)) =
            (column(|one| one.accepted), column(|one| one.after_one))
        else {
            continue;
        };
        if *kind == Kind::Native {
            native = Some(after);
        }
        table.row([
            kind.name().to_owned(),
            figure(accepted.median),
            spread(&accepted),
            figure(after.median),
            spread(&after),
        ]);
    }
    let text = format!("{} connections at once.", count(args.connections.into()));
    let mut bars = Table::new(&[
        ("native, after one exchange", Align::Left),
        ("at most, bytes", Align::Right),
        ("reached, median", Align::Right),
        ("min–max", Align::Right),
        ("", Align::Left),
    ]);
    for ((name, most), reached) in BARS_BYTES.into_iter().zip([&native; 2]) {
        let Some(reached) = reached else {
            continue;
        };
        let kept = reached.median <= most;
        bars.row([
            name.to_owned(),
            figure(most),
            figure(reached.median),
            spread(reached),
            if kept { "kept" } else { "MISSED" }.to_owned(),
        ]);
    }
    vec![
        Block::Text(text),
        Block::Table("Memory of an idle connection".to_owned(), table),
        Block::Table("Bars".to_owned(), bars),
    ]
}
