//! The last known good view of a service on disk: for a start without the
//! registry.

use std::io;
use std::path::{Path, PathBuf};

use waystation_base::{Epoch, ServiceName};
use waystation_membership::{View, ViewVersion};
use waystation_registry::{instance_from_json, instance_to_json};

/// Longest file that is read; a longer one counts as none.
const BYTES_MAX: u64 = 64 << 20;

/// A view in a file: its version on the first line, then an instance a line, in
/// the form of static lists.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    path: PathBuf,
    service: ServiceName,
}

impl Kept {
    /// The view of `service` that the process `name` keeps below `dir`.
    pub(crate) fn new(dir: &Path, name: &str, service: ServiceName) -> Self {
        Self {
            path: dir.join("views").join(format!("{name}.{service}")),
            service,
        }
    }

    /// The service.
    pub(crate) fn service(&self) -> &ServiceName {
        &self.service
    }

    /// What was kept. A file that is missing or damaged is none: the registry
    /// has the truth.
    pub(crate) fn load(&self) -> Option<View> {
        let file = std::fs::metadata(&self.path).ok()?;
        if file.len() > BYTES_MAX {
            return None;
        }
        let text = std::fs::read_to_string(&self.path).ok()?;
        let view = self.parse(&text);
        if view.is_none() {
            tracing::warn!(path = %self.path.display(), "a kept view is damaged; going without");
        }
        view
    }

    fn parse(&self, text: &str) -> Option<View> {
        let mut lines = text.lines();
        let (epoch, number) = lines.next()?.split_once(' ')?;
        let at = ViewVersion {
            epoch: Epoch(epoch.parse().ok()?),
            number: number.parse().ok()?,
        };
        let mut view = View::empty(self.service.clone(), at);
        for line in lines {
            let instance = instance_from_json(line).ok()?;
            if instance.service != self.service {
                return None;
            }
            view.instances.insert(instance.id.clone(), instance.into());
        }
        Some(view)
    }

    /// Keeps a view instead of the one before. Blocks while it writes.
    pub(crate) fn store(&self, view: &View) {
        if let Err(error) = self.write(view) {
            tracing::warn!(path = %self.path.display(), %error, "cannot keep a view");
        }
    }

    fn write(&self, view: &View) -> io::Result<()> {
        let mut text = format!("{} {}\n", view.at.epoch.0, view.at.number);
        for instance in view.instances.values() {
            text.push_str(&instance_to_json(instance));
            text.push('\n');
        }
        let folder = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        std::fs::create_dir_all(folder)?;
        let mut draft = self.path.clone().into_os_string();
        draft.push(".draft");
        std::fs::write(&draft, text)?;
        std::fs::rename(&draft, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_membership::{Instance, InstanceId, Owner};

    #[test]
    fn a_view_is_kept_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let service = ServiceName::new("im.logic").unwrap();
        let kept = Kept::new(folder.path(), "entry-1", service.clone());
        assert_eq!(kept.load(), None);
        let at = ViewVersion {
            epoch: Epoch(3),
            number: 14,
        };
        let mut view = View::empty(service.clone(), at);
        let id = InstanceId::new("logic-1").unwrap();
        let address = "unix:/run/logic-1.rpc".parse().unwrap();
        let instance = Instance::new(id.clone(), service, address, Owner::default());
        view.instances.insert(id, instance.into());
        kept.store(&view);
        assert_eq!(kept.load(), Some(view));
        let whole = std::fs::read(&kept.path).unwrap();
        std::fs::write(&kept.path, &whole[..whole.len() - 5]).unwrap();
        assert_eq!(kept.load(), None);
    }
}
