//! What every function has in common: codes, each thread's last message, version.

use gavel::device::DeviceError;
use gavel::draft::DrafterError;
use gavel::model::{ModelError, TokenizerError};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a function came to: one of the codes from GAVEL_OK to GAVEL_PANIC. Unknown ones are failures.
pub type gavel_status = i32;

/// Done.
pub const GAVEL_OK: i32 = 0;
/// An argument, an option or an input is wrong; the message says what was found and expected.
pub const GAVEL_INVALID: i32 = 1;
/// Anything else: a file, memory, a call of the CUDA driver.
pub const GAVEL_FAILED: i32 = 2;
/// There is no CUDA driver, GPU, context or build that serves.
pub const GAVEL_NO_CUDA: i32 = 3;
/// The engine is at work, for another thread or for the one whose callback asks.
pub const GAVEL_BUSY: i32 = 4;
/// A fault of gavel itself. An engine that came to it takes no more work; close it.
pub const GAVEL_PANIC: i32 = 5;

/// Version of this header: the first number of GAVEL_ABI_VERSION changes when programs must be
/// compiled anew, the last three digits when something was added.
pub const GAVEL_ABI_VERSION: u32 = 1000;

/// GAVEL_ABI_VERSION of the library. It serves a program whose own GAVEL_ABI_VERSION / 1000 is the
/// same and whose own number is not greater.
#[unsafe(no_mangle)]
pub extern "C" fn gavel_abi_version() -> u32 {
    GAVEL_ABI_VERSION
}

/// Version of gavel, such as "0.1.0"; never freed.
#[unsafe(no_mangle)]
pub extern "C" fn gavel_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}

/// What the last function that failed on this thread had to say, in UTF-8; "" where none did. Good
/// until the next function that fails on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn gavel_last_error() -> *const c_char {
    LAST.with(|last| match last.try_borrow() {
        Ok(last) => last.as_ptr(),
        Err(_) => c"".as_ptr(),
    })
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// A failure on its way out.
#[derive(Debug)]
pub(crate) struct Error {
    pub status: gavel_status,
    pub message: String,
}

impl Error {
    pub fn invalid(message: impl Into<String>) -> Error {
        Error {
            status: GAVEL_INVALID,
            message: message.into(),
        }
    }

    pub fn failed(error: impl Display) -> Error {
        Error {
            status: GAVEL_FAILED,
            message: error.to_string(),
        }
    }
}

impl From<DeviceError> for Error {
    fn from(error: DeviceError) -> Error {
        let status = match error {
            DeviceError::NoCuda(_) => GAVEL_NO_CUDA,
            DeviceError::Cuda { .. } | DeviceError::Memory { .. } | DeviceError::Threads(_) => {
                GAVEL_FAILED
            }
            _ => GAVEL_INVALID,
        };
        Error {
            status,
            message: error.to_string(),
        }
    }
}

impl From<DrafterError> for Error {
    fn from(error: DrafterError) -> Error {
        match error {
            DrafterError::Layers { .. }
            | DrafterError::Model(ModelError::Layers { .. })
            | DrafterError::Tokenizer(TokenizerError::Differ { .. }) => {
                Error::invalid(error.to_string())
            }
            _ => Error::failed(error),
        }
    }
}

/// Runs what a function does: its code, and the message where it failed.
pub(crate) fn guarded(work: impl FnOnce() -> Result<(), Error>) -> gavel_status {
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return GAVEL_OK,
        Ok(Err(error)) => error,
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            Error {
                status: GAVEL_PANIC,
                message: format!("a fault of gavel: {}", text.unwrap_or("no message")),
            }
        }
    };
    let mut bytes = error.message.into_bytes();
    bytes.retain(|&b| b != 0);
    let message = CString::new(bytes).unwrap_or_default();
    LAST.with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = message;
        }
    });
    error.status
}

/// A string that C gave.
///
/// # Safety
/// `text` is null or ends with a zero, and lives as long as the result.
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, Error> {
    if text.is_null() {
        return Err(Error::invalid(format!("{what}: found NULL, expected text")));
    }
    // SAFETY: the caller vouches for it.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map_err(|e| Error::invalid(format!("{what}: {e}, expected UTF-8")))
}

/// Something that C gave by its address.
///
/// # Safety
/// `at` is null or good to be read for as long as the result lives.
pub(crate) unsafe fn given<'a, T>(at: *const T, what: &str) -> Result<&'a T, Error> {
    // SAFETY: the caller vouches for it.
    unsafe { at.as_ref() }.ok_or_else(|| Error::invalid(format!("{what}: found NULL")))
}

/// A place for a result.
///
/// # Safety
/// `at` is null or good to be written for as long as the result lives.
pub(crate) unsafe fn place<'a, T>(at: *mut T, what: &str) -> Result<&'a mut T, Error> {
    // SAFETY: the caller vouches for it.
    unsafe { at.as_mut() }.ok_or_else(|| Error::invalid(format!("{what}: found NULL")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_code_and_a_message() {
        let status = guarded(|| panic!("of the test, {}", 7));
        assert_eq!(status, GAVEL_PANIC);
        // SAFETY: a string that ends with a zero, read before the next failure.
        let said = unsafe { CStr::from_ptr(gavel_last_error()) };
        assert_eq!(said, c"a fault of gavel: of the test, 7");
        assert_eq!(guarded(|| Ok(())), GAVEL_OK);
        assert_eq!(guarded(|| Err(Error::invalid("a\0b"))), GAVEL_INVALID);
        // SAFETY: as above.
        let said = unsafe { CStr::from_ptr(gavel_last_error()) };
        assert_eq!(said, c"ab");
    }
}
