//! What an operator is told of a server that crashed.

use std::time::Duration;

use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::ledger::{self, Ledger, Style};
use twinlog_harness::{Cluster, ClusterOptions};

use crate::TWINLOG;

on_both!(a_crash_with_relaxed_settings_is_said,);

/// Tables that lost what the log has leave no other trace where nothing was applied in that moment. An
/// orderly restart is none.
async fn a_crash_with_relaxed_settings_is_said(kind: ServerKind) {
    const WORDS: &str = "ends without a goodbye";
    let mut options = ClusterOptions::new(kind);
    options.durable = false;
    options.replication = ledger::RULES.to_owned();
    let mut cluster = Cluster::start(TWINLOG, &options, ledger::SCHEMA).await;
    cluster.start_engine(1, None);
    cluster.says(1, 0, "the link runs").await;
    let style = Style {
        clients: 1,
        totals: 0,
        hot: 0,
        pause: Duration::from_millis(5),
    };
    for crash in [false, true] {
        let load = Ledger::start(&cluster.servers, style, 1);
        load.go_on_for(20).await;
        load.finish().await;
        let from = cluster.log_length(1);
        if crash {
            cluster.servers[0].kill9().await;
        } else {
            cluster.servers[0].stop().await;
        }
        cluster.servers[0].start_again().await.unwrap();
        cluster.says(1, from, "the link runs").await;
        if crash {
            let line = cluster.says(1, from, WORDS).await;
            assert!(
                line.contains("sync_binlog = 0") && line.contains("twinlog verify"),
                "{line}"
            );
        } else {
            // Something behind the restart is read.
            cluster
                .run(
                    0,
                    "UPDATE d.total SET n = n WHERE id = 1; DELETE FROM d.total WHERE id = 4",
                )
                .await;
            let gone = "SELECT COUNT(*) FROM d.total WHERE id = 4";
            let begun = std::time::Instant::now();
            while cluster.query::<i64>(1, gone).await != [0] {
                assert!(begun.elapsed() < twinlog_harness::pair::PATIENCE);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let log = cluster.log(1);
            assert!(!log.contains(WORDS), "{log}");
        }
    }
}
