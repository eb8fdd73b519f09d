//! `gavel experiment`: what judges buy on the demo pair, as a report.

use super::usage;
use gavel::experiment::{self, Experiment, Settings};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[derive(clap::Args)]
pub struct Args {
    /// main, suffix, data, two-layer or domain-shift; several are done in this order
    #[arg(required = true, value_name = "NAME")]
    names: Vec<Experiment>,
    /// What is mined, trained and decoded is kept here; what is here is not made again
    #[arg(long, value_name = "WORKDIR")]
    dir: PathBuf,
    /// The report
    #[arg(long, value_name = "DIR", default_value = "docs/judge-report")]
    out: PathBuf,
    /// The demo pair and its generator of problems
    #[arg(long, value_name = "DIR", default_value = "models/demo")]
    models: PathBuf,
    /// Mining and training seeds, 1 to N
    #[arg(long, value_name = "N", default_value_t = 5)]
    seeds: u64,
    /// Prompts to mine for each seed
    #[arg(long, value_name = "N", default_value_t = 1200)]
    prompts: usize,
    /// Test problems
    #[arg(long, value_name = "N", default_value_t = 2500)]
    problems: usize,
    /// Devices of one thread that work at the same time [default: one a core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    workers: usize,
    /// The interpreter of the generator
    #[arg(long, value_name = "PYTHON", default_value = "python3")]
    python: String,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    super::setup::end_on_interrupt()?;
    for (name, count) in [
        ("--seeds", args.seeds as usize),
        ("--prompts", args.prompts),
        ("--problems", args.problems),
    ] {
        if count == 0 {
            return Err(usage(format!("{name} 0: expected at least 1")));
        }
    }
    let settings = Settings {
        dir: args.dir.clone(),
        out: args.out.clone(),
        models: args.models.clone(),
        seeds: (1..=args.seeds).collect(),
        prompts: args.prompts,
        problems: args.problems,
        workers: match args.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        },
        python: args.python.clone(),
        commit: commit(),
        date: today(),
    };
    let began = Instant::now();
    for &name in &args.names {
        let tell = |what: &str| {
            eprintln!("[{:>6.0} s] {name}: {what}", began.elapsed().as_secs_f64());
        };
        let section = experiment::run(name, &settings, &tell)?;
        println!("{section}");
    }
    Ok(())
}

/// The checkout's commit; a mark behind it where files differ.
fn commit() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    match git {
        Ok(found) if found.status.success() => {
            String::from_utf8_lossy(&found.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

/// The date, UTC: days since 1970 in the calendar of 400 years (Hinnant, "chrono-compatible
/// low-level date algorithms", civil_from_days).
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH);
    date(seconds.map_or(0, |s| s.as_secs()) / 86_400)
}

fn date(days: u64) -> String {
    let days = days + 719_468; // from 0000-03-01
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn days_are_dates() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_781, "2026-11-24"),
        ] {
            assert_eq!(date(days), expected);
        }
    }
}
