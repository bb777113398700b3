//! The demo comes to its good end, and leaves nothing behind when it does not.

use std::process::ExitCode;

use twinlog_cli::command::demo::{DemoArgs, run};
use twinlog_cli::sandbox::ServerKind;

async fn ends_equal(server: ServerKind) {
    let code = run(DemoArgs {
        server,
        seconds: 2,
        clients: 3,
        json: true,
    })
    .await
    .unwrap();
    // Exit codes can only be compared as text.
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_demo_ends_equal() {
    ends_equal(ServerKind::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_demo_ends_equal() {
    ends_equal(ServerKind::MySql).await;
}
