//! Results of a run: printed, and kept as Markdown beside those of earlier runs.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::machine::Facts;
use crate::table::{Align, Table};

/// A benchmark as its results file introduces it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Benchmark {
    /// Its name on the command line and that of its file.
    pub(crate) name: &'static str,
    /// What it measures and how, in Markdown. Begins the file.
    pub(crate) about: &'static str,
}

/// One piece of a run's results.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    /// A paragraph.
    Text(String),
    /// A table with its heading.
    Table(String, Table),
}

/// The results of one run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Where and when.
    pub(crate) facts: Facts,
    /// The settings of the run, as the command line gives them behind the benchmark's name.
    pub(crate) settings: String,
    /// What was measured.
    pub(crate) blocks: Vec<Block>,
}

impl Run {
    /// Prints the run to standard output.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(crate) fn print(&self) -> Result<()> {
        io::stdout()
            .write_all(self.terminal().as_bytes())
            .context("cannot print the results")
    }

    /// Adds the run at the end of the benchmark's file and returns its path: `out`, or
    /// `results/NAME.md` of this package. Writes the file's introduction when it is new.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn append(&self, benchmark: Benchmark, out: Option<&Path>) -> Result<PathBuf> {
        self.write(benchmark, out, |path| match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(introduction(
                benchmark,
                "Each run adds a section at the end.",
            )),
            read => read,
        })
    }

    /// As [`Run::append`], with the run in the place of all that the file held.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn replace(&self, benchmark: Benchmark, out: Option<&Path>) -> Result<PathBuf> {
        self.write(benchmark, out, |_| {
            Ok(introduction(
                benchmark,
                "The benchmark wrote all of this file; a run replaces it.",
            ))
        })
    }

    /// Writes the run behind what is to stand before it.
    fn write(
        &self,
        benchmark: Benchmark,
        out: Option<&Path>,
        before: impl FnOnce(&Path) -> io::Result<String>,
    ) -> Result<PathBuf> {
        let path = out.map_or_else(|| default_path(benchmark.name), Path::to_owned);
        let write = || -> io::Result<()> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let text = before(&path)? + &self.markdown(benchmark.name);
            fs::write(&path, text)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn terminal(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        for block in &self.blocks {
            let _ = match block {
                Block::Text(paragraph) => writeln!(text, "{paragraph}\n"),
                Block::Table(heading, table) => writeln!(text, "{heading}\n{table}"),
            };
        }
        for (name, value) in &self.facts.0 {
            let _ = writeln!(text, "{name}: {value}");
        }
        let _ = writeln!(text, "settings: {}", self.settings);
        text
    }

    fn markdown(&self, name: &str) -> String {
        let date = self.facts.0.iter().find(|(name, _)| *name == "date");
        let mut text = format!("\n## {}\n\n", date.map_or("A run", |(_, date)| date));
        let mut facts = Table::new(&[("fact", Align::Left), ("value", Align::Left)]);
        for (name, value) in self.facts.0.iter().filter(|(name, _)| *name != "date") {
            facts.row([*name, value]);
        }
        let command = format!("`cargo xtask bench {name} {}`", self.settings);
        facts.row(["command", &command]);
        text.push_str(&facts.markdown());
        for block in &self.blocks {
            let _ = match block {
                Block::Text(paragraph) => writeln!(text, "\n{paragraph}"),
                Block::Table(heading, table) => {
                    writeln!(text, "\n### {heading}\n\n{}", table.markdown().trim_end())
                }
            };
        }
        text
    }
}

fn introduction(benchmark: Benchmark, how: &str) -> String {
    let Benchmark { name, about } = benchmark;
    format!(
        "# `cargo xtask bench {name}`\n\n{}\n\n{how}\n",
        about.trim()
    )
}

fn default_path(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    folder.join(format!("{name}.md"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BENCHMARK: Benchmark = Benchmark {
        name: "walk",
        about: "How fast one walks.",
    };

    fn run(date: &str) -> Run {
        let mut table = Table::new(&[("who", Align::Left), ("km/h", Align::Right)]);
        table.row(["snail", "0.003"]);
        Run {
            facts: Facts(vec![("date", date.to_owned()), ("CPU", "none".to_owned())]),
            settings: "--rounds 1".to_owned(),
            blocks: vec![
                Block::Table("Speed".to_owned(), table),
                Block::Text("All by day.".to_owned()),
            ],
        }
    }

    #[test]
    fn runs_stand_below_one_introduction_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/walk.md");
        for date in ["Monday", "Tuesday"] {
            assert_eq!(run(date).append(BENCHMARK, Some(&path)).unwrap(), path);
        }
        let section = |date: &str| {
            format!(
                "\n## {date}\n\n\
                 | fact    | value                               |\n\
                 | ------- | ----------------------------------- |\n\
                 | CPU     | none                                |\n\
                 | command | `cargo xtask bench walk --rounds 1` |\n\
                 \n### Speed\n\n\
                 | who   |  km/h |\n\
                 | ----- | ----: |\n\
                 | snail | 0.003 |\n\
                 \nAll by day.\n"
            )
        };
        let expected = format!(
            "# `cargo xtask bench walk`\n\nHow fast one walks.\n\n\
             Each run adds a section at the end.\n{}{}",
            section("Monday"),
            section("Tuesday")
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn a_run_may_replace_those_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("walk.md");
        run("Monday").replace(BENCHMARK, Some(&path)).unwrap();
        let first = fs::read_to_string(&path).unwrap();
        run("Tuesday").replace(BENCHMARK, Some(&path)).unwrap();
        let second = fs::read_to_string(&path).unwrap();
        assert_eq!(second, first.replace("Monday", "Tuesday"));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = run("Monday")
            .append(BENCHMARK, Some(folder.path()))
            .unwrap_err();
        let path = folder.path().display().to_string();
        assert!(error.to_string().contains(&path), "{error}");
    }

    #[test]
    fn the_terminal_shows_what_the_file_does() {
        let text = run("Monday").terminal();
        for part in [
            "Speed\nwho",
            "snail  0.003",
            "All by day.",
            "date: Monday",
            "--rounds 1",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
