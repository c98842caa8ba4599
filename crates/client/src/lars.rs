//! A caller of an agent by Lars' protocol over UDP, as Lars' own library is one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use waystation_wire::lars::{
    DATAGRAM_LEN_MAX, GetHostRequest, GetRouteRequest, HostInfo, Message, ReportRequest, RetCode,
    UDP_PORTS, datagram, worker_of,
};

use crate::clock::{machine_now, pause};
use crate::error::Error;
use crate::protocol::Code;

/// How often a route is asked for when a service is used first.
pub(crate) const REG_INIT_TRIES: u32 = 3;

/// Between two of these.
pub(crate) const REG_INIT_PAUSE: Duration = Duration::from_millis(50);

/// A service's numbers and where its agent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LarsCaller {
    /// The module.
    pub modid: i32,
    /// The command.
    pub cmdid: i32,
    /// The agent's ports on loopback. Default 8888 to 8890.
    pub ports: [u16; 3],
    /// How long an answer is waited for. Default 50 ms.
    pub timeout: Duration,
}

static NUMBERS: AtomicU32 = AtomicU32::new(1);

impl LarsCaller {
    /// With the default ports.
    pub const fn new(modid: i32, cmdid: i32) -> Self {
        Self {
            modid,
            cmdid,
            ports: UDP_PORTS,
            timeout: Duration::from_millis(50),
        }
    }

    /// Asks for the route until there is one, three times with pauses of 50 ms,
    /// so that the first pick finds it. Returns its hosts.
    ///
    /// # Errors
    /// [`Error::TimedOut`] and [`Error::Unreachable`].
    pub fn reg_init(&self) -> Result<Vec<SocketAddr>, Error> {
        let mut last = self.get_route();
        for _ in 1..REG_INIT_TRIES {
            if last.as_ref().is_ok_and(|hosts| !hosts.is_empty()) {
                break;
            }
            pause(REG_INIT_PAUSE);
            last = self.get_route();
        }
        last
    }

    /// All hosts of the service that fit an answer.
    ///
    /// # Errors
    /// [`Error::TimedOut`] and [`Error::Unreachable`].
    pub fn get_route(&self) -> Result<Vec<SocketAddr>, Error> {
        let request = Message::ApiGetRouteRequest(GetRouteRequest {
            modid: self.modid,
            cmdid: self.cmdid,
        });
        self.ask(&request, |answer| match answer {
            Message::ApiGetRouteResponse(one) if (one.modid, one.cmdid) == self.pair() => {
                Some(one.hosts.iter().filter_map(|host| address(*host)).collect())
            }
            _ => None,
        })
    }

    /// A host for the next call.
    ///
    /// # Errors
    /// [`Error::Refused`] by the agent's return code, [`Error::TimedOut`] and
    /// [`Error::Unreachable`].
    pub fn get_host(&self) -> Result<SocketAddr, Error> {
        let seq = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let request = Message::GetHostRequest(GetHostRequest {
            seq,
            modid: self.modid,
            cmdid: self.cmdid,
        });
        let answer = self.ask(&request, |answer| match answer {
            Message::GetHostResponse(one) if one.seq == seq => Some(one),
            _ => None,
        })?;
        let refused = |code, text: &str| Error::Refused {
            code,
            text: text.to_owned(),
        };
        match RetCode::of(answer.retcode) {
            Some(RetCode::Success) => {
                let found = answer.host.and_then(address);
                found.ok_or_else(|| Error::BadAnswer("no host in it".into()))
            }
            Some(RetCode::Overload) => Err(refused(Code::NoHosts, "all hosts are overloaded")),
            Some(RetCode::NoSuchService) => {
                Err(refused(Code::NoSuchService, "no such service, or not yet"))
            }
            _ => Err(refused(Code::Busy, "the agent has a fault")),
        }
    }

    /// Tells how a call to `host` ended. Nobody answers, and nothing is lost but
    /// the word.
    pub fn report(&self, host: SocketAddr, is_ok: bool) {
        let SocketAddr::V4(host) = host else { return };
        let request = Message::ReportRequest(ReportRequest {
            modid: self.modid,
            cmdid: self.cmdid,
            host: Some(HostInfo::new(*host.ip(), host.port())),
            retcode: if is_ok {
                0
            } else {
                RetCode::SystemError.code()
            },
        });
        if let Ok(socket) = self.connect() {
            let _unheard = send(&socket, &request);
        }
    }

    const fn pair(&self) -> (i32, i32) {
        (self.modid, self.cmdid)
    }

    fn connect(&self) -> io::Result<UdpSocket> {
        let worker = worker_of(self.modid, self.cmdid, 3) as usize;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, self.ports[worker]))?;
        Ok(socket)
    }

    fn ask<T>(&self, message: &Message, take: impl Fn(Message) -> Option<T>) -> Result<T, Error> {
        let until = machine_now() + self.timeout;
        let socket = self.connect().map_err(Error::Unreachable)?;
        send(&socket, message).map_err(Error::Unreachable)?;
        let mut buffer = vec![0; DATAGRAM_LEN_MAX];
        loop {
            let left = until.saturating_since(machine_now());
            if left.is_zero() {
                return Err(Error::TimedOut);
            }
            socket
                .set_read_timeout(Some(left))
                .map_err(Error::Unreachable)?;
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    // What is no answer to this is dropped: a late one, or noise.
                    let frame = datagram(&buffer[..length]).ok();
                    let message = frame.and_then(|one| Message::parse(one.id, one.body).ok());
                    if let Some(found) = message.and_then(&take) {
                        return Ok(found);
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        return Err(Error::TimedOut);
                    }
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(Error::Unreachable(error)),
                },
            }
        }
    }
}

fn send(socket: &UdpSocket, message: &Message) -> io::Result<()> {
    let mut bytes = Vec::new();
    let written = message.encode_into(&mut bytes);
    written.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    socket.send(&bytes).map(drop)
}

fn address(host: HostInfo) -> Option<SocketAddr> {
    let port = u16::try_from(host.port).ok()?;
    Some(SocketAddr::new(host.address().into(), port))
}
