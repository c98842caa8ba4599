//! The messages, from bodies and back.

use std::net::Ipv4Addr;

use super::body::{
    BodyError, Fields, Value, message_len, number_len, put_message, put_number, put_signed, signed,
    signed_len, unsigned,
};
use super::frame::{BODY_LEN_MAX, HEADER_LEN, TooLarge, put_header};

/// Which message a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum MessageId {
    /// Agent to route server: a service's hosts, and every change from now on.
    GetRouteRequest = 1,
    /// Route server to agent: the answer, and each push.
    GetRouteResponse = 2,
    /// Agent to report server: results of calls. No answer.
    ReportStatusRequest = 3,
    /// Caller to agent: a host for the next call.
    GetHostRequest = 4,
    /// Agent to caller: the host.
    GetHostResponse = 5,
    /// Caller to agent: how a call ended. No answer.
    ReportRequest = 6,
    /// Caller to agent: all hosts of a service.
    ApiGetRouteRequest = 7,
    /// Agent to caller: the hosts.
    ApiGetRouteResponse = 8,
}

impl MessageId {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::GetRouteRequest,
        Self::GetRouteResponse,
        Self::ReportStatusRequest,
        Self::GetHostRequest,
        Self::GetHostResponse,
        Self::ReportRequest,
        Self::ApiGetRouteRequest,
        Self::ApiGetRouteResponse,
    ];

    /// The number on the wire.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The message with this number, if there is one. Cost: O(1).
    pub fn of(code: i32) -> Option<Self> {
        let at = usize::try_from(code.checked_sub(1)?).ok()?;
        Self::ALL.get(at).copied()
    }
}

/// A host: an IPv4 address as a number and a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostInfo {
    /// The address in host order; from 128.0.0.0 on negative.
    pub ip: i32,
    /// The port, as sent: not checked to be one.
    pub port: i32,
}

impl HostInfo {
    /// This address and port.
    pub fn new(ip: Ipv4Addr, port: u16) -> Self {
        Self {
            ip: ip.to_bits().cast_signed(),
            port: i32::from(port),
        }
    }

    /// The address.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.ip.cast_unsigned())
    }

    const fn body_len(self) -> usize {
        signed_len(self.ip) + signed_len(self.port)
    }

    fn write(self, out: &mut Vec<u8>) {
        put_signed(1, self.ip, out);
        put_signed(2, self.port, out);
    }

    fn merge(&mut self, body: &[u8]) -> Result<(), BodyError> {
        let mut fields = Fields::of(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(number)) => self.ip = signed(number),
                (2, Value::Number(number)) => self.port = signed(number),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Asks for the hosts of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GetRouteRequest {
    /// The service's module.
    pub modid: i32,
    /// The service's command.
    pub cmdid: i32,
}

/// The hosts of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetRouteResponse {
    /// The service's module.
    pub modid: i32,
    /// The service's command.
    pub cmdid: i32,
    /// The hosts. None: the service has none, or is not known.
    pub hosts: Vec<HostInfo>,
}

impl GetRouteResponse {
    /// How many of `hosts`, from the first on, fit a frame of `frame_len_max`
    /// bytes for this pair. A route that does not fit an answer is sent in part:
    /// rotate `hosts` and count the rest. Cost: O(hosts).
    pub fn fitting(modid: i32, cmdid: i32, hosts: &[HostInfo], frame_len_max: usize) -> usize {
        let fixed = HEADER_LEN + signed_len(modid) + signed_len(cmdid);
        let mut left = frame_len_max
            .min(HEADER_LEN + BODY_LEN_MAX)
            .saturating_sub(fixed);
        let fits = |host: &&HostInfo| {
            let length = message_len(host.body_len());
            let is_room = length <= left;
            left = left.saturating_sub(length);
            is_room
        };
        hosts.iter().take_while(fits).count()
    }
}

/// How calls to one host ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HostCallResult {
    /// The host's address, as in [`HostInfo`].
    pub ip: i32,
    /// The host's port.
    pub port: i32,
    /// Calls that went well.
    pub succ: u32,
    /// Calls that failed.
    pub err: u32,
    /// Whether the agent holds the host for overloaded.
    pub overload: bool,
}

impl HostCallResult {
    const fn body_len(self) -> usize {
        signed_len(self.ip)
            + signed_len(self.port)
            + number_len(self.succ as u64)
            + number_len(self.err as u64)
            + number_len(self.overload as u64)
    }

    fn write(self, out: &mut Vec<u8>) {
        put_signed(1, self.ip, out);
        put_signed(2, self.port, out);
        put_number(3, self.succ.into(), out);
        put_number(4, self.err.into(), out);
        put_number(5, self.overload.into(), out);
    }

    fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let mut result = Self::default();
        let mut fields = Fields::of(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(number)) => result.ip = signed(number),
                (2, Value::Number(number)) => result.port = signed(number),
                (3, Value::Number(number)) => result.succ = unsigned(number),
                (4, Value::Number(number)) => result.err = unsigned(number),
                (5, Value::Number(number)) => result.overload = number != 0,
                _ => {}
            }
        }
        Ok(result)
    }
}

/// Results of a service's calls from one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportStatusRequest {
    /// The service's module.
    pub modid: i32,
    /// The service's command.
    pub cmdid: i32,
    /// The address of the host that called, as in [`HostInfo`].
    pub caller: i32,
    /// Per host called.
    pub results: Vec<HostCallResult>,
    /// When, in unix seconds.
    pub ts: u32,
}

/// Asks for a host for the next call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GetHostRequest {
    /// The caller's number for the question; the answer repeats it.
    pub seq: u32,
    /// The service's module.
    pub modid: i32,
    /// The service's command.
    pub cmdid: i32,
}

/// The host for the next call, or why there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GetHostResponse {
    /// The number of the question.
    pub seq: u32,
    /// The service's module.
    pub modid: i32,
    /// The service's command.
    pub cmdid: i32,
    /// A [`RetCode`](super::RetCode).
    pub retcode: i32,
    /// The host, when there is one.
    pub host: Option<HostInfo>,
}

/// Tells how a call ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReportRequest {
    /// The service's module.
    pub modid: i32,
    /// The service's command.
    pub cmdid: i32,
    /// The host that was called.
    pub host: Option<HostInfo>,
    /// 0 for a call that went well.
    pub retcode: i32,
}

/// Any message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is named as its message, which is documented"
)]
pub enum Message {
    GetRouteRequest(GetRouteRequest),
    GetRouteResponse(GetRouteResponse),
    ReportStatusRequest(ReportStatusRequest),
    GetHostRequest(GetHostRequest),
    GetHostResponse(GetHostResponse),
    ReportRequest(ReportRequest),
    ApiGetRouteRequest(GetRouteRequest),
    ApiGetRouteResponse(GetRouteResponse),
}

impl Message {
    /// Reads the body of a frame. Cost: O(length); only lists of hosts and
    /// results allocate.
    ///
    /// # Errors
    /// [`BodyError`]: the id is unknown, or the body is no proto3.
    pub fn parse(id: i32, body: &[u8]) -> Result<Self, BodyError> {
        Ok(match MessageId::of(id).ok_or(BodyError::UnknownId(id))? {
            MessageId::GetRouteRequest => Self::GetRouteRequest(GetRouteRequest::parse(body)?),
            MessageId::GetRouteResponse => Self::GetRouteResponse(GetRouteResponse::parse(body)?),
            MessageId::ReportStatusRequest => {
                Self::ReportStatusRequest(ReportStatusRequest::parse(body)?)
            }
            MessageId::GetHostRequest => Self::GetHostRequest(GetHostRequest::parse(body)?),
            MessageId::GetHostResponse => Self::GetHostResponse(GetHostResponse::parse(body)?),
            MessageId::ReportRequest => Self::ReportRequest(ReportRequest::parse(body)?),
            MessageId::ApiGetRouteRequest => {
                Self::ApiGetRouteRequest(GetRouteRequest::parse(body)?)
            }
            MessageId::ApiGetRouteResponse => {
                Self::ApiGetRouteResponse(GetRouteResponse::parse(body)?)
            }
        })
    }

    /// Which message it is.
    pub const fn id(&self) -> MessageId {
        match self {
            Self::GetRouteRequest(_) => MessageId::GetRouteRequest,
            Self::GetRouteResponse(_) => MessageId::GetRouteResponse,
            Self::ReportStatusRequest(_) => MessageId::ReportStatusRequest,
            Self::GetHostRequest(_) => MessageId::GetHostRequest,
            Self::GetHostResponse(_) => MessageId::GetHostResponse,
            Self::ReportRequest(_) => MessageId::ReportRequest,
            Self::ApiGetRouteRequest(_) => MessageId::ApiGetRouteRequest,
            Self::ApiGetRouteResponse(_) => MessageId::ApiGetRouteResponse,
        }
    }

    /// Appends it as a frame. Cost: O(length).
    ///
    /// # Errors
    /// [`TooLarge`], with nothing written: a list is too long.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        let body_len = self.body_len();
        let announced = i32::try_from(body_len).ok();
        let announced = announced.filter(|_| body_len <= BODY_LEN_MAX);
        let announced = announced.ok_or(TooLarge { body_len })?;
        out.reserve(HEADER_LEN + body_len);
        put_header(self.id().code(), announced, out);
        self.write(out);
        Ok(())
    }

    /// Bytes of its body. Cost: O(hosts).
    pub fn body_len(&self) -> usize {
        match self {
            Self::GetRouteRequest(one) | Self::ApiGetRouteRequest(one) => {
                signed_len(one.modid) + signed_len(one.cmdid)
            }
            Self::GetRouteResponse(one) | Self::ApiGetRouteResponse(one) => {
                let hosts = one.hosts.iter();
                let hosts: usize = hosts.map(|host| message_len(host.body_len())).sum();
                signed_len(one.modid) + signed_len(one.cmdid) + hosts
            }
            Self::ReportStatusRequest(one) => {
                let results = one.results.iter();
                let results: usize = results.map(|result| message_len(result.body_len())).sum();
                signed_len(one.modid)
                    + signed_len(one.cmdid)
                    + signed_len(one.caller)
                    + results
                    + number_len(one.ts.into())
            }
            Self::GetHostRequest(one) => {
                number_len(one.seq.into()) + signed_len(one.modid) + signed_len(one.cmdid)
            }
            Self::GetHostResponse(one) => {
                number_len(one.seq.into())
                    + signed_len(one.modid)
                    + signed_len(one.cmdid)
                    + signed_len(one.retcode)
                    + one.host.map_or(0, |host| message_len(host.body_len()))
            }
            Self::ReportRequest(one) => {
                signed_len(one.modid)
                    + signed_len(one.cmdid)
                    + one.host.map_or(0, |host| message_len(host.body_len()))
                    + signed_len(one.retcode)
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let put_host = |field, host: Option<HostInfo>, out: &mut Vec<u8>| {
            if let Some(host) = host {
                put_message(field, host.body_len(), out, |out| host.write(out));
            }
        };
        match self {
            Self::GetRouteRequest(one) | Self::ApiGetRouteRequest(one) => {
                put_signed(1, one.modid, out);
                put_signed(2, one.cmdid, out);
            }
            Self::GetRouteResponse(one) | Self::ApiGetRouteResponse(one) => {
                put_signed(1, one.modid, out);
                put_signed(2, one.cmdid, out);
                for &host in &one.hosts {
                    put_host(3, Some(host), out);
                }
            }
            Self::ReportStatusRequest(one) => {
                put_signed(1, one.modid, out);
                put_signed(2, one.cmdid, out);
                put_signed(3, one.caller, out);
                for result in &one.results {
                    put_message(4, result.body_len(), out, |out| result.write(out));
                }
                put_number(5, one.ts.into(), out);
            }
            Self::GetHostRequest(one) => {
                put_number(1, one.seq.into(), out);
                put_signed(2, one.modid, out);
                put_signed(3, one.cmdid, out);
            }
            Self::GetHostResponse(one) => {
                put_number(1, one.seq.into(), out);
                put_signed(2, one.modid, out);
                put_signed(3, one.cmdid, out);
                put_signed(4, one.retcode, out);
                put_host(5, one.host, out);
            }
            Self::ReportRequest(one) => {
                put_signed(1, one.modid, out);
                put_signed(2, one.cmdid, out);
                put_host(3, one.host, out);
                put_signed(4, one.retcode, out);
            }
        }
    }
}

impl GetRouteRequest {
    fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let mut one = Self::default();
        let mut fields = Fields::of(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(number)) => one.modid = signed(number),
                (2, Value::Number(number)) => one.cmdid = signed(number),
                _ => {}
            }
        }
        Ok(one)
    }
}

impl GetRouteResponse {
    fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let mut one = Self::default();
        let mut fields = Fields::of(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(number)) => one.modid = signed(number),
                (2, Value::Number(number)) => one.cmdid = signed(number),
                (3, Value::Bytes(body)) => {
                    let mut host = HostInfo::default();
                    host.merge(body)?;
                    one.hosts.push(host);
                }
                _ => {}
            }
        }
        Ok(one)
    }
}

impl ReportStatusRequest {
    fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let mut one = Self::default();
        let mut fields = Fields::of(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(number)) => one.modid = signed(number),
                (2, Value::Number(number)) => one.cmdid = signed(number),
                (3, Value::Number(number)) => one.caller = signed(number),
                (4, Value::Bytes(body)) => one.results.push(HostCallResult::parse(body)?),
                (5, Value::Number(number)) => one.ts = unsigned(number),
                _ => {}
            }
        }
        Ok(one)
    }
}

impl GetHostRequest {
    fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let mut one = Self::default();
        let mut fields = Fields::of(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(number)) => one.seq = unsigned(number),
                (2, Value::Number(number)) => one.modid = signed(number),
                (3, Value::Number(number)) => one.cmdid = signed(number),
                _ => {}
            }
        }
        Ok(one)
    }
}

impl GetHostResponse {
    fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let mut one = Self::default();
        let mut fields = Fields::of(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(number)) => one.seq = unsigned(number),
                (2, Value::Number(number)) => one.modid = signed(number),
                (3, Value::Number(number)) => one.cmdid = signed(number),
                (4, Value::Number(number)) => one.retcode = signed(number),
                // A message that comes twice is merged.
                (5, Value::Bytes(body)) => one.host.get_or_insert_default().merge(body)?,
                _ => {}
            }
        }
        Ok(one)
    }
}

impl ReportRequest {
    fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let mut one = Self::default();
        let mut fields = Fields::of(body);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(number)) => one.modid = signed(number),
                (2, Value::Number(number)) => one.cmdid = signed(number),
                (3, Value::Bytes(body)) => one.host.get_or_insert_default().merge(body)?,
                (4, Value::Number(number)) => one.retcode = signed(number),
                _ => {}
            }
        }
        Ok(one)
    }
}
