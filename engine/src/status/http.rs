//! `GET /status`, `/metrics`, `/health`, and a page for people, at the node's `listen` address.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{EngineStatus, LinkStatus, State, metrics};
use crate::error::{Error, Result};

/// Gives the engine's status whenever it is asked.
pub type StatusReader = Arc<dyn Fn() -> EngineStatus + Send + Sync>;

/// Serves until stopped. Returns once the address is bound.
///
/// # Errors
/// [`Error::Config`] when the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    status: StatusReader,
    stop: CancellationToken,
) -> Result<SocketAddr> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Error::Config(format!(
            "cannot listen on {address}: {error}; choose another `listen` for this node, or stop \
             what uses the port"
        ))
    })?;
    let bound = listener
        .local_addr()
        .map_err(|error| Error::Internal(format!("listen address: {error}")))?;
    let routes = Router::new()
        .route("/", get(page))
        .route("/status", get(status_json))
        .route("/metrics", get(metrics_text))
        .route("/health", get(health))
        .with_state(status);
    tokio::spawn(async move {
        let served = axum::serve(listener, routes)
            .with_graceful_shutdown(async move { stop.cancelled().await })
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the status server ended");
        }
    });
    Ok(bound)
}

async fn status_json(Shared(status): Shared<StatusReader>) -> Json<EngineStatus> {
    Json(status())
}

async fn metrics_text(Shared(status): Shared<StatusReader>) -> Response {
    match metrics::render(&status()) {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// 200 while every link runs or is about to; 503 with the reason when one needs a person.
async fn health(Shared(status): Shared<StatusReader>) -> (StatusCode, String) {
    let troubles = troubles(&status());
    if troubles.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, troubles.join("\n") + "\n")
    }
}

fn troubles(status: &EngineStatus) -> Vec<String> {
    let mut troubles = Vec::new();
    if status.tailer.state == State::Halted {
        troubles.push(format!(
            "the tailer of node {} is halted: {}",
            status.node,
            status.tailer.last_error.as_deref().unwrap_or("")
        ));
    }
    for link in &status.links {
        if link.state == State::Halted {
            troubles.push(format!(
                "link {} -> {} is halted: {}",
                link.origin,
                link.target,
                link.last_error.as_deref().unwrap_or("")
            ));
        }
    }
    troubles
}

async fn page(Shared(status): Shared<StatusReader>) -> Html<String> {
    let status = status();
    let escape = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    let error = |link: &LinkStatus| match (&link.last_error, link.last_error_seconds_ago) {
        (Some(error), Some(ago)) if link.state.is_well() => {
            format!("recovered; {ago} s ago: {error}")
        }
        (error, _) => error.clone().unwrap_or_default(),
    };
    let rows: String = status
        .links
        .iter()
        .map(|link| {
            format!(
                "<tr><td>{} &rarr; {}</td><td class=\"{:?}\">{}</td><td>{}</td><td>{}</td>\
                 <td>{:.1}</td><td>{}</td><td>{:.0}</td><td>{}</td></tr>",
                escape(&link.origin),
                escape(&link.target),
                link.state,
                link.state,
                escape(&link.source_position),
                escape(&link.applied_position),
                link.lag_seconds,
                link.lag_transactions,
                link.transactions_per_second,
                escape(&error(link)),
            )
        })
        .collect();
    Html(format!(
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=2>\
         <title>twinlog: node {node}</title><style>body{{font:15px system-ui;margin:2em;\
         max-width:75em}}table{{border-collapse:collapse;width:100%}}td,th{{padding:.4em .8em;\
         border-bottom:1px solid #ccc;text-align:left}}.Halted{{color:#b00;font-weight:bold}}\
         .Streaming{{color:#080}}.Retrying{{color:#a60}}</style><h1>twinlog: node {node}</h1>\
         <p>{server}, up {uptime} s, tailer {tailer} at {position}, {window} keys in the window.\
         <table><tr><th>link<th>state<th>source<th>applied<th>lag s<th>waiting<th>trx/s<th>last \
         error</tr>{rows}</table><p><a href=/status>status</a> <a href=/metrics>metrics</a> \
         <a href=/health>health</a>",
        node = escape(&status.node),
        server = escape(&status.server_version),
        uptime = status.uptime_seconds,
        tailer = status.tailer.state,
        position = escape(&status.tailer.position),
        window = status.tailer.window_keys,
    ))
}
