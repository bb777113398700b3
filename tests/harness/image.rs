//! What a server that crashes with its machine leaves on disk: a copy of its folder as it was at one
//! moment, put back in whole or in part. (`kill -9` alone loses nothing that the system's page cache
//! has, whatever the server's settings.)

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use twinlog_cli::sandbox::Server;

/// The files of a server's data folder at one moment.
#[derive(Debug)]
pub struct Image {
    folder: TempDir,
}

/// Which files go back to what they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All: log and tables lose the same transactions.
    Everything,
    /// The log alone, as with `sync_binlog` other than 1.
    Log,
    /// All but the log, as with `innodb_flush_log_at_trx_commit` other than 1.
    Tables,
}

impl Image {
    /// Takes an image of a server, running or stopped. A running one is halted meanwhile, so that the
    /// image is what `kill -9` would have left at that moment.
    #[must_use]
    pub fn of(server: &Server) -> Self {
        let pid = i32::try_from(server.pid()).unwrap();
        let signal = |signal| {
            if pid != 0 {
                kill(Pid::from_raw(pid), signal).unwrap();
            }
        };
        let folder = tempfile::tempdir_in(server.datadir().parent().unwrap()).unwrap();
        signal(Signal::SIGSTOP);
        copy(server.datadir(), folder.path());
        signal(Signal::SIGCONT);
        Self { folder }
    }

    /// Puts files back. The server must be down; it is not started.
    pub fn restore(&self, server: &Server, part: Part) {
        assert_eq!(server.pid(), 0, "not under a running server");
        let goes_back = |path: &Path| {
            let name = path.file_name().unwrap().to_string_lossy();
            match part {
                Part::Everything => true,
                Part::Log => name.starts_with("binlog."),
                Part::Tables => !name.starts_with("binlog."),
            }
        };
        for path in entries(server.datadir()).filter(|path| goes_back(path)) {
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else {
                std::fs::remove_file(path).unwrap();
            }
        }
        for path in entries(self.folder.path()).filter(|path| goes_back(path)) {
            let to = server.datadir().join(path.file_name().unwrap());
            if path.is_dir() {
                copy(&path, &to);
            } else {
                std::fs::copy(path, to).unwrap();
            }
        }
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
}

/// Copies a folder's files and folders; sockets stay.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for path in entries(from) {
        let target = to.join(path.file_name().unwrap());
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            copy(&path, &target);
        } else if kind.is_file() {
            std::fs::copy(path, target).unwrap();
        }
    }
}
