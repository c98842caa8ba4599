//! What is counted: calls to a host of a service, by a caller.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;
use std::sync::Arc;

use waystation_base::ServiceName;
use waystation_wire::calls::NAME_LEN_MAX;

/// A key in Lars' numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LarsKey {
    /// The service's module.
    pub modid: i32,
    /// The service's command.
    pub cmdid: i32,
    /// The host's IPv4 address in host order.
    pub ip: i32,
    /// The host's port.
    pub port: i32,
    /// The IPv4 address of the machine that called.
    pub caller: i32,
}

/// A key, as it was told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyName {
    /// By Lars' protocol.
    Lars(LarsKey),
    /// Natively.
    Named {
        /// The service.
        service: Arc<str>,
        /// The host's address.
        host: Arc<str>,
        /// The machine that called.
        caller: Arc<str>,
    },
}

impl KeyName {
    /// A native key.
    ///
    /// # Errors
    /// [`BadName`]: a part of it is no name.
    pub fn named(service: &str, host: &str, caller: &str) -> Result<Self, BadName> {
        // A service's name has no `/`, so that it is never taken for Lars'.
        ServiceName::new(service).map_err(|_| BadName)?;
        let is_name = |text: &str| {
            !text.is_empty()
                && text.len() <= NAME_LEN_MAX
                && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !is_name(host) || !is_name(caller) {
            return Err(BadName);
        }
        Ok(Self::Named {
            service: service.into(),
            host: host.into(),
            caller: caller.into(),
        })
    }

    /// The key of these texts, as [`KeyName::texts`] made them.
    ///
    /// # Errors
    /// [`BadName`].
    pub fn of_texts(service: &str, host: &str, caller: &str) -> Result<Self, BadName> {
        let Some((modid, cmdid)) = service.split_once('/') else {
            return Self::named(service, host, caller);
        };
        let parsed = || {
            let (ip, port) = host.rsplit_once(':')?;
            let ip: Ipv4Addr = ip.parse().ok()?;
            let caller: Ipv4Addr = caller.parse().ok()?;
            Some(LarsKey {
                modid: modid.parse().ok()?,
                cmdid: cmdid.parse().ok()?,
                ip: ip.to_bits().cast_signed(),
                port: port.parse().ok()?,
                caller: caller.to_bits().cast_signed(),
            })
        };
        parsed().map(Self::Lars).ok_or(BadName)
    }

    /// Service, host and caller as texts: for Lars `MODID/CMDID`, `IP:PORT` and
    /// the caller's address.
    pub fn texts(&self) -> [String; 3] {
        match self {
            Self::Lars(key) => [
                format!("{}/{}", key.modid, key.cmdid),
                format!("{}:{}", ipv4(key.ip), key.port),
                ipv4(key.caller).to_string(),
            ],
            Self::Named {
                service,
                host,
                caller,
            } => [service, host, caller].map(|text| text.as_ref().to_owned()),
        }
    }

    /// Whether it is of this service, `MODID/CMDID` for Lars.
    pub fn is_of(&self, wanted: &str) -> bool {
        match self {
            Self::Lars(key) => wanted.split_once('/').is_some_and(|(modid, cmdid)| {
                modid.parse() == Ok(key.modid) && cmdid.parse() == Ok(key.cmdid)
            }),
            Self::Named { service, .. } => service.as_ref() == wanted,
        }
    }
}

impl From<LarsKey> for KeyName {
    fn from(key: LarsKey) -> Self {
        Self::Lars(key)
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [service, host, caller] = self.texts();
        write!(f, "{service} at {host} by {caller}")
    }
}

/// A part of a key is no name: empty, too long, or with characters that a name
/// has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadName;

fn ipv4(bits: i32) -> Ipv4Addr {
    Ipv4Addr::from_bits(bits.cast_unsigned())
}

/// Writes what a native key is found by.
pub(crate) fn find_by(out: &mut String, service: &str, host: &str, caller: &str) {
    out.clear();
    // Writing to a string does not fail, and no name has a line's end.
    let _ = write!(out, "{service}\n{host}\n{caller}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_again_by_their_texts() {
        let lars = KeyName::Lars(LarsKey {
            modid: -1,
            cmdid: i32::MAX,
            ip: Ipv4Addr::new(200, 1, 2, 3).to_bits().cast_signed(),
            port: -5,
            caller: 0,
        });
        let named = KeyName::named("im.logic", "[::1]:7000", "m1").unwrap();
        for key in [lars, named] {
            let [service, host, caller] = key.texts();
            assert_eq!(KeyName::of_texts(&service, &host, &caller), Ok(key.clone()));
            assert!(key.is_of(&service) && !key.is_of("other"));
        }
    }

    /// A native service called `1/2` would be counted as one of Lars.
    #[test]
    fn what_is_no_name_is_refused() {
        for (service, host, caller) in [
            ("1/2", "h", "c"),
            ("a", "", "c"),
            ("a", "h", "c\nd"),
            ("a", "h h", "c"),
            ("", "h", "c"),
        ] {
            assert_eq!(KeyName::named(service, host, caller), Err(BadName));
        }
        assert_eq!(
            KeyName::of_texts("1/x", "1.2.3.4:5", "1.1.1.1"),
            Err(BadName)
        );
        assert_eq!(KeyName::of_texts("1/1", "1.2.3.4", "1.1.1.1"), Err(BadName));
    }
}
