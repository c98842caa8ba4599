//! INI files as Lars reads them: `[section]`, `key = value`, and comments that
//! begin with `#` or `;`.

use std::collections::BTreeMap;

/// One setting.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its text, without blanks around it.
    pub(super) value: String,
    /// Its line, from 1.
    pub(super) line: usize,
}

/// A file's settings by section and key.
#[derive(Debug, Default)]
pub(super) struct Ini {
    /// Sections with the lines of their first heads.
    sections: BTreeMap<String, usize>,
    entries: BTreeMap<(String, String), Entry>,
}

impl Ini {
    /// Reads a whole file; `fault` is told of each line that is none.
    pub(super) fn read(bytes: &[u8], mut fault: impl FnMut(usize, String)) -> Self {
        let mut ini = Self::default();
        let mut section: Option<String> = None;
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        for (line, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let text = text.trim_ascii();
            if text.is_empty() || text.starts_with(b"#") || text.starts_with(b";") {
                continue;
            }
            let Ok(text) = std::str::from_utf8(text) else {
                fault(line, "not valid UTF-8".to_owned());
                continue;
            };
            match (text.strip_prefix('['), text.split_once('=')) {
                (Some(head), _) => match head.split_once(']') {
                    Some((name, rest))
                        if !name.trim().is_empty() && uncommented(rest).is_empty() =>
                    {
                        let name = name.trim().to_owned();
                        ini.sections.entry(name.clone()).or_insert(line);
                        section = Some(name);
                    }
                    _ => fault(line, format!("`{text}` is not a section's head")),
                },
                (None, Some((key, value))) => match &section {
                    Some(section) => ini.insert(section, key.trim(), value, line, &mut fault),
                    None => fault(line, format!("`{}` is in no section", key.trim())),
                },
                (None, None) => fault(line, format!("`{text}` is neither a section nor a setting")),
            }
        }
        ini
    }

    fn insert(
        &mut self,
        section: &str,
        key: &str,
        value: &str,
        line: usize,
        fault: &mut impl FnMut(usize, String),
    ) {
        let value = uncommented(value).to_owned();
        if key.is_empty() || value.is_empty() {
            return fault(line, format!("`{key}` has no value"));
        }
        let place = (section.to_owned(), key.to_owned());
        if let Some(first) = self.entries.get(&place) {
            let message = format!(
                "`{key}` of [{section}] is set in line {} already",
                first.line
            );
            return fault(line, message);
        }
        self.entries.insert(place, Entry { value, line });
    }

    /// Whether a section has its head here.
    pub(super) fn has(&self, section: &str) -> bool {
        self.sections.contains_key(section)
    }

    /// A setting.
    pub(super) fn get(&self, section: &str, key: &str) -> Option<&Entry> {
        self.entries.get(&(section.to_owned(), key.to_owned()))
    }

    /// Takes a setting out.
    pub(super) fn take(&mut self, section: &str, key: &str) -> Option<Entry> {
        self.entries.remove(&(section.to_owned(), key.to_owned()))
    }

    /// What nobody took, in the order of the file.
    pub(super) fn rest(&self) -> impl Iterator<Item = (&str, &str, &Entry)> {
        let mut rest: Vec<_> = self
            .entries
            .iter()
            .map(|((section, key), entry)| (section.as_str(), key.as_str(), entry))
            .collect();
        rest.sort_by_key(|(_, _, entry)| entry.line);
        rest.into_iter()
    }
}

/// A value without the comment behind it, which begins after a blank.
fn uncommented(value: &str) -> &str {
    let comment = value
        .char_indices()
        .zip(std::iter::once(' ').chain(value.chars()))
        .find(|((_, this), before)| matches!(this, '#' | ';') && before.is_whitespace());
    let end = comment.map_or(value.len(), |((at, _), _)| at);
    value[..end].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_begins_after_a_blank() {
        for (text, value) in [
            (" 5 ; threads", "5"),
            ("a;b#c", "a;b#c"),
            ("; all of it", ""),
            (" x\t# y # z", "x"),
            ("é ;ü", "é"),
        ] {
            assert_eq!(uncommented(text), value);
        }
    }
}
