//! Which privileges the engine's account lacks, as the GRANT that gives them.

use std::collections::BTreeSet;

use super::facts::NodeFacts;
use super::{Finding, Level};
use crate::config::{Config, DdlPolicy};

/// Rows, and what tells their table's shape.
const ON_ROWS: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];
/// Triggers of a table are invisible without it, and they make a table unfit.
const ON_TABLES: &[&str] = &["TRIGGER"];
/// What replicated DDL needs.
const ON_DEFINITIONS: &[&str] = &[
    "CREATE",
    "ALTER",
    "DROP",
    "INDEX",
    // TRUNCATE must not come in front of a client's row that was not looked at.
    "LOCK TABLES",
    "REFERENCES",
    "CREATE VIEW",
    "SHOW VIEW",
];
/// On the engine's own schema.
const ON_ENGINE: &[&str] = &[
    "SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "INDEX",
];

/// MySQL: a view keeps its definer, who may be another account, an administrator, or one that is
/// not there.
const DEFINERS: [&str; 3] = [
    "SET_ANY_DEFINER",
    "ALLOW_NONEXISTENT_DEFINER",
    "SYSTEM_USER",
];

/// The same before 8.2.
const DEFINERS_BEFORE_8_2: [&str; 2] = ["SET_USER_ID", "SYSTEM_USER"];

/// What an account may do, as SHOW GRANTS tells it.
#[derive(Debug, Default)]
pub(super) struct Grants {
    global: BTreeSet<String>,
    /// Pattern of database names, as in the grant tables, and privileges.
    databases: Vec<(String, BTreeSet<String>)>,
    /// MySQL's partial revokes.
    revoked: Vec<(String, BTreeSet<String>)>,
}

impl Grants {
    /// Reads the lines of SHOW GRANTS. Grants on single tables, columns and routines are passed
    /// over: a database is replicated as a whole.
    pub(super) fn parse(lines: &[String]) -> Self {
        let mut grants = Self::default();
        for line in lines {
            let (revoke, rest) = match line.split_once(' ') {
                Some(("GRANT", rest)) => (false, rest),
                Some(("REVOKE", rest)) => (true, rest),
                _ => continue,
            };
            // A role granted has no ON; its privileges stand in lines of their own.
            let Some((privileges, rest)) = rest.split_once(" ON ") else {
                continue;
            };
            let privileges = names(privileges);
            match scope(rest) {
                Some(Scope::Global) if !revoke => grants.global.extend(privileges),
                Some(Scope::Database(pattern)) if revoke => {
                    grants.revoked.push((pattern, privileges));
                }
                Some(Scope::Database(pattern)) => grants.databases.push((pattern, privileges)),
                _ => {}
            }
        }
        grants
    }

    fn has(set: &BTreeSet<String>, privilege: &str) -> bool {
        set.contains(privilege)
            || set.contains("ALL PRIVILEGES") && privilege != "GRANT OPTION"
            || set.contains("ALL") && privilege != "GRANT OPTION"
    }

    /// A privilege on everything.
    pub(super) fn globally(&self, privilege: &str) -> bool {
        Self::has(&self.global, privilege)
    }

    /// A privilege on a database, or on every database that a pattern of ours may match.
    pub(super) fn on_database(&self, name: &DatabaseScope<'_>, privilege: &str) -> bool {
        let covers = |(pattern, set): &(String, BTreeSet<String>)| {
            Self::has(set, privilege) && name.within(pattern)
        };
        if self.globally(privilege) {
            return !self.revoked.iter().any(covers);
        }
        self.databases.iter().any(covers)
    }
}

/// What a database grant must cover.
pub(super) enum DatabaseScope<'a> {
    /// One database.
    Literal(&'a str),
    /// Every database that the pattern of the config file may match.
    Pattern(&'a str),
}

impl DatabaseScope<'_> {
    /// Whether all of it lies within a grant's pattern.
    fn within(&self, granted: &str) -> bool {
        match self {
            DatabaseScope::Literal(name) => like(granted, name),
            DatabaseScope::Pattern(pattern) => granted == as_grant(pattern) || granted == "%",
        }
    }

    /// As a GRANT names it.
    fn grant(&self) -> String {
        match self {
            // `_` and `%` are wildcards in a database grant.
            DatabaseScope::Literal(name) => name.replace('_', "\\_").replace('%', "\\%"),
            DatabaseScope::Pattern(pattern) => as_grant(pattern),
        }
    }
}

/// `crm_*` as a GRANT has it: `crm\_%`.
fn as_grant(pattern: &str) -> String {
    pattern
        .replace('_', "\\_")
        .replace('*', "%")
        .replace('?', "_")
}

/// Whether a pattern of the grant tables matches a database's name.
fn like(pattern: &str, text: &str) -> bool {
    fn matches(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|skip| matches(rest, &text[skip..])),
            ['_', rest @ ..] => !text.is_empty() && matches(rest, &text[1..]),
            ['\\', c, rest @ ..] | [c, rest @ ..] => {
                text.first().is_some_and(|t| t == c) && matches(rest, &text[1..])
            }
        }
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    matches(&pattern, &text)
}

enum Scope {
    Global,
    Database(String),
    Other,
}

/// Splits `SELECT, INSERT (a, b), CREATE VIEW` into names; those on single columns are left out.
fn names(list: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut depth = 0_i32;
    let mut name = String::new();
    let mut on_columns = false;
    for c in list.chars().chain([',']) {
        match c {
            '(' => {
                depth += 1;
                on_columns = true;
            }
            ')' => depth -= 1,
            ',' if depth == 0 => {
                let done = std::mem::take(&mut name).trim().to_ascii_uppercase();
                if !on_columns && !done.is_empty() {
                    names.insert(done);
                }
                on_columns = false;
            }
            _ if depth > 0 => {}
            _ => name.push(c),
        }
    }
    // Names that changed: the server takes both, we know one.
    for (old, new) in [
        ("REPLICATION CLIENT", "BINLOG MONITOR"),
        ("REPLICA MONITOR", "SLAVE MONITOR"),
        ("REPLICATION REPLICA", "REPLICATION SLAVE"),
        ("DELETE VERSIONING ROWS", "DELETE HISTORY"),
    ] {
        if names.contains(old) {
            names.insert(new.to_owned());
        }
    }
    names
}

/// Reads `*.* TO ..`, `` `shop`.* TO ..``, `` `shop`.`t` TO ..``.
fn scope(text: &str) -> Option<Scope> {
    if text.starts_with("*.* ") {
        return Some(Scope::Global);
    }
    let rest = text.strip_prefix('`')?;
    let mut name = String::new();
    let mut chars = rest.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != '`' {
            name.push(c);
        } else if chars.peek().is_some_and(|(_, next)| *next == '`') {
            name.push('`');
            chars.next();
        } else {
            return Some(if rest[at + 1..].starts_with(".* ") {
                Scope::Database(name)
            } else {
                Scope::Other
            });
        }
    }
    None
}

/// What the account lacks, one finding for each place where something has to be granted.
pub(super) fn findings(config: &Config, facts: &NodeFacts) -> Vec<Finding> {
    let grants = Grants::parse(&facts.grants);
    let ddl = config.replication.ddl == DdlPolicy::Replicate;
    let mut findings = Vec::new();
    let account = quote_account(&facts.account);

    let mut report = |level: Level, missing: &[&str], place: &str, why: &str| {
        if missing.is_empty() {
            return;
        }
        let list = missing.join(", ");
        findings.push(
            Finding::new(
                level,
                "privileges",
                format!("{} lacks {list} on {place}{why}", facts.account),
            )
            .remedy(format!("GRANT {list} ON {place} TO {account};")),
        );
    };

    let lacking = |wanted: &[&'static str]| -> Vec<&'static str> {
        let mut missing = wanted.to_vec();
        missing.retain(|privilege| !grants.globally(privilege));
        missing
    };
    let databases = &config.replication.databases;
    let mut on_databases = ON_ROWS.to_vec();
    on_databases.extend(ON_TABLES);
    if ddl {
        on_databases.extend(ON_DEFINITIONS);
    }

    let mut global = if facts.maria {
        lacking(&[
            "REPLICATION SLAVE",
            "BINLOG MONITOR",
            "BINLOG REPLAY",
            "BINLOG ADMIN",
        ])
    } else {
        let mut wanted = vec!["REPLICATION SLAVE", "REPLICATION CLIENT"];
        if ddl {
            wanted.push("REPLICATION_APPLIER");
        }
        lacking(&wanted)
    };
    if !facts.maria {
        // Either lets a session take the settings that rows and DDL are applied with.
        let any = ["SYSTEM_VARIABLES_ADMIN", "SESSION_VARIABLES_ADMIN"];
        if !any.iter().any(|privilege| grants.globally(privilege)) {
            global.push("SESSION_VARIABLES_ADMIN");
        }
    }
    // With no list of databases, those that will be made tomorrow are meant as well.
    if databases.is_empty() {
        global.extend(lacking(&on_databases));
    }
    report(Level::Fail, &global, "*.*", "");

    for database in databases {
        let scope = if database.contains(['*', '?']) {
            DatabaseScope::Pattern(database)
        } else {
            DatabaseScope::Literal(database)
        };
        let mut missing = on_databases.clone();
        missing.retain(|privilege| !grants.on_database(&scope, privilege));
        report(
            Level::Fail,
            &missing,
            &format!("`{}`.*", scope.grant().replace('`', "``")),
            "",
        );
    }
    let engine = DatabaseScope::Literal(&config.engine.schema);
    let mut missing = ON_ENGINE.to_vec();
    missing.retain(|privilege| !grants.on_database(&engine, privilege));
    let place = format!("`{}`.*", engine.grant());
    report(Level::Fail, &missing, &place, ", its own schema");

    if facts.maria {
        let missing = lacking(&["SLAVE MONITOR"]);
        report(
            Level::Warn,
            &missing,
            "*.*",
            ": whether the server's own replication runs besides cannot be seen",
        );
        if ddl {
            let why = ": views made by other accounts cannot be replicated";
            report(Level::Warn, &lacking(&["SET USER"]), "*.*", why);
        }
    } else if ddl {
        // Servers before 8.3 have no tags, those before 8.2 one privilege for definers.
        if at_least(&facts.version, (8, 3)) {
            let why = ": DDL that clients run under a tagged GTID cannot be replicated";
            report(Level::Warn, &lacking(&["TRANSACTION_GTID_TAG"]), "*.*", why);
        }
        let definer = if at_least(&facts.version, (8, 2)) {
            lacking(&DEFINERS)
        } else {
            lacking(&DEFINERS_BEFORE_8_2)
        };
        let why = ": views made by other accounts cannot be replicated";
        report(Level::Warn, &definer, "*.*", why);
    }

    if !facts.maria {
        let why = ": XA transactions that are prepared and not decided cannot be counted";
        report(Level::Warn, &lacking(&["XA_RECOVER_ADMIN"]), "*.*", why);
    }

    if !super::any_fail(&findings) {
        let message = format!("{} may do what the engine does", facts.account);
        findings.insert(0, Finding::pass("privileges", message));
    }
    findings
}

/// Whether a version such as `9.7.4-log` is at least this.
pub(super) fn at_least(version: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = version
        .split(['.', '-'])
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    found >= wanted
}

/// `user@host` as a statement names it.
pub(super) fn quote_account(account: &str) -> String {
    let (user, host) = account.rsplit_once('@').unwrap_or((account, "%"));
    format!(
        "'{}'@'{}'",
        user.replace('\'', "''"),
        host.replace('\'', "''")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(lines: &[&str]) -> Grants {
        Grants::parse(
            &lines
                .iter()
                .map(|line| (*line).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn lines_of_both_servers_are_read() {
        let grants = grants(&[
            "GRANT SELECT, RELOAD, REPLICATION CLIENT ON *.* TO `t`@`%` WITH GRANT OPTION",
            "GRANT REPLICATION_APPLIER,SESSION_VARIABLES_ADMIN ON *.* TO `t`@`%`",
            "GRANT INSERT, UPDATE (a, b), CREATE VIEW ON `shop`.* TO `t`@`%`",
            "GRANT ALL PRIVILEGES ON `crm\\_%`.* TO `t`@`%` IDENTIFIED BY PASSWORD '*X ON Y'",
            "GRANT DELETE ON `shop`.`items` TO `t`@`%`",
            "GRANT EXECUTE ON PROCEDURE `shop`.`p` TO `t`@`%`",
            "GRANT `role`@`%` TO `t`@`%`",
            "REVOKE SELECT ON `secret`.* FROM `t`@`%`",
        ]);
        for privilege in ["SELECT", "BINLOG MONITOR", "REPLICATION_APPLIER"] {
            assert!(grants.globally(privilege), "{privilege}");
        }
        assert!(!grants.globally("INSERT"));
        let shop = DatabaseScope::Literal("shop");
        for (privilege, there) in [
            ("SELECT", true),
            ("INSERT", true),
            ("CREATE VIEW", true),
            ("UPDATE", false),
            ("DELETE", false),
        ] {
            assert_eq!(grants.on_database(&shop, privilege), there, "{privilege}");
        }
        assert!(!grants.on_database(&DatabaseScope::Literal("secret"), "SELECT"));
        assert!(grants.on_database(&DatabaseScope::Literal("crm_eu"), "DROP"));
        assert!(!grants.on_database(&DatabaseScope::Literal("crmxeu"), "DROP"));
        assert!(grants.on_database(&DatabaseScope::Pattern("crm_*"), "DROP"));
        assert!(!grants.on_database(&DatabaseScope::Pattern("c*"), "DROP"));
    }

    #[test]
    fn everything_covers_everything() {
        let grants = grants(&["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost`"]);
        assert!(grants.globally("BINLOG REPLAY"));
        assert!(grants.on_database(&DatabaseScope::Pattern("*"), "TRIGGER"));
    }

    #[test]
    fn accounts_and_versions() {
        assert_eq!(quote_account("o'x@10.0.0.%"), "'o''x'@'10.0.0.%'");
        assert!(at_least("9.7.4", (8, 2)));
        assert!(at_least("8.4.0-log", (8, 2)));
        assert!(!at_least("8.0.36", (8, 2)));
    }

    /// What an account with everything that is needed still lacks, in this order.
    fn optional(version: &str) -> Vec<String> {
        let config = Config::parse(
            "[engine]\ndata_dir = \"x\"\n[[node]]\nname = \"a\"\nurl = \"mysql://t@a:3306\"\n\
             [[node]]\nname = \"b\"\nurl = \"mysql://t@b:3306\"\n",
            &|_| None,
        )
        .unwrap();
        let needed = [ON_ROWS, ON_TABLES, ON_DEFINITIONS].concat().join(", ");
        let facts = NodeFacts {
            maria: version.contains("MariaDB"),
            version: version.to_owned(),
            account: "t@%".to_owned(),
            grants: vec![format!(
                "GRANT {needed}, REPLICATION SLAVE, REPLICATION CLIENT, REPLICATION_APPLIER, \
                 SESSION_VARIABLES_ADMIN, BINLOG MONITOR, BINLOG REPLAY, BINLOG ADMIN ON *.* TO \
                 `t`@`%`"
            )],
            ..NodeFacts::default()
        };
        findings(&config, &facts)
            .into_iter()
            .filter(|finding| finding.level != Level::Pass)
            .map(|finding| {
                assert_eq!(finding.level, Level::Warn, "{finding:?}");
                finding.remedy.unwrap()
            })
            .collect()
    }

    #[test]
    fn optional_privileges_are_warned_of() {
        let grant = |list: &str| format!("GRANT {list} ON *.* TO 't'@'%';");
        assert_eq!(
            optional("9.7.4"),
            [
                grant("TRANSACTION_GTID_TAG"),
                grant("SET_ANY_DEFINER, ALLOW_NONEXISTENT_DEFINER, SYSTEM_USER"),
                grant("XA_RECOVER_ADMIN")
            ]
        );
        assert_eq!(
            optional("8.0.36"),
            [grant("SET_USER_ID, SYSTEM_USER"), grant("XA_RECOVER_ADMIN")]
        );
        assert_eq!(
            optional("10.11.6-MariaDB"),
            [grant("SLAVE MONITOR"), grant("SET USER")]
        );
    }
}
