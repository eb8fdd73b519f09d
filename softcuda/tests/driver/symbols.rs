//! Every symbol that a program may resolve is there.

use crate::support::{Ended, library, on_softcuda};
use cudarc::driver::sys;

/// Names of all functions that cudarc 0.19.10 resolves, for any version of CUDA from 11.4 to 13.4.
const NAMES: &str = include_str!("fixtures/symbols.txt");

#[test]
fn every_symbol_that_cudarc_resolves_exists() {
    // SAFETY: softcuda runs no code when it is loaded.
    let library = unsafe { libloading::Library::new(library()) }.unwrap();
    let mut count = 0;
    for name in NAMES.lines() {
        // SAFETY: the symbol is looked up, not called.
        let found = unsafe { library.get::<unsafe extern "C" fn() -> u32>(name.as_bytes()) };
        assert!(found.is_ok(), "{name} is missing");
        count += 1;
    }
    assert_eq!(count, 514);
}

#[test]
fn what_has_no_meaning_here_says_so_by_name() {
    let ended = on_softcuda(
        "symbols::what_has_no_meaning_here_says_so_by_name",
        &[],
        || {
            // SAFETY: none of these touches what it is given.
            unsafe {
                assert_eq!(sys::cuInit(0), sys::CUresult::CUDA_SUCCESS);
                for _ in 0..2 {
                    let code = sys::cuArrayDestroy(std::ptr::null_mut());
                    assert_eq!(code, sys::CUresult::CUDA_ERROR_NOT_SUPPORTED);
                }
                let code = sys::cuTexObjectDestroy(7);
                assert_eq!(code, sys::CUresult::CUDA_ERROR_NOT_SUPPORTED);
            }
        },
    );
    if let Some(Ended { said, .. }) = ended {
        assert_eq!(
            said.matches("cuArrayDestroy is not supported").count(),
            1,
            "{said}"
        );
        assert!(
            said.contains("cuTexObjectDestroy is not supported"),
            "{said}"
        );
    }
}

#[test]
fn every_error_has_its_name_and_text() {
    on_softcuda("symbols::every_error_has_its_name_and_text", &[], || {
        use cudarc::driver::DriverError;
        let error = DriverError(sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let name = error.error_name().unwrap().to_str().unwrap().to_owned();
        let text = error.error_string().unwrap().to_str().unwrap().to_owned();
        assert_eq!(name, "CUDA_ERROR_ILLEGAL_ADDRESS");
        assert_eq!(text, "an illegal memory access was encountered");
    });
}
