//! The machine that a benchmark ran on, and what else it was doing meanwhile.

use std::time::Instant;

use serde::Serialize;

/// Linux counts processor time for programs in hundredths of a second (USER_HZ), on every
/// architecture that the servers run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the figures depend on besides the programs.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Processors that may be used.
    pub cores: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The kernel.
    pub kernel: String,
    /// The system, such as `Debian GNU/Linux 12 (bookworm)`.
    pub system: String,
}

impl Machine {
    /// This machine. What cannot be read is `unknown` or 0.
    #[must_use]
    pub fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str, separator: char| {
            text.lines()
                .filter_map(|line| line.split_once(separator))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().trim_matches('"').to_owned())
        };
        let unknown = || "unknown".to_owned();
        let kilobytes = field(&read("/proc/meminfo"), "MemTotal", ':')
            .and_then(|text| text.split(' ').next().and_then(|n| n.parse::<u64>().ok()));
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name", ':').unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kilobytes.unwrap_or(0) * 1024,
            kernel: Some(read("/proc/sys/kernel/osrelease").trim().to_owned())
                .filter(|text| !text.is_empty())
                .unwrap_or_else(unknown),
            system: field(&read("/etc/os-release"), "PRETTY_NAME", '=').unwrap_or_else(unknown),
        }
    }
}

/// Processor seconds that a process has taken so far; `None` when it is gone.
#[must_use]
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let user: f64 = fields.nth(11)?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// Most memory that a process has held at a time, in bytes; `None` when it is gone.
#[must_use]
pub fn peak_memory_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Processor seconds that the whole machine has been busy since it started.
fn busy_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().next()?.strip_prefix("cpu")?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((ticks.iter().take(8).sum::<f64>() - idle) / TICKS_PER_SECOND)
}

/// Watches some processes beside the rest of the machine, from its making on.
#[derive(Debug)]
pub struct Watch {
    begun: Instant,
    busy: Option<f64>,
    own: f64,
    watched: Vec<(u32, f64)>,
}

impl Watch {
    /// Begins to watch these processes (and this one).
    #[must_use]
    pub fn begin(pids: &[u32]) -> Self {
        Self {
            begun: Instant::now(),
            busy: busy_seconds(),
            own: cpu_seconds(std::process::id()).unwrap_or(0.0),
            watched: pids
                .iter()
                .map(|pid| (*pid, cpu_seconds(*pid).unwrap_or(0.0)))
                .collect(),
        }
    }

    /// Processor seconds of each watched process since the beginning, in their order.
    #[must_use]
    pub fn taken(&self) -> Vec<f64> {
        self.watched
            .iter()
            .map(|(pid, before)| cpu_seconds(*pid).map_or(0.0, |now| now - before))
            .collect()
    }

    /// The share of the machine that went to processes that are neither watched nor this one, 0 to
    /// 1: a measurement beside other work says less. `None` where nothing is watched: what the servers
    /// take is not known then.
    #[must_use]
    pub fn others_share(&self, own_children: f64) -> Option<f64> {
        if self.watched.is_empty() {
            return None;
        }
        let busy = busy_seconds()? - self.busy?;
        let own = cpu_seconds(std::process::id())? - self.own;
        let known = own + own_children + self.taken().iter().sum::<f64>();
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let all = self.begun.elapsed().as_secs_f64() * cores;
        Some(((busy - known) / all).clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_time_and_memory() {
        let pid = std::process::id();
        let watch = Watch::begin(&[pid]);
        let begun = Instant::now();
        let mut sum = 0_u64;
        while begun.elapsed().as_millis() < 100 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(watch.taken()[0] > 0.0);
        assert!(peak_memory_bytes(pid).unwrap() > 1 << 20);
        assert!(watch.others_share(0.0).is_some());
        assert!(cpu_seconds(u32::MAX).is_none());
    }

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::this();
        assert!(machine.cores > 0);
        assert!(machine.memory_bytes > 0);
        assert!(!machine.kernel.is_empty());
    }
}
