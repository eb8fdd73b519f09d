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

/// What the driver has beside those that say they are not there, from the tables of its sources.
#[test]
fn every_entry_point_is_called_by_a_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |folder: &str| -> String {
        let files = std::fs::read_dir(root.join(folder)).expect("a folder");
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).expect("a source");
        files
            .map(|file| file.expect("a file").path())
            .filter(|path| path.extension().is_some_and(|e| e == "rs"))
            .map(read)
            .collect()
    };
    let tests = text("tests/driver");
    // a call, or an entry of the list by which one is called: that list alone is no test
    let called: std::collections::HashSet<&str> = tests
        .lines()
        .filter(|line| !line.trim_start().starts_with("fn cu"))
        .flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .collect();
    let api = text("src/driver/api");
    let mut count = 0;
    for line in api.lines() {
        let Some(rest) = line.strip_prefix("    fn cu") else {
            continue;
        };
        let name = format!("cu{}", rest.split('(').next().expect("a name"));
        assert!(
            called.contains(name.as_str()),
            "no test of tests/driver calls {name}"
        );
        count += 1;
    }
    assert!(count > 250, "{count}");
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
