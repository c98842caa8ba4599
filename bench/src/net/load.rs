//! Our own load generator: one thread, one epoll, a closed loop on each connection.
//!
//! It sends a batch of requests, compares every byte that comes back with what must come, and
//! sends the next batch when the last answer is there. It costs less than any server here, so that
//! the server is what saturates.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{Timespec, epoll};
use waystation_base::Moment;

use super::program::{ANSWER_WAIT, Program};
use crate::stats::number;
use crate::timing::now;

/// What is asked, and what must be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) name: &'static str,
    pub(crate) request: &'static str,
    pub(crate) answer: &'static str,
}

pub(crate) const PING: Question = Question {
    name: "PING",
    request: "*1\r\n$4\r\nPING\r\n",
    answer: "+PONG\r\n",
};

pub(crate) const SET: Question = Question {
    name: "SET",
    request: "*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000042\r\n$3\r\nxyz\r\n",
    answer: "+OK\r\n",
};

pub(crate) const GET: Question = Question {
    name: "GET",
    request: "*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000042\r\n",
    answer: "$3\r\nxyz\r\n",
};

/// What one run of a load showed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) requests_per_second: f64,
    pub(crate) requests_per_cpu_second: f64,
    /// Of a batch, from its sending to its last answer.
    pub(crate) p99_ms: f64,
}

/// How a load is put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) pipeline: usize,
    /// Before anything is counted.
    pub(crate) warm: Duration,
    pub(crate) measured: Duration,
}

struct Client {
    stream: TcpStream,
    /// Bytes of the batch's answers that have come.
    got: usize,
    sent: Moment,
}

/// Connections to one program.
pub(crate) struct Clients {
    epoll: OwnedFd,
    list: Vec<Client>,
    buffer: Vec<u8>,
}

/// Events taken from the kernel at once.
const EVENTS: usize = 512;

impl Clients {
    /// Connects so many.
    ///
    /// # Errors
    /// One cannot.
    pub(crate) fn connect(address: SocketAddr, count: usize) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("no epoll")?;
        let mut list = Vec::with_capacity(count);
        for index in 0..count {
            let stream = TcpStream::connect(address)
                .with_context(|| format!("cannot connect {index} to {address}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
            list.push(Client {
                stream,
                got: 0,
                sent: Moment::ZERO,
            });
        }
        Ok(Self {
            epoll,
            list,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Puts the load on `program` and measures it.
    ///
    /// # Errors
    /// An answer is wrong or does not come.
    pub(crate) fn run(
        &mut self,
        question: Question,
        plan: &Plan,
        program: &Program,
    ) -> Result<Measured> {
        let mut run = Run {
            request: question.request.repeat(plan.pipeline).into_bytes(),
            answer: question.answer.repeat(plan.pipeline).into_bytes(),
            bytes: 0,
            latencies_ns: Vec::new(),
            stops: false,
            under_way: 0,
        };
        for client in &mut self.list {
            run.send(client)?;
        }
        self.turns(&mut run, now() + plan.warm)?;
        let (begin, cpu, before) = (now(), program.cpu_ns()?, run.bytes);
        run.latencies_ns.clear();
        self.turns(&mut run, begin + plan.measured)?;
        let wall = now().saturating_since(begin).as_secs_f64();
        let cpu = number(program.cpu_ns()? - cpu) / 1e9;
        let requests = number(run.bytes - before) / number(question.answer.len() as u64);
        run.stops = true;
        let end = now() + ANSWER_WAIT;
        while run.under_way > 0 {
            ensure!(now() < end, "{} stopped answering", program.name);
            self.turn(&mut run)?;
        }
        Ok(Measured {
            requests_per_second: requests / wall,
            requests_per_cpu_second: requests / cpu.max(1e-9),
            p99_ms: p99_ms(&mut run.latencies_ns),
        })
    }

    fn turns(&mut self, run: &mut Run, until: Moment) -> Result<()> {
        while now() < until {
            self.turn(run)?;
        }
        Ok(())
    }

    fn turn(&mut self, run: &mut Run) -> Result<()> {
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&wait),
        ) {
            Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
            _ => {}
        }
        for event in events {
            let index = usize::try_from(event.data.u64())?;
            run.receive(&mut self.list[index], &mut self.buffer)?;
        }
        Ok(())
    }
}

/// One load under way.
struct Run {
    /// A whole batch, and its answers.
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Bytes of answers received.
    bytes: u64,
    latencies_ns: Vec<u64>,
    stops: bool,
    /// Batches whose answers have not all come.
    under_way: usize,
}

impl Run {
    fn send(&mut self, client: &mut Client) -> Result<()> {
        client.sent = now();
        client.got = 0;
        self.under_way += 1;
        let sent = client.stream.write(&self.request)?;
        ensure!(
            sent == self.request.len(),
            "a batch does not fit the socket"
        );
        Ok(())
    }

    fn receive(&mut self, client: &mut Client, buffer: &mut [u8]) -> Result<()> {
        let count = match client.stream.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("a connection is lost"),
        };
        ensure!(count > 0, "a connection was closed");
        let end = client.got + count;
        let expected = self.answer.get(client.got..end);
        ensure!(expected == Some(&buffer[..count]), "a wrong answer");
        client.got = end;
        self.bytes += count as u64;
        if end < self.answer.len() {
            return Ok(());
        }
        self.under_way -= 1;
        let latency = now().saturating_since(client.sent);
        self.latencies_ns
            .push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        if self.stops {
            Ok(())
        } else {
            self.send(client)
        }
    }
}

/// The 99th percentile of these; 0 of none.
fn p99_ms(latencies_ns: &mut [u64]) -> f64 {
    latencies_ns.sort_unstable();
    let place = (latencies_ns.len() * 99).div_ceil(100).saturating_sub(1);
    latencies_ns.get(place).map_or(0.0, |&ns| number(ns) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_of_a_hundred_is_the_last_but_one() {
        let mut list: Vec<u64> = (1..=100).rev().map(|ms| ms * 1_000_000).collect();
        assert_eq!(p99_ms(&mut list).to_bits(), 99.0_f64.to_bits());
        assert_eq!(p99_ms(&mut []).to_bits(), 0.0_f64.to_bits());
    }
}
