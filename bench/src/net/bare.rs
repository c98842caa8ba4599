//! Servers with nothing around them: what the machine allows. They answer every command by PONG,
//! and read it with the same parser as ours, so that the loop is what differs.

use std::convert::Infallible;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context as _, Result, bail};
use rustix::event::epoll;
use waystation_wire::resp::{Arguments, RespLimits, Scanner};

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// Events taken from the kernel at once.
const EVENTS: usize = 256;

/// The name of the listener among the events.
pub(crate) const LISTENER: u64 = u64::MAX;

/// Binds, and says where.
///
/// # Errors
/// The address cannot be bound.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot bind {address}"))?;
    println!("listening on {}", listener.local_addr()?);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes events until the process is killed.
///
/// # Errors
/// The kernel's.
pub(crate) fn events(
    epoll: &impl std::os::fd::AsFd,
    mut on_events: impl FnMut(&[epoll::Event]) -> Result<()>,
) -> Result<Infallible> {
    let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
            _ => on_events(&events)?,
        }
    }
}

/// A connection's state.
#[derive(Default)]
struct Conn {
    /// The part of a command that has come.
    rest: Vec<u8>,
    scanner: Scanner,
}

impl Conn {
    /// Answers the whole commands in `bytes`, which follow what is left of the last ones.
    fn answer(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if self.rest.is_empty() {
            let used = self.commands(bytes, out)?;
            self.rest.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let used = self.commands(&all, out)?;
        all.drain(..used);
        self.rest = all;
        Ok(())
    }

    fn commands(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize> {
        let limits = RespLimits::default();
        let mut used = 0;
        let mut words = Arguments::new();
        while let Ok(length) = words.read(&mut self.scanner, &bytes[used..], &limits)? {
            used += length;
            out.extend_from_slice(b"+PONG\r\n");
        }
        Ok(used)
    }
}

/// A loop over epoll: one read and one write for each event.
///
/// # Errors
/// The kernel's.
pub(crate) fn epoll_loop(address: SocketAddr) -> Result<Infallible> {
    let listener = listen(address)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN;
    epoll::add(
        &epoll,
        &listener,
        epoll::EventData::new_u64(LISTENER),
        flags,
    )?;
    let mut conns: Vec<Option<(TcpStream, Conn)>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut out = Vec::new();
    events(&epoll, |events| {
        for event in events {
            if event.data.u64() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let index = free.pop().unwrap_or_else(|| {
                        conns.push(None);
                        conns.len() - 1
                    });
                    let data = epoll::EventData::new_u64(index as u64);
                    epoll::add(&epoll, &stream, data, flags)?;
                    conns[index] = Some((stream, Conn::default()));
                }
                continue;
            }
            let index = usize::try_from(event.data.u64())?;
            let Some((stream, conn)) = &mut conns[index] else {
                continue;
            };
            if epoll_turn(stream, conn, &mut buffer, &mut out).is_err() {
                conns[index] = None;
                free.push(index);
            }
        }
        Ok(())
    })
}

fn epoll_turn(
    stream: &mut TcpStream,
    conn: &mut Conn,
    buffer: &mut [u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let count = match stream.read(buffer) {
        Ok(0) => bail!("closed"),
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    out.clear();
    conn.answer(&buffer[..count], out)?;
    // The load reads what it asked for: a socket that is full ends the connection.
    stream.write_all(out)?;
    Ok(())
}

/// The same on tokio: one current-thread runtime, a task for each connection, a shared buffer.
///
/// # Errors
/// The kernel's.
pub(crate) fn tokio_loop(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listen(address)?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(async move {
                // It ends by closing the connection.
                let _ = tokio_conn(stream).await;
            });
        }
    })
}

thread_local! {
    /// The read buffer and the output of all connections.
    static SHARED: std::cell::RefCell<(Vec<u8>, Vec<u8>)> =
        std::cell::RefCell::new((vec![0; READ_BYTES], Vec::new()));
}

async fn tokio_conn(stream: tokio::net::TcpStream) -> Result<()> {
    let mut conn = Conn::default();
    loop {
        stream.readable().await?;
        SHARED.with_borrow_mut(|(buffer, out)| {
            let count = match stream.try_read(buffer) {
                Ok(0) => bail!("closed"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            out.clear();
            conn.answer(&buffer[..count], out)?;
            let written = stream.try_write(out)?;
            anyhow::ensure!(written == out.len(), "the socket is full");
            Ok(())
        })?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_pieces_are_answered_once() {
        let bytes = b"*1\r\n$4\r\nPING\r\n".repeat(3);
        for cut in 1..bytes.len() {
            let (mut conn, mut out) = (Conn::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                conn.answer(piece, &mut out).unwrap();
            }
            assert_eq!(out, b"+PONG\r\n".repeat(3), "cut by {cut}");
        }
    }
}
