//! What the process takes of the machine's memory, as the kernel counts it.

use serde::{Deserialize, Serialize};

/// Memory of the process, in bytes; 0 where the kernel does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStatus {
    /// Resident now.
    pub resident_bytes: u64,
    /// Most that was ever resident.
    pub peak_bytes: u64,
    /// What it is to stay under: `[engine] memory`.
    pub limit_bytes: u64,
}

impl MemoryStatus {
    /// Asks the kernel.
    #[must_use]
    pub fn now(limit_bytes: u64) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            limit_bytes,
            ..read(&status)
        }
    }
}

fn read(status: &str) -> MemoryStatus {
    let field = |name: &str| {
        let kib = status.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(':')?;
            value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        kib.unwrap_or(0) * 1024
    };
    MemoryStatus {
        resident_bytes: field("VmRSS"),
        peak_bytes: field("VmHWM"),
        limit_bytes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says() {
        let read = read("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n");
        assert_eq!((read.resident_bytes, read.peak_bytes), (1 << 20, 2 << 20));
        let now = MemoryStatus::now(7);
        assert!(now.resident_bytes > 0 && now.peak_bytes >= now.resident_bytes / 2);
        assert_eq!(now.limit_bytes, 7);
    }
}
