//! Picks that have no end yet, by the numbers that C programs hold.

use waystation_client::PickedHost;

/// Picks without an end at a time. The oldest is forgotten for one more: its call
/// stays in flight in the agent's eyes until the process ends.
pub(crate) const OPEN_MAX: usize = 65_536;

/// A ring of picks: a number names a place and how often it was used.
#[derive(Debug, Default)]
pub(crate) struct Picks {
    open: Vec<Option<PickedHost>>,
    next: u64,
}

impl Picks {
    /// Keeps a pick and names it; 0 is no name.
    pub(crate) fn keep(&mut self, picked: PickedHost) -> u64 {
        let number = self.next;
        self.next += 1;
        let place = Self::place(number);
        if place >= self.open.len() {
            self.open.push(Some(picked));
        } else {
            self.open[place] = Some(picked);
        }
        number + 1
    }

    /// The pick of this name, once.
    pub(crate) fn take(&mut self, name: u64) -> Option<PickedHost> {
        let number = name.checked_sub(1)?;
        let age = self.next.checked_sub(number)?;
        if age == 0 || age > OPEN_MAX as u64 {
            return None;
        }
        self.open.get_mut(Self::place(number))?.take()
    }

    #[expect(clippy::cast_possible_truncation, reason = "below the bound")]
    const fn place(number: u64) -> usize {
        (number % OPEN_MAX as u64) as usize
    }
}
