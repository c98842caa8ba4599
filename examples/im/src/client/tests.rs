//! The client against an Entry that is cut, refuses, and restarts.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc;

use waystation_base::ShardId;
use waystation_net::{Faults, MemoryIo, NetConfig, Server};

use super::stand_in::{Mischief, StandIn};
use super::*;
use crate::im::CreateGroupRequest;

/// Everything that a client was told, in order.
#[derive(Default)]
struct Log {
    deliveries: RefCell<Vec<Delivery>>,
    outcomes: RefCell<Vec<(u64, Result<u64, Code>)>>,
    sessions: RefCell<Vec<SessionEvent>>,
    changed: Notify,
}

impl Events for Log {
    fn on_message(&self, delivery: Delivery) {
        self.deliveries.borrow_mut().push(delivery);
        self.changed.notify_waiters();
    }

    fn on_sent(&self, sent: &Outgoing, outcome: Result<SendReply, Status>) {
        let outcome = outcome.map(|reply| reply.seq).map_err(|s| s.code());
        self.outcomes.borrow_mut().push((sent.tag, outcome));
        self.changed.notify_waiters();
    }

    fn on_session(&self, event: SessionEvent) {
        self.sessions.borrow_mut().push(event);
        self.changed.notify_waiters();
    }
}

impl Log {
    async fn until(&self, what: &str, shard: &Shard, reached: impl Fn(&Self) -> bool) {
        let wait = async {
            while !reached(self) {
                self.changed.notified().await;
            }
        };
        let deadline = shard.now() + Duration::from_secs(20);
        assert!(until(shard, deadline, wait).await.is_ok(), "never: {what}");
    }

    fn seqs(&self) -> Vec<u64> {
        let deliveries = self.deliveries.borrow();
        deliveries.iter().map(|d| d.message.seq).collect()
    }
}

/// Runs a test's body on a shard of its own.
fn on_shard<T: Send + 'static, F: Future<Output = T> + 'static>(
    io: &Arc<MemoryIo>,
    body: impl FnOnce(Shard) -> F + Send + 'static,
) -> T {
    let config = NetConfig {
        io: io.clone(),
        drain: Duration::from_millis(200),
        ..NetConfig::default()
    };
    let server = Server::builder(config).start().unwrap();
    let (done, result) = mpsc::channel();
    let start = move |shard: &Shard| {
        let task = body(shard.clone());
        shard.spawn(Label::of("test"), async move {
            done.send(task.await).unwrap();
        });
    };
    server.remote().run_on(ShardId(0), start).unwrap();
    let result = result.recv_timeout(Duration::from_mins(1));
    result.expect("the test's task panicked; see its message above")
}

fn client(shard: &Shard, uid: &str) -> (Client, Rc<Log>) {
    let log = Rc::new(Log::default());
    let config = ClientConfig::new(StandIn::address(), uid, "test");
    (Client::new(shard, config, log.clone()), log)
}

fn outgoing(shard: &Shard, conversation: &str, tag: u64) -> Outgoing {
    Outgoing {
        request: SendRequest {
            conversation: conversation.into(),
            client_id: format!("m{tag}"),
            body: format!("text {tag}"),
            ..SendRequest::default()
        },
        deadline: shard.now() + Duration::from_secs(30),
        tag,
    }
}

fn network(faults: Faults) -> (Arc<MemoryIo>, StandIn) {
    let io = Arc::new(MemoryIo::new(11, faults));
    let entry = StandIn::start(&io);
    (io, entry)
}

/// The answer was lost with its connection; the send was made again, was
/// stored twice, or overtook the next one.
#[test]
fn sends_keep_order_and_number_when_answers_are_lost() {
    for mischief in [Mischief::CutBeforeAnswer, Mischief::RefuseSome] {
        let (io, entry) = network(Faults::default());
        entry.set(mischief);
        let (outcomes, seqs, retries) = on_shard(&io, |shard| async move {
            let (ada, log) = client(&shard, "ada");
            for tag in 1..=16 {
                ada.send(outgoing(&shard, "d:ada:bob", tag)).unwrap();
            }
            log.until("all outcomes", &shard, |log| {
                log.outcomes.borrow().len() == 16 && log.deliveries.borrow().len() >= 16
            })
            .await;
            (log.outcomes.take(), log.seqs(), ada.stats().retries)
        });
        let expected: Vec<_> = (1..=16).map(|n| (n, Ok(n))).collect();
        assert_eq!(outcomes, expected);
        assert_eq!(seqs, (1..=16).collect::<Vec<_>>());
        let script = entry.script.lock().unwrap();
        let sent: Vec<_> = (1..=16).map(|n| format!("m{n}")).collect();
        assert_eq!(script.stored["d:ada:bob"], sent);
        assert!(script.committed >= 5 && retries >= 5, "{mischief:?}");
    }
}

/// Streams that stall, split and break anywhere.
#[test]
fn nothing_is_lost_or_doubled_on_bad_streams() {
    let faults = Faults {
        short: 0.3,
        spurious: 0.2,
        cut: 0.003,
        ..Faults::default()
    };
    let (io, entry) = network(faults);
    let (ada, bob) = on_shard(&io, |shard| async move {
        let (ada, ada_log) = client(&shard, "ada");
        let (bob, bob_log) = client(&shard, "bob");
        let deadline = shard.now() + Duration::from_secs(20);
        ada.logged_in(deadline).await.unwrap();
        bob.logged_in(deadline).await.unwrap();
        for tag in 1..=200 {
            ada.send(outgoing(&shard, "d:ada:bob", tag)).unwrap();
        }
        for log in [&ada_log, &bob_log] {
            log.until("200 messages", &shard, |log| log.seqs().contains(&200))
                .await;
        }
        (ada_log.deliveries.take(), bob_log.deliveries.take())
    });
    let resumed = entry.script.lock().unwrap().logins.len();
    assert!(resumed > 2, "no stream was ever cut");
    for deliveries in [ada, bob] {
        let seqs: Vec<u64> = deliveries.iter().map(|d| d.message.seq).collect();
        assert_eq!(seqs, (1..=200).collect::<Vec<_>>());
        assert!(deliveries.iter().all(|d| d.seen_seq + 1 == d.message.seq));
        assert!(deliveries.is_sorted_by_key(|d| d.session));
    }
}

#[test]
fn a_fresh_login_begins_now_and_a_resume_where_it_stopped() {
    let (io, entry) = network(Faults::default());
    let script = entry.script.clone();
    let (first, second, cut) = (mpsc::channel(), mpsc::channel::<()>(), entry);
    let (ready, may_go_on) = (first.0, second.1);
    let cutter = std::thread::spawn(move || {
        first.1.recv().unwrap();
        cut.cut_all();
        second.0.send(()).unwrap();
        cut
    });
    let (seqs, sessions) = on_shard(&io, |shard| async move {
        let (ada, log) = client(&shard, "ada");
        ada.send(outgoing(&shard, "d:ada:bob", 1)).unwrap();
        log.until("outcome", &shard, |log| log.outcomes.borrow().len() == 1)
            .await;
        let (bob, bob_log) = client(&shard, "bob");
        let deadline = shard.now() + Duration::from_secs(10);
        bob.logged_in(deadline).await.unwrap();
        ada.send(outgoing(&shard, "d:ada:bob", 2)).unwrap();
        bob_log
            .until("the second", &shard, |log| log.seqs() == [2])
            .await;
        ready.send(()).unwrap();
        shard
            .offload("wait for the cut", move || may_go_on.recv().unwrap())
            .await
            .unwrap();
        ada.send(outgoing(&shard, "d:ada:bob", 3)).unwrap();
        bob_log
            .until("the third", &shard, |log| {
                log.seqs().len() == 2 && log.sessions.borrow().len() == 3
            })
            .await;
        (bob_log.seqs(), bob_log.sessions.take())
    });
    let _entry = cutter.join().unwrap();
    assert_eq!(seqs, [2, 3]);
    let script = script.lock().unwrap();
    let bob: Vec<bool> = script
        .logins
        .iter()
        .filter(|login| login.0 == "bob")
        .map(|login| login.1)
        .collect();
    assert_eq!(bob, [false, true]);
    assert!(matches!(
        sessions[..],
        [
            SessionEvent::Up {
                session: 1,
                resumed: false,
                ..
            },
            SessionEvent::Down { .. },
            SessionEvent::Up {
                session: 2,
                resumed: true,
                ..
            },
        ]
    ));
}

/// A login listed a user's conversations in one answer, which bounded how many
/// a user could have. The stand-in puts one in each page.
#[test]
fn a_login_waits_for_all_pages_of_conversations() {
    let (io, _entry) = network(Faults::default());
    let listed = on_shard(&io, |shard| async move {
        let (ada, _) = client(&shard, "ada");
        let deadline = shard.now() + Duration::from_secs(20);
        for name in ["a", "b", "c", "d", "e"] {
            let request = CreateGroupRequest {
                name: name.to_owned(),
                ..CreateGroupRequest::default()
            };
            ada.request::<entry::method::CreateGroup>(&request, deadline)
                .await
                .unwrap();
        }
        let (device, log) = client(&shard, "ada");
        device.logged_in(deadline).await.unwrap();
        match log.sessions.take().as_slice() {
            [SessionEvent::Up { conversations, .. }] => conversations
                .iter()
                .map(|conversation| conversation.conversation.clone())
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(listed, ["g:a", "g:b", "g:c", "g:d", "g:e"]);
}

#[test]
fn a_push_that_is_no_message_costs_the_connection_and_no_message() {
    let (io, entry) = network(Faults::default());
    entry.set(Mischief::BadPush);
    let (seqs, stats) = on_shard(&io, |shard| async move {
        let (ada, log) = client(&shard, "ada");
        for tag in 1..=5 {
            ada.send(outgoing(&shard, "d:ada:ada", tag)).unwrap();
        }
        log.until("all", &shard, |log| log.seqs().contains(&5))
            .await;
        (log.seqs(), ada.stats())
    });
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    assert_eq!((stats.bad_pushes, stats.sessions), (1, 2));
}

#[test]
fn a_refused_login_ends_the_client_and_all_that_waits() {
    let (io, _entry) = network(Faults::default());
    let (outcomes, sessions, later) = on_shard(&io, |shard| async move {
        let (nobody, log) = client(&shard, "No Body");
        nobody.send(outgoing(&shard, "d:a:b", 1)).unwrap();
        nobody.send(outgoing(&shard, "d:a:b", 2)).unwrap();
        log.until("outcomes", &shard, |log| log.outcomes.borrow().len() == 2)
            .await;
        let later = nobody.logged_in(shard.now() + Duration::from_secs(5)).await;
        (log.outcomes.take(), log.sessions.take(), later)
    });
    let refused = Err(Code::InvalidRequest);
    assert_eq!(outcomes, [(1, refused), (2, refused)]);
    assert!(matches!(sessions[..], [SessionEvent::Refused(_)]));
    assert_eq!(later.unwrap_err().code(), Code::InvalidRequest);
}

/// A message to a group that does not exist stopped the sender's other
/// conversations, or its own queue.
#[test]
fn a_refusal_ends_one_send_only() {
    let (io, _entry) = network(Faults::default());
    let outcomes = on_shard(&io, |shard| async move {
        let (ada, log) = client(&shard, "ada");
        ada.send(outgoing(&shard, "g:none", 1)).unwrap();
        ada.send(outgoing(&shard, "g:none", 2)).unwrap();
        log.until("refusals", &shard, |log| log.outcomes.borrow().len() == 2)
            .await;
        let request = CreateGroupRequest {
            name: "none".into(),
            ..CreateGroupRequest::default()
        };
        let deadline = shard.now() + Duration::from_secs(10);
        ada.request::<entry::method::CreateGroup>(&request, deadline)
            .await
            .unwrap();
        ada.send(outgoing(&shard, "g:none", 3)).unwrap();
        log.until("the third", &shard, |log| log.outcomes.borrow().len() == 3)
            .await;
        log.outcomes.take()
    });
    let refused = Err(Code::NotFound);
    assert_eq!(outcomes, [(1, refused), (2, refused), (3, Ok(1))]);
}

#[test]
fn without_an_entry_the_deadline_answers_and_names_the_cause() {
    let io = Arc::new(MemoryIo::new(1, Faults::default()));
    let (outcomes, status) = on_shard(&io, |shard| async move {
        let (ada, log) = client(&shard, "ada");
        let mut short = outgoing(&shard, "d:ada:bob", 1);
        short.deadline = shard.now() + Duration::from_millis(100);
        ada.send(short).unwrap();
        log.until("outcome", &shard, |log| log.outcomes.borrow().len() == 1)
            .await;
        let deadline = shard.now() + Duration::from_millis(50);
        (log.outcomes.take(), ada.logged_in(deadline).await)
    });
    assert_eq!(outcomes, [(1, Err(Code::Unavailable))]);
    let message = status.unwrap_err().to_string();
    assert!(
        message.contains("memory:entry") && message.contains("refused"),
        "{message}"
    );
}

#[test]
fn a_full_queue_refuses_at_once_and_a_closed_client_fails_what_waits() {
    let io = Arc::new(MemoryIo::new(1, Faults::default()));
    let (refused, outcomes) = on_shard(&io, |shard| async move {
        let log = Rc::new(Log::default());
        let mut config = ClientConfig::new(StandIn::address(), "ada", "test");
        config.sends_max = 2;
        let ada = Client::new(&shard, config, log.clone());
        ada.send(outgoing(&shard, "d:ada:bob", 1)).unwrap();
        ada.send(outgoing(&shard, "d:ada:eve", 2)).unwrap();
        let refused = ada.send(outgoing(&shard, "d:ada:bob", 3)).unwrap_err().tag;
        ada.close();
        log.until("outcomes", &shard, |log| log.outcomes.borrow().len() == 2)
            .await;
        assert_eq!(ada.sends_pending(), 0);
        (refused, log.outcomes.take())
    });
    assert_eq!(refused, 3);
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_err()));
}
