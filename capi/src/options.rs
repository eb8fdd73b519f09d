//! Options: names and values, so that there can be more of them without another interface.

use crate::error::{Error, gavel_status, guarded, place, text};
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::fmt::Display;
use std::str::FromStr;

/// Options by name. Used by one thread at a time.
pub struct gavel_options {
    pub(crate) options: Options,
}

/// Those that say which engine to open.
const OF_ENGINE: [&str; 5] = ["model", "draft", "device", "context", "threads"];

/// Those that each generation may change.
const OF_GENERATION: [&str; 19] = [
    "judge",
    "at",
    "allow-foreign-target",
    "rule",
    "gamma",
    "tree",
    "draw",
    "draft-temperature",
    "guard",
    "temperature",
    "top-k",
    "top-p",
    "seed",
    "sequence",
    "chat",
    "system",
    "max-tokens",
    "stop",
    "ignore-eos",
];

#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    values: BTreeMap<&'static str, Vec<String>>,
}

impl Options {
    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), Error> {
        let mut known = OF_ENGINE.iter().chain(&OF_GENERATION);
        let Some(name) = known.find(|known| **known == name) else {
            return Err(Error::invalid(format!(
                "option '{name}' is unknown, expected one of {}, {}",
                OF_ENGINE.join(", "),
                OF_GENERATION.join(", ")
            )));
        };
        match value {
            None => {
                self.values.remove(name);
            }
            Some(value) => {
                let values = self.values.entry(name).or_default();
                if *name != "stop" {
                    values.clear();
                }
                values.push(value.to_owned());
            }
        }
        Ok(())
    }

    /// These, and under them those of the engine.
    pub fn over(&self, engine: &Options) -> Result<Options, Error> {
        if let Some(name) = OF_ENGINE.iter().find(|n| self.values.contains_key(**n)) {
            return Err(Error::invalid(format!(
                "option '{name}' is the engine's, expected none of {} for a generation",
                OF_ENGINE.join(", ")
            )));
        }
        let mut both = engine.clone();
        both.values.extend(self.values.clone());
        Ok(both)
    }

    /// The value of an option, if it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).last().map(String::as_str)
    }

    /// All values of an option.
    pub fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// An option as a number or whatever else it stands for.
    pub fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, Error>
    where
        T::Err: Display,
    {
        let parse = |value: &str| {
            let wrong = |e: T::Err| Error::invalid(format!("option '{name}' is '{value}': {e}"));
            value.parse().map_err(wrong)
        };
        self.get(name).map(parse).transpose()
    }

    /// An option that is on or off; off where it is not there.
    pub fn on(&self, name: &str) -> Result<bool, Error> {
        match self.get(name) {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(other) => Err(Error::invalid(format!(
                "option '{name}' is '{other}', expected 0 or 1"
            ))),
        }
    }
}

/// An empty set of options; NULL where that fails.
#[unsafe(no_mangle)]
pub extern "C" fn gavel_options_new() -> *mut gavel_options {
    let options = Options::default();
    Box::into_raw(Box::new(gavel_options { options }))
}

/// Sets an option; a value of NULL takes it away. Names and values are those of the command line
/// (`gavel generate --help`), without the dashes before them; what is a flag there is 0 or 1. For an
/// engine: model (needed), draft, device, context, threads. For a generation, or for all of an
/// engine's: rule, judge, at, allow-foreign-target, gamma, tree, draw, draft-temperature, guard,
/// temperature, top-k, top-p, seed, sequence, chat, system, max-tokens, ignore-eos, and stop, which
/// may be set several times. A tree goes before gamma. A value is looked at when it is used.
///
/// # Safety
/// `options` comes from gavel_options_new; name and value are NULL or end with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_options_set(
    options: *mut gavel_options,
    name: *const c_char,
    value: *const c_char,
) -> gavel_status {
    guarded(|| {
        // SAFETY: the caller vouches for all three.
        unsafe {
            let options = place(options, "options")?;
            let name = text(name, "an option's name")?;
            let value = match value.is_null() {
                true => None,
                false => Some(text(value, name)?),
            };
            options.options.set(name, value)
        }
    })
}

/// Frees options; NULL is none.
///
/// # Safety
/// `options` is NULL or comes from gavel_options_new, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_options_free(options: *mut gavel_options) {
    if !options.is_null() {
        guarded(|| {
            // SAFETY: made by `gavel_options_new`; the caller vouches that this is its end.
            drop(unsafe { Box::from_raw(options) });
            Ok(())
        });
    }
}
