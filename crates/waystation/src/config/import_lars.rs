//! `config import-lars`: from a configuration file of Lars to one of ours.
//!
//! Lars has a file for each of its programs: the dns and the reporter have
//! `[reactor]` and `[mysql]`, the reporter `[repoter]` (as it is spelt there)
//! beside them, the agent `[dnsserver]`, `[reporter]` and `[loadbalance]`.
//! Settings that have no part in Waystation are named with their lines.

mod ini;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::Path;

use toml::Value;

use self::ini::{Entry, Ini};
use super::SECTIONS;
use super::fault::{Fault, Faults, Origin};

/// What a Lars file says in our words.
#[derive(Debug)]
pub(crate) struct Imported {
    /// Values by section and key, checked against our own table.
    values: BTreeMap<(&'static str, &'static str), Value>,
    /// Settings that mean nothing here, each with its place.
    unknown: Vec<Fault>,
}

/// Which of Lars' programs a file belongs to: its section here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Route,
    Report,
    Agent,
}

/// Plain settings: Lars' section and key, our section and key.
const PLAIN: &[(Program, &str, &str, &str, &str)] = &[
    (
        Program::Route,
        "reactor",
        "maxConn",
        "route",
        "connections_max",
    ),
    (Program::Route, "reactor", "threadNum", "route", "shards"),
    (
        Program::Report,
        "reactor",
        "maxConn",
        "report",
        "connections_max",
    ),
    (Program::Report, "reactor", "threadNum", "report", "shards"),
    (
        Program::Agent,
        "loadbalance",
        "probe_num",
        "lars",
        "probe_num",
    ),
    (
        Program::Agent,
        "loadbalance",
        "init_succ_cnt",
        "lars",
        "init_succ_cnt",
    ),
    (
        Program::Agent,
        "loadbalance",
        "init_err_cnt",
        "lars",
        "init_err_cnt",
    ),
    (
        Program::Agent,
        "loadbalance",
        "err_rate",
        "lars",
        "err_rate",
    ),
    (
        Program::Agent,
        "loadbalance",
        "succ_rate",
        "lars",
        "succ_rate",
    ),
    (
        Program::Agent,
        "loadbalance",
        "contin_err_limit",
        "lars",
        "contin_err_limit",
    ),
    (
        Program::Agent,
        "loadbalance",
        "contin_succ_limit",
        "lars",
        "contin_succ_limit",
    ),
    (
        Program::Agent,
        "loadbalance",
        "window_err_rate",
        "lars",
        "window_err_rate",
    ),
    (
        Program::Agent,
        "loadbalance",
        "idle_timeout",
        "lars",
        "idle_timeout_s",
    ),
    (
        Program::Agent,
        "loadbalance",
        "overload_timeout",
        "lars",
        "overload_timeout_s",
    ),
    (
        Program::Agent,
        "loadbalance",
        "update_timeout",
        "lars",
        "update_timeout_s",
    ),
];

/// Addresses in two halves: the section with `ip` and `port`.
const ADDRESSES: &[(Program, &str, &str, &str)] = &[
    (Program::Route, "reactor", "route", "listen"),
    (Program::Report, "reactor", "report", "listen"),
    (Program::Agent, "dnsserver", "agent", "route"),
    (Program::Agent, "reporter", "agent", "report"),
];

/// Reads the bytes of a file of Lars; `path` names it in faults.
///
/// # Errors
/// Every fault with its line; exit code 2.
pub(crate) fn import(path: &Path, bytes: &[u8]) -> Result<Imported, Faults> {
    let mut importer = Importer {
        path,
        faults: Vec::new(),
        values: BTreeMap::new(),
    };
    let mut ini = Ini::read(bytes, |line, message| importer.fault(line, message));
    let program = program_of(&ini);
    for &(owner, section, key, to_section, to_key) in PLAIN {
        if owner == program
            && let Some(entry) = ini.take(section, key)
        {
            importer.plain(&entry, key, (to_section, to_key));
        }
    }
    for &(owner, section, to_section, to_key) in ADDRESSES {
        if owner == program {
            importer.address(&mut ini, section, (to_section, to_key));
        }
    }
    match program {
        Program::Route => importer.database(&mut ini, "route"),
        Program::Report => importer.database(&mut ini, "report"),
        Program::Agent => {}
    }
    let unknown = ini.rest().map(|(section, key, entry)| Fault {
        origin: importer.at(entry.line),
        message: format!("`{key}` of [{section}] means nothing here; it is left out"),
    });
    let unknown = unknown.collect();
    if importer.values.is_empty() && importer.faults.is_empty() {
        importer.fault(1, "no setting of Lars is in this file".to_owned());
    }
    if importer.faults.is_empty() {
        return Ok(Imported {
            values: importer.values,
            unknown,
        });
    }
    importer.faults.sort();
    Err(Faults(importer.faults))
}

fn program_of(ini: &Ini) -> Program {
    let agents = ["loadbalance", "dnsserver"];
    // Where the reporter is says its agent; the reporter itself has a reactor.
    let names_reporter = ini.get("reporter", "ip").or(ini.get("reporter", "port"));
    let is_agent = names_reporter.is_some() && !ini.has("reactor");
    if is_agent || agents.iter().any(|section| ini.has(section)) {
        return Program::Agent;
    }
    let port = ini.get("reactor", "port").map(|entry| entry.value.as_str());
    if ini.has("repoter") || ini.has("reporter") || port == Some("7779") {
        return Program::Report;
    }
    Program::Route
}

struct Importer<'a> {
    path: &'a Path,
    faults: Vec<Fault>,
    values: BTreeMap<(&'static str, &'static str), Value>,
}

impl Importer<'_> {
    fn at(&self, line: usize) -> Origin {
        Origin::File {
            path: self.path.to_owned(),
            line,
            column: 1,
        }
    }

    fn fault(&mut self, line: usize, message: String) {
        let origin = self.at(line);
        self.faults.push(Fault { origin, message });
    }

    /// Takes a value that our own table describes.
    fn set(&mut self, line: usize, name: &str, to: (&'static str, &'static str), value: Value) {
        let section = SECTIONS.iter().find(|section| section.name == to.0);
        let field = section.and_then(|section| section.field(to.1));
        let checked = field.map(|field| field.kind.check(&value));
        match checked {
            Some(Ok(())) => {
                self.values.insert(to, value);
            }
            Some(Err(message)) => self.fault(line, format!("{name}: {message}")),
            None => unreachable!("a test compares both tables"),
        }
    }

    fn plain(&mut self, entry: &Entry, name: &str, to: (&'static str, &'static str)) {
        let text = entry.value.as_str();
        let value = match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(whole), _) => Value::Integer(whole),
            (Err(_), Ok(number)) => Value::Float(number),
            _ => Value::String(text.to_owned()),
        };
        self.set(entry.line, name, to, value);
    }

    fn address(&mut self, ini: &mut Ini, section: &str, to: (&'static str, &'static str)) {
        let (ip, port) = (ini.take(section, "ip"), ini.take(section, "port"));
        let (ip, port) = match (ip, port) {
            (None, None) => return,
            (Some(ip), Some(port)) => (ip, port),
            (Some(one), None) => {
                return self.fault(one.line, format!("[{section}] has `ip` and no `port`"));
            }
            (None, Some(one)) => {
                return self.fault(one.line, format!("[{section}] has `port` and no `ip`"));
            }
        };
        let Some(address) = self.ipv4(&ip) else {
            return;
        };
        if let Some(number) = self.port(&port) {
            let value = Value::String(format!("{address}:{number}"));
            self.set(ip.line, "ip", to, value);
        }
    }

    fn ipv4(&mut self, entry: &Entry) -> Option<Ipv4Addr> {
        let parsed = entry.value.parse().ok();
        if parsed.is_none() {
            let message = format!("ip: `{}` is not an IPv4 address", entry.value);
            self.fault(entry.line, message);
        }
        parsed
    }

    fn port(&mut self, entry: &Entry) -> Option<u16> {
        let parsed = entry.value.parse().ok().filter(|port| *port > 0);
        if parsed.is_none() {
            let message = format!("port: `{}` is not a port, 1 to 65535", entry.value);
            self.fault(entry.line, message);
        }
        parsed
    }

    /// `[mysql]` as one URL.
    fn database(&mut self, ini: &mut Ini, section: &'static str) {
        let mut take = |key| ini.take("mysql", key);
        let (host, port) = (take("db_host"), take("db_port"));
        let (user, password, name) = (take("db_user"), take("db_passwd"), take("db_name"));
        let all = [&host, &port, &user, &password, &name];
        let Some(line) = all.into_iter().flatten().map(|entry| entry.line).min() else {
            return;
        };
        let (Some(host), Some(name)) = (host, name) else {
            return self.fault(line, "[mysql] needs `db_host` and `db_name`".to_owned());
        };
        // It stands in the URL as it is, so it must not be more than a host.
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if !host.value.chars().all(is_host) {
            let message = format!("db_host: `{}` is not a host", host.value);
            return self.fault(host.line, message);
        }
        if let (None, Some(password)) = (&user, &password) {
            let message = "[mysql] has `db_passwd` and no `db_user`".to_owned();
            return self.fault(password.line, message);
        }
        let mut url = String::from("mysql://");
        if let Some(user) = user {
            escape(&mut url, &user.value);
            if let Some(password) = password {
                url.push(':');
                escape(&mut url, &password.value);
            }
            url.push('@');
        }
        url.push_str(&host.value);
        if let Some(port) = port {
            let Some(number) = self.port(&port) else {
                return;
            };
            let _ = write!(url, ":{number}");
        }
        url.push('/');
        escape(&mut url, &name.value);
        self.set(host.line, "db_host", (section, "store"), Value::String(url));
    }
}

/// A part of a URL (RFC 3986, 2.1 and 2.3).
fn escape(url: &mut String, part: &str) {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
}

impl Imported {
    /// Writes our file, or one JSON object.
    ///
    /// # Errors
    /// What the writer reports.
    pub(crate) fn print(&self, as_json: bool, out: &mut dyn Write) -> io::Result<()> {
        if as_json {
            let mut object = serde_json::Map::new();
            for ((section, key), value) in &self.values {
                let fields = object
                    .entry(*section)
                    .or_insert_with(|| serde_json::json!({}));
                fields[*key] = serde_json::json!(value);
            }
            let unknown: Vec<_> = self.unknown.iter().map(ToString::to_string).collect();
            return writeln!(
                out,
                "{}",
                serde_json::json!({ "settings": object, "unknown": unknown })
            );
        }
        for unknown in &self.unknown {
            writeln!(out, "# {unknown}")?;
        }
        // In the order of the reference page.
        let mut first = self.unknown.is_empty();
        for section in SECTIONS {
            let fields = section.fields.iter().filter_map(|field| {
                let value = self.values.get(&(section.name, field.key))?;
                Some((field.key, value))
            });
            let fields: Vec<_> = fields.collect();
            if fields.is_empty() {
                continue;
            }
            if !std::mem::take(&mut first) {
                writeln!(out)?;
            }
            writeln!(out, "[{}]", section.name)?;
            for (key, value) in fields {
                writeln!(out, "{key} = {value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(text: &[u8]) -> Result<String, String> {
        let imported = super::import(Path::new("x.conf"), text).map_err(|all| all.to_string())?;
        let mut out = Vec::new();
        imported.print(false, &mut out).unwrap();
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_target_is_a_field() {
        let plain = PLAIN.iter().map(|(.., section, key)| (section, key));
        let addresses = ADDRESSES.iter().map(|(.., section, key)| (section, key));
        for (section, key) in plain.chain(addresses) {
            let known = SECTIONS.iter().find(|known| known.name == *section);
            assert!(known.unwrap().field(key).is_some(), "{section}.{key}");
        }
    }

    #[test]
    fn a_password_is_escaped() {
        let text = b"[mysql]\ndb_host=h\ndb_user=a@b\ndb_passwd=p:/?#\ndb_name=n\n";
        assert_eq!(
            import(text).unwrap(),
            "[route]\nstore = \"mysql://a%40b:p%3A%2F%3F%23@h/n\"\n"
        );
    }

    /// A password without a user was left out without a word.
    #[test]
    fn a_password_needs_its_user() {
        let said = import(b"[mysql]\ndb_host=h\ndb_name=n\ndb_passwd=p\n").unwrap_err();
        assert!(
            said.contains("x.conf:4:1: [mysql] has `db_passwd` and no `db_user`"),
            "{said}"
        );
    }

    /// An agent's file that says nothing but where the reporter is was taken
    /// for the reporter's, in which that means nothing.
    #[test]
    fn who_names_the_reporter_is_its_agent() {
        let ours = import(b"[reporter]\nip = 10.0.0.1\nport = 7779\n");
        assert_eq!(ours.unwrap(), "[agent]\nreport = \"10.0.0.1:7779\"\n");
    }

    /// Comments in other encodings are common in these files.
    #[test]
    fn comments_may_be_in_any_encoding() {
        let text = b"; \xBE\xAD\xB9\xFD\n[reactor]\r\nthreadNum = 5 \r\n# \xFF\n";
        assert_eq!(import(text).unwrap(), "[route]\nshards = 5\n");
        let value = import(b"[reactor]\nip = \xBE\nport = 1\n").unwrap_err();
        assert!(value.contains("x.conf:2:1: not valid UTF-8"), "{value}");
    }
    /// `db_host = h/x?ssl=0` became a URL that names another database.
    #[test]
    fn a_host_is_nothing_but_a_host() {
        let said = import(b"[mysql]\ndb_host=h/x?y=\ndb_name=n\n").unwrap_err();
        assert!(
            said.contains("x.conf:2:1: db_host: `h/x?y=` is not a host"),
            "{said}"
        );
        let ours = import(b"[mysql]\ndb_host=[::1]\ndb_name=n\n").unwrap();
        assert_eq!(ours, "[route]\nstore = \"mysql://[::1]/n\"\n");
    }

    /// A carriage return in the middle of a key went into the comment that
    /// names it, and what was printed could not be read; in a fault an escape
    /// sequence reached the terminal.
    #[test]
    fn control_characters_are_not_printed() {
        let ours = import(b"[reactor]\nthreadNum = 1\na\rb\x1B = 2\n").unwrap();
        let read: toml::Table = ours.parse().unwrap();
        assert_eq!(read["route"]["shards"].as_integer(), Some(1));
        assert!(ours.contains("`a\u{fffd}b\u{fffd}`"), "{ours:?}");
        let said = import(b"a\x1B[2J\n").unwrap_err();
        assert!(!said.contains('\x1B'), "{said:?}");
    }
}
