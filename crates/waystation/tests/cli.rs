//! The command line: what is accepted, what is refused and with which code.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use common::{run, stderr, stdout};

#[test]
fn faults_of_usage_end_with_2_and_say_how_it_goes() {
    let chat = ["im", "chat", "--user", "ada", "--json"];
    let calls: [(&[&str], &str); 14] = [
        (&[], "Usage: waystation"),
        (&["upp"], "'up'"),
        (&["up", "--dri", "x"], "unexpected argument '--dri'"),
        (&["up", "--for", "soon"], "--for <SECONDS>"),
        (&["up", "--console", "localhost"], "--console <ADDR>"),
        (
            &["--log", "loud", "up"],
            "possible values: off, error, warn, info, debug, trace",
        ),
        (&["im", "logic", "--peers", "x"], "--peers <ADDR>"),
        (&["up", "--registry", "ftp://x"], "--registry: `ftp://x`"),
        (&["im", "load", "--clients", "1"], "--clients <N>"),
        (&chat, "--json: `im chat` prints for people"),
        // A store in a folder that is not there was made there, and stayed.
        (
            &["route", "serve", "--store", "sqlite:///nonexistent/x.db"],
            "route.store: there is no folder /nonexistent",
        ),
        (
            &["report", "serve", "--store", "sqlite:///nonexistent/x.db"],
            "report.store: there is no folder /nonexistent",
        ),
        (
            &["host", "get", "a~b"],
            "'a~b' for '<SERVICE>': neither a service nor MODID/CMDID: '~' at byte 1",
        ),
        (&["host", "rate", "1/x"], "neither a service nor"),
    ];
    for (args, part) in calls {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            stderr(&output).contains(part),
            "{args:?}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[test]
fn help_goes_to_standard_output_with_examples() {
    for args in [
        &["--help"][..],
        &["up", "--help"],
        &["ctx", "--help"],
        &["im", "load", "--help"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0));
        assert!(
            stdout(&output).contains("Examples:\n  waystation "),
            "{args:?}"
        );
    }
}

#[test]
fn a_completion_script_knows_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("no-demo"), "{shell}");
    }
}

#[test]
fn ctx_says_when_nothing_runs() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let output = run(&["ctx", "--dir", dir]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with(&format!("error: nothing runs on {dir}:")));
    std::fs::create_dir(folder.path().join("run")).unwrap();
    assert_eq!(run(&["ctx", "--dir", dir]).status.code(), Some(1));
}

#[test]
fn ctx_names_a_role_that_left_its_socket_behind() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    std::fs::create_dir(&run_dir).unwrap();
    drop(std::os::unix::net::UnixListener::bind(run_dir.join("logic-1.sock")).unwrap());
    let dir = folder.path().to_str().unwrap();
    let output = run(&["ctx", "logic", "--dir", dir]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "error: logic-1: nobody listens on its socket\n"
    );
    let output = run(&["ctx", "das", "--dir", dir]);
    assert_eq!(
        stderr(&output),
        format!("error: no role `das` runs on {dir}; there are logic-1\n")
    );
}
