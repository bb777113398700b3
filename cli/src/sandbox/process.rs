//! Server processes: starting one that cannot outlive this program, a free port for it, and the
//! end of what it logged.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context as _, bail};
use rand::RngExt as _;

/// Ports are drawn from below the range from which Linux takes ports for outgoing connections, so
/// that no client of ours occupies the port of a server that is down for a moment.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port of the loopback interface that nothing listens on right now. Somebody may take it before
/// the server does: the caller tries again then.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let [port] = free_ports()?;
    Ok(port)
}

/// So many different ones.
pub(crate) fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut rng = rand::rng();
    let mut ports = [0; N];
    // Each is held until all are found.
    let mut held = Vec::new();
    for _ in 0..200 * N {
        let port = rng.random_range(PORTS);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            ports[held.len()] = port;
            held.push(listener);
        }
        if held.len() == N {
            return Ok(ports);
        }
    }
    bail!(
        "no free port on 127.0.0.1 between {} and {}",
        PORTS.start,
        PORTS.end
    )
}

/// Whether a server's log says that its port was taken.
pub(super) fn says_port_taken(log: &str) -> bool {
    ["Address already in use", "Do you already have another"]
        .iter()
        .any(|phrase| log.contains(phrase))
}

/// The last `most` bytes of what was logged after offset `from`.
pub(crate) fn tail(log: &Path, from: u64, most: usize) -> String {
    let read = || -> io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        let start = from.max(length.saturating_sub(most as u64));
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(cannot read {}: {error})", log.display()))
}

struct Request {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

/// Starts a process that ends when this program ends, however it ends.
///
/// The kernel sends the death signal when the *thread* that started the process ends, and threads
/// of an async runtime come and go. So one thread, which lives as long as the program, starts all
/// of them. The signal is set by `setpriv`, because setting it here would take unsafe code; on a
/// system without it a killed (not a panicking) program leaves its servers behind.
pub(super) fn spawn(command: Command) -> anyhow::Result<Child> {
    spawn_logged(command, None)
}

/// The same, with what the process says on standard error written to a file.
pub(crate) fn spawn_logged(
    mut command: Command,
    log: Option<std::fs::File>,
) -> anyhow::Result<Child> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.map_or_else(Stdio::null, Stdio::from))
        // Ctrl-C is for this program, which then ends its servers in order.
        .process_group(0);
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = channel();
        std::thread::spawn(move || serve(&inbox));
        requests
    });
    let (reply, answer) = channel();
    spawner
        .send(Request { command, reply })
        .ok()
        .context("the thread that starts servers has ended")?;
    Ok(answer.recv()??)
}

fn serve(inbox: &Receiver<Request>) {
    while let Ok(mut request) = inbox.recv() {
        // The receiver waits for the answer; if it is gone, so is the wish for the process.
        if let Err(unheard) = request.reply.send(request.command.spawn())
            && let Ok(mut child) = unheard.0
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A command that runs `program` and passes on the death of this program to it, where it can.
pub(crate) fn mortal(program: &Path) -> Command {
    match super::installation::find_program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_bound() {
        let ports: [u16; 50] = free_ports().unwrap();
        let different: std::collections::HashSet<u16> = ports.into_iter().collect();
        assert_eq!(different.len(), ports.len());
        let port = free_port().unwrap();
        assert!(PORTS.contains(&port));
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn the_tail_begins_after_what_was_logged_before() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "old failure\nnew line\n").unwrap();
        assert_eq!(tail(&log, 12, 100), "new line\n");
        assert_eq!(tail(&log, 0, 5), "line\n");
        assert!(tail(&dir.path().join("none"), 0, 5).contains("cannot read"));
    }

    #[test]
    fn a_process_is_started_and_can_be_reaped() {
        let mut child = spawn(mortal(Path::new("/bin/true"))).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(spawn(Command::new("/nonexistent/program")).is_err());
    }
}
