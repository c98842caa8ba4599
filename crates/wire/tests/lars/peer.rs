//! The messages as prost has them, to compare with.

use proptest::prelude::*;
use prost::Message as _;
use waystation_wire::lars::{
    GetHostRequest, GetHostResponse, GetRouteRequest, GetRouteResponse, HostCallResult, HostInfo,
    Message, ReportRequest, ReportStatusRequest,
};

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Host {
    #[prost(int32, tag = "1")]
    pub(super) ip: i32,
    #[prost(int32, tag = "2")]
    pub(super) port: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Route {
    #[prost(int32, tag = "1")]
    pub(super) modid: i32,
    #[prost(int32, tag = "2")]
    pub(super) cmdid: i32,
    #[prost(message, repeated, tag = "3")]
    pub(super) host: Vec<Host>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct AskRoute {
    #[prost(int32, tag = "1")]
    modid: i32,
    #[prost(int32, tag = "2")]
    cmdid: i32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct CallResult {
    #[prost(int32, tag = "1")]
    ip: i32,
    #[prost(int32, tag = "2")]
    port: i32,
    #[prost(uint32, tag = "3")]
    succ: u32,
    #[prost(uint32, tag = "4")]
    err: u32,
    #[prost(bool, tag = "5")]
    overload: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    modid: i32,
    #[prost(int32, tag = "2")]
    cmdid: i32,
    #[prost(int32, tag = "3")]
    caller: i32,
    #[prost(message, repeated, tag = "4")]
    results: Vec<CallResult>,
    #[prost(uint32, tag = "5")]
    ts: u32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct AskHost {
    #[prost(uint32, tag = "1")]
    seq: u32,
    #[prost(int32, tag = "2")]
    modid: i32,
    #[prost(int32, tag = "3")]
    cmdid: i32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct AnswerHost {
    #[prost(uint32, tag = "1")]
    seq: u32,
    #[prost(int32, tag = "2")]
    modid: i32,
    #[prost(int32, tag = "3")]
    cmdid: i32,
    #[prost(int32, tag = "4")]
    retcode: i32,
    #[prost(message, optional, tag = "5")]
    host: Option<Host>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Report {
    #[prost(int32, tag = "1")]
    modid: i32,
    #[prost(int32, tag = "2")]
    cmdid: i32,
    #[prost(message, optional, tag = "3")]
    host: Option<Host>,
    #[prost(int32, tag = "4")]
    retcode: i32,
}

fn theirs(host: HostInfo) -> Host {
    Host {
        ip: host.ip,
        port: host.port,
    }
}

fn ours(host: Host) -> HostInfo {
    HostInfo {
        ip: host.ip,
        port: host.port,
    }
}

/// The body as the other codec writes it.
pub(super) fn encode(message: &Message) -> Vec<u8> {
    match message {
        Message::GetRouteRequest(one) | Message::ApiGetRouteRequest(one) => AskRoute {
            modid: one.modid,
            cmdid: one.cmdid,
        }
        .encode_to_vec(),
        Message::GetRouteResponse(one) | Message::ApiGetRouteResponse(one) => Route {
            modid: one.modid,
            cmdid: one.cmdid,
            host: one.hosts.iter().copied().map(theirs).collect(),
        }
        .encode_to_vec(),
        Message::ReportStatusRequest(one) => {
            let results = one.results.iter().map(|one| CallResult {
                ip: one.ip,
                port: one.port,
                succ: one.succ,
                err: one.err,
                overload: one.overload,
            });
            Status {
                modid: one.modid,
                cmdid: one.cmdid,
                caller: one.caller,
                results: results.collect(),
                ts: one.ts,
            }
            .encode_to_vec()
        }
        Message::GetHostRequest(one) => AskHost {
            seq: one.seq,
            modid: one.modid,
            cmdid: one.cmdid,
        }
        .encode_to_vec(),
        Message::GetHostResponse(one) => AnswerHost {
            seq: one.seq,
            modid: one.modid,
            cmdid: one.cmdid,
            retcode: one.retcode,
            host: one.host.map(theirs),
        }
        .encode_to_vec(),
        Message::ReportRequest(one) => Report {
            modid: one.modid,
            cmdid: one.cmdid,
            host: one.host.map(theirs),
            retcode: one.retcode,
        }
        .encode_to_vec(),
    }
}

/// What the other codec reads, if it can.
pub(super) fn decode(id: i32, body: &[u8]) -> Option<Message> {
    let ask = |one: AskRoute| GetRouteRequest {
        modid: one.modid,
        cmdid: one.cmdid,
    };
    let route = |one: Route| GetRouteResponse {
        modid: one.modid,
        cmdid: one.cmdid,
        hosts: one.host.into_iter().map(ours).collect(),
    };
    Some(match id {
        1 => Message::GetRouteRequest(ask(AskRoute::decode(body).ok()?)),
        2 => Message::GetRouteResponse(route(Route::decode(body).ok()?)),
        3 => {
            let one = Status::decode(body).ok()?;
            let results = one.results.into_iter().map(|one| HostCallResult {
                ip: one.ip,
                port: one.port,
                succ: one.succ,
                err: one.err,
                overload: one.overload,
            });
            Message::ReportStatusRequest(ReportStatusRequest {
                modid: one.modid,
                cmdid: one.cmdid,
                caller: one.caller,
                results: results.collect(),
                ts: one.ts,
            })
        }
        4 => {
            let one = AskHost::decode(body).ok()?;
            Message::GetHostRequest(GetHostRequest {
                seq: one.seq,
                modid: one.modid,
                cmdid: one.cmdid,
            })
        }
        5 => {
            let one = AnswerHost::decode(body).ok()?;
            Message::GetHostResponse(GetHostResponse {
                seq: one.seq,
                modid: one.modid,
                cmdid: one.cmdid,
                retcode: one.retcode,
                host: one.host.map(ours),
            })
        }
        6 => {
            let one = Report::decode(body).ok()?;
            Message::ReportRequest(ReportRequest {
                modid: one.modid,
                cmdid: one.cmdid,
                host: one.host.map(ours),
                retcode: one.retcode,
            })
        }
        7 => Message::ApiGetRouteRequest(ask(AskRoute::decode(body).ok()?)),
        8 => Message::ApiGetRouteResponse(route(Route::decode(body).ok()?)),
        _ => return None,
    })
}

fn number() -> impl Strategy<Value = i32> {
    prop_oneof![Just(0), -3..300_i32, any::<i32>()]
}

fn host() -> impl Strategy<Value = HostInfo> {
    (number(), number()).prop_map(|(ip, port)| HostInfo { ip, port })
}

/// Any message.
pub(super) fn message() -> impl Strategy<Value = Message> {
    let pair = || (number(), number());
    let ask = || pair().prop_map(|(modid, cmdid)| GetRouteRequest { modid, cmdid });
    let route = || {
        (pair(), prop::collection::vec(host(), 0..6)).prop_map(|((modid, cmdid), hosts)| {
            GetRouteResponse {
                modid,
                cmdid,
                hosts,
            }
        })
    };
    let result = (host(), any::<u32>(), 0..3_u32, any::<bool>());
    let result = result.prop_map(|(host, succ, err, overload)| HostCallResult {
        ip: host.ip,
        port: host.port,
        succ,
        err,
        overload,
    });
    let status = (
        pair(),
        number(),
        prop::collection::vec(result, 0..6),
        any::<u32>(),
    );
    let status = status.prop_map(
        |((modid, cmdid), caller, results, ts)| ReportStatusRequest {
            modid,
            cmdid,
            caller,
            results,
            ts,
        },
    );
    let ask_host = (any::<u32>(), pair());
    let ask_host = ask_host.prop_map(|(seq, (modid, cmdid))| GetHostRequest { seq, modid, cmdid });
    let answer = (any::<u32>(), pair(), number(), prop::option::of(host()));
    let answer = answer.prop_map(|(seq, (modid, cmdid), retcode, host)| GetHostResponse {
        seq,
        modid,
        cmdid,
        retcode,
        host,
    });
    let report = (pair(), prop::option::of(host()), number());
    let report = report.prop_map(|((modid, cmdid), host, retcode)| ReportRequest {
        modid,
        cmdid,
        host,
        retcode,
    });
    prop_oneof![
        ask().prop_map(Message::GetRouteRequest),
        route().prop_map(Message::GetRouteResponse),
        status.prop_map(Message::ReportStatusRequest),
        ask_host.prop_map(Message::GetHostRequest),
        answer.prop_map(Message::GetHostResponse),
        report.prop_map(Message::ReportRequest),
        ask().prop_map(Message::ApiGetRouteRequest),
        route().prop_map(Message::ApiGetRouteResponse),
    ]
}
