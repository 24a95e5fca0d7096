//! The built-in directory: a folder with one file a key, or one file with all keys. Read when somebody comes, so that
//! what is changed there counts from the next handshake on.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE, Engine as _};
use linegate_protocol::PublicKey;
use linegate_wire::time::Now;
use zeroize::Zeroizing;

use super::answer::{AnswerError, Document, Verdict};

/// Bytes of one key's file at most.
const ENTRY_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of a file with all keys at most.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What is wrong with the directory, or with an entry.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no TOML.
    #[error("{path}:{line}: {message}", path = path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// What it says about a key is wrong.
    #[error("{path}: {source}", path = path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// What.
        source: AnswerError,
    },
}

/// The directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// A file with all keys as it was read last.
    read: Mutex<Option<(Version, Document)>>,
}

/// By which a changed file is known.
type Version = (u64, u64, i64, i64, u64);

fn version(metadata: &Metadata) -> Version {
    (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len())
}

impl Directory {
    /// A directory that is there may be read by others: that is worth a warning.
    pub(super) fn new(path: PathBuf) -> Self {
        match fs::metadata(&path) {
            Ok(metadata) if metadata.permissions().mode() & 0o007 != 0 => {
                tracing::warn!("{0}: everybody on this host can read the keys: chmod go= {0}", path.display());
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "{}: the directory of peers cannot be read yet", path.display()),
        }
        Self { path, read: Mutex::new(None) }
    }

    /// What it says about a key; nothing if the key is not in it. Waits for the file system.
    pub(super) fn look_up(&self, key: &PublicKey, now: Now) -> Result<Option<Verdict>, DirectoryError> {
        let failed = |source| DirectoryError::Read { path: self.path.clone(), source };
        let metadata = fs::metadata(&self.path).map_err(failed)?;
        let (path, entry) = if metadata.is_dir() {
            let path = self.path.join(format!("{}.toml", BASE64_URL_SAFE.encode(key.as_bytes())));
            let entry = match read(&path, ENTRY_BYTES_MAX) {
                Err(DirectoryError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
                entry => Some(entry?),
            };
            (path, entry)
        } else {
            (self.path.clone(), self.in_file(key, &metadata)?)
        };
        let verdict = entry.map(|entry| entry.verdict(Some(true), now)).transpose();
        verdict.map_err(|source| DirectoryError::Entry { path, source })
    }

    fn in_file(&self, key: &PublicKey, metadata: &Metadata) -> Result<Option<Document>, DirectoryError> {
        let mut kept = self.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let version = version(metadata);
        if kept.as_ref().is_none_or(|(read, _)| *read != version) {
            *kept = Some((version, read(&self.path, FILE_BYTES_MAX)?));
        }
        Ok(kept.as_ref().and_then(|(_, all)| all.get(&BASE64_STANDARD.encode(key.as_bytes()))))
    }
}

fn read(path: &Path, bytes_max: u64) -> Result<Document, DirectoryError> {
    let failed = |source| DirectoryError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    // A pipe would never end.
    if !metadata.is_file() {
        return Err(failed(io::Error::other("not a file")));
    }
    // All room at once: growing would leave copies of keys behind.
    let room = usize::try_from(metadata.len().min(bytes_max)).unwrap_or(0);
    let mut text = Zeroizing::new(String::with_capacity(room + 1));
    file.take(bytes_max + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > bytes_max {
        return Err(failed(io::Error::other(format!("the file is larger than {bytes_max} bytes"))));
    }
    let toml = |(line, message)| DirectoryError::Toml { path: path.to_owned(), line, message };
    Document::from_toml(&text).map_err(toml)
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
