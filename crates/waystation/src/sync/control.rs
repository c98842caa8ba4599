//! Where operators ask a site on this machine: `DIR/run/sync-site-NAME.control`.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use waystation_sync::control::{Answer, Control, ControlError, Question, ask as exchange, socket};

use crate::config::Config;
use crate::dir::Sockets;
use crate::failure::Failure;

fn path_of(config: &Config, site: &str) -> PathBuf {
    socket(Sockets::of(config.dir()).run(), site)
}

/// Takes the place where operators ask.
///
/// # Errors
/// A site of this name runs on the directory, or the socket cannot be made.
pub(super) fn listen(config: &Config, site: &str) -> Result<Control, Failure> {
    let sockets = Sockets::of(config.dir());
    let run = sockets.run();
    std::fs::create_dir_all(run).with_context(|| format!("cannot make {}", run.display()))?;
    Control::listen(path_of(config, site)).map_err(|error| match error {
        ControlError::Taken { .. } => {
            let dir = config.dir().display();
            let error = anyhow!("a site {site} runs on {dir}; another one needs another --dir");
            Failure::Operation(error)
        }
        error => Failure::Operation(error.into()),
    })
}

/// Asks a site that runs on this machine.
///
/// # Errors
/// It does not run, does not answer, or refuses.
pub(super) fn ask(config: &Config, site: &str, question: Question) -> Result<Answer, Failure> {
    let answer = exchange(&path_of(config, site), question);
    let dir = config.dir().display();
    let answer = answer.with_context(|| format!("no answer of a site {site} on {dir}"))?;
    match answer.error {
        Some(error) => Err(Failure::Operation(anyhow!(error))),
        None => Ok(answer),
    }
}
