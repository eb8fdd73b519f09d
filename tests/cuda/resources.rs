//! What ptxas said of every image: no kernel spills or has a stack.

use crate::common::built;
use gavel::device::cuda::images;

#[test]
fn no_kernel_of_any_image_spills() {
    let mut kernels = 0;
    for file in images() {
        let said = built(&format!("{file}.resources"));
        let mut kernel = "";
        for line in said.lines() {
            if line.contains("Compiling entry function") {
                kernel = line;
            }
            if line.contains("bytes stack frame") {
                kernels += 1;
                let words = line.split_whitespace();
                let numbers: Vec<&str> = words.filter(|w| w.parse::<u32>().is_ok()).collect();
                // stack frame, spill stores, spill loads
                assert_eq!(numbers, ["0", "0", "0"], "{file}: {kernel}: {line}");
            }
        }
    }
    assert!(kernels > 0, "the build kept no report of ptxas");
}
