//! `waystation ctx`: what the running roles are doing, asked of their admin
//! sockets, so that it works also when the supervisor does not.

use std::fs;
use std::io::{self, Write};

use anyhow::{Context, anyhow};
use serde_json::Value;

use crate::config::Config;
use crate::console::{Endpoint, ask_all, merge_arrays, text_of};
use crate::dir::Sockets;
use crate::failure::Failure;
use crate::limits::{CTX_ROLES_MAX, CTX_TIMEOUT};
use crate::table;

const COLUMNS: [&str; 8] = [
    "process",
    "sid",
    "method",
    "state",
    "waiting_for",
    "age_ms",
    "deadline_ms",
    "peer",
];

/// Prints the contexts of every role, or of those that `wanted` names.
///
/// # Errors
/// When nothing runs there, or a role gave no answer; the others' are printed
/// first.
pub(crate) async fn run(
    config: &Config,
    wanted: Option<&str>,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let endpoints = find(config, wanted)?;
    let answers = ask_all(&endpoints, "/api/v1/contexts", CTX_TIMEOUT).await;
    let contexts = merge_arrays(&answers);
    let (failed, contexts): (Vec<_>, Vec<_>) = contexts
        .into_iter()
        .partition(|context| context.get("error").is_some());
    print(&contexts, as_json, out).context("cannot print")?;
    if failed.is_empty() {
        return Ok(());
    }
    let failed: Vec<String> = failed
        .iter()
        .filter_map(Value::as_object)
        .map(|role| format!("{}: {}", text_of(role, "process"), text_of(role, "error")))
        .collect();
    Err(anyhow!("{}", failed.join("; ")).into())
}

fn print(contexts: &[Value], as_json: bool, out: &mut dyn Write) -> io::Result<()> {
    if as_json {
        return contexts
            .iter()
            .try_for_each(|context| writeln!(out, "{context}"));
    }
    let rows: Vec<_> = contexts
        .iter()
        .filter_map(Value::as_object)
        .map(|context| COLUMNS.map(|column| text_of(context, column)))
        .collect();
    table::write(out, COLUMNS, &rows)
}

/// Whether a process, such as `logic-2` or `b-logic-2`, is that one, one of that
/// role, or one of that role at that site.
fn is_wanted(process: &str, wanted: &str) -> bool {
    let Some((kind, _)) = process.rsplit_once('-') else {
        return process == wanted;
    };
    let role = kind.rsplit_once('-').map_or(kind, |(_, role)| role);
    [process, kind, role].contains(&wanted)
}

/// Whether this is a process by its name, such as `logic-2`, and no socket for
/// others, as `agent` is for its callers.
fn is_process(name: &str) -> bool {
    let number = name.rsplit_once('-').map(|(_, number)| number);
    number.is_some_and(|number| number.parse::<u16>().is_ok())
}

/// The admin sockets below the directory that are asked for.
fn find(config: &Config, wanted: Option<&str>) -> anyhow::Result<Vec<Endpoint>> {
    let dir = config.dir().display();
    let sockets = Sockets::of(config.dir());
    let nothing = || {
        anyhow!(
            "nothing runs on {dir}: start it with `waystation up --dir {dir}`, or name another --dir"
        )
    };
    let entries = match fs::read_dir(sockets.run()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(nothing()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot list {}", sockets.run().display()));
        }
    };
    let mut roles: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let name = name.strip_suffix(".sock")?;
            is_process(name).then(|| name.to_owned())
        })
        .take(CTX_ROLES_MAX + 1)
        .collect();
    roles.sort();
    match roles.len() {
        0 => return Err(nothing()),
        found if found > CTX_ROLES_MAX => {
            return Err(anyhow!(
                "more than {CTX_ROLES_MAX} sockets in {}",
                sockets.run().display()
            ));
        }
        _ => {}
    }
    let all = roles.join(", ");
    if let Some(wanted) = wanted {
        roles.retain(|role| is_wanted(role, wanted));
    }
    if roles.is_empty() {
        let wanted = wanted.unwrap_or_default();
        return Err(anyhow!("no role `{wanted}` runs on {dir}; there are {all}"));
    }
    let endpoint = |role: String| Endpoint {
        socket: sockets.admin(&role),
        role,
    };
    Ok(roles.into_iter().map(endpoint).collect())
}

#[cfg(test)]
mod tests {
    use super::{is_process, is_wanted};

    /// Story: the agent's socket for callers stands beside those of roles, and was
    /// asked for contexts.
    #[test]
    fn the_socket_for_callers_is_no_process() {
        assert!(is_process("agent-1") && is_process("b-logic-2"));
        assert!(!is_process("agent") && !is_process("sync-site-b"));
    }

    #[test]
    fn processes_are_named_by_role_by_site_or_alone() {
        for wanted in ["b-logic-2", "b-logic", "logic"] {
            assert!(is_wanted("b-logic-2", wanted), "{wanted}");
        }
        assert!(is_wanted("logic-2", "logic") && is_wanted("logic-2", "logic-2"));
        for wanted in ["logic-2", "a-logic", "b", "2", "entry"] {
            assert!(!is_wanted("b-logic-2", wanted), "{wanted}");
        }
    }
}
