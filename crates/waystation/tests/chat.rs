//! The whole chat as other programs use it: over HTTP and by the client that
//! `im chat` and `im load` are made of.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::Write;
use std::process::Stdio;

use common::chat::{Chat, MANY, look_until, with_conversations_of_ada};
use common::user::User;
use common::waystation;
use serde_json::{Value, json};

/// A login listed all conversations in one answer, so a user could have no
/// more than fitted it.
#[test]
fn a_user_with_five_thousand_conversations_logs_in_and_gets_all() {
    let chat = Chat::prepared("", with_conversations_of_ada);
    let ada = User::connect(chat.entry(), "ada");
    let expected: Vec<String> = (0..MANY).map(|n| format!("d:ada:u{n:04}")).collect();
    assert_eq!(ada.logged_in(), expected);
    // Messages flow behind the list, in the first and the last of them.
    for other in ["u0000", "u4999"] {
        chat.post(other, "ada", &format!("from {other}"));
        assert_eq!(ada.message(), format!("from {other}"));
    }
    ada.leave();

    // It gives up by itself where a busy machine keeps it waiting.
    look_until("im chat lists all", || {
        let text = listed_in_a_terminal(&chat);
        let all = [0, 499, 500, 2_500, 4_999];
        all.iter().all(|n| text.contains(&format!("u{n:04}")))
    });
}

/// What `im chat` prints of ada's conversations.
fn listed_in_a_terminal(chat: &Chat) -> String {
    let mut terminal = waystation(&["im", "chat", "--entry", chat.entry(), "--user", "ada"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = terminal.stdin.take().unwrap();
    // It may have given up already.
    let _ = keys.write_all(b"/conversations\n");
    drop(keys);
    let output = terminal.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The names in an answer about a group.
fn members(answer: &Value) -> Vec<&str> {
    let names = answer["members"].as_array();
    let names = names.unwrap_or_else(|| panic!("{answer}"));
    names.iter().map(|name| name.as_str().unwrap()).collect()
}

/// Who is in a group is told to its members, as it is now, and to nobody else.
#[test]
fn members_of_a_group_are_told_who_is_in_it() {
    let chat = Chat::start();
    let group = |uid: &str| json!({ "uid": uid, "conversation": "g:team" });
    let made = json!({ "uid": "ada", "name": "team", "members": ["cyd", "bob"] });
    chat.ask("CreateGroup", &made);
    for uid in ["ada", "bob", "cyd"] {
        let told = chat.ask("Members", &group(uid));
        assert_eq!(members(&told), ["ada", "bob", "cyd"], "{uid}");
        assert_eq!(told["conversation"], "g:team");
        assert_ne!(told["changed"], true, "to ask changes nothing");
    }
    let refused = chat.ask("Members", &group("eve"));
    assert_eq!(refused["code"], "permission_denied", "{refused}");
    let unknown = json!({ "uid": "ada", "conversation": "g:nobody" });
    let unknown = chat.ask("Members", &unknown);
    assert_eq!(unknown["code"], "not_found", "{unknown}");

    let added = json!({ "uid": "bob", "conversation": "g:team", "members": ["eve"] });
    chat.ask("AddMembers", &added);
    let removed = json!({ "uid": "ada", "conversation": "g:team", "member": "cyd" });
    chat.ask("RemoveMember", &removed);
    let told = chat.ask("Members", &group("eve"));
    assert_eq!(members(&told), ["ada", "bob", "eve"]);
    let gone = chat.ask("Members", &group("cyd"));
    assert_eq!(gone["code"], "permission_denied", "{gone}");
}

/// Logic keeps in memory who is where. One that was started again knew
/// nobody, and told nobody of a message, until each client connected anew:
/// Entry has to tell it, and nobody else notices.
#[test]
fn entry_tells_a_logic_that_was_restarted_who_is_here() {
    let chat = Chat::start();
    let ada = User::connect(chat.entry(), "ada");
    assert_eq!(ada.logged_in(), [] as [String; 0]);
    // Which Logic is asked goes by who asks.
    let is_online = |asker: &str, uid: &str| {
        let asked = json!({ "uid": asker, "uids": [uid] });
        let told = chat.ask("Presence", &asked);
        told["users"][0]["online"] == true
    };
    let askers = ["bob", "cyd", "dan", "fay", "gil", "hal", "ivy", "joe"];
    let all_know = || askers.iter().all(|asker| is_online(asker, "ada"));
    look_until("all Logics know ada", all_know);
    for (round, role) in ["logic-1", "logic-2", "logic-1"].into_iter().enumerate() {
        chat.kill(role);
        look_until("all Logics know ada again", all_know);
        assert!(!is_online("ada", "bob"), "bob has no connection");
        for sender in askers {
            // Each sender's conversation belongs to one of the Logics.
            let text = format!("{round} from {sender}");
            chat.post(sender, "ada", &text);
            assert_eq!(ada.message(), text);
        }
    }
    ada.leave();
}
