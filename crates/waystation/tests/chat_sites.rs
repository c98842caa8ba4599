//! The chat at two sites, each with its own Entry, Logics, Das and database, and a
//! hub between them.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::process::Stdio;

use common::chat::{Chat, look_until};
use common::load::{goes_on, load_of, size, stop};
use common::role::Process;
use common::user::User;
use common::{run, stderr, stdout, waystation};
use rusqlite::Connection;
use serde_json::{Value, json};
use waystation_im::store::{Append, ChatStore, SqliteStore, WriteOperation};

/// Conversations, enough that each site is the home of some.
const MANY: usize = 12;

/// Configuration of a chat in which what is killed stays away for a minute.
const NOBODY_COMES_BACK: &str = "restart_delay_min_ms = 60000\nrestart_delay_max_ms = 60000\n";

fn other(site: &str) -> &'static str {
    if site == "a" { "b" } else { "a" }
}

/// Sends `body`, which is also the message's id, to the other user.
fn send(chat: &Chat, site: &str, uid: &str, to: &str, body: &str) -> Value {
    let message = json!({ "uid": uid, "to": to, "clientId": body, "body": body });
    chat.ask_at(site, "Send", &message)
}

/// The texts of a conversation of two as a site has it, by their numbers.
fn read(chat: &Chat, site: &str, uid: &str, conversation: &str) -> Vec<(u64, String)> {
    let query = json!({ "uid": uid, "conversation": conversation, "limit": 200 });
    let page = chat.ask_at(site, "History", &query);
    let messages = page["messages"].as_array().cloned().unwrap_or_default();
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let text = |message: &Value| {
        let text = message["body"].as_str().unwrap_or_default();
        Some((number(&message["seq"])?, text.to_owned()))
    };
    messages.iter().filter_map(text).collect()
}

/// The home of each direct conversation of ada, as the first site has it stored.
fn homes(chat: &Chat) -> Vec<(String, String)> {
    let file = Connection::open(chat.dir().join("chat.sqlite")).unwrap();
    let sql = "SELECT conversation.name, site.name FROM conversation JOIN site \
        ON home = number ORDER BY conversation.name";
    let mut statement = file.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

/// A user to whom a conversation of ada has its home there. There are some for
/// each site.
fn friend_at(chat: &Chat, home: &str) -> String {
    let homes = homes(chat);
    let found = homes.iter().find(|(_, site)| site == home);
    let (name, _) = found.unwrap_or_else(|| panic!("none at {home}: {homes:?}"));
    name.rsplit(':').next().unwrap().to_owned()
}

/// Makes [`MANY`] conversations of ada, and waits until both sites have them.
fn befriend(chat: &Chat) {
    for index in 0..MANY {
        let site = if index % 2 == 0 { "a" } else { "b" };
        let answer = send(chat, site, "ada", &format!("u{index:02}"), "first");
        assert_eq!(answer["code"], Value::Null, "{answer}");
    }
    for site in ["a", "b"] {
        look_until("all have come", || {
            let list = chat.ask_at(site, "Conversations", &json!({ "uid": "ada" }));
            list["conversations"].as_array().map(Vec::len) == Some(MANY)
        });
    }
}

/// Asks the hub whether both copies are equal.
fn verify(chat: &Chat) {
    let proof = run(&["sync", "verify", "--hub", &chat.hub(), "--json"]);
    assert!(
        proof.status.success(),
        "{}{}",
        stdout(&proof),
        stderr(&proof)
    );
    let proof: Value = serde_json::from_str(&stdout(&proof)).unwrap();
    assert_eq!(proof["is_equal"], true, "{proof}");
    assert_eq!(proof["sites"].as_array().unwrap().len(), 2, "{proof}");
}

#[test]
fn what_is_written_at_either_site_is_read_at_both_in_one_order() {
    let chat = Chat::with_sites("", |_| {});
    befriend(&chat);
    let homes = homes(&chat);
    assert_eq!(homes.len(), MANY);
    for site in ["a", "b"] {
        let here = homes.iter().filter(|(_, home)| home == site).count();
        assert!(here > 0 && here < MANY, "{homes:?}");
        let friend = friend_at(&chat, site);
        let conversation = format!("d:ada:{friend}");
        // From both sites in turn, each after the one before was acknowledged.
        for (number, text) in (2..).zip(["2", "3", "4", "5"]) {
            let from = if number % 2 == 0 { site } else { other(site) };
            let answer = send(&chat, from, "ada", &friend, text);
            assert_eq!(answer["seq"].as_str(), Some(text), "{answer}");
            let again = send(&chat, other(from), "ada", &friend, text);
            assert_eq!(again["seq"].as_str(), Some(text), "{again}");
            assert_eq!(again["duplicate"], true, "{again}");
        }
        let texts = ["first", "2", "3", "4", "5"].map(str::to_owned);
        let whole: Vec<_> = (1..).zip(texts).collect();
        assert_eq!(read(&chat, site, &friend, &conversation), whole);
        let there = other(site);
        look_until("all of it is at the other site", || {
            read(&chat, there, &friend, &conversation) == whole
        });
        // What is read at one site is no longer unread at the other.
        let mark = json!({ "uid": friend, "conversation": conversation, "seq": 5 });
        let marked = chat.ask_at(there, "MarkRead", &mark);
        assert_eq!(marked["readSeq"].as_str(), Some("5"), "{marked}");
        for site in ["a", "b"] {
            look_until("it counts as read", || {
                let list = chat.ask_at(site, "Conversations", &json!({ "uid": friend }));
                list["conversations"][0]["unread"] == Value::Null
            });
        }
    }
    verify(&chat);
}

/// Presence has no rows, and is not copied: each site tells of its own users. A user
/// who is at another site gets messages all the same.
#[test]
fn who_is_online_is_told_at_the_site_where_he_is() {
    let chat = Chat::with_sites("", |_| {});
    let bob = User::connect(&chat.entry_at("b"), "bob");
    assert_eq!(bob.logged_in(), [] as [String; 0]);
    let is_online = |site: &str, asker: &str| {
        let asked = json!({ "uid": asker, "uids": ["bob"] });
        let told = chat.ask_at(site, "Presence", &asked);
        told["users"][0]["online"] == true
    };
    // Which Logic is asked goes by who asks.
    let askers = ["ada", "cyd", "dan", "fay"];
    look_until("all Logics of his site know him", || {
        askers.iter().all(|asker| is_online("b", asker))
    });
    assert!(!askers.iter().any(|asker| is_online("a", asker)));
    for asker in askers {
        send(&chat, "a", asker, "bob", asker);
        assert_eq!(bob.message(), asker);
    }
    bob.leave();
    look_until("his site knows that he left", || {
        !askers.iter().any(|asker| is_online("b", asker))
    });
}

#[test]
fn a_group_is_changed_from_both_sites() {
    let chat = Chat::with_sites("", |_| {});
    for index in 0..4 {
        let (site, name) = (["a", "b"][index % 2], format!("team{index}"));
        let group = json!({ "uid": "ada", "name": name, "members": ["bob"] });
        let made = chat.ask_at(site, "CreateGroup", &group);
        assert_eq!(made["changed"], true, "{made}");
        let conversation = format!("g:{name}");
        // At the other site, whether the group has come there or not.
        let there = other(site);
        let again = chat.ask_at(there, "CreateGroup", &group);
        assert_eq!(again["changed"], Value::Null, "{again}");
        let add = json!({ "uid": "bob", "conversation": conversation, "members": ["cyd"] });
        let added = chat.ask_at(there, "AddMembers", &add);
        assert_eq!(added["members"], json!(["ada", "bob", "cyd"]), "{added}");
        let remove = json!({ "uid": "cyd", "conversation": conversation, "member": "ada" });
        let removed = chat.ask_at(site, "RemoveMember", &remove);
        assert_eq!(removed["members"], json!(["bob", "cyd"]), "{removed}");
        for site in ["a", "b"] {
            look_until("both sites know who is in it", || {
                let query = json!({ "uid": "cyd", "conversation": conversation });
                chat.ask_at(site, "Members", &query)["members"] == json!(["bob", "cyd"])
            });
        }
    }
    verify(&chat);
}

/// A load whose clients are at both sites, in turn. It goes on until it is stopped,
/// so that each kill hits it however long the others took.
fn load(chat: &Chat) -> std::process::Child {
    let entries = [chat.entry_at("a"), chat.entry_at("b")].join(",");
    load_of(&entries, &size(), "600")
}

#[test]
fn nothing_acknowledged_is_lost_when_any_process_of_two_sites_is_killed() {
    let chat = Chat::with_sites("", |_| {});
    let size = size();
    let load = load(&chat);
    for process in [
        "a-logic-1",
        "b-das-1",
        "hub-1",
        "a-das-1",
        "b-entry-1",
        "b-logic-2",
    ] {
        goes_on(&chat, size.between);
        chat.kill(process);
    }
    goes_on(&chat, size.between);
    let report = stop(load);
    assert!(report["reconnects"].as_u64().unwrap() > 0, "{report}");
    verify(&chat);
}

/// The sites of `up` had nobody whom operators could ask, and how far a copy was
/// behind was known to the hub alone.
#[test]
fn operators_ask_the_sites_of_a_chat() {
    let chat = Chat::with_sites("", |_| {});
    befriend(&chat);
    let dir = chat.dir().to_str().unwrap();
    for site in ["a", "b"] {
        let audit = run(&["sync", "audit", site, "--dir", dir, "--json"]);
        assert!(audit.status.success(), "{}", stderr(&audit));
        assert_eq!(stdout(&audit), "");
        let name = format!("site=\"{site}\"");
        look_until("the console tells that nothing is missing there", || {
            let page = chat.console("/metrics");
            let mut lines = page.lines();
            lines.any(|line| {
                line.starts_with("waystation_sync_site_lag_entries{")
                    && line.contains(&name)
                    && line.ends_with(" 0")
            })
        });
    }
    let friend = friend_at(&chat, "b");
    let rejoined = run(&["sync", "rejoin", "b", "--dir", dir]);
    assert!(rejoined.status.success(), "{}", stderr(&rejoined));
    look_until("the copy was taken anew, and is written to", || {
        send(&chat, "b", "ada", &friend, "again")["seq"].is_string()
    });
    // A new copy has no rights of the old one: what it writes waits for that.
    let granted = run(&["sync", "grant", "b", "--hub", &chat.hub()]);
    assert!(granted.status.success(), "{}", stderr(&granted));
    let conversation = format!("d:ada:{friend}");
    look_until("what was written then has come", || {
        read(&chat, "a", "ada", &conversation).len() == 2
    });
    verify(&chat);
}

#[test]
fn a_site_serves_its_own_conversations_while_the_hub_is_away() {
    let chat = Chat::with_sites(NOBODY_COMES_BACK, |_| {});
    befriend(&chat);
    chat.signal("hub-1", "KILL");
    look_until("the hub is gone", || !chat.pids().contains_key("hub-1"));
    for site in ["a", "b"] {
        let friend = friend_at(&chat, site);
        let conversation = format!("d:ada:{friend}");
        // At home, and passed on there from the other site.
        let at_home = send(&chat, site, "ada", &friend, "2");
        assert_eq!(at_home["seq"].as_str(), Some("2"), "{at_home}");
        let passed_on = send(&chat, other(site), &friend, "ada", "3");
        assert_eq!(passed_on["seq"].as_str(), Some("3"), "{passed_on}");
        let texts = |site| read(&chat, site, "ada", &conversation);
        assert_eq!(texts(site).len(), 3);
        assert_eq!(
            texts(other(site)),
            [(1, "first".to_owned())],
            "a copy is read"
        );
    }
    let dir = chat.dir().to_str().unwrap().to_owned();
    let hub = [
        "sync",
        "hub",
        "--dir",
        &dir,
        "--listen",
        &chat.hub(),
        "--first",
        "a",
    ];
    let mut hub = Process::new(waystation(&hub).stdout(Stdio::piped()));
    assert!(hub.first_line().starts_with("ready "));
    for site in ["a", "b"] {
        let conversation = format!("d:ada:{}", friend_at(&chat, site));
        look_until("what was written meanwhile has come", || {
            read(&chat, other(site), "ada", &conversation).len() == 3
        });
    }
    verify(&chat);
}

#[test]
fn what_is_written_at_a_site_that_is_away_is_refused_and_never_numbered_twice() {
    let mut chat = Chat::with_sites(NOBODY_COMES_BACK, |_| {});
    befriend(&chat);
    let [far, near] = ["a", "b"].map(|home| friend_at(&chat, home));
    chat.signal("a-das-1", "KILL");
    look_until("it is gone", || !chat.pids().contains_key("a-das-1"));
    let refused = send(&chat, "b", "ada", &far, "2");
    assert_eq!(refused["seq"], Value::Null, "{refused}");
    let why = refused["code"].as_str().unwrap_or_default();
    let is_clear = ["unavailable", "deadline_exceeded", "outcome_unknown"].contains(&why);
    assert!(is_clear, "{refused}");
    let conversation = format!("d:ada:{far}");
    assert_eq!(
        read(&chat, "b", "ada", &conversation).len(),
        1,
        "it is read"
    );
    let own = send(&chat, "b", "ada", &near, "2");
    assert_eq!(own["seq"].as_str(), Some("2"), "{own}");

    let up = chat.take_up();
    up.signal("TERM");
    assert_eq!(up.wait(), (Some(0), String::new()));
    chat.start_up();
    for site in ["b", "a"] {
        let sent = send(&chat, site, "ada", &far, "2");
        assert_eq!(sent["seq"].as_str(), Some("2"), "{sent}");
    }
    look_until("it is at both sites once", || {
        let both = ["a", "b"].map(|site| read(&chat, site, "ada", &conversation).len());
        both == [2, 2]
    });
    verify(&chat);
}

/// A chat that began with one site goes on as the first of two. It cannot go back:
/// what the other site writes would be missing.
#[test]
fn a_chat_of_one_site_becomes_the_first_of_two() {
    let mut chat = Chat::with_sites("", |dir| {
        let mut store = SqliteStore::open(&dir.join("chat.sqlite")).unwrap();
        let old = Append {
            conversation: "d:ada:bob".to_owned(),
            sender: "ada".to_owned(),
            client_id: "1".to_owned(),
            body: "old".to_owned(),
            at_ms: 1_700_000_000_000,
        };
        let results = store.write(vec![WriteOperation::Append(old)]);
        assert!(results.iter().all(Result::is_ok));
    });
    let conversation = "d:ada:bob";
    assert_eq!(
        read(&chat, "b", "bob", conversation),
        [(1, "old".to_owned())]
    );
    let answer = send(&chat, "b", "bob", "ada", "new");
    assert_eq!(answer["seq"].as_str(), Some("2"), "{answer}");
    look_until("both have both", || {
        ["a", "b"]
            .iter()
            .all(|site| read(&chat, site, "ada", conversation).len() == 2)
    });
    let up = chat.take_up();
    up.signal("TERM");
    assert_eq!(up.wait(), (Some(0), String::new()));
    let dir = chat.dir().to_str().unwrap();
    let refused = run(&["im", "das", "--dir", dir]);
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(said.contains("belongs to site a"), "{said}");
}
