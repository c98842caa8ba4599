//! Totals, told and untold.

use super::*;

fn at(seconds: u64) -> Moment {
    Moment::from_millis(1_000 * (1 + seconds))
}

fn pay() -> ServiceName {
    ServiceName::new("pay").unwrap()
}

fn told(totals: &Totals) -> Vec<(String, u64, u64)> {
    let messages = totals.untold("m1");
    let services = messages.into_iter().flat_map(|one| one.services);
    let hosts = services.flat_map(|one| one.hosts);
    hosts.map(|one| (one.host, one.ok, one.failed)).collect()
}

#[test]
fn what_is_told_is_a_total_and_told_once_a_connection() {
    let mut totals = Totals::new(1);
    assert_eq!(told(&totals), []);
    totals.add(at(0), &pay(), "a:1", (2, 1), Some(false));
    totals.add(at(0), &pay(), "b:1", (1, 0), Some(false));
    totals.add(at(0), &pay(), "a:1", (3, 0), Some(true));
    assert_eq!(told(&totals), [("a:1".into(), 5, 1), ("b:1".into(), 1, 0)]);
    totals.mark_told(at(0));
    assert_eq!(told(&totals), []);
    totals.add(at(0), &pay(), "b:1", (0, 4), Some(false));
    assert_eq!(told(&totals), [("b:1".into(), 1, 4)]);
    totals.mark_told(at(0));
    totals.mark_untold();
    assert_eq!(told(&totals), [("a:1".into(), 5, 1), ("b:1".into(), 1, 4)]);
}

/// Totals that begin anew under the same source would be late ones, and not
/// counted.
#[test]
fn totals_are_bounded_and_begin_anew_under_another_source() {
    let mut totals = Totals::new(1);
    for host in 0..REPORTED_HOSTS_MAX {
        totals.add(at(0), &pay(), &host.to_string(), (1, 0), Some(false));
    }
    totals.add(at(0), &pay(), "one more", (7, 0), Some(false));
    assert_eq!((totals.hosts, totals.uncounted), (REPORTED_HOSTS_MAX, 7));
    totals.make_room(at(60));
    assert_eq!(totals.hosts, REPORTED_HOSTS_MAX, "not before all is told");
    totals.mark_told(at(60));
    totals.add(at(119), &pay(), "5", (1, 0), Some(false));
    totals.make_room(at(119));
    assert_eq!(totals.hosts, REPORTED_HOSTS_MAX, "not so soon");
    totals.make_room(at(130));
    assert_eq!(totals.hosts, 1, "all that are silent");
    totals.add(at(131), &pay(), "one more", (1, 0), Some(false));
    let messages = totals.untold("m1");
    let [first, second] = &messages[..] else {
        panic!("{messages:?}")
    };
    let mut both = [first, second].map(|one| (one.source != 1, one.services[0].hosts[0].ok));
    both.sort_unstable();
    // The one that went on is told under its source.
    assert_eq!(both, [(false, 2), (true, 1)]);
}

/// Story: an agent told a running total that was months old when it connected anew,
/// and a report server that knew nothing of it any more counted all of it.
#[test]
fn totals_of_long_ago_are_not_told_again() {
    let mut totals = Totals::new(1);
    totals.add(at(0), &pay(), "a:1", (2, 1), Some(false));
    totals.add(at(0), &pay(), "b:1", (1, 0), Some(false));
    totals.mark_told(at(0));
    let hour = 3600;
    totals.add(at(hour), &pay(), "b:1", (1, 0), Some(false));
    totals.mark_told(at(hour));
    let after = DROP_TOTAL_AFTER.as_secs();
    totals.mark_untold();
    totals.make_room(at(after));
    assert_eq!(told(&totals).len(), 2, "it may not be taken");
    totals.mark_told(at(after));
    totals.add(at(after + hour), &pay(), "b:1", (1, 0), Some(false));
    totals.mark_told(at(after + hour));
    totals.make_room(at(2 * after));
    totals.mark_untold();
    assert_eq!(told(&totals), [("b:1".into(), 3, 0)]);
    totals.add(at(2 * after), &pay(), "a:1", (1, 0), Some(false));
    let sources = totals.untold("m1").into_iter().map(|one| one.source);
    assert_eq!(sources.filter(|&one| one == 1).count(), 1, "it began anew");
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
        totals.add(at(0), pair, host(1), true, false);
    }
    totals.add(at(0), pair, host(2), false, true);
    let messages = totals.take_untold(at(0), Ipv4Addr::new(200, 0, 0, 1), 9);
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
    assert_eq!(totals.take_untold(at(0), Ipv4Addr::LOCALHOST, 9), []);
    totals.mark_untold();
    assert_eq!(
        totals.take_untold(at(0), Ipv4Addr::LOCALHOST, 9)[0]
            .results
            .len(),
        2
    );
}

#[test]
fn many_hosts_take_several_messages() {
    let pair = LarsPair { modid: 1, cmdid: 1 };
    let mut totals = LarsTotals::default();
    for port in 0..2_501 {
        totals.add(at(0), pair, HostInfo { ip: 1, port }, true, false);
    }
    let messages = totals.take_untold(at(0), Ipv4Addr::LOCALHOST, 1);
    let sizes: Vec<usize> = messages.iter().map(|one| one.results.len()).collect();
    assert_eq!(sizes, [RESULTS_MAX, RESULTS_MAX, 501]);
    let mut bytes = Vec::new();
    for message in messages {
        let message = waystation_wire::lars::Message::ReportStatusRequest(message);
        message.encode_into(&mut bytes).unwrap();
    }
}

/// Story: with one host more than there was room for, all totals were thrown away, told
/// or not, while the report server was down as well.
#[test]
fn totals_of_lars_are_bounded_and_none_is_lost_before_it_is_told() {
    let pair = LarsPair { modid: 1, cmdid: 1 };
    let host = |port| HostInfo { ip: 1, port };
    let most = i32::try_from(REPORTED_HOSTS_MAX).unwrap();
    let mut totals = LarsTotals::default();
    for port in 0..most {
        totals.add(at(0), pair, host(port), true, false);
    }
    totals.add(at(0), pair, host(most), true, false);
    assert_eq!((totals.hosts, totals.uncounted), (REPORTED_HOSTS_MAX, 1));
    let count = |messages: &[ReportStatusRequest]| {
        let results = messages.iter().flat_map(|one| &one.results);
        results.fold((0, 0), |(rows, calls), one| (rows + 1, calls + one.succ))
    };
    totals.make_room(at(1_000));
    let all = (REPORTED_HOSTS_MAX, most.unsigned_abs());
    let caller = Ipv4Addr::LOCALHOST;
    assert_eq!(count(&totals.take_untold(at(1_000), caller, 1)), all);
    totals.mark_untold();
    totals.make_room(at(2_000));
    assert_eq!(count(&totals.take_untold(at(2_000), caller, 1)), all);
    totals.add(at(2_059), pair, host(3), true, false);
    totals.make_room(at(2_060));
    // They begin anew, and say so; the one that is called goes on.
    let told = count(&totals.take_untold(at(2_060), caller, 1));
    assert_eq!(told, (REPORTED_HOSTS_MAX, 2));
    totals.add(at(2_061), pair, host(9), true, false);
    totals.make_room(at(2_120));
    assert_eq!(totals.hosts, 2, "those that nobody called are gone");
    let told = count(&totals.take_untold(at(2_120), caller, 1));
    assert_eq!(told, (2, 1), "what began anew is counted from 0");
}
