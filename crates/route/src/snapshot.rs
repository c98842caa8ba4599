//! Copies on disk of what the store and the registry had, for a start without
//! them: a JSON object a line. They are worth nothing once the originals answer.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use waystation_membership::View;
use waystation_registry::{replace_file, view_from_json, view_to_json};

use crate::row::{RawRow, Route};

/// Routes of a copy; none where there is none. Lines that make no sense are left
/// out. Blocks.
pub(crate) fn read_routes(path: &Path) -> Vec<Route> {
    lines(path, |line| {
        let raw: RawRow = serde_json::from_str(line).ok()?;
        raw.route().ok()
    })
}

/// Puts a copy in place of the one before. Blocks.
pub(crate) fn write_routes<'a>(
    path: &Path,
    routes: impl Iterator<Item = &'a Route>,
) -> io::Result<()> {
    replace_file(path, |out| {
        for route in routes {
            serde_json::to_writer(&mut *out, &RawRow::of(route))?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })
}

/// Views of a copy; none where there is none. Blocks.
pub(crate) fn read_views(path: &Path) -> Vec<View> {
    lines(path, |line| view_from_json(line).ok())
}

/// Puts a copy in place of the one before. Blocks.
pub(crate) fn write_views<'a>(
    path: &Path,
    views: impl Iterator<Item = &'a View>,
) -> io::Result<()> {
    replace_file(path, |out| {
        for view in views {
            writeln!(out, "{}", view_to_json(view))?;
        }
        Ok(())
    })
}

fn lines<T>(path: &Path, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
    let Ok(file) = File::open(path) else {
        return Vec::new();
    };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    lines.filter_map(|line| read(&line)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_copy_that_was_cut_gives_what_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.jsonl");
        assert_eq!(read_routes(&path), []);
        let route = |port: u16| {
            let address = format!("10.0.0.1:{port}").parse().unwrap();
            Route::new("pay".parse().unwrap(), address)
        };
        let routes = [route(1), route(2)];
        write_routes(&path, routes.iter()).unwrap();
        assert_eq!(read_routes(&path), routes);
        let bytes = fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let read = read_routes(&path);
            assert!(routes.starts_with(&read), "cut at {length}: {read:?}");
        }
        fs::write(&path, [0xff, 0xfe, b'\n']).unwrap();
        assert_eq!(read_routes(&path), []);
    }
}
