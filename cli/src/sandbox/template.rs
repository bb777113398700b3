//! Freshly initialised data directories. Initialising takes seconds, so it is done once per server
//! version and machine; each new server gets a copy.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::ServerKind;
use super::installation::{self, Installation};

/// Goes into the template's name; raise it whenever the content below changes.
const LAYOUT: u32 = 1;

/// Names are not resolved, so an account for the host name "localhost" is not found over TCP.
const MYSQL_ACCOUNTS: &str = "\
CREATE USER 'root'@'127.0.0.1' IDENTIFIED BY '';
GRANT ALL PRIVILEGES ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;
";

/// An anonymous account of localhost wins over a named account of any host: nobody else could log
/// in from this machine.
const MARIADB_ACCOUNTS: &str = "DELETE FROM mysql.global_priv WHERE User='';\n";

/// The template of this server version; makes it if it is not there. Processes that need the same
/// one wait for the first of them.
pub(super) fn ensure(server: &Installation, base: &Path) -> anyhow::Result<PathBuf> {
    let dir = templates_dir(base);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let version: String = server
        .version
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let template = dir.join(format!("template-{}-{version}-v{LAYOUT}", server.kind));
    let lock = File::create(template.with_added_extension("lock"))
        .with_context(|| format!("cannot write to {}", dir.display()))?;
    lock.lock()?;
    if template.is_dir() {
        return Ok(template);
    }
    let partial = template.with_added_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    std::fs::create_dir_all(&partial)?;
    // Complete under its final name or not there at all, even if this is interrupted.
    initialise(server, &partial)?;
    std::fs::rename(&partial, &template)?;
    Ok(template)
}

/// Where templates are kept: with the fetched servers, else in the user's cache, else beside the
/// servers that are made of them.
fn templates_dir(base: &Path) -> PathBuf {
    if let Some(servers) = installation::servers_dirs().into_iter().next() {
        return servers;
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .filter(|cache| cache.is_absolute());
    cache.map_or_else(|| base.to_owned(), |cache| cache.join("twinlog"))
}

fn initialise(server: &Installation, data: &Path) -> anyhow::Result<()> {
    let accounts = tempfile::Builder::new().suffix(".sql").tempfile()?;
    let mut command = match (server.kind, &server.install_db) {
        (ServerKind::MySql, _) => {
            std::fs::write(accounts.path(), MYSQL_ACCOUNTS)?;
            let mut command = server.server();
            command
                .args(["--initialize-insecure", "--skip-log-bin"])
                .args(["--innodb-redo-log-capacity=64M"])
                .arg(format!("--init-file={}", accounts.path().display()));
            command
        }
        (ServerKind::MariaDb, Some(install_db)) => {
            std::fs::write(accounts.path(), MARIADB_ACCOUNTS)?;
            let mut command = Command::new(install_db);
            command
                .args(["--no-defaults", "--auth-root-authentication-method=normal"])
                .args(["--skip-test-db", "--skip-name-resolve"])
                .args(["--innodb-log-file-size=64M"])
                .arg(format!("--extra-file={}", accounts.path().display()));
            if installation::is_root() {
                command.arg("--user=root");
            }
            command
        }
        (ServerKind::MariaDb, None) => bail!("mariadb-install-db was not found"),
    };
    command
        .args(["--performance-schema=OFF", "--innodb-use-native-aio=0"])
        .arg(format!("--datadir={}", data.display()))
        .stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("cannot initialise a data directory for {}", server.kind))?;
    if !output.status.success() {
        bail!(
            "initialising a data directory for {} {} failed ({}):\n{}{}",
            server.kind,
            server.version,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Copies a template to `to`, which must not exist, as a server of its own.
pub(super) fn copy(template: &Path, to: &Path) -> anyhow::Result<()> {
    copy_dir(template, to, Identity::New)
        .with_context(|| format!("cannot copy {} to {}", template.display(), to.display()))
}

/// Copies the data directory of a stopped server to `to`, which must not exist: the same server
/// once more, which must not run beside the first one in one replication.
pub(super) fn copy_server(data: &Path, to: &Path) -> anyhow::Result<()> {
    copy_dir(data, to, Identity::Same)
        .with_context(|| format!("cannot copy {} to {}", data.display(), to.display()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Identity {
    New,
    Same,
}

fn copy_dir(from: &Path, to: &Path, identity: Identity) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        // MySQL's server_uuid: without the file the server makes itself a new one.
        if entry.file_name() == "auto.cnf" && identity == Identity::New {
            continue;
        }
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target, identity)?;
        } else if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_everything_but_the_identity() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        std::fs::create_dir_all(from.join("mysql")).unwrap();
        std::fs::write(from.join("auto.cnf"), "uuid").unwrap();
        std::fs::write(from.join("mysql/user.ibd"), "rows").unwrap();
        let to = dir.path().join("to");
        copy(&from, &to).unwrap();
        assert_eq!(std::fs::read(to.join("mysql/user.ibd")).unwrap(), b"rows");
        assert!(!to.join("auto.cnf").exists());
        let same = dir.path().join("same");
        copy_server(&from, &same).unwrap();
        assert!(same.join("auto.cnf").exists());
        assert!(copy(&from, &to).is_err(), "never into what is there");
    }
}
