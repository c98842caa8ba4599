//! The registries of `up`: one of its own, others, or both.

use std::str::FromStr;

use waystation_registry::{RegistryUrl, UrlError};

use super::field::OWN_REGISTRY;

/// The registries by which the roles of `up` find each other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UpRegistries {
    /// Whether `up` runs one itself.
    pub(crate) own: bool,
    /// The others.
    pub(crate) others: Vec<RegistryUrl>,
}

impl FromStr for UpRegistries {
    type Err = UrlError;

    /// Reads [`OWN_REGISTRY`], URLs, or it before or behind URLs.
    fn from_str(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let is_apart = |rest: &&str| rest.is_empty() || rest.starts_with(' ');
        let before = text.strip_prefix(OWN_REGISTRY).filter(is_apart);
        let is_apart = |rest: &&str| rest.ends_with(' ');
        let behind = text.strip_suffix(OWN_REGISTRY).filter(is_apart);
        let (own, others) = match before.or(behind) {
            Some(others) => (true, others.trim()),
            None => (false, text),
        };
        let others = if own && others.is_empty() {
            Vec::new()
        } else {
            RegistryUrl::list(others)?
        };
        Ok(Self { own, others })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_its_own_stands_beside_others() {
        let read = |text: &str| {
            let read: UpRegistries = text.parse().ok()?;
            Some((read.own, read.others.len()))
        };
        assert_eq!(read("embedded"), Some((true, 0)));
        assert_eq!(read("embedded etcd://a:1"), Some((true, 1)));
        assert_eq!(read("etcd://a:1 embedded"), Some((true, 1)));
        assert_eq!(read("embedded://a:1 etcd://a:1"), Some((false, 2)));
        for wrong in ["", "embeddedetcd://a:1", "embedded embedded", "x embedded"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
