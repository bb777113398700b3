//! Finds the servers of this machine and says how to run them.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use super::{ServerKind, process};

const FETCH: &str = "run tests/servers/fetch in twinlog's repository to get it";

/// An installed or unpacked server.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    pub(super) kind: ServerKind,
    /// As the program prints it, such as `10.11.19-MariaDB` or `9.7.4`.
    pub(super) version: String,
    /// What is executed: the server itself, or the dynamic linker that came with it.
    program: PathBuf,
    /// What comes before the server's own arguments.
    prefix: Vec<OsString>,
    /// Arguments that depend on where the server lies.
    arguments: Vec<OsString>,
    /// MariaDB's program that initialises a data directory.
    pub(super) install_db: Option<PathBuf>,
}

impl Installation {
    /// A command that runs the server; the caller adds its arguments.
    pub(super) fn server(&self) -> Command {
        let mut command = process::mortal(&self.program);
        // Must be the server's first argument.
        command.args(&self.prefix).arg("--no-defaults");
        if is_root() {
            command.arg("--user=root");
        }
        command.args(&self.arguments);
        command
    }

    /// Asks the server for its version.
    fn with_version(mut self) -> anyhow::Result<Self> {
        let text = print_version(&self.program, &self.prefix)?;
        // `.../mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))`
        self.version = text
            .split_once("Ver ")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .with_context(|| {
                format!(
                    "{} printed no version: {text:?}",
                    self.program.to_string_lossy()
                )
            })?
            .to_owned();
        Ok(self)
    }
}

fn print_version(program: &Path, prefix: &[OsString]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(prefix)
        .args(["--no-defaults", "--version"])
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{} --version failed ({}): {}",
            program.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether this program runs as root, which both servers only do when told so.
pub(super) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Finds the server on this machine.
pub(super) fn find(kind: ServerKind) -> anyhow::Result<Installation> {
    match kind {
        ServerKind::MariaDb => find_mariadb(),
        ServerKind::MySql => find_mysql(),
    }
}

fn find_mariadb() -> anyhow::Result<Installation> {
    let (Some(program), Some(install_db)) =
        (find_program("mariadbd"), find_program("mariadb-install-db"))
    else {
        bail!(
            "MariaDB is not on this machine (mariadbd and mariadb-install-db are not on the PATH \
             nor in /usr/sbin): {FETCH}"
        );
    };
    Installation {
        kind: ServerKind::MariaDb,
        version: String::new(),
        program,
        prefix: Vec::new(),
        arguments: Vec::new(),
        install_db: Some(install_db),
    }
    .with_version()
}

fn find_mysql() -> anyhow::Result<Installation> {
    let installation = |program: PathBuf, prefix, arguments| Installation {
        kind: ServerKind::MySql,
        version: String::new(),
        program,
        prefix,
        arguments,
        install_db: None,
    };
    let plain = || vec![OsString::from("--mysqlx=OFF")];

    // A folder that was named must hold the server: another one would be a silent surprise.
    if let Some(root) = std::env::var_os("TWINLOG_MYSQL_ROOT") {
        let root = PathBuf::from(root);
        return match unpacked(&root) {
            Some((program, prefix, arguments)) => {
                installation(program, prefix, arguments).with_version()
            }
            None => bail!(
                "TWINLOG_MYSQL_ROOT is {}, but there is no MySQL server in it",
                root.display()
            ),
        };
    }
    for servers in servers_dirs() {
        if let Some((program, prefix, arguments)) = unpacked(&servers.join("mysql")) {
            return installation(program, prefix, arguments).with_version();
        }
    }
    // MariaDB's packages install their server under this name as well.
    if let Some(program) = find_program("mysqld")
        && !print_version(&program, &[])?.contains("MariaDB")
    {
        return installation(program, Vec::new(), plain()).with_version();
    }
    bail!(
        "MySQL is not on this machine (no TWINLOG_MYSQL_ROOT, no target/servers/mysql above the \
         current folder or the program, no mysqld of MySQL on the PATH): {FETCH}"
    )
}

type Unpacked = (PathBuf, Vec<OsString>, Vec<OsString>);

/// A server unpacked from distribution packages, or a vendor's archive.
fn unpacked(root: &Path) -> Option<Unpacked> {
    let option = |name: &str, path: PathBuf| {
        let mut option = OsString::from(format!("--{name}="));
        option.push(path);
        option
    };
    let packaged = root.join("usr/sbin/mysqld");
    if packaged.is_file() {
        // The machine's own C library may be older than what the server was built for: run the
        // server through the dynamic linker that came with it.
        let linker = linker(&root.join("usr/lib"))?;
        let libraries = linker.parent()?.to_owned();
        return Some((
            linker,
            vec!["--library-path".into(), libraries.into(), packaged.into()],
            vec![
                option("lc-messages-dir", root.join("usr/share/mysql")),
                option("character-sets-dir", root.join("usr/share/mysql/charsets")),
                option("plugin-dir", root.join("usr/lib/mysql/plugin")),
                "--secure-file-priv=".into(),
                "--mysqlx=OFF".into(),
            ],
        ));
    }
    let vendored = root.join("bin/mysqld");
    vendored.is_file().then(|| {
        (
            vendored,
            Vec::new(),
            vec![option("basedir", root.to_owned()), "--mysqlx=OFF".into()],
        )
    })
}

fn linker(libraries: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(libraries)
        .ok()?
        .flatten()
        .filter_map(|folder| std::fs::read_dir(folder.path()).ok())
        .flatten()
        .flatten()
        .filter(|file| file.file_name().to_string_lossy().starts_with("ld-linux"))
        .map(|file| file.path())
        .collect();
    found.sort();
    found.into_iter().next()
}

/// Folders in which `tests/servers/fetch` may have left servers, the likeliest first.
pub(super) fn servers_dirs() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    dirs.extend(std::env::var_os("TWINLOG_SERVERS_DIR").map(PathBuf::from));
    let starts = [std::env::current_dir(), std::env::current_exe()];
    for start in starts.into_iter().flatten() {
        dirs.extend(
            start
                .ancestors()
                .map(|above| above.join("target/servers"))
                .filter(|servers| servers.is_dir()),
        );
    }
    dirs
}

/// An executable file on the PATH or in the folders for servers, which are not on every user's.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/libexec"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| {
            std::fs::metadata(file).is_ok_and(|metadata| {
                metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_run_through_their_own_linker() {
        let root = tempfile::tempdir().unwrap();
        assert!(unpacked(root.path()).is_none());
        let libraries = root.path().join("usr/lib/some-triple");
        std::fs::create_dir_all(&libraries).unwrap();
        std::fs::create_dir_all(root.path().join("usr/sbin")).unwrap();
        std::fs::write(root.path().join("usr/sbin/mysqld"), "").unwrap();
        assert!(unpacked(root.path()).is_none(), "no linker, no server");
        std::fs::write(libraries.join("ld-linux-some.so.2"), "").unwrap();
        let (program, prefix, _) = unpacked(root.path()).unwrap();
        assert_eq!(program, libraries.join("ld-linux-some.so.2"));
        assert_eq!(prefix[1], libraries.as_os_str());
    }

    #[test]
    fn only_executables_are_programs() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}
