//! The report of a process: what its launches did, summed by kernel, and what it did besides.

use crate::counts::{Counts, Traffic};
use crate::device::Model;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Number and bytes of one kind of transfer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Transfers {
    /// How often.
    pub count: u64,
    /// Bytes moved.
    pub bytes: u64,
}

/// What a process did besides running kernels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Kernel launches, those of graphs included.
    pub launches: u64,
    /// Launches of whole graphs.
    pub graph_launches: u64,
    /// Copies by direction: `host_to_device`, `device_to_host`, `device_to_device`,
    /// `host_to_host`.
    pub copies: BTreeMap<String, Transfers>,
    /// Fills of memory.
    pub fills: Transfers,
    /// Calls that wait: for a stream, an event, a context, or a synchronous copy.
    pub synchronisations: u64,
    /// Allocations of device memory.
    pub allocations: u64,
    /// Most bytes of device memory allocated at a time.
    pub peak_bytes: u64,
    /// Copies to the host of bytes that nothing had written.
    pub uninitialised_copies: u64,
    /// What stopped a launch.
    pub violations: Vec<String>,
    /// Allocations that were never freed, as text.
    pub leaks: Vec<String>,
}

/// All launches of one kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelSum {
    /// How often it was launched.
    pub launches: u64,
    /// Counts added up; grid, block and shared memory are those of the last launch, and
    /// `longest_warp` is the longest of all.
    pub counts: Counts,
}

/// What `SOFTCUDA_REPORT` holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the device model.
    pub device: String,
    /// Seed of the order of execution.
    pub seed: u64,
    /// What the process did besides.
    pub process: Process,
    /// Sums by name of the kernel.
    pub kernels: BTreeMap<String, KernelSum>,
    /// Every launch, in order of completion.
    pub launches: Vec<Counts>,
}

fn add(sum: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (key, count) in more {
        *sum.entry(key.clone()).or_default() += count;
    }
}

impl KernelSum {
    /// Adds one launch.
    pub fn add(&mut self, launch: &Counts) {
        let old = std::mem::take(&mut self.counts);
        self.launches += 1;
        self.counts = launch.clone();
        let sum = &mut self.counts;
        for (label, traffic) in &old.memory {
            sum.memory.entry(label.clone()).or_default().add(traffic);
        }
        add(&mut sum.classes, &old.classes);
        add(&mut sum.mma, &old.mma);
        sum.warp_instructions += old.warp_instructions;
        sum.shared_wavefronts += old.shared_wavefronts;
        sum.shared_conflicts += old.shared_conflicts;
        sum.barriers += old.barriers;
        sum.divergent_branches += old.divergent_branches;
        sum.longest_warp = sum.longest_warp.max(old.longest_warp);
    }
}

/// Share of the bytes in the touched sectors that were asked for; more than one where lanes of a
/// warp ask for the same bytes.
fn sector_efficiency(traffic: &Traffic) -> Option<f64> {
    (traffic.sectors > 0).then(|| traffic.bytes() as f64 / (32 * traffic.sectors) as f64)
}

/// Operations of one tensor-core instruction, two for each multiply and add, from its shape.
fn mma_operations(name: &str) -> f64 {
    let shape = name.split('.').next().unwrap_or_default();
    let sizes: Option<Vec<f64>> = shape
        .split(|c: char| c.is_ascii_lowercase())
        .skip(1)
        .map(|size| size.parse().ok())
        .collect();
    sizes.map_or(0.0, |sizes| 2.0 * sizes.iter().product::<f64>())
}

/// Seconds that a kernel takes at least on `model`, and what binds it. All of it is estimated
/// from counts and data-sheet rates: every different sector of a launch is read from memory once,
/// each multiprocessor issues four warp instructions per cycle, tensor cores run at the dense
/// bf16 rate, and a launch costs two microseconds.
fn estimate(sum: &KernelSum, model: &Model) -> (f64, &'static str) {
    let counts = &sum.counts;
    let memory = (32 * counts.traffic().unique_sectors) as f64 / model.bandwidth;
    let hertz = f64::from(model.clock_khz) * 1e3;
    let issue = counts.warp_instructions as f64 / (f64::from(model.multiprocessors) * 4.0 * hertz);
    let operations: f64 = counts
        .mma
        .iter()
        .map(|(name, &count)| count as f64 * mma_operations(name))
        .sum();
    let mma = operations / model.tensor_flops;
    let launch = 2e-6 * sum.launches as f64;
    let (seconds, what) = [(memory, "memory"), (issue, "issue"), (mma, "mma")]
        .into_iter()
        .fold(
            (0.0, "launch"),
            |best, next| if next.0 > best.0 { next } else { best },
        );
    if seconds < launch {
        (seconds + launch, "launch")
    } else {
        (seconds + launch, what)
    }
}

fn scaled(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Writes rows in columns: the first to the left, numbers to the right.
fn align(rows: &[Vec<String>], text: &mut String) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    for row in rows {
        let mut line = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            let _ = write!(line, "  {cell:>width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

impl Report {
    /// Adds one launch to its kernel's sum, and to the list of launches where `keep` says so.
    pub fn add(&mut self, launch: Counts, keep: bool) {
        self.process.launches += 1;
        self.kernels
            .entry(launch.kernel.clone())
            .or_default()
            .add(&launch);
        if keep {
            self.launches.push(launch);
        }
    }

    /// The table that `softcuda report` prints: kernels sorted by bytes, with each one's share of
    /// the whole and its sector efficiency; with `model` also an estimate of the time.
    pub fn table(&self, model: Option<&Model>) -> String {
        let mut kernels: Vec<_> = self.kernels.iter().collect();
        kernels.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.counts.traffic().bytes()));
        let whole: u64 = kernels
            .iter()
            .map(|(_, sum)| sum.counts.traffic().bytes())
            .sum();

        let mut head = vec!["kernel", "launches", "bytes", "share", "sectors", "unique"];
        head.extend([
            "sector eff.",
            "warp instr.",
            "mma",
            "conflicts",
            "divergent",
        ]);
        let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
        if let Some(model) = model {
            rows[0].push(format!("estimate on {}", model.name));
            rows[0].push("bound by".to_owned());
        }
        let mut total = 0.0;
        for (name, sum) in kernels {
            let (counts, traffic) = (&sum.counts, sum.counts.traffic());
            let share = traffic.bytes() as f64 / (whole.max(1)) as f64;
            let mut row = vec![
                name.clone(),
                sum.launches.to_string(),
                scaled(traffic.bytes()),
                percent(share),
                traffic.sectors.to_string(),
                traffic.unique_sectors.to_string(),
                sector_efficiency(&traffic).map_or_else(|| "-".to_owned(), percent),
                counts.warp_instructions.to_string(),
                counts.mma.values().sum::<u64>().to_string(),
                counts.shared_conflicts.to_string(),
                counts.divergent_branches.to_string(),
            ];
            if let Some(model) = model {
                let (seconds, what) = estimate(sum, model);
                total += seconds;
                row.push(format!("{:.2} us", 1e6 * seconds));
                row.push(what.to_owned());
            }
            rows.push(row);
        }

        let mut text = String::new();
        align(&rows, &mut text);
        self.labels(whole, &mut text);
        if let Some(model) = model {
            let _ = writeln!(
                text,
                "\nestimated, not measured: {:.2} us on {} from counts, data-sheet rates and 2 us \
                 a launch; caches, latency and overlap are not modelled",
                1e6 * total,
                model.name
            );
        }
        self.process_lines(&mut text);
        text
    }

    /// Traffic by label, where anything has one.
    fn labels(&self, whole: u64, text: &mut String) {
        let mut labels: BTreeMap<&str, Traffic> = BTreeMap::new();
        for sum in self.kernels.values() {
            for (label, traffic) in &sum.counts.memory {
                labels.entry(label).or_default().add(traffic);
            }
        }
        if labels.keys().all(|label| label.is_empty()) {
            return;
        }
        let mut labels: Vec<_> = labels.into_iter().collect();
        labels.sort_by_key(|(_, traffic)| std::cmp::Reverse(traffic.bytes()));
        let head = [
            "memory",
            "read",
            "written",
            "atomic",
            "share",
            "sector eff.",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (label, traffic) in labels {
            let name = if label.is_empty() {
                "(without a label)"
            } else {
                label
            };
            rows.push(vec![
                name.to_owned(),
                scaled(traffic.bytes_read),
                scaled(traffic.bytes_written),
                scaled(traffic.bytes_atomic),
                percent(traffic.bytes() as f64 / whole.max(1) as f64),
                sector_efficiency(&traffic).map_or_else(|| "-".to_owned(), percent),
            ]);
        }
        text.push('\n');
        align(&rows, text);
    }

    fn process_lines(&self, text: &mut String) {
        let process = &self.process;
        let _ = writeln!(
            text,
            "\ncounted on {}, seed {}: {} launches ({} graph launches), {} synchronisations, \
             {} allocations, at most {} at a time",
            self.device,
            self.seed,
            process.launches,
            process.graph_launches,
            process.synchronisations,
            process.allocations,
            scaled(process.peak_bytes),
        );
        for (direction, transfers) in &process.copies {
            let name = direction.replace('_', " ");
            let (count, bytes) = (transfers.count, scaled(transfers.bytes));
            let _ = writeln!(text, "copies {name}: {count}, {bytes}");
        }
        if process.fills.count > 0 {
            let (count, bytes) = (process.fills.count, scaled(process.fills.bytes));
            let _ = writeln!(text, "fills: {count}, {bytes}");
        }
        for violation in &process.violations {
            let _ = writeln!(text, "violation: {violation}");
        }
        for leak in &process.leaks {
            let _ = writeln!(text, "leak: {leak}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(kernel: &str, bytes: u64, sectors: u64, mma: u64) -> Counts {
        let traffic = Traffic {
            bytes_read: bytes,
            sectors,
            unique_sectors: sectors,
            ..Traffic::default()
        };
        Counts {
            kernel: kernel.to_owned(),
            memory: BTreeMap::from([("x".to_owned(), traffic)]),
            mma: BTreeMap::from([("m16n8k16.f32.bf16.bf16.f32".to_owned(), mma)]),
            warp_instructions: 10,
            longest_warp: bytes,
            ..Counts::default()
        }
    }

    fn report() -> Report {
        let mut report = Report::default();
        report.add(launch("small", 64, 4, 0), false);
        report.add(launch("large", 3 << 20, 98304, 5), true);
        report.add(launch("large", 1 << 20, 32768, 7), true);
        report
    }

    #[test]
    fn launches_add_up_by_kernel() {
        let report = report();
        assert_eq!((report.process.launches, report.launches.len()), (3, 2));
        let large = &report.kernels["large"];
        assert_eq!((large.launches, large.counts.warp_instructions), (2, 20));
        assert_eq!(large.counts.traffic().bytes(), 4 << 20);
        assert_eq!(large.counts.longest_warp, 3 << 20);
        assert_eq!(large.counts.mma.values().sum::<u64>(), 12);
    }

    #[test]
    fn the_table_is_sorted_by_bytes_and_says_what_is_an_estimate() {
        let table = report().table(None);
        let lines: Vec<_> = table.lines().collect();
        assert!(
            lines[1].starts_with("large") && lines[2].starts_with("small"),
            "{table}"
        );
        assert!(
            lines[1].contains("100.0 %") && lines[2].contains("50.0 %"),
            "{table}"
        );
        assert!(!table.contains("estimate"), "{table}");
        let label = lines.iter().find(|line| line.starts_with("x ")).unwrap();
        assert!(
            label.contains("4.0 MiB") && label.contains("100.0 %"),
            "{table}"
        );
        let table = report().table(Model::named("h100"));
        assert!(table.contains("estimate on h100"), "{table}");
        assert!(table.contains("estimated, not measured"), "{table}");
    }

    #[test]
    fn the_estimate_follows_what_binds() {
        let model = Model::named("h100").unwrap();
        let mut sum = KernelSum::default();
        sum.add(&launch("k", 0, 1 << 30, 0));
        let (seconds, what) = estimate(&sum, model);
        assert_eq!(what, "memory");
        assert!((seconds - (32.0 * f64::from(1 << 30) / 3.35e12 + 2e-6)).abs() < 1e-9);
        assert_eq!(mma_operations("m16n8k16.f32.bf16.bf16.f32"), 4096.0);
        let mut sum = KernelSum::default();
        sum.add(&launch("k", 0, 1, 1 << 30));
        assert_eq!(estimate(&sum, model).1, "mma");
        let mut sum = KernelSum::default();
        sum.add(&launch("k", 0, 1, 1));
        assert_eq!(estimate(&sum, model).1, "launch");
    }
}
