//! Chromium without a window, and its tabs.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use waystation_test_process::Watchdog;

use super::devtools::Devtools;

/// Time for the browser to start on a busy machine.
const START: Duration = Duration::from_mins(1);

/// Time for the browser and its helper processes to end.
const END: Duration = Duration::from_secs(20);

/// Time for something to become true in a page, in ms.
const BECOMES_MS: u64 = 60_000;

/// It talks to nobody but our own server, asks nothing, and does not slow a
/// tab down because another one is in front.
const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--remote-debugging-port=0",
];

/// The browser's program: as `cargo xtask test` says, or where Debian has it.
/// Nothing when it is missing, which is said, and a failure with `CI=true`.
pub(crate) fn program() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).and_then(|value| value.into_string().ok());
    let components = variable("WAYSTATION_TEST_COMPONENTS").unwrap_or_default();
    let named = components
        .split(',')
        .find_map(|entry| entry.strip_prefix("chromium="));
    let program = PathBuf::from(named.unwrap_or("/usr/bin/chromium"));
    if program.is_file() {
        return Some(program);
    }
    let is_ci = variable("CI").is_some_and(|value| value == "true" || value == "1");
    assert!(!is_ci, "{} is missing", program.display());
    println!("left out: {} is missing", program.display());
    None
}

/// A running browser with a profile of its own; ends when it is dropped.
pub(crate) struct Browser {
    child: Child,
    _watchdog: Watchdog,
    lines: Receiver<String>,
    devtools: Rc<RefCell<Devtools>>,
    _profile: TempDir,
}

impl Browser {
    pub(crate) fn start(program: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            // What it leaves in the folder for temporary files goes with it.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Its helpers stay in its group, and end with it.
            .process_group(0)
            .spawn()
            .unwrap();
        let watchdog = Watchdog::over(&child);
        let lines = lines(&mut child);
        let url = devtools_url(&lines);
        Self {
            child,
            _watchdog: watchdog,
            lines,
            devtools: Rc::new(RefCell::new(Devtools::connect(&url))),
            _profile: profile,
        }
    }

    /// Opens a page in a window of its own, so that it counts as seen.
    pub(crate) fn open(&self, url: &str) -> Tab {
        let mut devtools = self.devtools.borrow_mut();
        let blank = json!({ "url": "about:blank", "newWindow": true });
        let target = devtools.call(None, "Target.createTarget", &blank);
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = devtools.call(None, "Target.attachToTarget", &attach);
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        drop(devtools);
        let tab = Tab {
            devtools: self.devtools.clone(),
            session,
        };
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            tab.call(domain, &json!({}));
        }
        let gone = tab.call("Page.navigate", &json!({ "url": url }));
        assert_eq!(gone["errorText"], Value::Null, "{url}");
        tab.until("document.readyState === 'complete'");
        tab
    }

    /// Fails when a page threw what nobody caught, or broke its own policy.
    pub(crate) fn assert_no_faults(&self) {
        let mut devtools = self.devtools.borrow_mut();
        devtools.call(None, "Browser.getVersion", &json!({}));
        assert_eq!(devtools.faults(), &[] as &[String]);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Killed at once, it leaves helpers that still write to its profile.
        // All of them hold its standard error, so its end is theirs.
        if let Ok(mut devtools) = self.devtools.try_borrow_mut() {
            devtools.close();
        }
        while self.lines.recv_timeout(END).is_ok() {}
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the browser says, line by line. Read for as long as it lives, or it
/// would stand still one day.
fn lines(child: &mut Child) -> Receiver<String> {
    let errors = BufReader::new(child.stderr.take().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in errors.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

fn devtools_url(lines: &Receiver<String>) -> String {
    let mut said = String::new();
    loop {
        let line = lines
            .recv_timeout(START)
            .unwrap_or_else(|error| panic!("no DevTools address ({error}) in:\n{said}"));
        if let Some(url) = line.strip_prefix("DevTools listening on ") {
            return url.to_owned();
        }
        let _ = writeln!(said, "{line}");
    }
}

/// One page.
pub(crate) struct Tab {
    devtools: Rc<RefCell<Devtools>>,
    session: String,
}

impl Tab {
    fn call(&self, method: &str, params: &Value) -> Value {
        let mut devtools = self.devtools.borrow_mut();
        devtools.call(Some(&self.session), method, params)
    }

    /// The value of a JavaScript expression, when it is a promise that of it.
    pub(crate) fn value(&self, expression: &str) -> Value {
        let asked =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", &asked);
        let fault = &answer["exceptionDetails"];
        assert_eq!(*fault, Value::Null, "{expression}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true in the page. What throws is not true.
    pub(crate) fn until(&self, condition: &str) {
        let became = self.value(&format!(
            "new Promise((done) => {{
               const end = performance.now() + {BECOMES_MS};
               const look = () => {{
                 let holds = false;
                 try {{ holds = Boolean({condition}); }} catch {{ }}
                 if (holds || performance.now() > end) done(holds);
                 else setTimeout(look, 20);
               }};
               look();
             }})"
        ));
        if became != true {
            let page = self.value("document.body.innerText");
            panic!("never became true: {condition}\nthe page:\n{page}");
        }
    }

    /// Lets no script of the page run until [`Self::go_on`]. Its connections
    /// stay, and what happens on them waits.
    pub(crate) fn hold(&self) {
        self.call("Debugger.enable", &json!({}));
        self.call("Debugger.pause", &json!({}));
    }

    pub(crate) fn go_on(&self) {
        self.call("Debugger.disable", &json!({}));
    }

    /// Presses the mouse on the first element that a selector finds.
    pub(crate) fn click(&self, selector: &str) {
        let center = format!(
            "(() => {{ const box = document.querySelector({selector:?}).getBoundingClientRect();
               return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        );
        let at = self.value(&center);
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", &event);
        }
    }

    /// Types into what has the focus.
    pub(crate) fn write(&self, text: &str) {
        self.call("Input.insertText", &json!({ "text": text }));
    }

    /// Presses a key that has no text but `text`.
    pub(crate) fn press(&self, key: &str, code: u32, text: &str) {
        for (kind, text) in [("keyDown", text), ("keyUp", "")] {
            let event = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text,
            });
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// Gives the page a window of this size, in the light or the dark.
    pub(crate) fn look_like(&self, width: u32, height: u32, scheme: &str) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", &media);
    }

    /// Takes a picture, for people: `NAME.png` in the tests' folder.
    pub(crate) fn take_picture(&self, name: &str) {
        let answer = self.call("Page.captureScreenshot", &json!({ "format": "png" }));
        let bytes = decode_base64(answer["data"].as_str().unwrap());
        assert!(bytes.starts_with(b"\x89PNG\r\n"), "{name} is no picture");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }
}

/// RFC 4648, section 4, of a sender that is trusted.
fn decode_base64(text: &str) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, letter| bits << 6 | u32::from(value(*letter)));
        let bits = bits << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}
