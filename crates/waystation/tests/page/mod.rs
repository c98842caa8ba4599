//! What the test of the chat page drives: a chat, a browser, its tabs.

mod browser;
mod devtools;
mod system;

pub(crate) use browser::{Browser, Tab, program};
pub(crate) use system::System;
