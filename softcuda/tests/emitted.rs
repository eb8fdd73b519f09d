//! What nvcc makes of the intrinsics of the toolkit's headers is known.

mod common;
#[path = "common/nvcc.rs"]
mod nvcc;

use common::Device;

#[test]
fn everything_that_intrinsics_become_is_loaded() {
    let device = Device::named("h100");
    for arch in ["sm_80", "sm_90"] {
        let module = device.load(&nvcc::ptx("emitted", arch, &[]));
        assert_eq!(module.kernels().count(), 8, "{arch}");
    }
}
