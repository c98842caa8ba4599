//! What a desk keeps and forgets.

use std::os::fd::AsFd as _;

use waystation_balance::{CallEnd, Load};
use waystation_client::{Access, Mapping};
use waystation_membership::{Instance, InstanceId, Owner, ViewVersion};
use waystation_segment::{Ledger, Memory as _};

use super::*;
use crate::limits::{HANDED_OVER_MAX, INHERITED_SLOTS_MAX};

fn at(seconds: u64) -> Moment {
    Moment::from_millis(1_000 * (1 + seconds))
}

/// An agent kept all that anybody had ever asked for, and was pushed its
/// changes for ever.
#[test]
fn what_nobody_wants_any_more_is_forgotten() {
    let registry = "file:///nowhere".parse().unwrap();
    let mut desk = Desk::new(AgentConfig::new("/nowhere", registry, 1), 1);
    let [known, unknown] = ["pay", "nobody"].map(|name| ServiceName::new(name).unwrap());
    for service in [&known, &unknown] {
        assert!(desk.want(at(0), service));
    }
    let mut view = View::empty(known.clone(), ViewVersion::default());
    let id = InstanceId::new("pay-1").unwrap();
    let address = "10.0.0.1:7000".parse().unwrap();
    let one = Instance::new(id.clone(), known.clone(), address, Owner::default());
    view.instances.insert(id, Arc::new(one));
    desk.handle_view(at(0), &Arc::new(view));

    assert!(!desk.forget_unwanted(at(60), &unknown));
    assert!(desk.forget_unwanted(at(61), &unknown));
    assert!(!desk.forget_unwanted(at(600), &known));
    // Somebody picks, and is the last one.
    let service = known.to_string();
    let mut held = Held::default();
    let pick = Request::Pick { service, key: None };
    let reply = desk.handle(at(600), pick, &mut held);
    assert!(matches!(reply.answer, Some(Answer::Picked { .. })));
    // While that call is under way its host must keep its name.
    desk.handle_turn(at(1_201));
    assert!(!desk.forget_unwanted(at(1_201), &known));
    desk.handle_gone(at(1_201), held);
    desk.handle_turn(at(1_801));
    assert!(!desk.forget_unwanted(at(1_801), &known));
    desk.handle_turn(at(1_802));
    assert!(desk.forget_unwanted(at(1_802), &known));
    assert_eq!(desk.views().count(), 0);
}

fn with_hosts(owner: u64, hosts: &[&str]) -> Desk {
    let registry = "file:///nowhere".parse().unwrap();
    let mut config = AgentConfig::new("/nowhere", registry, 1);
    config.report = Some(crate::ReportTo::new(([127, 0, 0, 1], 9).into()));
    let mut desk = Desk::new(config, owner);
    let pay = ServiceName::new("pay").unwrap();
    assert!(desk.want(at(0), &pay));
    desk.handle_view(at(0), &Arc::new(view_of(hosts)));
    desk
}

fn view_of(hosts: &[impl AsRef<str>]) -> View {
    let pay = ServiceName::new("pay").unwrap();
    let mut view = View::empty(pay.clone(), ViewVersion::default());
    for host in hosts {
        let id = InstanceId::new(host.as_ref()).unwrap();
        let address = host.as_ref().parse().unwrap();
        let one = Instance::new(id.clone(), pay.clone(), address, Owner::default());
        view.instances.insert(id, Arc::new(one));
    }
    view
}

fn attach(desk: &mut Desk, held: &mut Held) -> [OwnedFd; 2] {
    let service = "pay".to_owned();
    let reply = desk.handle(at(0), Request::Attach { service }, held);
    assert!(matches!(reply.answer, Some(Answer::Attached)));
    reply.files.try_into().unwrap()
}

fn ledger_of(files: &[OwnedFd; 2]) -> Ledger<Mapping> {
    let memory = Mapping::attach(files[1].as_fd(), Access::Write).unwrap();
    Ledger::attach(memory).unwrap()
}

fn call(ledger: &Ledger<Mapping>, slot: u32, end: CallEnd) {
    ledger.handle_sent(slot);
    ledger.handle_ended(slot, end, None, Load::default());
}

/// Why a desk refuses a ledger; nothing when it takes it over.
fn refusal(desk: &mut Desk, held: &mut Held, service: &str, files: &[&OwnedFd]) -> Option<String> {
    for file in files {
        held.add_file(file.try_clone().unwrap());
    }
    let service = service.to_owned();
    match desk
        .handle(at(1), Request::HandOver { service }, held)
        .answer
    {
        Some(Answer::TakenOver) => None,
        Some(Answer::Refused { text, .. }) => Some(text),
        other => panic!("{other:?}"),
    }
}

/// What a desk tells, by host: ok and failed.
fn told(desk: &mut Desk) -> Vec<(String, u64, u64)> {
    desk.collect_ends(at(2));
    desk.note_told();
    let messages = desk.totals.untold("m1");
    desk.totals.mark_told(at(2));
    let services = messages.into_iter().flat_map(|one| one.services);
    let hosts = services.flat_map(|one| one.hosts);
    hosts.map(|one| (one.host, one.ok, one.failed)).collect()
}

/// Story: an agent that was killed took with it what it had not told of its callers'
/// calls, and those that they made until they noticed.
#[test]
fn the_next_agent_tells_what_the_last_one_did_not_live_to_tell() {
    let hosts = ["10.0.0.1:1", "10.0.0.2:1"];
    let mut first = with_hosts(1, &hosts);
    let mut its = Held::default();
    let files = attach(&mut first, &mut its);
    let both = [&files[0], &files[1]];
    let ledger = ledger_of(&files);
    call(&ledger, 0, CallEnd::Ok);
    call(&ledger, 1, CallEnd::Failed);
    assert_eq!(told(&mut first).len(), 2);
    // Of these it has seen one.
    call(&ledger, 0, CallEnd::Ok);
    first.collect_ends(at(2));
    call(&ledger, 0, CallEnd::TimedOut);
    let itself = refusal(&mut first, &mut Held::default(), "pay", &both);
    assert_eq!(itself.as_deref(), Some("ledger is counted here already"));
    drop(first);

    // Its hosts have other slots here, one of them none.
    let mut second = with_hosts(2, &["10.0.0.0:1", "10.0.0.1:1"]);
    let mut held = Held::default();
    let own = ledger_of(&attach(&mut second, &mut held));
    call(&own, 0, CallEnd::Ok);
    assert_eq!(refusal(&mut second, &mut held, "pay", &both), None);
    let again = refusal(&mut second, &mut Held::default(), "pay", &both);
    assert_eq!(again.as_deref(), Some("ledger is counted here already"));
    let of = |host: &str, ok, failed| (host.to_owned(), ok, failed);
    assert_eq!(
        told(&mut second),
        [of("10.0.0.0:1", 1, 0), of("10.0.0.1:1", 1, 1)]
    );
    // Calls that were under way end later.
    call(&ledger, 1, CallEnd::Ok);
    assert_eq!(told(&mut second), [of("10.0.0.2:1", 1, 0)]);

    // This one is not killed, and its connection ends before its word.
    call(&ledger, 0, CallEnd::Ok);
    second.handle_gone(at(3), held);
    let early = refusal(&mut second, &mut Held::default(), "pay", &both);
    assert_eq!(early.as_deref(), Some("ledger is counted here already"));
    assert_eq!(told(&mut second), [of("10.0.0.1:1", 2, 1)]);
    let mut third = with_hosts(3, &hosts);
    assert_eq!(
        refusal(&mut third, &mut Held::default(), "pay", &both),
        None
    );
    assert_eq!(told(&mut third), []);
}

/// Story: one connection could hand over as many ledgers as all others together, each
/// of which is mapped here.
#[test]
fn a_connection_hands_over_a_bounded_number_of_ledgers() {
    let mut first = with_hosts(1, &["10.0.0.1:1"]);
    let mut second = with_hosts(2, &["10.0.0.1:1"]);
    let mut held = Held::default();
    for number in 0..=HANDED_OVER_MAX {
        let files = attach(&mut first, &mut Held::default());
        let refused = refusal(&mut second, &mut held, "pay", &[&files[0], &files[1]]);
        assert_eq!(refused.is_some(), number == HANDED_OVER_MAX, "{refused:?}");
    }
}

/// Whoever may ask may hand over anything.
#[test]
fn what_is_no_ledger_of_the_service_is_not_taken_over() {
    let mut first = with_hosts(1, &["10.0.0.1:1"]);
    let [routes, ledger] = attach(&mut first, &mut Held::default());
    let [other, _] = attach(&mut with_hosts(4, &["10.0.0.1:1"]), &mut Held::default());
    let (_, empty) = Mapping::create("test", 4096, Access::Write).unwrap();
    let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let mut second = with_hosts(2, &["10.0.0.1:1"]);
    for (files, why) in [
        (&[][..], "no memory came with it"),
        (&[&ledger], "no memory came with it"),
        (&[&ledger, &routes], "memory holds no segment of this kind"),
        (&[&routes, &routes], "Permission denied (os error 13)"),
        (&[&routes, &empty], "memory holds no segment of this kind"),
        (
            &[&other, &ledger],
            "segment belongs to another service or agent",
        ),
    ] {
        let refused = refusal(&mut second, &mut Held::default(), "pay", files);
        assert_eq!(refused.as_deref(), Some(why), "{}", files.len());
    }
    for files in [[&routes, &file], [&file, &ledger]] {
        assert!(refusal(&mut second, &mut Held::default(), "pay", &files).is_some());
    }
    let mut held = Held::default();
    assert!(held.add_file(routes.try_clone().unwrap()) && held.add_file(ledger));
    assert!(!held.add_file(routes), "no request has three");
}

/// Story: calls that were not counted were said in the log only, and those that made
/// no sense nowhere.
#[test]
fn what_is_not_counted_is_said() {
    let mut first = with_hosts(1, &["10.0.0.1:1", "10.0.0.2:1"]);
    let files = attach(&mut first, &mut Held::default());
    let ledger = ledger_of(&files);
    for slot in [0, 1, 1] {
        call(&ledger, slot, CallEnd::Ok);
    }
    // One leaves, and its agent is killed before it has told of it.
    let mut view = View::clone(first.views().next().unwrap());
    view.instances.pop_last();
    first.handle_view(at(1), &Arc::new(view));
    drop(first);
    let mut second = with_hosts(2, &["10.0.0.1:1"]);
    let mut held = Held::default();
    let own = attach(&mut second, &mut held);
    let both = [&files[0], &files[1]];
    assert_eq!(refusal(&mut second, &mut held, "pay", &both), None);
    assert_eq!(told(&mut second), [("10.0.0.1:1".to_owned(), 1, 0)]);
    assert_eq!(second.figures().uncounted, 2);
    assert_eq!(second.figures().dropped, 0);
    // Somebody scribbles over the count of calls sent.
    let ledger = ledger_of(&own);
    let memory = Mapping::attach(own[1].as_fd(), Access::Write).unwrap();
    memory.words()[16].fetch_add(1 << 40, std::sync::atomic::Ordering::Relaxed);
    ledger.mark(0);
    second.handle_turn(at(3));
    assert_eq!(second.figures().dropped, (1 << 40) - (1 << 23));
}

/// Each process kept a second connection and ledger for good once its service had
/// outgrown the first: there was no room for others.
#[test]
fn a_connection_is_over_when_its_service_has_outgrown_it() {
    let mut desk = with_hosts(1, &["10.0.0.1:1"]);
    let mut held = Held::default();
    assert!(desk.is_over(at(2), &held), "it holds nothing");
    let ledger = ledger_of(&attach(&mut desk, &mut held));
    assert!(!desk.is_over(at(2), &held));
    ledger.handle_sent(0);
    desk.handle_turn(at(1));
    let hosts: Vec<String> = (1..=200).map(|host| format!("10.0.0.{host}:1")).collect();
    desk.handle_view(at(1), &Arc::new(view_of(&hosts)));
    assert!(!desk.is_over(at(2), &held), "a call is under way");
    ledger.handle_ended(0, CallEnd::Ok, None, Load::default());
    desk.handle_turn(at(2));
    assert!(desk.is_over(at(2), &held));
    let mut other = Held::default();
    attach(&mut desk, &mut other);
    assert!(!desk.is_over(at(2), &other));
}

/// Ledgers that were handed over were bounded in number, whatever the size of each.
#[test]
fn ledgers_for_too_many_hosts_are_not_taken_over() {
    let mut first = with_hosts(1, &["10.0.0.1:1"]);
    let files = attach(&mut first, &mut Held::default());
    drop(first);
    let mut second = with_hosts(2, &["10.0.0.1:1"]);
    let mut held = Held::default();
    second.inherited.slots = INHERITED_SLOTS_MAX - 63;
    let both = [&files[0], &files[1]];
    let refused = refusal(&mut second, &mut held, "pay", &both);
    assert_eq!(
        refused.as_deref(),
        Some("ledgers for too many hosts were handed over")
    );
    second.inherited.slots = INHERITED_SLOTS_MAX - 64;
    assert_eq!(refusal(&mut second, &mut held, "pay", &both), None);
    assert_eq!(second.inherited.slots, INHERITED_SLOTS_MAX);
    second.handle_gone(at(2), held);
    assert_eq!(second.inherited.slots, INHERITED_SLOTS_MAX - 64);
}
