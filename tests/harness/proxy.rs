//! A TCP proxy between an engine and a server, whose faults a test chooses: what a network does to
//! two masters in two places.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Everything passes.
    None,
    /// Connections are reset, those that are open and those that come.
    Refuse,
    /// Nothing passes, and nobody is told; what was sent passes later.
    BlackHole,
    /// A connection is reset once the server has sent this many more bytes: mostly in mid packet.
    ResetAfter(usize),
    /// Each piece takes this long.
    Latency(Duration),
    /// So many bytes a second and direction pass.
    Throttle(usize),
}

#[derive(Debug, Clone, Copy)]
struct Weather {
    fault: Fault,
    /// Connections of an earlier generation are half open: dead, and the engine is not told.
    generation: u64,
}

/// A proxy on a port of its own. Dropping it resets its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of the loopback interface and passes on to `server`.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (weather, seen) = watch::channel(Weather {
            fault: Fault::None,
            generation: 0,
        });
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    // Out of file descriptors, say: the next one may do.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                while connections.try_join_next().is_some() {}
                connections.spawn(pass(client, server, seen.clone()));
            }
        });
        Self {
            port,
            weather,
            task,
        }
    }

    /// Where engines connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on.
    pub fn set(&self, fault: Fault) {
        self.weather.send_modify(|weather| weather.fault = fault);
    }

    /// Connections that are open now never pass anything again: the server is told that its side is
    /// closed, the engine is not told.
    pub fn half_open(&self) {
        self.weather.send_modify(|weather| weather.generation += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a connection came to its end.
enum End {
    Closed,
    Reset,
    HalfOpen,
}

async fn pass(mut client: TcpStream, server: u16, mut weather: watch::Receiver<Weather>) {
    let now = *weather.borrow_and_update();
    if now.fault == Fault::Refuse {
        let _ = client.set_zero_linger();
        return;
    }
    let generation = now.generation;
    // The server may be down.
    let Ok(mut upstream) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
    let end = {
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = upstream.split();
        let (there, back) = (weather.clone(), weather.clone());
        tokio::select! {
            end = pump(client_reads, server_writes, there, generation, false) => end,
            end = pump(server_reads, client_writes, back, generation, true) => end,
        }
    };
    match end {
        End::Closed => {}
        End::Reset => {
            let _ = (client.set_zero_linger(), upstream.set_zero_linger());
        }
        End::HalfOpen => {
            drop(upstream);
            // Swallows what comes, until the engine has enough of it.
            let mut nowhere = [0; 4096];
            while client.read(&mut nowhere).await.is_ok_and(|read| read > 0) {}
        }
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    generation: u64,
    from_server: bool,
) -> End {
    let mut buffer = vec![0; 64 * 1024];
    let mut passed = 0;
    loop {
        let now = *weather.borrow_and_update();
        if now.generation != generation {
            return End::HalfOpen;
        }
        let most = match now.fault {
            Fault::Refuse => return End::Reset,
            Fault::BlackHole => {
                if weather.changed().await.is_err() {
                    return End::Reset;
                }
                continue;
            }
            Fault::Throttle(_) => 2048,
            Fault::ResetAfter(bytes) if from_server => {
                if passed >= bytes {
                    return End::Reset;
                }
                buffer.len().min(bytes - passed)
            }
            _ => buffer.len(),
        };
        let read = tokio::select! {
            changed = weather.changed() => {
                if changed.is_err() {
                    return End::Reset;
                }
                passed = 0;
                continue;
            }
            read = from.read(&mut buffer[..most]) => read,
        };
        let read = match read {
            Ok(0) => return End::Closed,
            Ok(read) => read,
            Err(_) => return End::Reset,
        };
        passed += read;
        match now.fault {
            Fault::Latency(pause) => tokio::time::sleep(pause).await,
            Fault::Throttle(rate) => {
                tokio::time::sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
            }
            _ => {}
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return End::Reset;
        }
    }
}
