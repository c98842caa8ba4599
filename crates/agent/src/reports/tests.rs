//! Totals, told and untold.

use super::*;

fn pay() -> ServiceName {
    ServiceName::new("pay").unwrap()
}

fn told(totals: &Totals) -> Vec<(String, u64, u64)> {
    let message = totals.untold("m1");
    let services = message.map(|one| one.services).unwrap_or_default();
    let hosts = services.into_iter().flat_map(|one| one.hosts);
    hosts.map(|one| (one.host, one.ok, one.failed)).collect()
}

#[test]
fn what_is_told_is_a_total_and_told_once_a_connection() {
    let mut totals = Totals::new(1);
    assert_eq!(told(&totals), []);
    totals.add(&pay(), "a:1", (2, 1), false);
    totals.add(&pay(), "b:1", (1, 0), false);
    totals.add(&pay(), "a:1", (3, 0), true);
    assert_eq!(told(&totals), [("a:1".into(), 5, 1), ("b:1".into(), 1, 0)]);
    totals.mark_told();
    assert_eq!(told(&totals), []);
    totals.add(&pay(), "b:1", (0, 4), false);
    assert_eq!(told(&totals), [("b:1".into(), 1, 4)]);
    totals.mark_told();
    totals.mark_untold();
    assert_eq!(told(&totals), [("a:1".into(), 5, 1), ("b:1".into(), 1, 4)]);
}

/// Totals that begin anew under the same source would be late ones, and not
/// counted.
#[test]
fn totals_are_bounded_and_begin_anew_under_another_source() {
    let mut totals = Totals::new(1);
    for host in 0..REPORTED_HOSTS_MAX {
        totals.add(&pay(), &host.to_string(), (1, 0), false);
    }
    totals.add(&pay(), "one more", (7, 0), false);
    assert_eq!((totals.hosts, totals.uncounted), (REPORTED_HOSTS_MAX, 7));
    totals.make_room();
    assert_eq!(totals.hosts, REPORTED_HOSTS_MAX, "not before all is told");
    totals.mark_told();
    totals.make_room();
    totals.add(&pay(), "one more", (1, 0), false);
    assert_eq!(told(&totals), [("one more".into(), 1, 0)]);
    assert_ne!(totals.source, 1);
}

/// In Lars each result of a call caused a message with all hosts of the service.
#[test]
fn results_of_lars_are_told_together() {
    let pair = LarsPair {
        modid: -1,
        cmdid: 2,
    };
    let host = |port| HostInfo { ip: -5, port };
    let mut totals = LarsTotals::default();
    for _ in 0..300 {
        totals.add(pair, host(1), true, false);
    }
    totals.add(pair, host(2), false, true);
    let messages = totals.take_untold(Ipv4Addr::new(200, 0, 0, 1), 9);
    assert_eq!(messages.len(), 1);
    let message = &messages[0];
    assert_eq!((message.modid, message.cmdid, message.ts), (-1, 2, 9));
    assert_eq!(message.caller, 0xc800_0001_u32.cast_signed());
    let [first, second] = message.results[..] else {
        panic!("{message:?}")
    };
    assert_eq!(
        (first.port, first.succ, first.err, first.overload),
        (1, 300, 0, false)
    );
    assert_eq!(
        (second.port, second.succ, second.err, second.overload),
        (2, 0, 1, true)
    );
    assert_eq!(totals.take_untold(Ipv4Addr::LOCALHOST, 9), []);
    totals.mark_untold();
    assert_eq!(
        totals.take_untold(Ipv4Addr::LOCALHOST, 9)[0].results.len(),
        2
    );
}

#[test]
fn many_hosts_take_several_messages_and_no_memory_without_end() {
    let pair = LarsPair { modid: 1, cmdid: 1 };
    let mut totals = LarsTotals::default();
    for port in 0..=i32::try_from(REPORTED_HOSTS_MAX).unwrap() {
        totals.add(pair, HostInfo { ip: 1, port }, true, false);
    }
    assert_eq!(totals.hosts, 1, "they began anew");
    for port in 0..2_500 {
        totals.add(pair, HostInfo { ip: 1, port }, true, false);
    }
    let messages = totals.take_untold(Ipv4Addr::LOCALHOST, 1);
    let sizes: Vec<usize> = messages.iter().map(|one| one.results.len()).collect();
    assert_eq!(sizes, [RESULTS_MAX, RESULTS_MAX, 501]);
    let mut bytes = Vec::new();
    for message in messages {
        let message = waystation_wire::lars::Message::ReportStatusRequest(message);
        message.encode_into(&mut bytes).unwrap();
    }
}
