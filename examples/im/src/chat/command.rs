//! What a line of input means.

use crate::store::check_uid;
use crate::store::limits::HISTORY_PAGE_MAX;

use super::limits::HISTORY_DEFAULT;

/// A line of input, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// An empty line.
    Nothing,
    /// Send a message to the current conversation.
    Say(String),
    /// Talk to a user.
    To(String),
    /// Talk in a group, made or grown where needed.
    Group { name: String, members: Vec<String> },
    /// Show the last messages.
    History(u32),
    /// Show who is online, and announce changes; without names the partner.
    Who(Vec<String>),
    /// List the user's conversations.
    Conversations,
    /// Mark the current conversation as read.
    Read,
    /// List the commands.
    Help,
    /// End.
    Quit,
}

/// The text of `/help`.
pub(super) const HELP: [&str; 10] = [
    "TEXT                   send it to the current conversation",
    "//TEXT                 the same, beginning with one /",
    "/to USER               talk to a user",
    "/group NAME [USER...]  talk in a group; make it, or let users in, if needed",
    "/history [N]           show the last N messages here (20)",
    "/who [USER...]         show who is online, and tell when that changes",
    "/conversations         list your conversations and what is unread",
    "/read                  mark this conversation as read",
    "/help                  show this; times are UTC",
    "/quit                  end, as the end of input does",
];

/// Understands one line, without its line end.
///
/// # Errors
/// What is wrong with it, for the user.
pub(super) fn parse(line: &str) -> Result<Command, String> {
    let Some(rest) = line.strip_prefix('/') else {
        if line.trim().is_empty() {
            return Ok(Command::Nothing);
        }
        return Ok(Command::Say(line.to_owned()));
    };
    if rest.starts_with('/') {
        return Ok(Command::Say(rest.to_owned()));
    }
    let mut words = rest.split_whitespace();
    let name = words.next().unwrap_or_default();
    let words: Vec<&str> = words.collect();
    let none = |command: Command| match words.as_slice() {
        [] => Ok(command),
        [word, ..] => Err(format!("/{name} takes nothing, not `{word}`")),
    };
    match (name, words.as_slice()) {
        ("to", [user]) => Ok(Command::To(uid(user)?)),
        ("to", _) => Err("say to whom: /to USER".to_owned()),
        ("group", []) => Err("name the group: /group NAME [USER...]".to_owned()),
        ("group", [group, members @ ..]) => Ok(Command::Group {
            name: uid(group)?,
            members: members
                .iter()
                .map(|member| uid(member))
                .collect::<Result<_, _>>()?,
        }),
        ("history", []) => Ok(Command::History(HISTORY_DEFAULT)),
        ("history", [count]) => history(count),
        ("history", _) => Err("/history takes one number".to_owned()),
        ("who", users) => {
            let users: Result<_, _> = users.iter().map(|user| uid(user)).collect();
            Ok(Command::Who(users?))
        }
        ("conversations", _) => none(Command::Conversations),
        ("read", _) => none(Command::Read),
        ("help", _) => none(Command::Help),
        ("quit", _) => none(Command::Quit),
        _ => Err(format!("there is no command /{name}; /help lists them")),
    }
}

fn history(count: &str) -> Result<Command, String> {
    match count.parse::<u32>() {
        Ok(count) if count > 0 && count as usize <= HISTORY_PAGE_MAX => Ok(Command::History(count)),
        _ => Err(format!(
            "/history takes a number from 1 to {HISTORY_PAGE_MAX}, not `{count}`"
        )),
    }
}

/// A user's or group's name; both follow the same rules.
fn uid(name: &str) -> Result<String, String> {
    match check_uid(name) {
        Ok(()) => Ok(name.to_owned()),
        Err(_) => Err(format!(
            "`{name}` is no name: names are 1 to 64 of a-z 0-9 _ . -"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let group = |members: &[&str]| Command::Group {
            name: "team".into(),
            members: names(members),
        };
        for (line, expected) in [
            ("", Command::Nothing),
            ("  \t", Command::Nothing),
            ("hello there", Command::Say("hello there".into())),
            (" /to bob", Command::Say(" /to bob".into())),
            ("//etc/passwd", Command::Say("/etc/passwd".into())),
            ("/to bob", Command::To("bob".into())),
            ("/to   bob  ", Command::To("bob".into())),
            ("/group team", group(&[])),
            ("/group team bob eve", group(&["bob", "eve"])),
            ("/history", Command::History(20)),
            ("/history 200", Command::History(200)),
            ("/who", Command::Who(Vec::new())),
            ("/who bob eve", Command::Who(names(&["bob", "eve"]))),
            ("/conversations", Command::Conversations),
            ("/read", Command::Read),
            ("/help", Command::Help),
            ("/quit", Command::Quit),
        ] {
            assert_eq!(parse(line), Ok(expected), "{line:?}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("/", "no command /;"),
            ("/tell bob", "no command /tell"),
            ("/to", "/to USER"),
            ("/to bob eve", "/to USER"),
            ("/to Bob", "`Bob` is no name"),
            ("/group", "/group NAME"),
            ("/group team d:x", "`d:x` is no name"),
            ("/history 0", "from 1 to 200, not `0`"),
            ("/history 201", "from 1 to 200"),
            ("/history -1", "from 1 to 200"),
            ("/history 1 2", "one number"),
            ("/quit now", "not `now`"),
        ] {
            let mistake = parse(line).unwrap_err();
            assert!(mistake.contains(part), "{line:?} gave {mistake:?}");
        }
    }

    #[test]
    fn every_command_of_the_help_exists() {
        for line in HELP {
            let Some(command) = line.strip_prefix('/').filter(|rest| !rest.starts_with('/')) else {
                continue;
            };
            let name = command.split_whitespace().next().unwrap();
            let unknown = parse(&format!("/{name}")).is_err_and(|m| m.contains("no command"));
            assert!(!unknown, "{line}");
        }
    }
}
