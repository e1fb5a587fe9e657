//! Where a project is written, all of it or nothing.
//!
//! The files are written into a folder beside the place, which then gets the place's name in one step: whoever finds
//! the project finds it whole, and an interruption leaves at most a folder that nobody takes for one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use host_config::WorkerName;

/// Where a project is going to be.
#[derive(Debug)]
pub(super) struct Place {
    /// The folder, absolute.
    folder: PathBuf,
    /// The folder that it lies in.
    parent: PathBuf,
    name: WorkerName,
}

/// Why a project cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    /// The path names no folder that could be made.
    #[error("{} names no new folder: give the project's name, or a path that ends with it", .0.display())]
    NoName(PathBuf),
    /// The folder's name cannot be a worker's.
    #[error(
        "{name:?} cannot be the name of a worker, which is part of a host name: use up to 63 lower-case letters, digits \
         and inner hyphens"
    )]
    Name {
        /// The last part of the path.
        name: String,
    },
    /// There is something.
    #[error("{} exists and is not an empty folder: choose another name", .0.display())]
    Taken(PathBuf),
    /// The folder to make it in is not there.
    #[error("there is no folder {}", .0.display())]
    NoParent(PathBuf),
    /// A file or folder cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PlaceError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl Place {
    /// Checks a path whose last part is the project's name.
    pub(super) fn new(path: &Path) -> Result<Self, PlaceError> {
        let no_name = || PlaceError::NoName(path.to_owned());
        let last = path.file_name().ok_or_else(no_name)?;
        let name = last.to_str().and_then(|name| WorkerName::new(name).ok());
        let name = name.ok_or_else(|| PlaceError::Name { name: last.to_string_lossy().into_owned() })?;
        let folder = std::path::absolute(path).map_err(PlaceError::io(path))?;
        let parent = folder.parent().ok_or_else(no_name)?.to_owned();
        if !parent.is_dir() {
            return Err(PlaceError::NoParent(parent));
        }
        if !is_free(&folder) {
            return Err(PlaceError::Taken(path.to_owned()));
        }
        Ok(Self { folder, parent, name })
    }

    /// The project's name.
    pub(super) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Writes a project's files, whose paths have parts separated by `/`.
    pub(super) fn write(&self, files: &[(String, String)]) -> Result<(), PlaceError> {
        let staging = tempfile::Builder::new().prefix(".host-new-").tempdir_in(&self.parent);
        let staging = staging.map_err(PlaceError::io(&self.folder))?;
        // The temporary folder itself is nobody's but the user's; the project is as readable as other new folders.
        let project = staging.path().join(self.name());
        for (path, text) in files {
            let path = project.join(path);
            fs::create_dir_all(path.parent().unwrap_or(&project)).map_err(PlaceError::io(&path))?;
            fs::write(&path, text).map_err(PlaceError::io(&path))?;
        }
        fs::rename(&project, &self.folder).map_err(|error| match is_free(&self.folder) {
            true => PlaceError::io(&self.folder)(error),
            false => PlaceError::Taken(self.folder.clone()),
        })
    }
}

/// Whether nothing is there, or a folder without anything in it, which the project then takes the place of.
fn is_free(folder: &Path) -> bool {
    match folder.symlink_metadata() {
        Ok(metadata) => metadata.is_dir() && fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Vec<(String, String)> {
        vec![("src/a.ts".to_owned(), "text".to_owned())]
    }

    /// What lies in a folder, hidden files too.
    fn entries(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut entries: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        entries.sort();
        entries
    }

    #[test]
    fn a_project_takes_a_free_or_empty_place() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("empty")).unwrap();
        for name in ["free", "empty"] {
            let place = Place::new(&parent.path().join(name)).unwrap();
            assert_eq!(place.name(), name);
            place.write(&files()).unwrap();
            assert_eq!(fs::read_to_string(parent.path().join(name).join("src/a.ts")).unwrap(), "text");
        }
        assert_eq!(entries(parent.path()), ["empty", "free"]);
    }

    #[test]
    fn what_is_there_stays() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("full")).unwrap();
        fs::write(parent.path().join("full/mine"), "mine").unwrap();
        fs::write(parent.path().join("file"), "mine").unwrap();
        for name in ["full", "file"] {
            assert!(matches!(Place::new(&parent.path().join(name)), Err(PlaceError::Taken(_))), "{name}");
        }
        // Something appears between the look and the step.
        let place = Place::new(&parent.path().join("late")).unwrap();
        fs::create_dir(parent.path().join("late")).unwrap();
        fs::write(parent.path().join("late/mine"), "mine").unwrap();
        assert!(matches!(place.write(&files()), Err(PlaceError::Taken(_))));
        assert_eq!(entries(&parent.path().join("late")), ["mine"]);
        assert_eq!(entries(parent.path()), ["file", "full", "late"]);
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let place = Place::new(&parent.path().join("demo")).unwrap();
        let clash = [("a".to_owned(), String::new()), ("a/b".to_owned(), String::new())];
        assert!(matches!(place.write(&clash), Err(PlaceError::Io { .. })));
        assert_eq!(entries(parent.path()), [""; 0]);
    }

    #[test]
    fn names_are_those_of_workers() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["Demo", "a_b", "-a", "a b", "ü", "{{name}}", &"a".repeat(64)] {
            let refused = Place::new(&parent.path().join(name));
            assert!(matches!(refused, Err(PlaceError::Name { .. })), "{name}: {refused:?}");
        }
        for path in ["", ".", "..", "/", "a/.."] {
            assert!(matches!(Place::new(Path::new(path)), Err(PlaceError::NoName(_))), "{path}");
        }
        assert!(matches!(Place::new(&parent.path().join("no/demo")), Err(PlaceError::NoParent(_))));
    }
}
