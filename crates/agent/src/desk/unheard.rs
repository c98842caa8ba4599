//! Services that nobody offers, and those that nothing was heard of yet.

use waystation_base::ServiceName;
use waystation_client::protocol::Code;

use super::Desk;

impl Desk {
    /// Why there is nothing about a service, which its caller calls `name`. Who had
    /// hosts of it goes on with those until something is heard of it: nothing is no
    /// word of its source that they are gone.
    pub(super) fn unknown(&self, service: &ServiceName, name: &str) -> (Code, String) {
        let is_heard = match &self.whole {
            // What it has shown and is not taken in yet is heard in a moment.
            Some(whole) => whole.is_complete() && whole.view(service.as_str()).is_none(),
            None => self.views.contains_key(service),
        };
        if is_heard {
            let text = format!("nobody offers {name}, as far as known yet");
            return (Code::NoSuchService, text);
        }
        (Code::NotYet, format!("nothing is heard of {name} yet"))
    }

    /// Whether what is refused so was asked for just now at a source that is asked
    /// for each service, so that its answer may be due in a moment.
    pub(super) fn is_early(&self, code: Code) -> bool {
        self.whole.is_none() && code == Code::NotYet
    }
}
