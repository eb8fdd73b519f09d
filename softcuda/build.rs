//! Gives the shared library the name of the one it stands in for.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Programs that are linked with libcuda ask for this name; with it, one copy of the library
    // serves them and whoever opens `libcuda.so.1` later.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    // Its own calls stay its own, whatever the program defines.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
