//! What C sees. All `unsafe` of the crate is here.
//!
//! Pointers to callers come from [`waystation_caller_new`] and
//! [`waystation_caller_clone`] and are good until [`waystation_caller_free`]; one
//! caller is used by one thread at a time. That is what the header asks for, and
//! nothing else can go wrong: null is answered by an error, text that is no UTF-8
//! too.

#![allow(unsafe_code, reason = "C hands over pointers")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::PathBuf;
use std::time::Duration;

use waystation_balance::{CallEnd, Load};
use waystation_client::{Caller, CallerConfig, Error, LarsCaller, PickedHost, Source};
use waystation_membership::Address;

use crate::picks::Picks;

/// Bytes of a host's address, with the zero at its end.
pub const WAYSTATION_ADDRESS_LEN: usize = 128;

/// Picks hosts of one service. Used by one thread at a time.
pub struct waystation_caller {
    caller: Caller,
    config: CallerConfig,
    picks: Picks,
    error: CString,
}

/// What became of a function.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum waystation_status {
    /// It did what it says.
    Ok = 0,
    /// The agent knows no host for the next call, or refuses. Try again later.
    NoHost = 1,
    /// The agent cannot be reached or did not answer in time.
    NoAgent = 2,
    /// A pointer is null, or a text is no UTF-8.
    BadArgument = 3,
}

/// Which way a pick went.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum waystation_source {
    /// Shared memory: no system call.
    Segment = 0,
    /// The agent's Unix socket.
    Socket = 1,
    /// The agent's UDP port, by Lars' protocol.
    Udp = 2,
    /// No agent: a host that shared memory had when it was lost. The call is
    /// counted nowhere.
    Kept = 3,
}

/// How a call ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum waystation_end {
    /// With a result.
    Ok = 0,
    /// The host answered that it failed.
    Failed = 1,
    /// The host refused for load; nothing was begun.
    Overloaded = 2,
    /// Nobody took the call: refused or reset.
    Refused = 3,
    /// No answer came in time.
    TimedOut = 4,
    /// The caller gave up; this says nothing about the host.
    Cancelled = 5,
}

/// A host for one call. Report its end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct waystation_host {
    /// Where to call it: `IP:PORT`, with a zero at the end.
    pub address: [c_char; WAYSTATION_ADDRESS_LEN],
    /// Which way the pick went: a `waystation_source`.
    pub source: c_int,
    /// Names the pick when it is reported.
    pub pick: u64,
}

/// What a reply told of its host's load. With zeros it told nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct waystation_load {
    /// Requests that the host works on.
    pub in_flight: u32,
    /// The median time of its recent answers, in microseconds.
    pub latency_us: u32,
}

/// Where a host is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct waystation_address {
    /// `IP:PORT`, with a zero at the end.
    pub text: [c_char; WAYSTATION_ADDRESS_LEN],
}

/// The version of this library: a text that is never freed.
#[unsafe(no_mangle)]
pub extern "C" fn waystation_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The name of a `waystation_source`: `segment`, `socket`, `udp` or `kept`, and
/// `unknown` of another number; never freed.
#[unsafe(no_mangle)]
pub extern "C" fn waystation_source_name(source: c_int) -> *const c_char {
    let name = match source {
        0 => c"segment",
        1 => c"socket",
        2 => c"udp",
        3 => c"kept",
        _ => c"unknown",
    };
    name.as_ptr()
}

/// A caller for `service`, which the agent at the Unix socket `socket` knows. The
/// agent need not be there yet. Null when an argument is null or no UTF-8. Free it
/// with `waystation_caller_free`.
///
/// # Safety
/// Both are texts with a zero at their end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waystation_caller_new(
    service: *const c_char,
    socket: *const c_char,
) -> *mut waystation_caller {
    // SAFETY: as the caller promises.
    let (service, socket) = unsafe { (text(service), text(socket)) };
    let (Some(service), Some(socket)) = (service, socket) else {
        return std::ptr::null_mut();
    };
    Box::into_raw(made(CallerConfig::new(service, PathBuf::from(socket))))
}

/// The same caller for another thread. Null for null.
///
/// # Safety
/// `caller` is one of ours, which no other thread uses at the time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waystation_caller_clone(
    caller: *const waystation_caller,
) -> *mut waystation_caller {
    // SAFETY: as the caller promises.
    let Some(one) = (unsafe { caller.as_ref() }) else {
        return std::ptr::null_mut();
    };
    Box::into_raw(Box::new(waystation_caller {
        caller: one.caller.clone(),
        config: one.config.clone(),
        picks: Picks::default(),
        error: CString::default(),
    }))
}

/// Asks the agent by Lars' protocol over UDP where it gives neither memory nor its
/// Unix socket: the service's module and command, and the first of its three ports,
/// 0 for 8888. Picks that have no end yet are forgotten.
///
/// # Safety
/// `caller` is one of ours, which no other thread uses at the time, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waystation_caller_use_lars(
    caller: *mut waystation_caller,
    modid: i32,
    cmdid: i32,
    first_port: u16,
) -> waystation_status {
    // SAFETY: as the caller promises.
    let Some(one) = (unsafe { caller.as_mut() }) else {
        return waystation_status::BadArgument;
    };
    let mut lars = LarsCaller::new(modid, cmdid);
    if first_port != 0 {
        lars.ports = [0, 1, 2].map(|step| first_port.saturating_add(step));
    }
    let mut config = one.config.clone();
    lars.timeout = config.timeout;
    config.lars = Some(lars);
    *one = *made(config);
    waystation_status::Ok
}

/// Picks the host for the next call into `host`. From shared memory this costs
/// about 50 ns; else it waits for the agent, for half a second at most, and as long
/// again where UDP is asked.
///
/// # Safety
/// `caller` is one of ours, which no other thread uses at the time, or null; `host`
/// may be written, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waystation_pick(
    caller: *mut waystation_caller,
    host: *mut waystation_host,
) -> waystation_status {
    // SAFETY: as the caller promises.
    unsafe { pick(caller, host, Caller::pick) }
}

/// As `waystation_pick`, for a call that is about `key`: under the agent's policy
/// `maglev` calls of one key go to one host for as long as that is well. It asks the
/// agent each time.
///
/// # Safety
/// As for `waystation_pick`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waystation_pick_by(
    caller: *mut waystation_caller,
    key: u64,
    host: *mut waystation_host,
) -> waystation_status {
    // SAFETY: as the caller promises.
    unsafe { pick(caller, host, |caller| caller.pick_by(key)) }
}

/// # Safety
/// As for `waystation_pick`.
unsafe fn pick(
    caller: *mut waystation_caller,
    host: *mut waystation_host,
    ask: impl FnOnce(&mut Caller) -> Result<PickedHost, Error>,
) -> waystation_status {
    // SAFETY: as the caller promises.
    let Some(one) = (unsafe { caller.as_mut() }) else {
        return waystation_status::BadArgument;
    };
    if host.is_null() {
        return one.failed(waystation_status::BadArgument, "host is null");
    }
    match ask(&mut one.caller) {
        Ok(picked) => {
            let told = waystation_host {
                address: address(&picked.address.to_string()),
                source: source(picked.source) as c_int,
                pick: one.picks.keep(picked),
            };
            // SAFETY: it is not null, and may be written as the caller promises.
            unsafe { host.write(told) };
            waystation_status::Ok
        }
        Err(error) => one.refused(&error),
    }
}

/// Writes the addresses of all hosts of the service to `addresses`, `room` of them at
/// most, whether they may be picked or not, and to `count` how many there are, which
/// may be more than there is room for. It waits as a pick does. Cost: O(hosts).
///
/// # Safety
/// `caller` is one of ours, which no other thread uses at the time, or null; so many
/// addresses may be written as there is room for, or `addresses` is null; `count` may
/// be written, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waystation_get_route(
    caller: *mut waystation_caller,
    addresses: *mut waystation_address,
    room: usize,
    count: *mut usize,
) -> waystation_status {
    // SAFETY: as the caller promises.
    unsafe { route(caller, addresses, room, count, Caller::get_route) }
}

/// As `waystation_get_route`, to be called before the first pick: it asks until there
/// is a host, three times with pauses of 50 ms. There may still be none.
///
/// # Safety
/// As for `waystation_get_route`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waystation_reg_init(
    caller: *mut waystation_caller,
    addresses: *mut waystation_address,
    room: usize,
    count: *mut usize,
) -> waystation_status {
    // SAFETY: as the caller promises.
    unsafe { route(caller, addresses, room, count, Caller::reg_init) }
}

/// # Safety
/// As for `waystation_get_route`.
unsafe fn route(
    caller: *mut waystation_caller,
    addresses: *mut waystation_address,
    room: usize,
    count: *mut usize,
    ask: impl FnOnce(&mut Caller) -> Result<Vec<Address>, Error>,
) -> waystation_status {
    // SAFETY: as the caller promises.
    let Some(one) = (unsafe { caller.as_mut() }) else {
        return waystation_status::BadArgument;
    };
    if count.is_null() || (addresses.is_null() && room > 0) {
        return one.failed(waystation_status::BadArgument, "nowhere to write to");
    }
    let found = match ask(&mut one.caller) {
        Ok(found) => found,
        Err(error) => return one.refused(&error),
    };
    for (place, host) in found.iter().take(room).enumerate() {
        let text = address(&host.to_string());
        // SAFETY: there is room for it, as the caller promises.
        unsafe { addresses.add(place).write(waystation_address { text }) };
    }
    // SAFETY: it is not null, and may be written as the caller promises.
    unsafe { count.write(found.len()) };
    waystation_status::Ok
}

/// Tells how the call to `host` ended, a `waystation_end`, after `latency_ns` from its pick, or 0 when
/// it was not timed. A pick is reported once; more is ignored.
///
/// # Safety
/// `caller` is the one that picked, which no other thread uses at the time, or
/// null; `host` is what it picked, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waystation_report(
    caller: *mut waystation_caller,
    host: *const waystation_host,
    end: c_int,
    latency_ns: u64,
) -> waystation_status {
    // SAFETY: as the caller promises.
    unsafe { waystation_report_load(caller, host, end, latency_ns, std::ptr::null()) }
}

/// As `waystation_report`, with what the reply told of the host's load, by which the
/// agent's policy compares hosts; null when it told nothing.
///
/// # Safety
/// As for `waystation_report`; `load` may be read, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waystation_report_load(
    caller: *mut waystation_caller,
    host: *const waystation_host,
    end: c_int,
    latency_ns: u64,
    load: *const waystation_load,
) -> waystation_status {
    // SAFETY: as the caller promises.
    let (one, host, load) = unsafe { (caller.as_mut(), host.as_ref(), load.as_ref()) };
    let (Some(one), Some(host)) = (one, host) else {
        return waystation_status::BadArgument;
    };
    let Some(end) = end_of(end) else {
        return one.failed(waystation_status::BadArgument, "no such end of a call");
    };
    let Some(picked) = one.picks.take(host.pick) else {
        return one.failed(waystation_status::BadArgument, "the pick has ended");
    };
    let latency = (latency_ns > 0).then(|| Duration::from_nanos(latency_ns));
    let load = load.map_or_else(Load::default, |load| Load {
        in_flight: load.in_flight,
        latency_us: load.latency_us,
    });
    one.caller.report(&picked, end, latency, load);
    waystation_status::Ok
}

/// Why the last function of this caller failed: a text that is good until the
/// next, empty for null.
///
/// # Safety
/// `caller` is one of ours, which no other thread uses at the time, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waystation_error(caller: *const waystation_caller) -> *const c_char {
    // SAFETY: as the caller promises.
    let one = unsafe { caller.as_ref() };
    one.map_or(c"".as_ptr(), |one| one.error.as_ptr())
}

/// Frees a caller. Null is nothing.
///
/// # Safety
/// `caller` is one of ours, which is not used any more, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waystation_caller_free(caller: *mut waystation_caller) {
    if !caller.is_null() {
        // SAFETY: it came from a box of ours, and nobody uses it any more.
        drop(unsafe { Box::from_raw(caller) });
    }
}

impl waystation_caller {
    fn refused(&mut self, error: &Error) -> waystation_status {
        let status = match error {
            Error::Refused { .. } | Error::Miss(_) => waystation_status::NoHost,
            _ => waystation_status::NoAgent,
        };
        self.failed(status, &error.to_string())
    }

    fn failed(&mut self, status: waystation_status, error: &str) -> waystation_status {
        // A text with a zero in it is cut there.
        let text: Vec<u8> = error.bytes().take_while(|&byte| byte != 0).collect();
        self.error = CString::new(text).unwrap_or_default();
        status
    }
}

fn made(config: CallerConfig) -> Box<waystation_caller> {
    Box::new(waystation_caller {
        caller: Caller::new(config.clone()),
        config,
        picks: Picks::default(),
        error: CString::default(),
    })
}

/// # Safety
/// A text with a zero at its end, or null.
unsafe fn text<'a>(pointer: *const c_char) -> Option<&'a str> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().ok()
}

fn address(text: &str) -> [c_char; WAYSTATION_ADDRESS_LEN] {
    let mut out = [0; WAYSTATION_ADDRESS_LEN];
    // The last place stays zero.
    for (place, byte) in out[..WAYSTATION_ADDRESS_LEN - 1]
        .iter_mut()
        .zip(text.bytes())
    {
        *place = c_char::from_ne_bytes([byte]);
    }
    out
}

const fn source(source: Source) -> waystation_source {
    match source {
        Source::Segment => waystation_source::Segment,
        Source::Socket => waystation_source::Socket,
        Source::Udp => waystation_source::Udp,
        Source::Kept => waystation_source::Kept,
    }
}

/// C may hand over any number.
fn end_of(end: c_int) -> Option<CallEnd> {
    let ends = [
        (waystation_end::Ok, CallEnd::Ok),
        (waystation_end::Failed, CallEnd::Failed),
        (waystation_end::Overloaded, CallEnd::Overloaded),
        (waystation_end::Refused, CallEnd::Refused),
        (waystation_end::TimedOut, CallEnd::TimedOut),
        (waystation_end::Cancelled, CallEnd::Cancelled),
    ];
    let found = ends.into_iter().find(|(one, _)| *one as c_int == end);
    found.map(|(_, end)| end)
}
