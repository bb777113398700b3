//! How to reach one server: the url, and where its password comes from. No message holds either.

use std::path::Path;

use mysql_async::{Opts, OptsBuilder, SslOpts};

use super::section::{Problem, Section};

/// The keys of a node that say how to connect.
pub(super) struct Connection {
    pub(super) opts: Opts,
    pub(super) warnings: Vec<String>,
}

/// Reads `url`, `password_file`, `password_env` and `ssl_ca` of a node.
pub(super) fn connection(
    section: &Section<'_>,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Connection, Problem> {
    let url = section.required("url", "\"mysql://twinlog:secret@host:3306\"")?;
    let opts = Opts::from_url(url).map_err(|error| section.problem("url", explain(url, &error)))?;
    if opts.user().is_none_or(str::is_empty) {
        return Err(section.problem("url", "names no account; write mysql://account@host:3306"));
    }
    if opts.db_name().is_some_and(|name| !name.is_empty()) {
        return Err(section.problem(
            "url",
            "names a database; leave it out, [replication] says what is replicated",
        ));
    }

    let mut warnings = Vec::new();
    let file = section.string("password_file")?;
    let variable = section.string("password_env")?;
    let in_url = opts.pass().is_some_and(|password| !password.is_empty());
    let places = [in_url, file.is_some(), variable.is_some()];
    if places.iter().filter(|there| **there).count() > 1 {
        let key = if file.is_some() {
            "password_file"
        } else {
            "password_env"
        };
        return Err(section.problem(
            key,
            "the password is given twice; give it in one of url, password_file, password_env",
        ));
    }
    let password = if let Some(file) = file {
        let path = folder.join(file);
        if readable_by_everyone(&path) {
            warnings.push(format!(
                "{} holds a password and everyone on this machine may read it: chmod 600",
                path.display()
            ));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| {
            section.problem(
                "password_file",
                format!("cannot read {}: {error}", path.display()),
            )
        })?;
        let password = text.trim_end_matches(['\r', '\n']).to_owned();
        if password.is_empty() {
            let problem = format!("{} is empty", path.display());
            return Err(section.problem("password_file", problem));
        }
        Some(password)
    } else if let Some(variable) = variable {
        let password = env(variable).filter(|password| !password.is_empty());
        Some(password.ok_or_else(|| {
            let problem = format!("the environment variable {variable} is not set");
            section.problem("password_env", problem)
        })?)
    } else {
        None
    };

    let mut builder = OptsBuilder::from_opts(opts.clone());
    if let Some(password) = password {
        builder = builder.pass(Some(password));
    }
    // The driver would ask a server on this machine for its socket and go there instead: not what
    // `host:port` says, and round any proxy that stands there.
    if !url.contains("prefer_socket=") {
        builder = builder.prefer_socket(false);
    }
    if let Some(ca) = section.string("ssl_ca")? {
        let path = folder.join(ca);
        if !path.is_file() {
            let problem = format!("there is no file {}", path.display());
            return Err(section.problem("ssl_ca", problem));
        }
        let ssl = opts.ssl_opts().cloned().unwrap_or_else(SslOpts::default);
        builder = builder.ssl_opts(ssl.with_root_certs(vec![path.into()]));
    }
    Ok(Connection {
        opts: builder.into(),
        warnings,
    })
}

/// Whether a url carries a password.
pub(super) fn url_has_password(url: &str) -> bool {
    Opts::from_url(url).is_ok_and(|opts| opts.pass().is_some_and(|password| !password.is_empty()))
}

/// Says what is wrong with a url without showing any of it but its scheme and parameters' names.
fn explain(url: &str, error: &mysql_async::UrlError) -> String {
    use mysql_async::UrlError;
    const FORM: &str = "write mysql://account:password@host:3306, for a socket \
        mysql://account:password@localhost?socket=/path";
    const ENCODE: &str = "characters such as / ? # @ % in the password must be written %2F %3F \
        %23 %40 %25, or put the password into password_file";
    match error {
        UrlError::UnsupportedScheme { .. } => format!("the scheme must be mysql; {FORM}"),
        UrlError::UnknownParameter { param } => format!(
            "unknown parameter '{param}'; those that matter are socket, require_ssl, verify_ca, \
             verify_identity, built_in_roots, compression"
        ),
        UrlError::InvalidParamValue { param, .. } => format!("wrong value of parameter '{param}'"),
        UrlError::FeatureRequired { param, .. } => {
            format!("the parameter '{param}' is not supported")
        }
        UrlError::Parse(_) if url.contains("://") => format!("cannot be read; {FORM}; {ENCODE}"),
        _ => format!("cannot be read; {FORM}"),
    }
}

/// Whether any account of this machine may read the file.
#[cfg(unix)]
pub(super) fn readable_by_everyone(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0)
}

/// Whether any account of this machine may read the file: not known on this platform.
#[cfg(not(unix))]
pub(super) fn readable_by_everyone(_: &Path) -> bool {
    false
}
