//! What the environment chooses.

use crate::device::Model;
use crate::exec::{Accumulate, Options, Overlap};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The settings of one process, read once by `cuInit`.
#[derive(Debug)]
pub struct Settings {
    /// `SOFTCUDA_DEVICE`: the device that is played.
    pub model: &'static Model,
    /// `SOFTCUDA_SEED`, `SOFTCUDA_MMA`, `SOFTCUDA_APPROX_SEED`, `SOFTCUDA_PATIENCE`.
    pub options: Options,
    /// `SOFTCUDA_OVERLAP`: how programmatic successors run; otherwise the seed varies it.
    pub overlap: Option<Overlap>,
    /// `SOFTCUDA_REPORT`: where the counts are written at exit.
    pub report: Option<PathBuf>,
    /// `SOFTCUDA_RESOURCES`: what `ptxas -v` printed, for modules that carry no machine code.
    pub resources: Option<String>,
    /// `SOFTCUDA_FAULT`: kind of call, and the number (from 1 on) of the call that fails.
    pub faults: BTreeMap<&'static str, u64>,
}

/// Kinds of call that `SOFTCUDA_FAULT` and `softcudaFault` can make fail.
pub const FAULTS: [&str; 3] = ["alloc", "launch", "copy"];

impl Settings {
    /// Reads the environment through `get`.
    ///
    /// # Errors
    /// A value that means nothing; the message names the variable, the value and what may stand
    /// there.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Settings, String> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let wrong = |name: &str, value: &str, expected: &str| {
            format!("{name}={value}: expected {expected}")
        };
        let number = |name: &str| match get(name) {
            None => Ok(None),
            Some(value) => match value.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(wrong(name, &value, "a number of 64 bits")),
            },
        };

        let device = get("SOFTCUDA_DEVICE").unwrap_or_else(|| "h100".to_owned());
        let model = Model::named(&device).ok_or_else(|| {
            let names: Vec<_> = Model::all().iter().map(|m| m.name).collect();
            wrong("SOFTCUDA_DEVICE", &device, &names.join(", "))
        })?;
        let accumulate = match get("SOFTCUDA_MMA").as_deref() {
            None | Some("sequential") => Accumulate::Sequential,
            Some("groups8") => Accumulate::Groups8,
            Some("groups16") => Accumulate::Groups16,
            Some(other) => {
                return Err(wrong(
                    "SOFTCUDA_MMA",
                    other,
                    "sequential, groups8, groups16",
                ));
            }
        };
        let overlap = match get("SOFTCUDA_OVERLAP").as_deref() {
            None => None,
            Some("early") => Some(Overlap::Early),
            Some("interleaved") => Some(Overlap::Interleaved),
            Some("late") => Some(Overlap::Late),
            Some(other) => {
                return Err(wrong("SOFTCUDA_OVERLAP", other, "early, interleaved, late"));
            }
        };
        let resources = match get("SOFTCUDA_RESOURCES") {
            None => None,
            Some(path) => Some(
                std::fs::read_to_string(&path)
                    .map_err(|e| wrong("SOFTCUDA_RESOURCES", &path, &format!("a file ({e})")))?,
            ),
        };
        let mut faults = BTreeMap::new();
        if let Some(value) = get("SOFTCUDA_FAULT") {
            for part in value.split(',') {
                let fault = part.split_once(':').and_then(|(kind, number)| {
                    let kind = FAULTS.into_iter().find(|&k| k == kind)?;
                    Some((kind, number.parse().ok().filter(|&n| n > 0)?))
                });
                let (kind, number) = fault.ok_or_else(|| {
                    let expected = "alloc:N, launch:N or copy:N with N from 1 on, or several \
                                    with commas between them";
                    wrong("SOFTCUDA_FAULT", &value, expected)
                })?;
                faults.insert(kind, number);
            }
        }
        Ok(Settings {
            model,
            options: Options {
                seed: number("SOFTCUDA_SEED")?.unwrap_or(0),
                overlap: overlap.unwrap_or_default(),
                accumulate,
                approx_seed: number("SOFTCUDA_APPROX_SEED")?,
                patience: number("SOFTCUDA_PATIENCE")?.unwrap_or(0),
            },
            overlap,
            report: get("SOFTCUDA_REPORT").map(PathBuf::from),
            resources,
            faults,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, value: &str) -> Result<Settings, String> {
        Settings::read(|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn values_are_taken_over() {
        assert_eq!(read("X", "").unwrap().model.name, "h100");
        assert_eq!(read("SOFTCUDA_DEVICE", "tiny").unwrap().model.name, "tiny");
        assert_eq!(read("SOFTCUDA_SEED", "17").unwrap().options.seed, 17);
        let mma = read("SOFTCUDA_MMA", "groups16").unwrap();
        assert_eq!(mma.options.accumulate, Accumulate::Groups16);
        let faults = read("SOFTCUDA_FAULT", "copy:2,alloc:10").unwrap().faults;
        assert_eq!(faults, BTreeMap::from([("copy", 2), ("alloc", 10)]));
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        for (name, value) in [
            ("SOFTCUDA_DEVICE", "h200"),
            ("SOFTCUDA_SEED", "-1"),
            ("SOFTCUDA_MMA", "exact"),
            ("SOFTCUDA_OVERLAP", "sometimes"),
            ("SOFTCUDA_FAULT", "alloc"),
            ("SOFTCUDA_FAULT", "alloc:0"),
            ("SOFTCUDA_FAULT", "event:1"),
            ("SOFTCUDA_RESOURCES", "/no/such/file"),
        ] {
            let message = read(name, value).unwrap_err();
            assert!(
                message.starts_with(&format!("{name}={value}: expected")),
                "{message}"
            );
        }
    }
}
