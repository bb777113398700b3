//! Asks a running engine for its status, over HTTP at the node's `listen` address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use twinlog_engine::config::NodeConfig;
use twinlog_engine::status::EngineStatus;

/// An engine answers from memory; longer means that it is not there.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Far above any status: what is larger is something else.
const MOST_BYTES: u64 = 4 << 20;

/// The status of the engine alongside this node.
pub(crate) async fn status(node: &NodeConfig) -> anyhow::Result<EngineStatus> {
    let Some(address) = node.listen else {
        bail!(
            "node {} has no `listen` address in the config file, so its engine cannot be asked",
            node.name
        );
    };
    let body = tokio::time::timeout(TIMEOUT, get(reachable(address), "/status"))
        .await
        .with_context(|| format!("no answer from {address} within {} s", TIMEOUT.as_secs()))?
        .with_context(|| format!("no engine of node {} answers at {address}", node.name))?;
    let status: EngineStatus = serde_json::from_slice(&body)
        .with_context(|| format!("what answers at {address} is no twinlog of this version"))?;
    if status.node != node.name {
        bail!(
            "the engine at {address} is that of node {}, not {}: the config files differ",
            status.node,
            node.name
        );
    }
    Ok(status)
}

/// An engine that listens everywhere is asked on this host.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A plain GET. HTTP 1.0, so that the answer comes in one piece and the connection closes behind it.
async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer).await?;
    let end = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .context("the answer is not HTTP")?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or(&[]);
    let line = String::from_utf8_lossy(line).into_owned();
    if line.split(' ').nth(1) != Some("200") {
        bail!("the answer is {line:?}");
    }
    Ok(answer.split_off(end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers one request with these bytes; gives the request.
    async fn serve(answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (address, served)
    }

    #[tokio::test]
    async fn the_body_of_a_good_answer() {
        let (address, served) = serve(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\n{\"a\":1}").await;
        assert_eq!(get(address, "/status").await.unwrap(), b"{\"a\":1}");
        assert!(
            served
                .await
                .unwrap()
                .starts_with("GET /status HTTP/1.0\r\n")
        );
    }

    #[tokio::test]
    async fn other_answers_are_errors() {
        for answer in [&b"HTTP/1.0 404 Not Found\r\n\r\n"[..], b"SSH-2.0\r\n", b""] {
            let (address, served) = serve(answer).await;
            assert!(get(address, "/status").await.is_err());
            served.await.unwrap();
        }
    }
}
