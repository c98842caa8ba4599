//! What the test of the chat page drives: a browser and its tabs.

mod browser;
mod devtools;

pub(crate) use browser::{Browser, Tab, program};
