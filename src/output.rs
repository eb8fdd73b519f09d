//! Output files that are there whole or not at all.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// Read while a temporary file is there, written by who ends the process.
static UNFINISHED: RwLock<()> = RwLock::new(());

/// Why an output file could not be written; nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be written: {source}", path.display())]
pub struct OutputError {
    /// The file that was to be written.
    pub path: PathBuf,
    /// What the operating system says.
    pub source: io::Error,
}

impl OutputError {
    /// Whether the disk, or the user's share of it, is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }
}

/// Writes a file through `write`, which gets a buffered writer.
///
/// The bytes go to a temporary file in the same folder, which takes the name `path` once
/// they are all on disk. When anything fails, the temporary file is removed and a file
/// that stood at `path` before is as it was. Devices and pipes are written directly.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), OutputError> {
    let attempt = || {
        let existing = std::fs::metadata(path).ok();
        if existing.is_some_and(|m| !m.is_file() && !m.is_dir()) {
            let file = std::fs::OpenOptions::new().write(true).open(path)?;
            return write_all(&file, write);
        }
        let _unfinished = UNFINISHED.read().unwrap_or_else(PoisonError::into_inner);
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".gavel-").suffix(".part");
        // What a plain creation would give, less the umask; the default is the owner's alone.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary = builder.tempfile_in(folder)?;
        write_all(temporary.as_file(), write)?;
        // Some file systems report a full disk only here.
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    attempt().map_err(|source| OutputError {
        path: path.to_owned(),
        source,
    })
}

/// Ends the process at once, but not in the middle of [`write_atomically`], which would leave its
/// temporary file: from a thread of its own, such as that of a signal's handler.
pub fn exit(code: i32) -> ! {
    let _finished = UNFINISHED.write().unwrap_or_else(PoisonError::into_inner);
    std::process::exit(code)
}

fn write_all(
    file: &std::fs::File,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffered = BufWriter::with_capacity(1 << 20, file);
    let result = write(&mut buffered).and_then(|()| buffered.flush());
    // Dropping the writer would try once more to write what could not be written.
    let _ = buffered.into_parts();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_written_file_is_whole_and_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        for text in ["first", "second, and longer"] {
            write_atomically(&path, |w| w.write_all(text.as_bytes())).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn a_disk_that_fills_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let fail = |w: &mut dyn Write| {
            w.write_all(&vec![7; 3 << 20])?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        };
        let error = write_atomically(&path, fail).unwrap_err();
        assert!(error.is_disk_full(), "{error}");
        assert!(
            error.to_string().contains("out: cannot be written"),
            "{error}"
        );
        assert!(names(folder.path()).is_empty());

        std::fs::write(&path, "before").unwrap();
        write_atomically(&path, fail).unwrap_err();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_device_is_reported_and_stays_a_device() {
        for bytes in [10, 5 << 20] {
            let error = write_atomically(Path::new("/dev/full"), |w| w.write_all(&vec![1; bytes]))
                .unwrap_err();
            assert!(error.is_disk_full(), "{error}");
        }
        assert!(!std::fs::metadata("/dev/full").unwrap().is_file());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none").join("out");
        let error = write_atomically(&path, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
        assert!(!error.is_disk_full());
        // a directory in the place of the file
        let error = write_atomically(folder.path(), |_| Ok(())).unwrap_err();
        assert!(!error.is_disk_full(), "{error}");
    }
}
