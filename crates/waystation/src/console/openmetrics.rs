//! Several expositions merged into one that is still valid `OpenMetrics` text.
//!
//! Each process answers with its own families. A reader wants one text: every
//! family once, its metadata once, all its samples together, and a label that
//! says whose each sample is. Lines that are not understood are left out and
//! counted; a process's text never damages that of another.
//!
//! Follows `OpenMetrics` 1.0 as far as merging needs it; timestamps and exemplars
//! are passed on as they came.

use std::collections::HashMap;
use std::fmt::Write as _;

/// One sample line, taken apart as far as merging needs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample<'a> {
    /// The sample's name, with the suffix of its family's type.
    pub(super) name: &'a str,
    /// What stands between the braces; empty without any.
    pub(super) labels: &'a str,
    /// Its value.
    pub(super) value: f64,
    /// Value, timestamp and exemplar as they came.
    rest: &'a str,
}

impl<'a> Sample<'a> {
    /// The value of a label as it was written; none without it.
    pub(super) fn label(&self, name: &str) -> Option<&'a str> {
        let mut rest = self.labels;
        // The parser has accepted the labels: each is `name="value"`.
        while let Some(equals) = rest.find('=') {
            let value = rest.get(equals + 2..)?;
            let length = quoted_length(value)?;
            if &rest[..equals] == name {
                return Some(&value[..length]);
            }
            rest = value[length + 1..].trim_start_matches(',');
        }
        None
    }
}

/// A family as one process tells of it.
#[derive(Debug, Default)]
struct Family<'a> {
    name: &'a str,
    kind: Option<&'a str>,
    unit: Option<&'a str>,
    help: Option<&'a str>,
    samples: Vec<Sample<'a>>,
}

/// What one process said.
#[derive(Debug, Default)]
pub(super) struct Exposition<'a> {
    families: Vec<Family<'a>>,
    /// Lines that were not understood.
    pub(super) rejected: u64,
}

impl<'a> Exposition<'a> {
    /// Reads `text`. Total: whatever is not understood is counted. Cost: one
    /// pass.
    pub(super) fn parse(text: &'a str) -> Self {
        let mut exposition = Self::default();
        let mut places = HashMap::new();
        for line in text.lines() {
            let line = line.trim_end_matches('\r');
            if line == "# EOF" {
                break;
            }
            if !line.is_empty() && exposition.line(line, &mut places).is_none() {
                exposition.rejected += 1;
            }
        }
        exposition
    }

    fn line(&mut self, line: &'a str, places: &mut HashMap<&'a str, usize>) -> Option<()> {
        let Some(comment) = line.strip_prefix("# ") else {
            let sample = parse_sample(line)?;
            let family = self.family_of_sample(sample.name, places);
            family.samples.push(sample);
            return Some(());
        };
        let (keyword, rest) = comment.split_once(' ')?;
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        if !is_name(name) {
            return None;
        }
        let family = self.family(name, places);
        let slot = match keyword {
            "TYPE" => &mut family.kind,
            "UNIT" => &mut family.unit,
            "HELP" => &mut family.help,
            _ => return None,
        };
        *slot = Some(text);
        Some(())
    }

    fn family(&mut self, name: &'a str, places: &mut HashMap<&'a str, usize>) -> &mut Family<'a> {
        let place = *places.entry(name).or_insert_with(|| {
            self.families.push(Family {
                name,
                ..Family::default()
            });
            self.families.len() - 1
        });
        &mut self.families[place]
    }

    /// A sample belongs to the family whose name, with a suffix that the
    /// family's type has, is its own.
    fn family_of_sample(
        &mut self,
        sample: &'a str,
        places: &mut HashMap<&'a str, usize>,
    ) -> &mut Family<'a> {
        if !places.contains_key(sample) {
            let stems = SUFFIXES.iter().filter_map(|(suffix, kinds)| {
                let stem = sample.strip_suffix(suffix)?;
                let kind = self.families.get(*places.get(stem)?)?.kind?;
                kinds.contains(&kind).then_some(stem)
            });
            if let Some(stem) = stems.max_by_key(|stem| stem.len()) {
                return self.family(stem, places);
            }
        }
        self.family(sample, places)
    }

    /// All samples, by families.
    pub(super) fn samples(&self) -> impl Iterator<Item = &Sample<'a>> {
        self.families.iter().flat_map(|family| &family.samples)
    }

    /// The sum of all samples called `name`; none when there is none.
    pub(super) fn sum(&self, name: &str) -> Option<f64> {
        let values = self
            .samples()
            .filter(|sample| sample.name == name)
            .map(|sample| sample.value);
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }
}

/// The suffixes of samples, and the types of family that have them.
const SUFFIXES: &[(&str, &[&str])] = &[
    ("_total", &["counter"]),
    ("_created", &["counter", "histogram", "summary"]),
    ("_bucket", &["histogram", "gaugehistogram"]),
    ("_count", &["histogram", "summary"]),
    ("_sum", &["histogram", "summary"]),
    ("_gcount", &["gaugehistogram"]),
    ("_gsum", &["gaugehistogram"]),
    ("_info", &["info"]),
];

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    chars.next().is_some_and(letter) && chars.all(|c| letter(c) || c.is_ascii_digit())
}

fn parse_sample(line: &str) -> Option<Sample<'_>> {
    let name_end = line.find(['{', ' '])?;
    let (name, after) = line.split_at(name_end);
    let (labels, rest) = match after.strip_prefix('{') {
        Some(inside) => {
            let end = labels_end(inside)?;
            (&inside[..end], &inside[end + 1..])
        }
        None => ("", after),
    };
    let rest = rest.strip_prefix(' ')?;
    let value = rest.split(' ').next()?.parse().ok()?;
    is_name(name).then_some(Sample {
        name,
        labels,
        value,
        rest,
    })
}

/// The offset of the brace that ends the labels, outside of any quotes, when
/// everything before it reads as `name="value"` parted by commas.
fn labels_end(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        if text[at..].starts_with('}') {
            return Some(at);
        }
        let name_length = text[at..].find('=')?;
        if !is_name(&text[at..at + name_length]) {
            return None;
        }
        at += name_length + 1;
        if !text[at..].starts_with('"') {
            return None;
        }
        at += 1 + quoted_length(&text[at + 1..])? + 1;
        if text[at..].starts_with(',') {
            at += 1;
        } else if !text[at..].starts_with('}') {
            return None;
        }
    }
}

/// The length up to the closing quote.
fn quoted_length(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(offset),
            _ => {}
        }
    }
    None
}

/// Expositions of several processes, by family.
#[derive(Debug, Default)]
pub(super) struct Merged<'a> {
    families: Vec<MergedFamily<'a>>,
    places: HashMap<&'a str, usize>,
}

#[derive(Debug)]
struct MergedFamily<'a> {
    /// Type, unit and help of the first process that told of it.
    first: Family<'a>,
    samples: Vec<(Option<&'a str>, Sample<'a>)>,
}

impl<'a> Merged<'a> {
    /// Adds what `role` said; its samples get the label `role`, and a label of
    /// that name which they bring becomes `exported_role`. Without a role the
    /// samples stay as they are.
    ///
    /// Returns how many samples were left out because an earlier process gave
    /// their family another type.
    pub(super) fn add(&mut self, role: Option<&'a str>, exposition: Exposition<'a>) -> u64 {
        let mut left_out = 0;
        for mut family in exposition.families {
            let samples = std::mem::take(&mut family.samples);
            let place = *self.places.entry(family.name).or_insert_with(|| {
                self.families.push(MergedFamily {
                    first: Family {
                        samples: Vec::new(),
                        ..family
                    },
                    samples: Vec::new(),
                });
                self.families.len() - 1
            });
            let merged = &mut self.families[place];
            if merged.first.kind == family.kind {
                merged
                    .samples
                    .extend(samples.into_iter().map(|sample| (role, sample)));
            } else {
                left_out += samples.len() as u64;
            }
        }
        left_out
    }

    /// The whole text, ending with `# EOF`.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        for MergedFamily { first, samples } in &self.families {
            let metadata = [
                ("TYPE", first.kind),
                ("UNIT", first.unit),
                ("HELP", first.help),
            ];
            for (keyword, value) in metadata {
                if let Some(value) = value {
                    let _ = writeln!(text, "# {keyword} {} {value}", first.name);
                }
            }
            for (role, sample) in samples {
                write_sample(&mut text, *role, sample);
            }
        }
        text.push_str("# EOF\n");
        text
    }
}

fn write_sample(text: &mut String, role: Option<&str>, sample: &Sample<'_>) {
    let labels = match role {
        Some(_) => rename_role(sample.labels),
        None => sample.labels.to_owned(),
    };
    let labels = labels.trim_end_matches(',');
    text.push_str(sample.name);
    let _ = match (role, labels) {
        (None, "") => Ok(()),
        (None, labels) => write!(text, "{{{labels}}}"),
        (Some(role), "") => write!(text, "{{role=\"{role}\"}}"),
        (Some(role), labels) => write!(text, "{{role=\"{role}\",{labels}}}"),
    };
    let _ = writeln!(text, " {}", sample.rest);
}

/// `labels` with a label `role` called `exported_role`.
fn rename_role(labels: &str) -> String {
    let mut renamed = String::with_capacity(labels.len());
    let mut rest = labels;
    // The parser has accepted the labels: each is `name="value"`.
    while let Some(equals) = rest.find('=') {
        let Some(length) = quoted_length(&rest[equals + 2..]) else {
            break;
        };
        let end = equals + 2 + length + 1;
        if &rest[..equals] == "role" {
            renamed.push_str("exported_");
        }
        renamed.push_str(&rest[..end]);
        rest = &rest[end..];
        if let Some(after) = rest.strip_prefix(',') {
            renamed.push(',');
            rest = after;
        }
    }
    renamed
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Merges `(role, text)` pairs; returns the text and what was left out.
    fn merge(texts: &[(&str, &str)]) -> (String, u64) {
        let mut merged = Merged::default();
        let mut left_out = 0;
        for (role, text) in texts {
            let exposition = Exposition::parse(text);
            left_out += exposition.rejected;
            left_out += merged.add(Some(role), exposition);
        }
        (merged.render(), left_out)
    }

    #[test]
    fn families_stand_together_with_one_head() {
        let one =
            "# TYPE a counter\n# HELP a Things.\na_total 1\n# TYPE b gauge\nb{x=\"y\"} 2\n# EOF\n";
        let two =
            "# TYPE b gauge\nb 3\n# TYPE a counter\n# HELP a Others.\na_total 4 123.5\n# EOF\n";
        let expected = "\
            # TYPE a counter\n# HELP a Things.\n\
            a_total{role=\"logic-1\"} 1\na_total{role=\"logic-2\"} 4 123.5\n\
            # TYPE b gauge\n\
            b{role=\"logic-1\",x=\"y\"} 2\nb{role=\"logic-2\"} 3\n\
            # EOF\n";
        assert_eq!(
            merge(&[("logic-1", one), ("logic-2", two)]),
            (expected.to_owned(), 0)
        );
    }

    #[test]
    fn histograms_stay_whole_and_exemplars_pass() {
        let text = "# TYPE h histogram\n# UNIT h seconds\n\
            h_bucket{le=\"1\"} 2 # {trace_id=\"f{\"} 0.5\nh_bucket{le=\"+Inf\"} 3\nh_count 3\nh_sum 1.5\n";
        let (merged, left_out) = merge(&[("das-1", text)]);
        assert_eq!(left_out, 0);
        assert_eq!(
            merged,
            "# TYPE h histogram\n# UNIT h seconds\n\
             h_bucket{role=\"das-1\",le=\"1\"} 2 # {trace_id=\"f{\"} 0.5\n\
             h_bucket{role=\"das-1\",le=\"+Inf\"} 3\n\
             h_count{role=\"das-1\"} 3\nh_sum{role=\"das-1\"} 1.5\n# EOF\n"
        );
    }

    #[test]
    fn braces_quotes_and_commas_inside_values_are_text() {
        let text = r#"a{path="/x,}\"{",role="r\\",other=""} 1"#;
        let (merged, left_out) = merge(&[("e", text)]);
        assert_eq!(left_out, 0);
        assert_eq!(
            merged,
            "a{role=\"e\",path=\"/x,}\\\"{\",exported_role=\"r\\\\\",other=\"\"} 1\n# EOF\n"
        );
    }

    #[test]
    fn labels_are_found_by_name() {
        let text = r#"a{path="site=\"no\",b=",site="b",empty=""} 1"#;
        let exposition = Exposition::parse(text);
        let sample = exposition.samples().next().unwrap();
        assert_eq!(sample.label("site"), Some("b"));
        assert_eq!(sample.label("empty"), Some(""));
        assert_eq!((sample.label("b"), sample.label("sit")), (None, None));
    }

    #[test]
    fn what_is_not_understood_is_left_out_and_counted() {
        let text = "a 1\nnonsense\na{x=1} 1\na{x=\"1\" 1\n# TYPE 9 gauge\na x\nä 1\na{} 2\n\
            a{=\"\"} 1\n{ 1\n# FOO a b\n#\n";
        assert_eq!(
            merge(&[("e", text)]),
            ("a{role=\"e\"} 1\na{role=\"e\"} 2\n# EOF\n".to_owned(), 10)
        );
    }

    /// Story: two versions of a role ran during an upgrade, and one family that
    /// was a gauge and a counter at once made the reader refuse everything.
    #[test]
    fn a_family_of_two_types_keeps_the_first() {
        let (merged, left_out) = merge(&[
            ("a", "# TYPE m gauge\nm 1\n"),
            ("b", "# TYPE m info\nm_info 1\n"),
        ]);
        assert_eq!(merged, "# TYPE m gauge\nm{role=\"a\"} 1\n# EOF\n");
        assert_eq!(left_out, 1);
    }

    #[test]
    fn nothing_after_the_end_counts() {
        let (merged, _) = merge(&[("a", "x 1\n# EOF\nx 2\n")]);
        assert_eq!(merged, "x{role=\"a\"} 1\n# EOF\n");
    }

    #[test]
    fn sums_go_over_labels() {
        let exposition = Exposition::parse("# TYPE c gauge\nc{s=\"0\"} 2\nc{s=\"1\"} 3\n");
        assert_eq!(exposition.sum("c"), Some(5.0));
        assert_eq!(exposition.sum("d"), None);
    }

    proptest! {
        /// Whatever a role says, the merged text can be read again and loses
        /// nothing that was understood.
        #[test]
        fn any_text_merges_into_one_that_reads_again(
            lines in vec("(# (TYPE|HELP|EOF|X) )?[a-c_]{0,3}(_total|_sum)?\\PC{0,6}", 0..12),
            tails in vec(r#"(\{((a|role|[b-c])="(\\.|[^"\n\r])?",?){0,2}\})?( 1| -2e3|x)?"#, 12),
        ) {
            let lines: Vec<String> = lines.iter().zip(&tails).map(|(line, tail)| format!("{line}{tail}")).collect();
            let text = lines.join("\n");
            let exposition = Exposition::parse(&text);
            let understood: usize = exposition.families.iter().map(|family| family.samples.len()).sum();
            let mut merged = Merged::default();
            prop_assert_eq!(merged.add(Some("logic-1"), exposition), 0);
            let rendered = merged.render();
            let again = Exposition::parse(&rendered);
            prop_assert_eq!(again.rejected, 0, "{}", rendered);
            let samples = again.families.iter().flat_map(|family| &family.samples);
            let mut count = 0;
            for sample in samples {
                prop_assert!(sample.labels.starts_with("role=\"logic-1\""), "{}", rendered);
                count += 1;
            }
            prop_assert_eq!(count, understood);
        }

        #[test]
        fn no_bytes_panic(text in "\\PC{0,60}") {
            Exposition::parse(&text);
        }
    }
}
