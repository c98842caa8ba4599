//! Rust source without its comments and literals, so that a search finds code only.

/// The source with every comment, string and character literal replaced by spaces. Line breaks
/// stay, so that line numbers hold. Cost: linear; total for any input, also one that is not Rust.
pub(super) fn code_only(source: &str) -> String {
    let characters: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < characters.len() {
        let end = literal_end(&characters, at);
        if end == at {
            code.push(characters[at]);
            at += 1;
        } else {
            code.extend(
                characters[at..end]
                    .iter()
                    .map(|&one| if one == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    code
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none starts there.
fn literal_end(characters: &[char], at: usize) -> usize {
    let next = characters.get(at + 1).copied();
    match characters[at] {
        '/' if next == Some('/') => position(characters, at, |one| one == '\n'),
        '/' if next == Some('*') => block_comment_end(characters, at),
        '"' => string_end(characters, at),
        'r' if !follows_word(characters, at) => raw_string_end(characters, at),
        '\'' => character_end(characters, at),
        _ => at,
    }
}

fn position(characters: &[char], from: usize, is_end: impl Fn(char) -> bool) -> usize {
    let found = characters[from..].iter().position(|&one| is_end(one));
    found.map_or(characters.len(), |offset| from + offset)
}

/// True when the `r` at `at` is the end of a word and not a raw string's prefix. `br` and `cr` are
/// prefixes as well.
fn follows_word(characters: &[char], at: usize) -> bool {
    let is_word = |index: usize| characters[index].is_alphanumeric() || characters[index] == '_';
    match at {
        0 => false,
        1 => is_word(0) && !matches!(characters[0], 'b' | 'c'),
        _ => is_word(at - 1) && (!matches!(characters[at - 1], 'b' | 'c') || is_word(at - 2)),
    }
}

fn block_comment_end(characters: &[char], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut index = at;
    while index < characters.len() {
        match (characters[index], characters.get(index + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                index += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                index += 2;
                if depth == 0 {
                    return index;
                }
            }
            _ => index += 1,
        }
    }
    characters.len()
}

fn string_end(characters: &[char], at: usize) -> usize {
    let mut index = at + 1;
    while index < characters.len() {
        match characters[index] {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    characters.len()
}

fn raw_string_end(characters: &[char], at: usize) -> usize {
    let hashes = characters[at + 1..]
        .iter()
        .take_while(|&&one| one == '#')
        .count();
    let start = at + 1 + hashes;
    if characters.get(start) != Some(&'"') {
        return at;
    }
    let mut index = start + 1;
    while index < characters.len() {
        let closing = characters[index + 1..].iter().take(hashes);
        if characters[index] == '"' && closing.filter(|&&one| one == '#').count() == hashes {
            return index + 1 + hashes;
        }
        index += 1;
    }
    characters.len()
}

/// A character literal's end, or `at` when the quote opens a lifetime.
fn character_end(characters: &[char], at: usize) -> usize {
    match (characters.get(at + 1), characters.get(at + 2)) {
        (Some('\\'), Some(_)) => {
            (position(characters, at + 3, |one| one == '\'') + 1).min(characters.len())
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    use super::code_only;

    fn check(source: &str, expect: &str) {
        assert_eq!(code_only(source), expect, "in {source:?}");
    }

    #[test]
    fn comments_go_and_lines_stay() {
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */ \n */ d", "a              \n    d");
        check("/* open", "       ");
    }

    #[test]
    fn strings_go_with_their_escapes() {
        check(r#"f("a\"b") g"#, "f(      ) g");
        check("f(r#\"a\"b\"#) g", "f(        ) g");
        check("f(br\"a\\\") g", "f(b     ) g");
        check("\"open", "     ");
    }

    #[test]
    fn names_that_end_in_r_and_raw_names_are_code() {
        check("for\"a\"", "for   ");
        check("r#type x", "r#type x");
    }

    #[test]
    fn characters_go_and_lifetimes_stay() {
        check("'\"' 'a \"b\"", "    'a    ");
        check(r"'\'' 'x' &'a T", "         &'a T");
        check("'\\u{1F600}' z", "            z");
    }

    #[test]
    fn any_text_is_taken() {
        for source in [
            "'", "'\\", "\"\\", "r", "r#", "r##\"", "/", "/*", "*/", "é'é'é",
        ] {
            assert_eq!(code_only(source).chars().count(), source.chars().count());
        }
    }
}
