//! How things look in a terminal.

use std::fmt::Write as _;

use crate::im::{Conversation, Message};

/// The name of a conversation for its member `user`: the other user, or the
/// group.
pub(super) fn place<'a>(conversation: &'a str, user: &str) -> &'a str {
    if let Some(group) = conversation.strip_prefix("g:") {
        return group;
    }
    let pair = conversation.strip_prefix("d:").unwrap_or(conversation);
    match pair.split_once(':') {
        Some((first, second)) if first == user => second,
        Some((first, _)) => first,
        None => pair,
    }
}

/// One message on one line. Outside of the current conversation it says where
/// it belongs.
pub(super) fn message(message: &Message, current: Option<&str>, user: &str) -> String {
    let mut line = time_of_day(message.at_ms);
    line.push(' ');
    if current != Some(message.conversation.as_str()) {
        let what = if message.conversation.starts_with("g:") {
            clean(place(&message.conversation, user))
        } else if message.sender == user {
            format!("to {}", clean(place(&message.conversation, user)))
        } else {
            "to you".to_owned()
        };
        let _ = write!(line, "[{what}] ");
    }
    let _ = write!(line, "{}: {}", clean(&message.sender), clean(&message.body));
    line
}

/// One conversation on one line.
pub(super) fn conversation(conversation: &Conversation, user: &str) -> String {
    let kind = if conversation.conversation.starts_with("g:") {
        "group"
    } else {
        "with"
    };
    let name = clean(place(&conversation.conversation, user));
    let unread = match conversation.unread {
        0 => String::new(),
        unread => format!(", {unread} unread"),
    };
    let messages = match conversation.last_seq {
        1 => "1 message".to_owned(),
        count => format!("{count} messages"),
    };
    format!("  {kind} {name}: {messages}{unread}")
}

/// Makes text from elsewhere safe for a terminal: no escape sequence, no
/// second line, no reversed writing.
pub(super) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => cleaned.push_str(" \u{23ce} "),
            '\t' => cleaned.push(' '),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                cleaned.push('\u{fffd}');
            }
            letter if letter.is_control() => cleaned.push('\u{fffd}'),
            letter => cleaned.push(letter),
        }
    }
    cleaned
}

/// `HH:MM:SS` in UTC.
fn time_of_day(at_ms: u64) -> String {
    let seconds = at_ms / 1000 % 86_400;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(conversation: &str, sender: &str, body: &str) -> Message {
        Message {
            conversation: conversation.into(),
            sender: sender.into(),
            body: body.into(),
            at_ms: 1_700_000_000_999,
            ..Message::default()
        }
    }

    #[test]
    fn messages_say_when_where_and_who() {
        let direct = example("d:ada:bob", "bob", "hi");
        let here = message(&direct, Some("d:ada:bob"), "ada");
        assert_eq!(here, "22:13:20 bob: hi");
        assert_eq!(message(&direct, None, "ada"), "22:13:20 [to you] bob: hi");
        let own = example("d:ada:bob", "ada", "hi");
        assert_eq!(message(&own, None, "ada"), "22:13:20 [to bob] ada: hi");
        let group = example("g:team", "eve", "hi");
        let elsewhere = message(&group, Some("d:ada:bob"), "ada");
        assert_eq!(elsewhere, "22:13:20 [team] eve: hi");
    }

    /// A message's escape sequence renamed the terminal's window.
    #[test]
    fn nothing_from_elsewhere_controls_the_terminal() {
        let nasty = "a\u{1b}]0;owned\u{7}b\r\nc\td\u{9b}31m\u{202e}e\u{7f}";
        let cleaned = clean(nasty);
        assert!(!cleaned.chars().any(char::is_control), "{cleaned:?}");
        assert!(!cleaned.contains('\u{202e}'));
        assert_eq!(clean("größe 語 😀"), "größe 語 😀");
        let shown = message(&example("g:x\u{1b}", "e\u{1b}", nasty), None, "ada");
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }

    #[test]
    fn conversations_say_what_is_unread() {
        let state = |name: &str, last_seq, unread| Conversation {
            conversation: name.into(),
            last_seq,
            unread,
            ..Conversation::default()
        };
        let shown = conversation(&state("d:ada:bob", 12, 3), "ada");
        assert_eq!(shown, "  with bob: 12 messages, 3 unread");
        let shown = conversation(&state("g:team", 1, 0), "ada");
        assert_eq!(shown, "  group team: 1 message");
        let shown = conversation(&state("d:ada:ada", 0, 0), "ada");
        assert_eq!(shown, "  with ada: 0 messages");
    }
}
