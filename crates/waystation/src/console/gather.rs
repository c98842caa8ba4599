//! What the roles say, asked of all at once: a role that does not answer costs
//! its deadline and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::admin;

/// A role and where it answers.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// Role and number, such as `logic-2`.
    pub(crate) role: String,
    /// Its admin socket.
    pub(crate) socket: PathBuf,
}

/// What one role said.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    /// The role.
    pub(crate) role: &'a str,
    /// The body of its answer.
    pub(crate) body: Result<Bytes, admin::Error>,
}

/// Asks every endpoint for `path`. Takes `timeout` at most.
pub(crate) async fn ask_all<'a>(
    endpoints: &'a [Endpoint],
    path: &str,
    timeout: Duration,
) -> Vec<Answer<'a>> {
    join_all(endpoints.iter().map(|endpoint| async {
        let body = admin::get(&endpoint.socket, path, timeout).await;
        Answer {
            role: &endpoint.role,
            body,
        }
    }))
    .await
}

/// Merges answers that are JSON arrays of objects. Each object gets the field
/// `process`; a role that gave no such array appears as an object with `process`
/// and `error`.
pub(crate) fn merge_arrays(answers: &[Answer<'_>]) -> Vec<Value> {
    let mut merged = Vec::new();
    for Answer { role, body } in answers {
        let objects = match body {
            Ok(body) => serde_json::from_slice::<Vec<serde_json::Map<String, Value>>>(body)
                .map_err(|error| format!("not an array of objects: {error}")),
            Err(error) => Err(error.to_string()),
        };
        match objects {
            Ok(objects) => merged.extend(objects.into_iter().map(|mut object| {
                object.insert("process".to_owned(), (*role).into());
                Value::Object(object)
            })),
            Err(error) => merged.push(json!({ "process": role, "error": error })),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_without_an_answer_is_an_entry_and_hides_no_other() {
        let answers = [
            Answer {
                role: "das-1",
                body: Err(admin::Error::NotListening),
            },
            Answer {
                role: "logic-1",
                body: Ok(Bytes::from_static(br#"[{"sid":"7"}]"#)),
            },
            Answer {
                role: "logic-2",
                body: Ok(Bytes::from_static(b"[1]")),
            },
            Answer {
                role: "entry-1",
                body: Ok(Bytes::from_static(b"[]")),
            },
        ];
        let merged = merge_arrays(&answers);
        assert_eq!(merged.len(), 3);
        assert_eq!(
            merged[0],
            json!({"process": "das-1", "error": "nobody listens on its socket"})
        );
        assert_eq!(merged[1], json!({"process": "logic-1", "sid": "7"}));
        assert_eq!(merged[2]["process"], "logic-2");
        assert!(
            merged[2]["error"]
                .as_str()
                .unwrap()
                .starts_with("not an array of objects")
        );
    }
}
