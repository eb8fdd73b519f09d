//! What is said and written when the process ends: leaks, and the report.

use super::error::*;
use super::state::{State, driver, say};
use crate::report::Report;
use std::path::Path;
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

/// Leaks that are printed one by one.
const SHOWN: usize = 20;

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> i32;
}

/// Has the end of the process told.
pub fn at_exit() {
    // SAFETY: the function takes no argument and lives as long as the library.
    if unsafe { atexit(ended) } != 0 {
        say!("the end of the process cannot be told: no report, no list of leaks");
    }
}

/// Writes a report as JSON.
pub fn write_report(report: &Report, path: &Path) -> Result {
    let mut report = report.clone();
    let memory = &driver()?.memory;
    report.process.allocations = memory.allocations();
    report.process.peak_bytes = memory.peak();
    let json = serde_json::to_string(&report).map_err(|error| {
        say!("the report: {error}");
        ERROR_UNKNOWN
    })?;
    std::fs::write(path, json).map_err(|error| {
        say!("{}: {error}", path.display());
        ERROR_OPERATING_SYSTEM
    })
}

extern "C" fn ended() {
    let Ok(driver) = driver() else {
        return;
    };
    // Whoever holds the lock may be gone for good; the process must end all the same.
    for _ in 0..100 {
        let mut state = match driver.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        tell(&mut state);
        if let Some(path) = &driver.settings.report {
            let _ = write_report(&state.report, path); // it says itself what is wrong
        }
        return;
    }
    say!("the state is locked at the end of the process: no report, no list of leaks");
}

fn tell(state: &mut State) {
    let undone = state.queue.all().len();
    if undone > 0 {
        say!("{undone} pieces of work were never waited for, and were not done");
    }
    let left: Vec<u64> = state.blocks.keys().copied().collect();
    for address in left {
        state.note_leak(address);
    }
    let leaks = &state.report.process.leaks;
    for leak in leaks.iter().take(SHOWN) {
        say!("leak: {leak}");
    }
    if leaks.len() > SHOWN {
        say!("leak: and {} more", leaks.len() - SHOWN);
    }
}
