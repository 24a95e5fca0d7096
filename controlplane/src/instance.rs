//! One daemon an interface: the lock, and UNIX sockets under `/run` that vanish with their owner.
//!
//! The lock is a socket in the abstract namespace, which belongs to the network namespace as the interface does, and
//! which no crash can leave behind.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why this daemon may not serve the interface.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Interface names are 1 to 15 bytes without `/` and spaces.
    #[error("{0:?} is not an interface name: 1 to 15 characters, no slash, no space")]
    BadName(String),
    /// Another process has it.
    #[error("another linegate already serves {0}: stop it first, or choose another interface name")]
    Running(String),
    /// A socket or its folder could not be made.
    #[error("making {path}: {source}")]
    Socket {
        /// The file.
        path: PathBuf,
        /// What the system call said.
        #[source]
        source: io::Error,
    },
}

/// Held while this process serves the interface.
#[derive(Debug)]
pub struct InstanceLock {
    _socket: UnixListener,
}

impl InstanceLock {
    /// Takes the interface, or says who has it.
    ///
    /// # Errors
    /// [`InstanceError::BadName`], [`InstanceError::Running`].
    pub fn take(interface: &str) -> Result<Self, InstanceError> {
        check_name(interface)?;
        let path = PathBuf::from(format!("@linegate/{interface}"));
        let bind = SocketAddr::from_abstract_name(format!("linegate/{interface}"))
            .and_then(|address| UnixListener::bind_addr(&address));
        match bind {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(InstanceError::Running(interface.to_owned())),
            Err(source) => Err(InstanceError::Socket { path, source }),
        }
    }
}

/// A listening socket whose file goes when it does.
#[derive(Debug)]
pub struct SocketFile {
    /// The socket.
    pub listener: tokio::net::UnixListener,
    path: PathBuf,
}

impl SocketFile {
    /// Listens at `directory/interface.sock`, readable by its owner alone. A file that nobody listens on any more is
    /// replaced. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`InstanceError::Running`] if somebody answers there, [`InstanceError::Socket`] otherwise.
    pub fn listen(directory: &Path, directory_mode: u32, interface: &str) -> Result<Self, InstanceError> {
        check_name(interface)?;
        let path = directory.join(format!("{interface}.sock"));
        let failed = |source| InstanceError::Socket { path: path.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(directory_mode).create(directory).map_err(failed)?;
        if UnixStream::connect(&path).is_ok() {
            return Err(InstanceError::Running(interface.to_owned()));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let socket = fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| tokio::net::UnixListener::from_std(listener));
        match socket {
            Ok(listener) => Ok(Self { listener, path }),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(failed(error))
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn check_name(interface: &str) -> Result<(), InstanceError> {
    let good = !interface.is_empty()
        && interface.len() < libc::IFNAMSIZ
        && interface != "."
        && interface != ".."
        && interface.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if good { Ok(()) } else { Err(InstanceError::BadName(interface.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_instance_an_interface() {
        let name = format!("t{}", std::process::id());
        let first = InstanceLock::take(&name).unwrap();
        assert!(matches!(InstanceLock::take(&name), Err(InstanceError::Running(_))));
        drop(first);
        InstanceLock::take(&name).unwrap();
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        for name in ["", "..", "a/b", "sixteencharacter", "a b"] {
            assert!(matches!(InstanceLock::take(name), Err(InstanceError::BadName(_))), "{name:?}");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wg0.sock");
        drop(UnixListener::bind(&path).unwrap());
        let live = SocketFile::listen(folder.path(), 0o755, "wg0").unwrap();
        assert!(matches!(SocketFile::listen(folder.path(), 0o755, "wg0"), Err(InstanceError::Running(_))));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(live);
        assert!(!path.exists());
    }
}
