//! A FIFO proxy with nothing around it: one thread, one epoll, one connection to the server. Each
//! turn reads what there is, then writes once for each peer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, bail};
use rustix::event::epoll;
use waystation_wire::resp::{Arguments, RespLimits, Scan, Scanner};

use crate::net::{LISTENER, events, listen};

/// The name of the server's connection among the events.
const SERVER: u64 = LISTENER - 1;

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

struct Client {
    stream: TcpStream,
    rest: Vec<u8>,
    out: Vec<u8>,
    scanner: Scanner,
}

struct Proxy {
    clients: Vec<Option<Client>>,
    server: TcpStream,
    /// Requests to be written, and the part of an answer that has come.
    to_server: Vec<u8>,
    rest: Vec<u8>,
    scanner: Scanner,
    limits: RespLimits,
    /// Whose answer comes next.
    line: VecDeque<usize>,
    /// Clients with something to be written.
    dirty: Vec<usize>,
    buffer: Vec<u8>,
}

/// Runs it until the process is killed. Places of clients that are gone are not used again, so
/// that no answer reaches another.
///
/// # Errors
/// The server is lost.
pub(crate) fn run(address: SocketAddr, upstream: SocketAddr) -> Result<Infallible> {
    let server = TcpStream::connect(upstream).context("cannot reach the server")?;
    server.set_nodelay(true)?;
    server.set_nonblocking(true)?;
    let listener = listen(address)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN;
    epoll::add(
        &epoll,
        &listener,
        epoll::EventData::new_u64(LISTENER),
        flags,
    )?;
    epoll::add(&epoll, &server, epoll::EventData::new_u64(SERVER), flags)?;
    let mut proxy = Proxy {
        clients: Vec::new(),
        server,
        to_server: Vec::new(),
        rest: Vec::new(),
        scanner: Scanner::new(),
        limits: RespLimits::default(),
        line: VecDeque::new(),
        dirty: Vec::new(),
        buffer: vec![0; READ_BYTES],
    };
    events(&epoll, |events| {
        for event in events {
            match event.data.u64() {
                LISTENER => {
                    while let Ok((stream, _)) = listener.accept() {
                        stream.set_nonblocking(true)?;
                        stream.set_nodelay(true)?;
                        let data = epoll::EventData::new_u64(proxy.clients.len() as u64);
                        epoll::add(&epoll, &stream, data, flags)?;
                        proxy.clients.push(Some(Client {
                            stream,
                            rest: Vec::new(),
                            out: Vec::new(),
                            scanner: Scanner::new(),
                        }));
                    }
                }
                SERVER => proxy.read_server()?,
                client => {
                    let index = usize::try_from(client)?;
                    if proxy.read_client(index).is_err() {
                        proxy.clients[index] = None;
                    }
                }
            }
        }
        proxy.write()
    })
}

/// Appends what can be read; fails at the end.
fn read(stream: &mut TcpStream, buffer: &mut [u8], into: &mut Vec<u8>) -> Result<()> {
    match stream.read(buffer) {
        Ok(0) => bail!("closed"),
        Ok(count) => into.extend_from_slice(&buffer[..count]),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

impl Proxy {
    fn read_client(&mut self, index: usize) -> Result<()> {
        let Some(client) = &mut self.clients[index] else {
            return Ok(());
        };
        read(&mut client.stream, &mut self.buffer, &mut client.rest)?;
        let mut used = 0;
        let mut words = Arguments::new();
        while let Ok(length) =
            words.read(&mut client.scanner, &client.rest[used..], &self.limits)?
        {
            used += length;
            self.line.push_back(index);
        }
        self.to_server.extend_from_slice(&client.rest[..used]);
        client.rest.drain(..used);
        Ok(())
    }

    fn read_server(&mut self) -> Result<()> {
        read(&mut self.server, &mut self.buffer, &mut self.rest).context("the server is lost")?;
        let mut used = 0;
        while let Scan::Complete(length) = self.scanner.scan(&self.rest[used..], &self.limits)? {
            let answer = &self.rest[used..used + length];
            used += length;
            let index = self.line.pop_front().context("an answer too many")?;
            if let Some(client) = &mut self.clients[index] {
                if client.out.is_empty() {
                    self.dirty.push(index);
                }
                client.out.extend_from_slice(answer);
            }
        }
        self.rest.drain(..used);
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        for index in self.dirty.drain(..) {
            if let Some(client) = &mut self.clients[index] {
                // The load reads what it asked for: a socket that is full ends the connection.
                if client.stream.write_all(&client.out).is_err() {
                    self.clients[index] = None;
                    continue;
                }
                client.out.clear();
            }
        }
        if !self.to_server.is_empty() {
            self.server.write_all(&self.to_server)?;
            self.to_server.clear();
        }
        Ok(())
    }
}
