//! What a client hands out: registrations, watches, questions.

mod question;
mod registered;
mod watching;

pub use question::{Draining, Listing};
pub(crate) use question::{Question, QuestionKind};
pub use registered::{Registered, RegistrationStatus};
pub(crate) use registered::{RegistrationSlot, RegistrationWish};
pub use watching::Watching;
pub(crate) use watching::{Shown, WatchSlot};
