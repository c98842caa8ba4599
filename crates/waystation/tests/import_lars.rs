//! `config import-lars`: files as Lars ships them, and files with faults.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use common::{run, stderr, stdout};

fn imported(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    let output = run(&["config", "import-lars", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let ours = stdout(&output);
    // What is printed is a configuration.
    let written = folder.path().join("waystation.toml");
    std::fs::write(&written, &ours).unwrap();
    let output = run(&["--config", written.to_str().unwrap(), "config", "check"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    (folder, ours)
}

const AGENT: &str = "\
[reporter]
ip = 127.0.0.1
port = 7779

[dnsserver]
ip = 10.0.0.7
port = 7778

[loadbalance]

;how often an overloaded host is tried
probe_num=10
init_succ_cnt=180
init_err_cnt=5
err_rate=0.1
succ_rate=0.95
contin_err_limit=15
contin_succ_limit=15
window_err_rate=0.7
idle_timeout=15
overload_timeout=20
";

#[test]
fn the_file_of_an_agent_becomes_ours() {
    let (_folder, ours) = imported("lars_lb_agent.conf", AGENT);
    assert_eq!(
        ours,
        "\
[agent]
route = \"10.0.0.7:7778\"
report = \"127.0.0.1:7779\"

[lars]
probe_num = 10
init_succ_cnt = 180
init_err_cnt = 5
err_rate = 0.1
succ_rate = 0.95
contin_err_limit = 15
contin_succ_limit = 15
window_err_rate = 0.7
idle_timeout_s = 15
overload_timeout_s = 20
"
    );
}

#[test]
fn the_files_of_dns_and_reporter_become_ours() {
    let dns = "[reactor]\nmaxConn = 1024\nthreadNum = 5\nip = 127.0.0.1\nport = 7778\n\n\
        [mysql]\ndb_host = 127.0.0.1\ndb_port = 3306\ndb_user = root\ndb_passwd = secret\n\
        db_name = lars_dns\n";
    let (_folder, ours) = imported("lars_dns.conf", dns);
    assert_eq!(
        ours,
        "[route]\nlisten = \"127.0.0.1:7778\"\nshards = 5\nconnections_max = 1024\n\
         store = \"mysql://root:secret@127.0.0.1:3306/lars_dns\"\n"
    );
    let reporter = dns.replace("7778", "7779") + "\n[repoter]\ndb_thread_cnt = 3\n";
    let (folder, ours) = imported("lars_reporter.conf", &reporter);
    let path = folder.path().join("lars_reporter.conf");
    let left_out = "`db_thread_cnt` of [repoter] means nothing here; it is left out";
    assert_eq!(
        ours,
        format!("# {}:15:1: {left_out}\n\n", path.display())
            + "[report]\nlisten = \"127.0.0.1:7779\"\nshards = 5\nconnections_max = 1024\n\
               store = \"mysql://root:secret@127.0.0.1:3306/lars_dns\"\n"
    );
}

/// A setting that was left out in silence was believed to hold.
#[test]
fn what_means_nothing_here_is_named() {
    let (folder, ours) = imported(
        "x.conf",
        "[reactor]\nthreadNum = 2\nfasterNum = 3\n[web]\na=b\n",
    );
    let path = folder.path().join("x.conf");
    let path = path.display();
    assert_eq!(
        ours,
        format!(
            "# {path}:3:1: `fasterNum` of [reactor] means nothing here; it is left out\n\
             # {path}:5:1: `a` of [web] means nothing here; it is left out\n\n\
             [route]\nshards = 2\n"
        )
    );
    let file = path.to_string();
    let output = run(&["config", "import-lars", &file, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["settings"]["route"]["shards"], 2);
    assert_eq!(json["unknown"].as_array().unwrap().len(), 2);
}

#[test]
fn all_faults_are_listed_with_their_lines() {
    let text = "threadNum = 1\n[reactor\n[reactor]\nthreadNum = many\nmaxConn = 0\nip = localhost\n\
        port = 70000\nnonsense\nmaxConn = 7\n[mysql]\ndb_user = root\n[empty]\nkey =\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("faulty.conf");
    std::fs::write(&file, text).unwrap();
    let output = run(&["config", "import-lars", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output), "");
    let said = stderr(&output);
    let place = format!("{}:", file.display());
    let said: Vec<&str> = said
        .lines()
        .map(|line| line.strip_prefix(&place).unwrap_or(line))
        .collect();
    assert_eq!(
        said,
        [
            "1:1: `threadNum` is in no section",
            "2:1: `[reactor` is not a section's head",
            "4:1: threadNum: expected a whole number of threads, found a string",
            "5:1: maxConn: 0 is out of range: 1 to 1000000 connections",
            "6:1: ip: `localhost` is not an IPv4 address",
            "8:1: `nonsense` is neither a section nor a setting",
            "9:1: `maxConn` of [reactor] is set in line 5 already",
            "11:1: [mysql] needs `db_host` and `db_name`",
            "13:1: `key` has no value",
            "9 faults in the configuration"
        ]
    );
    let none = run(&["config", "import-lars", "/nowhere/x.conf"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("cannot be read"));
}
