//! The chat page in a real browser, while processes are killed behind it.
//!
//! What a tab shows is read from its document. The pictures beside it are for
//! people: they stand in the target folder's `tmp`.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;
mod page;

use common::chat::Chat;
use page::{Browser, Tab, program};
use serde_json::json;

/// Every message row in its order: number, sender, text, state.
const TRANSCRIPT: &str = "[...document.querySelectorAll('#messages .message')].map((row) => [
    Number(row.dataset.seq ?? 0), row.querySelector('.sender').textContent,
    row.querySelector('.body').textContent, row.dataset.state])";

/// The number of stored messages that are shown.
const STORED: &str = "document.querySelectorAll('#messages .message[data-state=stored]').length";

const IS_CONNECTED: &str = "document.querySelector('#status').dataset.state === 'ready'";

/// Begins to remember the states that the connection goes through.
const REMEMBER_STATES: &str = "(() => {
    const status = document.querySelector('#status');
    window.states = [];
    new MutationObserver(() => window.states.push(status.dataset.state))
      .observe(status, { attributeFilter: ['data-state'] });
  })()";

/// Begins to remember what the server sends on the connection that is used
/// next: its text, or what else it is.
const REMEMBER_MESSAGES: &str = "(() => {
    window.messages = [];
    const send = WebSocket.prototype.send;
    const heard = new WeakSet();
    WebSocket.prototype.send = function (data) {
      if (!heard.has(this)) {
        heard.add(this);
        this.addEventListener('message', ({ data }) =>
          window.messages.push(typeof data === 'string' ? data : String(data)));
      }
      return send.call(this, data);
    };
  })()";

/// Begins to remember what the page says of its connection.
const REMEMBER_TEXTS: &str = "(() => {
    const text = document.querySelector('#status-text');
    window.texts = [];
    new MutationObserver(() => window.texts.push(text.textContent))
      .observe(text, { childList: true, characterData: true, subtree: true });
  })()";

/// Opens the page as `query` says, and waits until one can write.
fn enter(browser: &Browser, chat: &Chat, query: &str) -> Tab {
    let tab = browser.open(&chat.page(query));
    tab.look_like(1200, 800, "light");
    tab.until(IS_CONNECTED);
    tab.until("document.activeElement.id === 'text'");
    tab
}

/// Writes a message as a user does.
fn say(tab: &Tab, text: &str) {
    tab.write(text);
    tab.press("Enter", 13, "\r");
}

/// Checks that both tabs show the same messages: all of both, each once, in
/// one order, which is each sender's own order, without a gap.
fn assert_same_and_whole(ada: &Tab, bob: &Tab, said: usize) {
    for tab in [ada, bob] {
        tab.until(&format!("{STORED} >= {}", 2 * said));
    }
    let transcript = ada.value(TRANSCRIPT);
    assert_eq!(transcript, bob.value(TRANSCRIPT));
    let rows = transcript.as_array().unwrap();
    let numbers: Vec<u64> = rows.iter().map(|row| row[0].as_u64().unwrap()).collect();
    let expected: Vec<u64> = (1..).take(2 * said).collect();
    assert_eq!(numbers, expected, "{transcript}");
    for sender in ["ada", "bob"] {
        let texts: Vec<&str> = rows
            .iter()
            .filter(|row| row[1] == sender)
            .map(|row| row[2].as_str().unwrap())
            .collect();
        let expected: Vec<String> = (0..said).map(|n| format!("{sender} says {n}")).collect();
        assert_eq!(texts, expected, "{transcript}");
    }
}

/// A Logic may die after it stored a message and before it answered: a page
/// that sends it again under another name shows it twice. It may also die
/// before it told anybody: then the message is missing until somebody looks
/// for it. And Entry takes the connections of both tabs with it.
#[test]
fn needs_chromium_two_tabs_talk_while_each_logic_and_entry_is_killed() {
    let Some(program) = program() else { return };
    let chat = Chat::start();
    let browser = Browser::start(&program);
    let ada = enter(&browser, &chat, "user=ada&to=bob");
    let bob = enter(&browser, &chat, "user=bob&to=ada");
    let mut said = 0;
    for role in ["logic-1", "logic-2", "entry-1"] {
        for tab in [&ada, &bob] {
            tab.value(REMEMBER_STATES);
        }
        let mut killed = None;
        for turn in 0..12 {
            say(&ada, &format!("ada says {said}"));
            say(&bob, &format!("bob says {said}"));
            said += 1;
            if turn == 5 {
                killed = Some(chat.signal(role, "KILL"));
            }
        }
        assert_same_and_whole(&ada, &bob, said);
        chat.await_successor(role, killed.unwrap());
        for tab in [&ada, &bob] {
            tab.until(IS_CONNECTED);
            let states = tab.value("window.states");
            let was_lost = states.as_array().unwrap().contains(&json!("waiting"));
            // Only Entry holds the tab's connection; who restarts Logic
            // disturbs no user.
            assert_eq!(was_lost, role == "entry-1", "{role}: {states}");
        }
    }
    for tab in [&ada, &bob] {
        tab.until("document.querySelector('#note').textContent === 'online'");
    }
    ada.take_picture("chat-after-kills");
    browser.assert_no_faults();
}

/// A tab could not read that its server goes away, which came as bytes, and
/// its user read of a lost connection, though the server was only restarted.
#[test]
fn needs_chromium_a_tab_reads_that_its_server_restarts() {
    let Some(program) = program() else { return };
    let chat = Chat::start();
    let browser = Browser::start(&program);
    let ada = enter(&browser, &chat, "user=ada&to=bob");
    ada.value(REMEMBER_MESSAGES);
    say(&ada, "before");
    ada.until(&format!("{STORED} === 1"));
    ada.value(REMEMBER_TEXTS);
    let ended = chat.signal("entry-1", "TERM");
    chat.await_successor("entry-1", ended);
    ada.until(IS_CONNECTED);
    say(&ada, "after");
    ada.until(&format!("{STORED} === 2"));

    let messages = ada.value("window.messages");
    let told = json!({ "go_away": true }).to_string();
    assert!(
        messages.as_array().unwrap().contains(&json!(told)),
        "{messages}"
    );
    let texts = ada.value("window.texts");
    let told = |text: &str| texts.as_array().unwrap().contains(&json!(text));
    assert!(told("The server restarts"), "{texts}");
    assert!(!told("Connection lost"), "{texts}");
    browser.assert_no_faults();
}

/// What came while a tab had no connection was not pushed to it, and nothing
/// that comes later may show the gap: the tab has to ask for it when it is
/// back, also in a conversation that it has never heard of.
#[test]
fn needs_chromium_a_tab_that_was_away_shows_what_came_meanwhile() {
    let Some(program) = program() else { return };
    let chat = Chat::start();
    let browser = Browser::start(&program);
    let ada = enter(&browser, &chat, "user=ada&to=bob");
    chat.post("bob", "ada", "one");
    ada.until(&format!("{STORED} === 1"));

    ada.hold();
    let killed = chat.signal("entry-1", "KILL");
    chat.await_successor("entry-1", killed);
    chat.post("bob", "ada", "two");
    chat.post("cyd", "ada", "hello");
    chat.post("bob", "ada", "three");
    ada.go_on();

    ada.until(&format!("{STORED} === 3"));
    let expected = json!([
        [1, "bob", "one", "stored"],
        [2, "bob", "two", "stored"],
        [3, "bob", "three", "stored"],
    ]);
    assert_eq!(ada.value(TRANSCRIPT), expected);
    let cyd = "document.querySelector('[data-conversation=\"d:ada:cyd\"]')";
    ada.until(&format!(
        "{cyd}.querySelector('.unread').textContent === '1'"
    ));
    ada.until(&format!(
        "{cyd}.querySelector('.last').textContent === 'hello'"
    ));
    browser.assert_no_faults();
}

/// A user's conversations came in one answer, so a user could have no more
/// than fitted it.
#[test]
fn needs_chromium_a_tab_lists_five_thousand_conversations() {
    let Some(program) = program() else { return };
    let chat = Chat::prepared("", common::chat::with_conversations_of_ada);
    let browser = Browser::start(&program);
    let ada = enter(&browser, &chat, "user=ada&to=u0007");
    ada.until(&format!("{STORED} === 1"));
    let listed = "document.querySelectorAll('#conversations [data-conversation]').length";
    assert_eq!(ada.value(listed), common::chat::MANY);
    browser.assert_no_faults();
}

/// A page of history, and what is in it: scrolling back shows everything
/// once, a second device of the same user sees the same, no text is markup,
/// and what was not looked at is counted.
#[test]
fn needs_chromium_history_groups_and_devices_show_the_same() {
    let Some(program) = program() else { return };
    let chat = Chat::start();
    let browser = Browser::start(&program);
    let ada = enter(&browser, &chat, "user=ada&to=bob");
    let markup = "<img src=x onerror=\"document.title='broken'\"> &amp; <b>bold</b>";
    say(&ada, markup);
    for n in 1..120 {
        say(&ada, &format!("message {n}"));
        // The page takes 100 that wait, and says so; this is not its test.
        if n % 50 == 0 {
            ada.until(&format!("{STORED} > {n}"));
        }
    }
    ada.until(&format!("{STORED} === 120"));
    let wanted = ada.value(TRANSCRIPT);

    let device = enter(&browser, &chat, "user=ada&to=bob");
    let bob = enter(&browser, &chat, "user=bob&to=ada");
    for tab in [&device, &bob] {
        tab.until(&format!("{STORED} >= 50"));
        assert!(tab.value(STORED).as_u64().unwrap() < 120, "all at once");
        let back = format!("(document.querySelector('#scroll').scrollTop = 0, {STORED} === 120)");
        tab.until(&back);
        assert_eq!(tab.value(TRANSCRIPT), wanted);
        let elements = tab.value("document.querySelectorAll('.body *, #conversations img').length");
        assert_eq!(elements, 0, "a text became markup");
    }

    bob.click("#new-group");
    bob.write("team");
    bob.press("Tab", 9, "");
    bob.write("ada, cyd");
    bob.press("Enter", 13, "\r");
    bob.until("document.querySelector('#title').textContent === 'team'");
    bob.until("document.activeElement.id === 'text'");
    say(&bob, "Welcome, all.");
    say(&bob, "Who brings the cake?");
    let news = "document.querySelector('[data-conversation=\"g:team\"] .unread')";
    for tab in [&ada, &device] {
        tab.until(&format!("{news}.textContent === '2'"));
    }
    ada.click("[data-conversation='g:team']");
    ada.until(&format!("{news}.hidden && {STORED} === 2"));
    say(&ada, "I do.");
    bob.until(&format!("{STORED} === 3"));
    assert_eq!(bob.value(TRANSCRIPT), ada.value(TRANSCRIPT));
    take_pictures(&ada);
    browser.assert_no_faults();
}

/// Takes pictures at the sizes that were designed for, and checks that
/// nothing lies beyond the window.
fn take_pictures(tab: &Tab) {
    for (width, height) in [(1200, 800), (360, 740)] {
        for scheme in ["light", "dark"] {
            tab.look_like(width, height, scheme);
            tab.until(&format!("innerWidth === {width}"));
            let beyond = "document.documentElement.scrollWidth > innerWidth
                || document.documentElement.scrollHeight > innerHeight";
            assert_eq!(tab.value(beyond), false, "{width}x{height}");
            tab.take_picture(&format!("chat-{width}-{scheme}"));
        }
    }
}
