//! The facts without which a measurement means nothing: machine, compiler, revision, load.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::figures::percent;
use crate::procfs::{self, MachineTicks};
use crate::stats::{number, share};
use crate::timing;

/// The machine as it was before a run.
#[derive(Debug)]
pub(crate) struct Watch {
    load: String,
    ticks: MachineTicks,
    own_cpu_seconds: f64,
}

/// Facts of one run, each a name and a value, in the order in which they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts(pub(crate) Vec<(&'static str, String)>);

impl Watch {
    /// Begins to watch the machine.
    pub(crate) fn start() -> Self {
        Self {
            load: load_average(),
            ticks: MachineTicks::read(),
            own_cpu_seconds: own_cpu_seconds(),
        }
    }

    /// Ends the run and gathers its facts. Runs `rustc` and `git`; what cannot be found out is
    /// `unknown`.
    pub(crate) fn finish(self) -> Facts {
        let ticks = MachineTicks::read().since(self.ticks);
        let total = number(ticks.total);
        let per_second = number(rustix::param::clock_ticks_per_second());
        let own = (own_cpu_seconds() - self.own_cpu_seconds) * per_second;
        let use_of_cpus = format!(
            "busy {}, of it this process {}; taken by the host {}",
            percent(share(number(ticks.busy), total)),
            percent(share(own, total)),
            percent(share(number(ticks.stolen), total)),
        );
        let load = format!("{} before, {} after", self.load, load_average());
        Facts(vec![
            ("date", utc(timing::unix_seconds())),
            ("revision", revision()),
            ("CPU", cpu()),
            ("memory", memory()),
            ("kernel", kernel()),
            ("compiler", output("rustc", &["--version"])),
            ("load average", load),
            ("all CPUs during the run", use_of_cpus),
        ])
    }
}

const UNKNOWN: &str = "unknown";

fn own_cpu_seconds() -> f64 {
    procfs::cpu_seconds(std::process::id()).unwrap_or(0.0)
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first: Vec<&str> = text.split_ascii_whitespace().take(3).collect();
    if first.is_empty() {
        return UNKNOWN.to_owned();
    }
    first.join(" ")
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key| procfs::field(&text, key);
    let model = field("model name").unwrap_or_else(|| UNKNOWN.to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    match (field("cpu family"), field("model")) {
        (Some(family), Some(number)) => {
            format!("{cores} x {model} (family {family}, model {number})")
        }
        _ => format!("{cores} x {model}"),
    }
}

fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = procfs::field(&text, "MemTotal")
        .and_then(|value| value.strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map_or_else(
        || UNKNOWN.to_owned(),
        |kib| format!("{:.1} GiB", number(kib) / 1024.0 / 1024.0),
    )
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    if release.is_empty() {
        return UNKNOWN.to_owned();
    }
    format!("Linux {release}")
}

/// The commit, and whether files under version control differ from it.
fn revision() -> String {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
    if commit == UNKNOWN {
        return commit;
    }
    match output("git", &["status", "--porcelain", "--untracked-files=no"])
        .lines()
        .count()
    {
        0 => commit,
        1 => format!("{commit} and 1 changed file"),
        changed => format!("{commit} and {changed} changed files"),
    }
}

/// What a program prints, run in the folder of this package.
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => UNKNOWN.to_owned(),
    }
}

/// A time as `2026-01-31 12:34 UTC`.
fn utc(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// The date `days` after 1970-01-01, in the Gregorian calendar.
///
/// Years begin in March here, so that the leap day is the last of its year; the months from March
/// on then have 153 days for every five.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970_FROM_MARCH_0: u64 = 719_468;
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let days = days + DAYS_TO_1970_FROM_MARCH_0;
    let (era, day) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    // Leap days of the years before: one in 4, none in 100, one in 400.
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        let known = [
            (0, "1970-01-01 00:00 UTC"),
            (68_169_599, "1972-02-28 23:59 UTC"),
            (68_169_600, "1972-02-29 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (1_767_225_600, "2026-01-01 00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ];
        for (seconds, expected) in known {
            assert_eq!(utc(seconds), expected);
        }
    }

    #[test]
    fn each_day_follows_the_one_before() {
        let days: Vec<_> = (0..200_000).map(date).collect();
        for pair in days.windows(2) {
            let [(year, month, day), next] = [pair[0], pair[1]];
            let after = [
                (year, month, day + 1),
                (year, month + 1, 1),
                (year + 1, 1, 1),
            ];
            assert!(after.contains(&next), "{next:?} after {:?}", pair[0]);
            assert!((1..=12).contains(&next.1) && (1..=31).contains(&next.2));
        }
    }

    #[test]
    fn this_machine_is_described() {
        let Facts(facts) = Watch::start().finish();
        assert!(
            facts.iter().all(|(_, value)| !value.is_empty()),
            "{facts:?}"
        );
        assert_eq!(output("no-such-program-anywhere", &[]), UNKNOWN);
    }
}
