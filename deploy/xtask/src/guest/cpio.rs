//! Archives as the kernel takes them for its first file system: cpio, "new ASCII" format.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;

/// An archive that is being written.
pub(crate) struct Archive<W: Write> {
    to: W,
    inode: u32,
    directories: std::collections::BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, inode: 0, directories: std::collections::BTreeSet::new() }
    }

    /// A folder, and those above it; `path` is without a leading slash.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        let mut so_far = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            so_far = if so_far.is_empty() { part.to_owned() } else { format!("{so_far}/{part}") };
            if self.directories.insert(so_far.clone()) {
                self.entry(&so_far, DIRECTORY, &[])?;
            }
        }
        Ok(())
    }

    /// A file that may be executed.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.parent(path)?;
        self.entry(path, EXECUTABLE, content)
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.parent(path)?;
        self.entry(path, SYMLINK, target.as_bytes())
    }

    fn parent(&mut self, path: &str) -> io::Result<()> {
        path.rsplit_once('/').map_or(Ok(()), |(parent, _)| self.directory(parent))
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        // inode, mode, uid, gid, links, mtime, size, device numbers (4), name's size, checksum.
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = b"070701".to_vec();
        for field in fields {
            header.extend(format!("{field:08x}").into_bytes());
        }
        header.extend(path.bytes());
        header.push(0);
        pad(&mut header);
        self.to.write_all(&header)?;
        self.to.write_all(content)?;
        self.to.write_all(&vec![0; content.len().next_multiple_of(4) - content.len()])
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.to.flush()
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn busybox_reads_what_is_written() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file("usr/bin/three", b"abc").unwrap();
        archive.link("bin", "usr/bin").unwrap();
        archive.directory("proc").unwrap();
        archive.finish().unwrap();
        let folder = std::env::temp_dir().join(format!("linegate-cpio-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("archive"), &bytes).unwrap();
        let status = Command::new("busybox").args(["cpio", "-i", "-F", "archive"]).current_dir(&folder).status();
        let read = std::fs::read(folder.join("bin/three"));
        let proc = folder.join("proc").is_dir();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(status.unwrap().success() && proc);
        assert_eq!(read.unwrap(), b"abc");
    }
}
