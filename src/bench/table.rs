//! A bench as people read it: tables in Markdown.

use super::{Line, Record, Summary};
use crate::statistics::Interval;
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write;

impl Summary {
    /// What was run, the tables, and what their words mean.
    pub fn text(&self, record: &Record) -> String {
        let mut text = self.heading(record);
        let swept = record.workloads().len() > 1;
        let mut latency = table(
            &[
                "decoding",
                "ms/token p50",
                "p95",
                "p99",
                "gap p50",
                "gap p99",
                "first token, ms",
                "tokens/s",
                "x plain",
            ],
            swept,
        );
        let mut work = table(
            &[
                "decoding",
                "m",
                "tokens/pass",
                "passes/token",
                "nodes/step",
                "draft",
                "target",
                "verify",
                "host, ms/token",
                "pass, % of limit",
            ],
            swept,
        );
        // one number of digits a table, that of the shortest time
        let shortest = self.lines.iter().map(|l| l.token_ms.p50.value);
        let digits = digits(shortest.fold(f64::INFINITY, f64::min));
        for line in &self.lines {
            latency.add_row(cells(line, swept, latency_cells(line, digits)));
            work.add_row(cells(line, swept, work_cells(line, digits)));
        }
        for table in [latency, work] {
            let _ = writeln!(text, "{}\n", aligned(table, 1 + usize::from(swept)));
        }
        if let Some(kinds) = self.kinds(record) {
            let _ = writeln!(text, "{}\n", aligned(kinds, 1));
        }
        text + &self.words(record)
    }

    fn heading(&self, record: &Record) -> String {
        let s = &record.settings;
        let drafts: Vec<&str> = record.drafts.iter().map(|d| &*d.dir).collect();
        let mut text = format!(
            "{}{}\n{}; {}\n{} prompts, {} rounds, at most {} tokens{}, {}, seed {}\n",
            record.target.dir,
            match drafts.is_empty() {
                true => String::new(),
                false => format!(" with {}", drafts.join(", ")),
            },
            record.device,
            record
                .machine
                .processor
                .as_deref()
                .unwrap_or(&record.machine.system),
            record.prompts.len(),
            s.rounds,
            s.max_tokens,
            if s.ignore_eos {
                " past end-of-sequence"
            } else {
                ""
            },
            match s.sampling.temperature == 0.0 {
                true => "greedy".to_owned(),
                false => format!("temperature {}", s.sampling.temperature),
            },
            s.seed,
        );
        if let (Some(rate), Some(ms), Some(read)) =
            (self.read_gb_per_s, self.read_ms, record.reads.first())
        {
            let _ = writeln!(
                text,
                "plain read of the target's {:.1} MB, the limit of a pass: {} ms, {} GB/s",
                read.bytes as f64 / 1e6,
                around(ms, 3),
                around(rate, 1),
            );
        }
        if record.was_interrupted() {
            let _ = writeln!(
                text,
                "interrupted: {} of {} runs",
                record.samples.len(),
                record.runs_asked
            );
        }
        if record.debug_assertions {
            text += "built with debug assertions: times are those of a debug build\n";
        }
        text + "\n"
    }

    /// Drafts kept by the kind of text, where there are several kinds.
    fn kinds(&self, record: &Record) -> Option<Table> {
        let mut names: Vec<&str> = self.kinds.iter().map(|k| &*k.kind).collect();
        names.dedup();
        if names.len() < 2 {
            return None;
        }
        let head = [vec!["tokens/pass, x plain"], names.clone()].concat();
        let mut rows = table(&head, false);
        for (place, mode) in record.modes.iter().enumerate() {
            if mode.is_plain() {
                continue;
            }
            let cell = |kind: &&str| {
                let wanted = self
                    .kinds
                    .iter()
                    .find(|k| k.mode == place && k.kind == *kind);
                wanted.map_or(String::new(), |k| match k.speedup {
                    Some(speedup) => format!("{:.2}, {speedup:.2}", k.block_efficiency),
                    None => format!("{:.2}", k.block_efficiency),
                })
            };
            rows.add_row([vec![mode.name.clone()], names.iter().map(cell).collect()].concat());
        }
        Some(rows)
    }

    fn words(&self, record: &Record) -> String {
        let mut text = String::from(
            "In brackets: 95 %, runs drawn whole; x plain: plain's ms/token over this one's, the geometric mean over pairs of one prompt and round.\n\
             ms/token: after the first step, the tokens of a step sharing its time; gap: from one arrival of tokens to the next.\n\
             m: draft tokens kept per target pass. Limit of a pass: a plain read of the weights by the same device, timed beside it.\n",
        );
        if record.differences.is_empty() {
            let exact = record.modes.iter().filter(|m| m.exact && !m.is_plain());
            let names: Vec<&str> = exact.map(|m| &*m.name).collect();
            if !names.is_empty() && record.modes.iter().any(|m| m.is_plain()) {
                let _ = writeln!(text, "Same tokens as plain decoding: {}.", names.join(", "));
            }
        }
        for d in &record.differences {
            let token = |t: Option<u32>| t.map_or("the end".to_owned(), |t| format!("token {t}"));
            let _ = writeln!(
                text,
                "DIFFERENT: {}, prompt {}, round {}: found {} at place {}, expected {} as in {}",
                d.mode,
                d.prompt,
                d.round,
                token(d.found),
                d.place,
                token(d.expected),
                d.with
            );
        }
        text
    }
}

fn table(head: &[&str], swept: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let swept = swept.then_some("workload");
    table.set_header(swept.iter().chain(head));
    table
}

fn cells(line: &Line, swept: bool, rest: Vec<String>) -> Vec<String> {
    let mut cells = Vec::new();
    if swept {
        cells.push(line.workload.clone());
    }
    cells.push(line.name.clone());
    cells.extend(rest);
    cells
}

/// Numbers to the right.
fn aligned(mut table: Table, names: usize) -> Table {
    for column in table.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn latency_cells(line: &Line, digits: usize) -> Vec<String> {
    vec![
        around(line.token_ms.p50, digits),
        around(line.token_ms.p95, digits),
        around(line.token_ms.p99, digits),
        around(line.gap_ms.p50, digits),
        around(line.gap_ms.p99, digits),
        around(line.first_token_ms.p50, 1),
        around(line.tokens_per_second, 0),
        line.speedup.map_or(String::new(), |s| around(s, 2)),
    ]
}

fn work_cells(line: &Line, digits: usize) -> Vec<String> {
    let parts = line.parts;
    let mut cells = vec![
        format!("{:.2}", line.m),
        format!("{:.2}", line.block_efficiency),
        format!("{:.3}", line.passes_per_token),
        format!("{:.1}", line.nodes),
    ];
    for part in [parts.draft, parts.target, parts.verify, parts.host] {
        cells.push(format!("{part:.digits$}"));
    }
    cells.push(line.pass_of_limit.map_or(String::new(), |share| {
        let [value, low, high] = [share.value, share.low, share.high].map(|x| 100.0 * x);
        around(Interval { value, low, high }, 0)
    }));
    cells
}

/// Digits behind the point that show three or four of a time in milliseconds.
fn digits(ms: f64) -> usize {
    match ms {
        ms if ms >= 10.0 => 1,
        ms if ms >= 1.0 => 2,
        _ => 3,
    }
}

/// A value with its interval.
pub(super) fn around(i: Interval, digits: usize) -> String {
    match i.value.is_nan() {
        true => String::new(),
        false => format!(
            "{:.digits$} ({:.digits$} to {:.digits$})",
            i.value, i.low, i.high
        ),
    }
}
