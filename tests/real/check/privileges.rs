//! What the engine's account may do: the documented set is enough, and nothing of it is missed
//! silently.

use twinlog_cli::sandbox::ServerKind;
use twinlog_engine::preflight::{self, Finding, Level};

use super::{PASSWORD, Pair};

/// Each privilege of the documented set is missed when it is not there, and the GRANT that the
/// finding names gives it.
pub(super) async fn privileges(kind: ServerKind) {
    let pair = Pair::start(kind).await;
    let on_tables = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, LOCK TABLES, REFERENCES, \
                     CREATE VIEW, SHOW VIEW, TRIGGER";
    let global = match kind {
        ServerKind::MySql => {
            "REPLICATION SLAVE, REPLICATION CLIENT, REPLICATION_APPLIER, SESSION_VARIABLES_ADMIN, \
             TRANSACTION_GTID_TAG, SET_ANY_DEFINER, ALLOW_NONEXISTENT_DEFINER, SYSTEM_USER, \
             XA_RECOVER_ADMIN"
        }
        ServerKind::MariaDb => {
            "REPLICATION SLAVE, BINLOG MONITOR, BINLOG REPLAY, BINLOG ADMIN, SLAVE MONITOR, SET USER"
        }
    };
    let split = |list: &str| -> Vec<String> {
        list.split(',').map(|name| name.trim().to_owned()).collect()
    };
    let optional = [
        "TRANSACTION_GTID_TAG",
        "SET_ANY_DEFINER",
        "ALLOW_NONEXISTENT_DEFINER",
        "SYSTEM_USER",
        "XA_RECOVER_ADMIN",
        "SLAVE MONITOR",
        "SET USER",
    ];
    let globals = split(global);
    let locals = split(on_tables);
    let config = pair.config_as("narrow", "databases = [\"shop\", \"crm_*\"]");
    let node = &config.nodes[0];
    let make = |globals: &[String], locals: &[String]| {
        let (globals, locals) = (globals.join(", "), locals.join(", "));
        format!(
            "CREATE USER 'narrow'@'%' IDENTIFIED BY '{PASSWORD}';
             GRANT {globals} ON *.* TO 'narrow'@'%';
             GRANT {locals} ON `shop`.* TO 'narrow'@'%';
             GRANT {locals} ON `crm\\_%`.* TO 'narrow'@'%';
             GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX ON `twinlog`.* TO \
             'narrow'@'%'"
        )
    };
    let found = async || -> Vec<Finding> {
        let mut findings = preflight::check_node(&config, node).await;
        findings.retain(|finding| finding.level != Level::Pass);
        findings
    };
    let without = |list: &[String], name: &str| -> Vec<String> {
        list.iter()
            .filter(|other| *other != name)
            .cloned()
            .collect()
    };

    pair.a.query_drop(&make(&globals, &locals)).await.unwrap();
    assert_eq!(found().await, [], "the documented set is enough");

    for missing in globals.iter().chain(&locals) {
        let recreate = make(&without(&globals, missing), &without(&locals, missing));
        pair.a
            .query_drop(&format!("DROP USER 'narrow'@'%'; {recreate}"))
            .await
            .unwrap();
        let findings = found().await;
        assert!(!findings.is_empty(), "{missing} is not missed");
        let level = if optional.contains(&missing.as_str()) {
            Level::Warn
        } else {
            Level::Fail
        };
        for finding in findings {
            if finding.subject == "server.replication" {
                continue;
            }
            assert_eq!(
                (finding.subject, finding.level),
                ("privileges", level),
                "{finding:#?}"
            );
            let grant = finding.remedy.unwrap();
            assert!(
                grant.starts_with(&format!("GRANT {missing} ON ")),
                "{missing}: {grant}"
            );
            pair.a
                .query_drop(grant.trim_end_matches(';'))
                .await
                .unwrap();
        }
        assert_eq!(found().await, [], "after the GRANT of {missing}");
    }

    // Through a role.
    let recreate = make(&globals, &without(&locals, "DELETE"));
    let role = match kind {
        ServerKind::MySql => "SET DEFAULT ROLE 'deleter' TO 'narrow'@'%'",
        ServerKind::MariaDb => "SET DEFAULT ROLE 'deleter' FOR 'narrow'@'%'",
    };
    pair.a
        .query_drop(&format!(
            "DROP USER 'narrow'@'%'; {recreate}; CREATE ROLE 'deleter';
             GRANT DELETE ON *.* TO 'deleter'; GRANT 'deleter' TO 'narrow'@'%'; {role}"
        ))
        .await
        .unwrap();
    assert_eq!(found().await, [], "a default role counts");

    // With nothing at all, the rest of the check still speaks.
    pair.a
        .query_drop(&format!(
            "DROP USER 'narrow'@'%'; CREATE USER 'narrow'@'%' IDENTIFIED BY '{PASSWORD}'"
        ))
        .await
        .unwrap();
    let findings = found().await;
    let grants: Vec<_> = findings
        .iter()
        .filter(|finding| finding.subject == "privileges" && finding.level == Level::Fail)
        .collect();
    assert_eq!(
        grants.len(),
        4,
        "*.*, shop, crm, the engine's: {findings:#?}"
    );
}
