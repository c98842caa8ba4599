//! The words of a statement that made something, as `sqlite_master` has it: enough to
//! say on what it stands, and what a trigger can do to others.

use crate::statement::skip_comments;

/// A word, a name in quotes, or a character.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    is_quoted: bool,
}

impl Token {
    fn is(&self, word: &str) -> bool {
        !self.is_quoted && self.text.eq_ignore_ascii_case(word)
    }
}

#[derive(Clone)]
struct Tokens<'s>(&'s str);

fn is_of_word(one: char) -> bool {
    one.is_ascii_alphanumeric() || one == '_' || one == '$' || !one.is_ascii()
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        // Semicolons between the statements of a trigger go with the comments.
        let rest = skip_comments(self.0);
        let first = rest.chars().next()?;
        let (text, is_quoted, length) = match first {
            '[' => {
                let end = rest.find(']').unwrap_or(rest.len());
                (rest[1..end].to_owned(), true, rest.len().min(end + 1))
            }
            '"' | '`' | '\'' => {
                let (text, length) = in_quotes(rest, first);
                (text, true, length)
            }
            _ if is_of_word(first) => {
                let end = rest.find(|one| !is_of_word(one)).unwrap_or(rest.len());
                (rest[..end].to_owned(), false, end)
            }
            _ => (first.to_string(), false, first.len_utf8()),
        };
        self.0 = &rest[length..];
        Some(Token { text, is_quoted })
    }
}

/// What stands between quotes, of which two are one, and how many bytes that takes.
fn in_quotes(sql: &str, quote: char) -> (String, usize) {
    let mut text = String::new();
    let mut rest = sql[1..].char_indices().peekable();
    while let Some((at, one)) = rest.next() {
        if one == quote && rest.next_if(|(_, next)| *next == quote).is_none() {
            return (text, at + 2);
        }
        text.push(one);
    }
    (text, sql.len())
}

/// The table on which an index or a trigger stands, by the statement that made it.
/// None for tables and views.
pub(super) fn table_of(sql: &str) -> Option<String> {
    let mut tokens = Tokens(sql);
    let mut kind = tokens.nth(1)?;
    if kind.is("unique") || kind.is("temp") || kind.is("temporary") {
        kind = tokens.next()?;
    }
    if !(kind.is("index") || kind.is("trigger")) {
        return None;
    }
    tokens.find(|one| one.is("on"))?;
    let name = tokens.next()?;
    match tokens.next() {
        Some(dot) if dot.is(".") => tokens.next().map(|one| one.text),
        _ => Some(name.text),
    }
}

/// Whether a trigger can end those that would run after it, with the row written: it
/// runs behind the row, and says `RAISE(IGNORE)`.
pub(super) fn is_silencer(sql: &str) -> bool {
    let tokens: Vec<_> = Tokens(sql).collect();
    let is_ignoring = tokens
        .windows(3)
        .any(|three| three[0].is("raise") && three[1].is("(") && three[2].is("ignore"));
    let mut head = tokens.iter().skip_while(|one| !one.is("trigger")).skip(1);
    let mut next = head.next();
    if next.is_some_and(|one| one.is("if")) {
        next = head.nth(2);
    }
    // `next` is its name, or the schema before it.
    let mut when = next.and_then(|_| head.next());
    if when.is_some_and(|one| one.is(".")) {
        when = head.nth(1);
    }
    is_ignoring && when.is_some_and(|one| one.is("after"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_and_a_trigger_stand_on_a_table() {
        for (sql, table) in [
            ("CREATE INDEX a ON t (b)", Some("t")),
            (
                "CREATE UNIQUE INDEX \"a ON b\" /* ON c */ ON\n\"t \"\" on\"(b)",
                Some("t \" on"),
            ),
            ("CREATE INDEX a ON [x y](b) WHERE c = 'on'", Some("x y")),
            (
                "CREATE TRIGGER a AFTER UPDATE OF \"on\", b ON`t`BEGIN SELECT 1; END",
                Some("t"),
            ),
            (
                "create trigger a insert on main.ä begin select 1; end",
                Some("ä"),
            ),
            ("CREATE TABLE t (a DEFAULT 'x ON y')", None),
            ("CREATE VIEW trigger AS SELECT 1 FROM a JOIN b ON 1", None),
            ("CREATE INDEX a ON", None),
            ("CREATE INDEX \"a", None),
            ("", None),
        ] {
            assert_eq!(table_of(sql).as_deref(), table, "{sql}");
        }
    }

    /// The story: a trigger whose name, or whose table's, had `BEGIN` in it was not
    /// taken for one that ends others.
    #[test]
    fn a_trigger_that_ends_others_is_known_by_its_words() {
        for (sql, is_it) in [
            (
                "CREATE TRIGGER beginning AFTER INSERT ON t_begin BEGIN SELECT RAISE(IGNORE); END",
                true,
            ),
            (
                "CREATE TRIGGER \"a b\" after delete ON t BEGIN SELECT raise /**/ ( -- x\n ignore ); END",
                true,
            ),
            (
                "CREATE TRIGGER a BEFORE INSERT ON after BEGIN SELECT RAISE(IGNORE); END",
                false,
            ),
            (
                "CREATE TRIGGER after INSERT ON t BEGIN SELECT RAISE(IGNORE); END",
                false,
            ),
            (
                "CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 'RAISE(IGNORE)'; END",
                false,
            ),
            (
                "CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT RAISE(ABORT, 'no'); END",
                false,
            ),
        ] {
            assert_eq!(is_silencer(sql), is_it, "{sql}");
        }
    }
}
