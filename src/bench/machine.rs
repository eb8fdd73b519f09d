//! Where a bench ran.

use serde::{Deserialize, Serialize};

/// The machine, as far as the system says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's own name.
    pub processor: Option<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Operating system and architecture.
    pub system: String,
    /// The kernel's version.
    pub kernel: Option<String>,
    /// Processes that were running or waiting to run when the bench began, averaged over a minute.
    pub load: Option<String>,
}

impl Machine {
    /// This machine, now.
    pub fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let field = |path: &str, name: &str| {
            let text = read(path)?;
            let line = text.lines().find(|l| l.starts_with(name))?;
            let (_, value) = line.split_once(':')?;
            Some(value.trim().to_owned())
        };
        let kib = |text: String| text.split_whitespace().next()?.parse::<u64>().ok();
        Machine {
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: field("/proc/meminfo", "MemTotal")
                .and_then(kib)
                .map(|k| 1024 * k),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            kernel: read("/proc/sys/kernel/osrelease").map(|t| t.trim().to_owned()),
            load: read("/proc/loadavg")
                .and_then(|t| t.split_whitespace().next().map(str::to_owned)),
        }
    }
}
